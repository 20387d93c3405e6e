"""What networks are made of, as frozen data: populations, inputs, projections, delays, and weights to be drawn."""

from dataclasses import dataclass, field, replace

import numpy as np
from brian2.units.fundamentalunits import Quantity

from localplast.arguments import as_number, check_choice, is_real
from localplast.network.delays import Kernel
from localplast.errors import NetworkError
from localplast.neuron.model import NeuronModel
from localplast.files import encode
from localplast.network.short_term import ShortTerm

__all__ = [
    "Data", "Delay", "Input", "Population", "Projection", "Random", "SameAs", "Values", "axonal", "dendritic", "normal", "same_as",
    "synaptic", "transposed", "uniform",
]  # fmt: skip


class Data:
    """Equality by content: what two objects would write to a file."""

    def __eq__(self, other):
        return type(self) is type(other) and encode(self) == encode(other)

    __hash__ = None


@dataclass(frozen=True)
class Random:
    """Weights or delays to be drawn, from ``kind`` ``'normal'`` or ``'uniform'``; see :func:`normal`, :func:`uniform`."""

    kind: str
    mean: float
    spread: float
    fan_in: bool
    radius: float | None = None

    def __post_init__(self):
        check_choice("kind of Random", self.kind, ("normal", "uniform"))
        if is_real(self.spread) and np.any(np.asarray(self.spread) < 0):
            raise NetworkError(f"weights cannot be spread by {self.spread!r} around their mean: give 0 or more")

    def draw(self, rng, shape, mask=True):
        """An array of ``shape`` ``(pre, post)`` in SI units, zero where ``mask`` says that there is no synapse."""
        spread = float(self.spread) / (np.sqrt(shape[0]) if self.fan_in else 1.0)
        standard = rng.standard_normal(shape) if self.kind == "normal" else rng.uniform(-1.0, 1.0, shape)
        weight = np.where(mask, float(self.mean) + spread * standard, 0.0)
        if self.radius is None:
            return weight
        present = largest_eigenvalue(np.abs(weight))
        if not present > 0:
            raise NetworkError(f"weights {shape} that form no loop cannot be scaled to radius {self.radius}; drop .scaled()")
        return weight * (self.radius / present)

    def scaled(self, radius):
        """The same, multiplied by what makes ``radius`` the spectral radius of the absolute weights of one population.

        What activity comes to does then not hang on the size of the population (Balafrej et al. 2023, arXiv:2310.19067).
        """
        return replace(self, radius=radius)


def largest_eigenvalue(matrix):
    """The spectral radius of a square matrix: the magnitude of its largest eigenvalue."""
    return np.abs(np.linalg.eigvals(matrix)).max()


def normal(std=1.0, *, mean=0.0, fan_in=True):
    """Gaussian weights; with ``fan_in`` the standard deviation is ``std / sqrt(pre)``."""
    return Random("normal", mean, std, fan_in)


def uniform(limit=1.0, *, mean=0.0, fan_in=True):
    """Uniform weights in ``mean ± limit``; with ``fan_in`` the limit is divided by ``sqrt(pre)``."""
    return Random("uniform", mean, limit, fan_in)


@dataclass(frozen=True)
class SameAs:
    """Weights that begin as those of another projection do, or are theirs ``always``; see :func:`same_as`, :func:`transposed`."""

    projection: str
    times: float = 1.0
    transposed: bool = False
    always: bool = False

    def of(self, weights):
        """The weights, from those of the other projection."""
        return self.times * self.turned(weights)

    def turned(self, array):
        """An array of the other projection as one of this: a kernel is itself, for its projection is what runs backwards."""
        return array.T if self.transposed and array.ndim == 2 else array


def same_as(projection, *, times=1.0, transposed=False):
    """Weights that begin as those of another projection, ``times`` a number (in SI units), or as their transpose.

    Only the beginning: while the network learns each projection has weights of its own.
    """
    return SameAs(projection, as_number("times", times), transposed)


def transposed(projection, *, times=1.0):
    """The weights of another projection, backwards and at every moment: what goes forward through them comes back.

    Symmetric feedback: ``Projection("out", "hidden", weight=transposed("hidden_out"), plastic=False, ...)``. No synapse knows the
    weight of another one (weight transport), so that this is a reference for feedback that is random or learns by itself.
    """
    return SameAs(projection, as_number("times", times), transposed=True, always=True)


@dataclass(frozen=True, eq=False)
class Delay(Data):
    """How long a signal travels: ``kind`` is ``'axonal'``, ``'dendritic'`` or ``'synaptic'``.

    ``value`` is a time, one for all or an array: ``(pre,)``, ``(post,)`` or ``(pre, post)``; or times to be drawn for every seed,
    such as ``uniform(10*ms, mean=10*ms, fan_in=False)``, cut off at the bounds of the delay. A ``trainable`` delay is a real
    number of steps, shared by the two steps around it (linear interpolation) or by those in its ``kernel``
    (:mod:`localplast.delay`); rules may change it, from the lowest to the highest time where ``trainable`` is such a pair
    (either may be None).
    """

    kind: str
    value: Quantity | Random
    trainable: bool | tuple = False
    kernel: Kernel | None = None


def axonal(value, *, trainable=False, kernel=None):
    """One delay per presynaptic neuron, ``value`` a time or an array ``(pre,)``; see :class:`Delay`."""
    return Delay("axonal", value, trainable, kernel)


def dendritic(value, *, trainable=False, kernel=None):
    """One delay per postsynaptic neuron, ``value`` a time or an array ``(post,)``; see :class:`Delay`."""
    return Delay("dendritic", value, trainable, kernel)


def synaptic(value, *, trainable=False, kernel=None):
    """One delay per synapse, ``value`` an array ``(pre, post)``; see :class:`Delay`."""
    return Delay("synaptic", value, trainable, kernel)


@dataclass(frozen=True)
class Input:
    """``size`` channels that come from outside: ``kind`` is ``'spikes'`` or ``'currents'`` (graded values).

    What a ``teacher`` says reaches the network only while a rule learns that is taught through it
    (:attr:`~localplast.learning.rule.Rule.taught`): it is zero in tests, and for rules that learn from the loss.
    """

    size: int
    kind: str = "spikes"
    teacher: bool = False


@dataclass(frozen=True, eq=False)
class Population(Data):
    """``size`` neurons of one ``model``; ``parameters`` and ``initial`` override the model's, per neuron if arrays.

    ``trainable`` names the parameters that rules may change, each with the lowest and the highest value it may take (either
    may be None): ``{"tau_mem": (5*ms, 100*ms)}``. It starts between them, and they keep what
    the model divides by away from zero.
    """

    size: int
    model: NeuronModel
    parameters: dict = field(default_factory=dict)
    initial: dict = field(default_factory=dict)
    trainable: dict = field(default_factory=dict)

    @property
    def values(self):
        """Every parameter of the model, overridden where this population says so."""
        return {**self.model.parameters, **self.parameters}


@dataclass(frozen=True, eq=False)
class Projection(Data):
    """What travels from ``pre`` to ``post``.

    Parameters
    ----------
    pre, post : str
        Names in the network.

    Other arguments
    ---------------
    weight : Random, SameAs, Convolution, array ``(pre, post)`` or number
        With the unit of the target (event transmission), or of target over output (graded). Bare numbers are SI.
        See :func:`~localplast.network.convolution.convolution` for what images share.
    delay : Delay, optional
        None: a spike acts in the step it is emitted in.
    target : str, optional
        Variable of the postsynaptic model; default its ``receives``.
    transmission : str
        ``'event'``: add the weight on each spike. ``'graded'``: set the target to the weighted sum of outputs.
    mask : bool array ``(pre, post)`` or float, optional
        Which synapses exist, or the probability that one does.
    autapses : bool
        Whether a neuron may project to itself, where ``pre`` is ``post``.
    plastic : bool
        Whether rules may change the weights.
    bounds : (low, high), optional
        What weights are clipped to: when they are drawn, when learning begins and after every update; a weight that is
        given here lies within them. Each None, one number or an array that broadcasts to ``(pre, post)``, such as
        ``(pre, 1)``, in the unit of the weight. See :func:`~localplast.network.bounds.dale`.
    name : str, optional
        Default ``pre_post``.
    output : str, optional
        What of the presynaptic neuron travels, in its variables (and ``z``, 1 where it spikes in this step): the transmission
        is then graded. What depends on its graded inputs travels as it was at the end of the step before. Default: the
        ``output`` of its model.
    short_term : ShortTerm, optional
        How much of its weight a synapse delivers after recent spikes (:mod:`localplast.network.short_term`).
    """

    pre: str
    post: str
    weight: object = field(default_factory=normal)
    delay: Delay | None = None
    target: str | None = None
    transmission: str | None = None
    mask: object = None
    autapses: bool = False
    plastic: bool = True
    name: str | None = None
    bounds: tuple | None = None
    output: str | None = None
    short_term: ShortTerm | None = None


@dataclass(frozen=True)
class Values:
    """The numbers of one network for one seed, in SI units: every backend starts from these.

    Attributes
    ----------
    weights : dict of str to array ``(pre, post)``, or the shape of a kernel (:mod:`localplast.network.convolution`)
    masks : dict of str to bool array of the same shape
    delays : dict of str to float array in steps, shape ``()``, ``(pre,)``, ``(post,)`` or ``(pre, post)``
    parameters : dict of population name to dict of parameter name to float array, shape ``()`` or ``(neuron,)``
    """

    weights: dict
    masks: dict
    delays: dict
    parameters: dict

    def other(self, name):
        """The value of ``'rec.tau_mem'`` or ``'rec_rec.delay'``."""
        owner, key = name.split(".")
        return self.parameters[owner][key] if owner in self.parameters else self.delays[owner]

    def replace_weights(self, weights, others=None):
        """The same numbers with other weights, and other values of what else learns (``'rec.tau_mem'``, ``'rec_rec.delay'``)."""
        delays, parameters = dict(self.delays), {name: dict(values) for name, values in self.parameters.items()}
        for name, value in (others or {}).items():
            owner, key = name.split(".")
            if owner in parameters:
                parameters[owner][key] = value
            else:
                delays[owner] = value
        return replace(self, weights={**self.weights, **weights}, delays=delays, parameters=parameters)

    def rounded(self, net):
        """The same numbers with the delays that learn rounded to whole steps (half up): what is tested."""
        whole = {name: np.floor(np.asarray(self.delays[name]) + 0.5) for name in net.learned_delays}
        return replace(self, delays={**self.delays, **whole})
