"""Short-term plasticity: how much of its weight a synapse delivers hangs on when its source last spiked.

A spike delivers ``weight * u * x`` with the values just before it: ``u`` is the share of resources that a spike uses,
``x`` the resources there are. Between spikes ``u`` relaxes to ``U`` and ``x`` to one; a spike takes ``x -= u*x`` and
then moves ``u += jump*(1 - u)``. Depressing synapses pass on events (the first spikes of bursts), facilitating ones
bursts (Naud & Sprekeler 2018, PNAS 115:E6329; Payeur et al. 2021, Nat Neurosci 24:1010).

The state is one pair per presynaptic neuron and projection. It is full at the start of every trial.
"""

from dataclasses import dataclass

import numpy as np
from brian2.units.fundamentalunits import Quantity
from sympy import Expr

from localplast.equations.expressions import to_sympy
from localplast.equations.language import symbol
from localplast.equations.units import is_time
from localplast.errors import NetworkError, UnsupportedError

__all__ = ["ShortTerm", "check_learnable", "check_short_term", "depression", "facilitation"]


@dataclass(frozen=True)
class ShortTerm:
    """Short-term plasticity of a projection: ``Projection(..., short_term=depression(0.5, 200*ms))``.

    Parameters
    ----------
    U : float
        Share of the resources that a spike uses after a long silence, above 0 and at most 1.
    tau_rec : Quantity, optional
        How fast resources recover. None: at once.
    tau_facil : Quantity, optional
        How fast the share falls back to ``U``. None: it never leaves it.
    jump : float, optional
        How far a spike moves the share towards 1; default ``U``.

    Tsodyks, Pawelzik & Markram 1998, Neural Comput 10:821; with a ``jump`` of its own and released before it, Costa,
    Sjöström & van Rossum 2013, Front Comput Neurosci 7:75.
    """

    U: float
    tau_rec: Quantity | None = None
    tau_facil: Quantity | None = None
    jump: float | None = None

    def __repr__(self):
        kind = "depression" if self.tau_facil is None else "facilitation"
        times = {"tau_rec": self.tau_rec, "tau_facil": self.tau_facil}
        return f"{kind}(U={self.U:g}{''.join(f', {k}={v}' for k, v in times.items() if v is not None)})"

    @property
    def state(self) -> dict[str, float]:
        """What a source neuron remembers, with its value after a long silence."""
        rest = {"u": self.U if self.tau_facil is not None else None, "x": 1.0 if self.tau_rec is not None else None}
        return {name: float(value) for name, value in rest.items() if value is not None}

    def between(self, dt: float) -> dict[str, Expr]:
        """``{name: sympy expression}``: the state one step of ``dt`` seconds later, if there was no spike."""
        kept = {"u": self.tau_facil, "x": self.tau_rec}
        decay = {name: float(np.exp(-dt / float(kept[name]))) for name in self.state}
        return {name: rest + (symbol(name) - rest) * decay[name] for name, rest in self.state.items()}

    @property
    def release(self) -> Expr:
        """The share of its weight that a synapse delivers, a sympy expression in the state before the spike."""
        return self.fixed(to_sympy("u*x"))

    @property
    def after(self) -> dict[str, Expr]:
        """``{name: sympy expression}``: the state after a spike, in terms of that before it."""
        jump = float(self.U if self.jump is None else self.jump)
        moved = {"x": to_sympy("x - u*x"), "u": symbol("u") + jump * (1 - symbol("u"))}
        return {
            name: self.fixed(moved[name]) for name in ("x", "u") if name in self.state
        }  # x first: it loses the old share

    def fixed(self, expression: Expr) -> Expr:
        """``expression`` with the numbers of what does not change."""
        rest = {"u": float(self.U), "x": 1.0}
        return expression.subs({symbol(name): value for name, value in rest.items() if name not in self.state})


def depression(U: float, tau_rec: Quantity) -> ShortTerm:
    """Synapses that run dry: a spike uses the share ``U`` of what is left, and ``tau_rec`` later most is back.

    A regular train of period T settles at ``x = (1 - E)/(1 - (1 - U)*E)`` with ``E = exp(-T/tau_rec)``.
    """
    return ShortTerm(U, tau_rec=tau_rec)


def facilitation(
    U: float, tau_facil: Quantity, *, tau_rec: Quantity | None = None, jump: float | None = None
) -> ShortTerm:
    """Synapses that release more from spike to spike, up to all they have; see :class:`ShortTerm`.

    A regular train of period T settles at ``u = (U*(1 - E) + jump*E)/(1 - (1 - jump)*E)`` with
    ``E = exp(-T/tau_facil)``.
    """
    return ShortTerm(U, tau_rec=tau_rec, tau_facil=tau_facil, jump=jump)


def check_short_term(label, p):
    """Raise a :class:`NetworkError` where the short-term plasticity of projection ``p`` is none, or is not to be
    had.
    """
    found = p.short_term
    if found is None:
        return
    if not isinstance(found, ShortTerm):
        raise NetworkError(
            f"{label}: {found!r} is no short-term plasticity; write depression(0.5, 200*ms) or facilitation(...)"
        )
    for what, share in (("U", found.U), ("jump", found.jump)):
        if share is not None and not is_share(share):
            raise NetworkError(
                f"{label}: {what} = {share!r} is not a share of resources; give a number above 0, at most 1"
            )
    for what in ("tau_rec", "tau_facil"):
        tau = getattr(found, what)
        if tau is not None and not is_time(tau):
            raise NetworkError(f"{label}: {what} = {tau!r} is not a positive time; write for example 200*ms")
    if not found.state:
        raise NetworkError(f"{label}: {found!r} never changes; give tau_rec or tau_facil, or multiply the weight by U")
    if p.transmission != "event":
        raise NetworkError(
            f"{label}: only synapses that spikes reach have short-term plasticity; this projection is graded"
        )
    if p.delay is not None:
        raise NetworkError(
            f"{label}: short-term plasticity with a delay is not supported yet; leave out the {p.delay.kind} delay or "
            "short_term"
        )


def is_share(value):
    return not isinstance(value, bool) and isinstance(value, (int, float, np.number)) and 0 < value <= 1


def check_learnable(net, rule, synapses=()):
    """Raise where ``rule`` takes synapses with short-term plasticity for constant ones.

    ``synapses`` are those whose eligibility counts on what arrives. BPTT sees all of it, and a variable of the
    presynaptic neuron does not hang on it.
    """
    changing = [
        p
        for p in net.projections.values()
        if p.short_term is not None and (rule.signal.hears_errors or p.name in synapses)
    ]
    if changing:
        raise UnsupportedError(
            f"projection {changing[0].name!r}: {rule.name} does not follow what its {changing[0].short_term!r} does to "
            "gradients; leave out short_term, or use bptt(), or dendritic() with Mismatch(..., pre='...') or "
            "plastic=False"
        )
