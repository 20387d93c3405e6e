"""What takes part in a comparison: a rule, where it runs, and what it brings of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from localplast.arguments import check_backend, check_kind, check_named, check_whole
from localplast.errors import NetworkError
from localplast.learning.optimise import Optimiser, adam
from localplast.learning.rule import Rule
from localplast.network.network import Network
from localplast.rules import bptt, eprop
from localplast.runs.watch import Watch, check_watch
from localplast.task.loss import Loss

__all__ = ["Contender", "tuned", "usual"]


@dataclass(frozen=True)
class Contender:
    """A rule as it takes part in a comparison.

    Parameters
    ----------
    rule : Rule
    backend : str
        Where it runs.
    frozen : tuple of str
        What stays as it is: projections, and delays and parameters as ``'rec_rec.delay'``, ``'rec.tau_mem'``.
    network : Network, optional
        One of its own, with the inputs, readouts and time step of the network that is compared.
    optimiser : Optimiser, optional
        One of its own: where other things learn, they need rates.
    loss : Loss, optional
        One of its own. What a contender does not bring is that of the comparison.
    updates : int, optional
        As many as it needs, where it learns from fewer or more trials than the others.
    batch : int, optional
        Trials per update, where it updates once while others change weights many times.
    watch : Plateau, Stop or Best, or a sequence of such, optional
        What it does when validation says so, if that is not what the others do; ``()`` for nothing.
    """

    rule: Rule
    backend: str
    frozen: tuple = ()
    network: Network | None = None
    optimiser: Optimiser | None = None
    loss: Loss | None = None
    updates: int | None = None
    batch: int | None = None
    watch: Watch | Sequence[Watch] | None = None

    def __post_init__(self):
        check_kind("the rule of a contender", self.rule, Rule)
        check_backend(self.backend)
        for what in ("updates", "batch"):
            if getattr(self, what) is not None:
                check_whole(f"the {what} of a contender", getattr(self, what), 1)
        if self.watch is not None:
            object.__setattr__(self, "watch", check_watch(self.watch))
        for name, kind in (("network", Network), ("optimiser", Optimiser), ("loss", Loss)):
            if getattr(self, name) is not None:
                check_kind(f"the {name} of a contender", getattr(self, name), kind)

    def completed(
        self,
        net: Network,
        optimiser: Optimiser,
        loss: Loss | None,
        updates: int | None = None,
        batch: int | None = None,
        watch: Watch | Sequence[Watch] = (),
    ) -> "Contender":
        """With what it does not say itself taken from the comparison, and rates of zero for what is frozen."""
        check_named("frozen=", self.frozen, self.network or net)
        chosen = (self.optimiser or optimiser).with_rates(**dict.fromkeys(self.frozen, 0.0))
        return replace(
            self,
            network=self.network or net,
            optimiser=chosen,
            loss=self.loss or loss,
            updates=self.updates or updates,
            batch=self.batch or batch,
            watch=watch if self.watch is None else self.watch,
        )


def evenly(updates, probes):
    """How many updates are made, and after how many a test follows, so that ``probes`` tests are evenly spread over
    them.
    """
    probes = max(probes, 1)
    every = max(updates // probes, 1)
    return {"updates": every * probes, "test_every": every}


def as_contender(rule):
    """Local rules run online in Brian2, BPTT in Torch, unless a :class:`Contender` says otherwise."""
    check_kind("each of rules=", rule, Rule, Contender)
    return rule if isinstance(rule, Contender) else Contender(rule, "brian2" if rule.local else "torch")


def usual(net, *, feedback_std=1.0, converged=None):
    """What is compared unless a protocol says otherwise: BPTT, e-prop with both kinds of feedback, hidden weights
    frozen.

    ``converged``: how many updates BPTT needs until nothing is gained, for a second row of it.
    """
    hidden = tuple(p.name for p in net.plastic if p.post not in net.readouts)
    return {
        "BPTT": bptt(),
        **({"BPTT, converged": Contender(bptt(), "torch", updates=converged)} if converged else {}),
        "e-prop, symmetric": eprop(),
        "e-prop, random": eprop(feedback="random", feedback_std=feedback_std),
        "BPTT, hidden frozen": Contender(bptt(), "torch", hidden),
    }


def tuned(rules, rates, updates, *, made=adam):
    """Contenders with optimisers of their own, at rates that were found for each.

    Parameters
    ----------
    rules : dict of str to Rule or Contender
    rates : dict of str to (float, int)
        By the same names: a learning rate, and how often it halves, evenly, until the end of training.
    updates : int
        How many there are for contenders that do not say so themselves.

    Other arguments
    ---------------
    made : callable
        Makes an optimiser from a rate.
    """

    def at(own, rate, halvings):
        optimiser = made(rate)
        return replace(own, optimiser=optimiser.halved((own.updates or updates) / halvings) if halvings else optimiser)

    return {name: at(as_contender(rule), *rates[name]) for name, rule in rules.items()}


def check_contender(name, other, net, hidden):
    """Raise unless the network ``other`` of contender ``name`` can be shown and judged by the same trials as
    ``net``.
    """

    def outside(network):
        return {
            "dt": float(network.dt),
            "inputs": network.inputs,
            "readouts": {n: network.size(n) for n in network.readouts},
        }

    wanted, found = outside(net), outside(other)
    for what in wanted:
        if wanted[what] != found[what]:
            raise NetworkError(
                f"contender {name!r}: its network has other {what} ({found[what]}) than the one compared "
                f"({wanted[what]}); they must be the same"
            )
    if hidden not in other.populations:
        raise NetworkError(
            f"contender {name!r}: its network has no population {hidden!r}, whose weights are compared; it has "
            f"{list(other.populations)}: rename one, or choose another hidden="
        )
