"""What a learning rule is: eligibility x filter x learning signal x time of update.

.. math::  dE/dw_{ij} ~ \\sum_t L_j(t) \\, filter(elig_{ij})(t)

Each part is a small frozen object of its own: an *eligibility* says what a synapse remembers
(:mod:`localplast.learning.eligibility`), a *filter* how the trace is smoothed before it meets the *learning signal*
(:mod:`localplast.learning.filters`, :mod:`localplast.learning.signal`), and ``update`` when the optimiser
(:mod:`localplast.learning.optimise`) uses the sum. A rule knows no backend.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from brian2.units.fundamentalunits import Quantity

from localplast.equations.units import is_time
from localplast.errors import LocalplastError
from localplast.learning.eligibility import Derived
from localplast.learning.filters import AsReadout
from localplast.learning.signal import Broadcast, Feedback, FeedbackKind, Own

if TYPE_CHECKING:
    from localplast.learning.optimise import Optimiser
    from localplast.network.network import Network
    from localplast.show.page import Description
    from localplast.task.loss import Loss
    from localplast.task.trials import Trials

__all__ = ["Rule", "Update", "feedback_alignment"]

#: When weights change: at the end of a trial, in every step, or after a time.
Update = Literal["trial", "step"] | Quantity


@dataclass(frozen=True)
class Rule:
    """A named gradient estimate.

    Parameters
    ----------
    name : str
    local : bool
        Whether synapses can compute it forward in time. False: automatic differentiation does (Torch only).
    cut : frozenset of str
        Edges of the credit graph that the estimate ignores (:mod:`localplast.network.credit_graph`).
    eligibility
        What a synapse remembers; ``of(net, projection)`` gives its
        :class:`~localplast.learning.eligibility.Eligibility`.
    filter
        How the eligibility is smoothed; ``of(net, readout, path)`` gives a
        :class:`~localplast.learning.filters.Smoothing`.
    signal
        The third factor; ``of(net, readouts, seed)`` gives the :class:`~localplast.learning.signal.Signal` of each
        population.
    update : str or Quantity
        When weights change: ``'trial'`` (at its end), ``'step'``, or a time: after so long, and at the end of a trial.
    reference : str
    form : str, optional
        How the gradient is computed where there is a choice (see :func:`localplast.gradient`): ``'forward'`` carries
        the derivative of the whole network.

    Raises
    ------
    LocalplastError
        An ``update`` that is none of these.
    """

    name: str
    local: bool
    cut: frozenset = frozenset()
    eligibility: object = field(default_factory=Derived)
    filter: object = field(default_factory=AsReadout)
    signal: Feedback | Own = field(default_factory=Broadcast)
    update: Update = "trial"
    reference: str = ""
    form: str | None = None

    def __post_init__(self):
        if self.update in ("trial", "step") if isinstance(self.update, str) else is_time(self.update):
            return
        raise LocalplastError(f"update is 'trial', 'step' or a time such as 500*ms, not {self.update!r}")

    def shown(self, net: "Network", trials: "Trials") -> "Trials":
        """``trials`` as this rule meets them: without teachers (``Input(teacher=True)``), unless it hears them."""
        return trials if self.signal.hears_teachers else trials.without(net.teachers)

    @property
    def feedback(self) -> FeedbackKind | str:
        """How errors travel back."""
        return self.signal.feedback

    def interval(self, dt: Quantity) -> int:
        """Steps between two updates within a trial; 0 where weights change at its end only."""
        if isinstance(self.update, str):
            return int(self.update == "step")
        return max(1, int(float(self.update) / float(dt) + 0.5))

    def updates(self, steps: int, dt: Quantity) -> int:
        """Updates in a trial of ``steps`` steps, for rules that change weights within it."""
        return -(-steps // self.interval(dt))

    def describe(
        self, net: "Network", loss: "Loss | None" = None, *, optimiser: "Optimiser | None" = None
    ) -> "Description":
        """Every equation derived for ``net``, where it is stored, what it costs and what each synapse reads.

        ``print`` it, show it in a notebook, or take its ``.latex()``: a :class:`~localplast.show.page.Description`.
        """
        from localplast.show.describe import describe  # what shows a rule stands above it

        return describe(self, net, loss, optimiser=optimiser)


def feedback_alignment(rule: Rule, feedback: FeedbackKind = "random", *, std: float = 1.0) -> Rule:
    """``rule`` with other feedback: ``'random'``, ``'uniform'``, ``'sign'``, ``'learned'``, ``'symmetric'`` or
    matrices.

    Lillicrap et al. 2016, Nat Commun 7:13276 (fixed random); Liao et al. 2016, AAAI (sign); Kolen & Pollack 1994, and
    Akrout et al. 2019, NeurIPS (learned).
    """
    if not isinstance(rule.signal, Feedback):
        raise LocalplastError(f"{rule.name} sends no errors back, so that it has no feedback to change")
    return replace(rule, signal=replace(rule.signal, feedback=feedback, std=std))
