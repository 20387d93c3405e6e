"""What networks are made of, as frozen data: populations, inputs, projections, delays, and weights to be drawn."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from brian2.units.fundamentalunits import Quantity

from localplast.files import Data
from localplast.network.bounds import as_limits
from localplast.network.convolution import Convolution
from localplast.network.delays import Delay
from localplast.network.short_term import ShortTerm
from localplast.network.weights import Random, SameAs, normal
from localplast.neuron.model import NeuronModel

__all__ = ["ROLES", "Input", "Population", "Projection", "Weight"]

#: What the weights of a projection are, are drawn from, or are taken from; numbers ``(pre, post)``, or one for all.
Weight = Random | SameAs | Convolution | np.ndarray | Sequence | float
#: What a projection is there for.
ROLES = ("forward", "feedback")


@dataclass(frozen=True)
class Input:
    """``size`` channels that come from outside: ``kind`` is ``'spikes'`` or ``'currents'`` (graded values).

    What a ``teacher`` says reaches the network only while a rule learns that hears it, such as
    :func:`~localplast.rules.dendritic`: it is zero in tests, and for rules that learn from the loss.
    """

    size: int
    kind: str = "spikes"
    teacher: bool = False


@dataclass(frozen=True, eq=False)
class Population(Data):
    """``size`` neurons of one ``model``; ``parameters`` and ``initial`` override the model's, per neuron if arrays.

    ``trainable`` names the parameters that rules may change, each with the lowest and the highest value it may take
    (either may be None): ``{"tau_mem": (5*ms, 100*ms)}``. It starts between them, and they keep what
    the model divides by away from zero. A parameter may be drawn for every neuron and seed:
    ``{"b": uniform(0.1, fan_in=False)}``, cut off at the bounds of what is trainable.
    """

    size: int
    model: NeuronModel
    parameters: dict = field(default_factory=dict)
    initial: dict = field(default_factory=dict)
    trainable: dict = field(default_factory=dict)

    @property
    def values(self) -> dict[str, np.ndarray | float]:
        """Every parameter of the model, overridden where this population says so; of drawn ones an example."""
        return {**self.model.parameters, **self.drawn("", 0).parameters}

    def drawn(self, name: str, seed: int) -> "Population":
        """The same population, called ``name``, with numbers in place of the parameters that ``seed`` draws."""
        found = {k: self.draw(k, name, seed) for k, given in self.parameters.items() if isinstance(given, Random)}
        return replace(self, parameters={**self.parameters, **found}) if found else self

    def draw(self, key: str, name: str, seed: int) -> Quantity:
        """One parameter ``(neuron,)``; each has a stream of its own."""
        rng = np.random.default_rng([seed, zlib.crc32(f"{name}.{key}".encode())])
        low, high = as_limits(self.trainable.get(key, (None, None)))
        numbers = np.clip(self.parameters[key].draw(rng, (self.size,)), low, high)
        return Quantity(numbers, dim=self.model.dimensions[key])


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
        Whether a neuron may project to itself, where ``pre`` is ``post``. If not, a mask or weights that are given
        leave the diagonal out, too.
    plastic : bool
        Whether rules may change the weights.
    bounds : (low, high), optional
        What weights are clipped to: when they are drawn, when learning begins and after every update; a weight that is
        given here lies within them. Each None, one number or an array that broadcasts to ``(pre, post)``, such as
        ``(pre, 1)``, in the unit of the weight. See :func:`~localplast.network.bounds.dale`.
    name : str, optional
        Default ``pre_post``.
    output : str, optional
        What of the presynaptic neuron travels, in its variables (and ``z``, 1 where it spikes in this step, unless it
        has a variable of this name): the transmission is then graded. What depends on its graded inputs travels as it
        was at the end of the step before. Default: the ``output`` of its model.
    short_term : ShortTerm, optional
        How much of its weight a synapse delivers after recent spikes (:mod:`localplast.network.short_term`).
    role : str
        ``'forward'``, or ``'feedback'``: it carries errors back, and is held against the forward weights it answers
        where rules are compared. The simulation is the same.
    """

    pre: str
    post: str
    weight: Weight = field(default_factory=normal)
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
    role: str = "forward"
