"""Learning signals: how the error of the readouts reaches every population that learns, as its third factor ``L``.

A signal is a sum of *terms*, each an ordinary weighted sum over another population, read backwards:
``L_j = sum_k B_jk source_k``. The matrix is that of a projection (``form`` ``'weight'``), its sign, a copy of it that
learns beside it (``'learned'``), or a fixed one.
"""

import zlib
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np

from localplast.arguments import as_number
from localplast.errors import NetworkError, UnsupportedError
from localplast.learning.arrival import check_sent, sent_late, steps_to_show
from localplast.network.convolution import check_dense
from localplast.network.credit_graph import projection_edges

__all__ = [
    "Broadcast",
    "Feedback",
    "FeedbackKind",
    "Layered",
    "Own",
    "Signal",
    "Term",
    "direct_path",
    "feedback_matrix",
]

#: The names of feedback.
Kind = Literal["symmetric", "random", "uniform", "sign", "learned"]
#: How errors travel back: by name, or through matrices by population or projection.
FeedbackKind = Kind | dict[str, np.ndarray]

KINDS = get_args(Kind)
FORMS = {"symmetric": "weight", "sign": "sign", "learned": "learned"}


@dataclass(frozen=True, eq=False)
class Term:
    """``sum_k B_jk source.variable_k``.

    Attributes
    ----------
    source : str
        The population whose ``variable`` travels back: ``'error'`` or ``'lure'`` of a readout, ``'L'`` or
        ``'delta_*'``.
    form : str
        ``'weight'``, ``'sign'``, ``'learned'`` or ``'fixed'``.
    path : str or None
        The projection that is read backwards.
    matrix : array ``(population, source)`` or None
        The fixed matrix; of ``'learned'``: where it starts; of ``'sign'``: the size of its entries.
    target : str or None
        The variable of ``source`` whose credit travels back, of ``'delta_*'``.
    """

    source: str
    variable: str
    form: str
    path: str | None = None
    matrix: np.ndarray | None = None
    target: str | None = None


@dataclass(frozen=True, eq=False)
class Signal:
    """The learning signal of one population.

    Attributes
    ----------
    terms : tuple of Term
    readout : str
        The readout whose memory of a spike the eligibility is smoothed with.
    path : str or None
        The projection to that readout.
    lag : int
        Steps by which the signal is late: it meets the eligibility of that many steps ago.
    """

    terms: tuple
    readout: str
    path: str | None
    lag: int = 0


def direct_path(net, population, readout):
    """The projection from ``population`` to ``readout``, None if there is none."""
    paths = [p for p in net.projections.values() if (p.pre, p.post) == (population, readout)]
    return paths[0] if paths else None


def learning_populations(net, readouts):
    """Populations but readouts whose incoming weights, or whose parameters, learn."""
    learning = {p.post for p in net.plastic} | {n for n, p in net.populations.items() if p.trainable}
    return [n for n in net.populations if n in learning and n not in readouts]


def one_lag(population, lags):
    """After how many steps errors come back to ``population``, the same by all its paths."""
    if len(lags) > 1:
        raise UnsupportedError(
            f"population {population!r}: errors come back to it after {sorted(lags)} steps by its several paths; "
            "a learning signal needs paths of one length"
        )
    return lags.pop()


@dataclass(frozen=True)
class Feedback:
    """How errors travel back.

    Parameters
    ----------
    feedback : str or dict
        ``'symmetric'``: through the transposed forward weights. ``'random'``: fixed Gaussian weights. ``'uniform'``:
        all equal. ``'sign'``: the signs of the forward weights. ``'learned'``: random at first, then changed by the
        same local product as the forward weights (Kolen & Pollack 1994). A dict holds matrices by population or
        projection.
    std : float
        Standard deviation of random weights, size of uniform ones and of signs.
    judged : bool
        Whether the readouts judge spikes: populations that project to them then hear their own errors, through those
        weights, whatever the feedback to all others.
    """

    #: Whether errors of the readouts are heard, so that the loss is what is learned from.
    hears_errors: ClassVar[bool] = True
    #: Whether what teachers say is heard (``Input(teacher=True)``).
    hears_teachers: ClassVar[bool] = False
    #: Whether what is learned from acts on the neurons as well, which it may drive beyond all numbers.
    drives_neurons: ClassVar[bool] = False

    feedback: FeedbackKind = "symmetric"
    std: float = 1.0
    judged: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        if not isinstance(self.feedback, dict) and not (isinstance(self.feedback, str) and self.feedback in KINDS):
            raise NetworkError(
                f"feedback is one of {', '.join(KINDS)}, or a dict of matrices by population, such as {{'rec': B}}; "
                f"not {self.feedback!r}"
            )
        as_number("the standard deviation of feedback", self.std)

    def third_factor(self, projection, readouts):
        """What its synapses multiply their eligibility with, a variable of the neurons that they end on."""
        return "error" if projection.post in readouts else "L"

    def check(self, net, rule):
        """Raise where projections of ``net`` have no weights for ``rule`` to learn, which is its name."""
        check_dense(net, rule, "use bptt() or dendritic()")

    def check_parameters(self, model, name, parameters):
        """Parameters learn from what their population ``name`` hears."""

    @property
    def form(self):
        return "fixed" if isinstance(self.feedback, dict) else FORMS.get(self.feedback, "fixed")

    def term(self, net, population, source, variable, path, seed, target=None):
        """One :class:`Term`; ``path`` is the projection from ``population`` to ``source``, None if there is none."""
        parallel = [p.name for p in net.projections.values() if (p.pre, p.post) == (population, source)]
        if len(parallel) > 1:
            raise UnsupportedError(
                f"projections {', '.join(parallel)}: errors come back from {source!r} to {population!r} along one "
                "projection only; put the weights into one, or use bptt()"
            )
        if path is not None:
            check_sent(net, path)
        if self.judged and path is not None and source in net.readouts:
            return Term(source, variable, "weight", path.name, target=target)
        if self.form != "fixed" and path is None:
            raise UnsupportedError(
                f"{self.feedback} feedback needs a projection from {population!r} to {source!r}, whose weights "
                "would carry the error back; use feedback='random'"
            )
        matrix = None if self.form == "weight" else self.matrix(net, population, source, path, seed)
        return Term(source, variable, self.form, path.name if path else None, matrix, target)

    def matrix(self, net, population, source, path, seed):
        """Fixed (or first) feedback ``(population, source)``."""
        shape = (net.size(population), net.size(source))
        if self.form == "sign":
            return np.full(shape, float(self.std))
        if isinstance(self.feedback, dict):
            return given_matrix(self.feedback, population, path, shape)
        if self.feedback == "uniform":
            return np.full(shape, float(self.std))
        return feedback_matrix(net, population, source, self.std, seed)


def given_matrix(matrices, population, path, shape):
    """A user's matrix, checked."""
    name = path.name if path is not None and path.name in matrices else population
    if name not in matrices:
        raise NetworkError(f"feedback has no matrix for {population!r}; it has {sorted(matrices)}")
    matrix = np.asarray(matrices[name], float)
    if matrix.shape != shape:
        raise NetworkError(f"feedback to {name!r} has shape {matrix.shape}; (neuron, source) is {shape}")
    return matrix


def feedback_matrix(net, population, source, std, seed):
    """Fixed Gaussian feedback ``(population, source)``, the same on every backend."""
    only = net.readouts == (source,)
    key = f"feedback to {population}" + ("" if only else f" from {source}")
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    return std * rng.standard_normal((net.size(population), net.size(source)))


@dataclass(frozen=True)
class Broadcast(Feedback):
    """Every population hears the readouts directly: ``L_j = sum_k B_jk dE/dy_k``.

    A population that projects to readouts hears those (its own, if they are local ones), else all.
    Bellec et al. 2020, Nat Commun 11:3625 (e-prop); Nokland 2016, NeurIPS (direct feedback alignment).

    Other arguments
    ---------------
    variable : str
        ``'error'``: dE/dy. ``'lure'``: minus the target (Frenkel et al. 2021, Front Neurosci 15:629892: the sign of the
        error is known before the output is).
    """

    variable: str = "error"

    def of(self, net, readouts, seed):
        """The :class:`Signal` of every population that learns."""
        return {n: self.signal(net, n, readouts, seed) for n in learning_populations(net, readouts)}

    def signal(self, net, population, readouts, seed):
        paths = {r: p for r in readouts if (p := direct_path(net, population, r))}
        heard = list(paths) or list(readouts)
        terms = [self.term(net, population, r, self.variable, paths.get(r), seed) for r in heard]
        lags = {steps_to_show(net, population, r, paths.get(r)) for r in heard}
        path = paths.get(heard[0])
        return Signal(tuple(terms), heard[0], path.name if path else None, one_lag(population, lags))


@dataclass(frozen=True)
class Own:
    """No error comes from outside: neurons learn from the mismatch of their own compartments
    (:mod:`localplast.neuron.mismatch`).
    """

    feedback = form = "none"
    hears_errors = False
    hears_teachers = drives_neurons = True

    def of(self, net, readouts, seed):
        """No :class:`Signal` at all."""
        return {}

    def third_factor(self, projection, readouts):
        """The mismatch of the variable that the projection lands on."""
        return f"mismatch_{projection.target}"

    def check(self, net, rule):
        """All weights are for neurons to learn that know what they get wrong, however they are sent."""

    def check_parameters(self, model, name, parameters):
        """Raise where ``model`` has no mismatch for one of them."""
        for parameter in sorted(set(parameters) - set(model.mismatch)):
            raise UnsupportedError(
                f"{name}.{parameter}: {model.name} does not say what its parameter learns from; give "
                f"the model mismatch={{{parameter!r}: Mismatch(...)}}, or use bptt()"
            )


@dataclass(frozen=True)
class Layered(Feedback):
    """The error passes from population to population, against the direction of the spikes.

    ``L_j = sum_m B_jm delta_m``; ``delta_m = L_m psi_m dx_m/ds`` where ``gated``, else ``L_m`` itself. A spike moves
    its target one step later (plus the delay), so a gated signal is that much older at every population that it has
    passed.

    Gated: Xiao et al. 2022, NeurIPS (OTTT), Meng et al. 2023, ICCV (SLTT), Bohnstingl et al. 2022 (OSTL).
    Not gated: the symmetric feedback of Zenke & Ganguli 2018, Neural Comput 30:1514 (SuperSpike).
    """

    gated: bool = True

    def of(self, net, readouts, seed):
        """The :class:`Signal` of every population that learns, those next to the readouts first."""
        needed, signals = set(learning_populations(net, readouts)), {}
        while missing := [n for n in net.populations if n in needed - set(signals)]:
            ahead = {n: self.forward(net, n) for n in missing}
            needed |= {p.post for paths in ahead.values() for p in paths} - set(readouts)
            ready = [n for n, paths in ahead.items() if all(p.post in readouts or p.post in signals for p in paths)]
            if not ready and needed == set(signals) | set(missing):
                raise UnsupportedError(
                    f"populations {missing} lie on a cycle; a layered signal needs feed-forward paths"
                )
            for name in ready:
                signals[name] = self.signal(net, name, ahead[name], readouts, signals, seed)
        return signals

    def forward(self, net, population):
        """Projections on which spikes leave for the readouts; those of a cycle are cut."""
        edges = projection_edges(net)
        paths = [p for p in net.projections.values() if p.pre == population and "recurrent" not in edges[p.name]]
        if not paths:
            raise UnsupportedError(f"population {population!r} projects to nobody, so no layered error reaches it")
        return paths

    def signal(self, net, population, paths, readouts, signals, seed):
        terms, lags = [], set()
        for p in paths:
            variable, target = "error" if p.post in readouts else "L", None
            lag = steps_to_show(net, population, p.post, p) if p.post in readouts else signals[p.post].lag
            if self.gated and p.post not in readouts:
                variable, target = f"delta_{p.target}", p.target
                lag += 1 + self.delay(net, p) + int(sent_late(net.nodes[population].model))
            terms.append(self.term(net, population, p.post, variable, p, seed, target))
            lags.add(lag)
        last = paths[0]
        while last.post not in readouts:
            last = self.forward(net, last.post)[0]
        direct = last.name if last.pre == population else None
        return Signal(tuple(terms), last.post, direct, one_lag(population, lags))

    def delay(self, net, p):
        steps = net.delay_steps(p)
        if np.ptp(steps):
            raise UnsupportedError(f"projection {p.name!r}: a layered signal needs one delay for all of its synapses")
        if p.delay is not None and p.delay.trainable:
            raise UnsupportedError(
                f"projection {p.name!r}: a layered signal needs to know how late it is; its delay cannot learn"
            )
        return int(np.max(steps))
