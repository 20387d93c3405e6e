"""Optimisers as programs: from a gradient to a weight change, the same text on both backends.

The symbols are ``w`` (weight), ``g`` (gradient), ``k`` (number of this update, from 1), the optimiser's own state, and
its constants. Every optimiser can be followed by links: ``rmsprop(1e-3).clipped(1.0).decayed(1e-4)``.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import sympy
from brian2.units.fundamentalunits import DIMENSIONLESS, Quantity, get_dimensions

from localplast.arguments import as_number, is_real
from localplast.equations.expressions import to_sympy
from localplast.equations.language import clip, symbol
from localplast.equations.rewriting import replaced
from localplast.equations.units import unit_text
from localplast.errors import LocalplastError, RunawayError
from localplast.names import check_name, is_taken
from localplast.network.check import weight_dimension

if TYPE_CHECKING:
    import torch

#: Constants that are the share of something that is kept.
SHARES = ("beta", "beta1", "beta2", "decay", "momentum")

__all__ = ["Optimiser", "adam", "check_norm", "madgrad", "momentum", "rmaxprop", "rmsprop", "sgd"]


@dataclass(frozen=True)
class Optimiser:
    """A weight update.

    Parameters
    ----------
    name : str
    statements : tuple of (str, str)
        Assignments, in order; the last one gives the new ``w``.
    constants : dict of str to float
    state : dict of str to int
        Numbers stored per synapse (zero at first), with the power of the gradient's unit that each carries.
    normalised : bool
        Whether the gradient's unit cancels, so that the learning rate is measured in the weight's unit.
    rates : dict of str to float
        Factors on the learning rate and on the decay, by projection; 0 freezes a projection.
    decay : float
        Share of its value that a weight loses in each update.
    norm : float
        What the norm of the whole gradient is held to.
    halving : float
        Updates after which every change is half as large.
    held : float
        Updates before changes begin to halve.
    own : dict of str to dict of str to float
        Constants of single projections, where they differ.
    power : float
        Of the learning rate that was asked for, which the constant of this name is.
    unit : str
        Of the learning rate, where it was given with one: that of every weight which it moves.
    """

    name: str
    statements: tuple
    constants: dict
    state: dict = field(default_factory=dict)
    normalised: bool = False
    rates: dict = field(default_factory=dict)
    decay: float = 0.0
    decaying: tuple = ()
    norm: float = float("inf")
    halving: float = float("inf")
    held: float = 0.0
    own: dict = field(default_factory=dict)
    power: float = 1.0
    unit: str = ""

    def __post_init__(self):
        for name in (*self.constants, *self.state, *(name for name, _ in self.statements)):
            check_name("a number of an optimiser", name, LocalplastError, where=str(self.name)[:40])
        if taken := [name for name in self.state if name in ("g", "k") or is_taken(name)]:
            raise LocalplastError(f"{self.name}: learning has a {taken[0]!r} itself; give that state another name")
        rate = self.constants.get("learning_rate")
        if self.normalised and is_real(rate) and get_dimensions(rate) is not DIMENSIONLESS:
            object.__setattr__(self, "unit", unit_text(rate.dim))
        constants = {name: self.as_constant(name, value) for name, value in self.constants.items()}
        object.__setattr__(self, "constants", constants)
        for name, rate in self.rates.items():
            as_number(f"the rate of {name!r}", rate, 0)

    def as_constant(self, name: str, value: float | Quantity) -> float:
        """A constant as a float; a learning rate may come in the unit of the weights, where the gradient's cancels."""
        dimension = getattr(value, "dim", DIMENSIONLESS) if self.unit and name == "learning_rate" else DIMENSIONLESS
        return as_number(f"{name} of {self.name}()", value, 0, 1 if name in SHARES else math.inf, dimension=dimension)

    def program(self, *, projection: str | None = None) -> tuple[tuple[str, sympy.Expr], ...]:
        """The statements as ``(name, sympy expression)``, constants put in except ``learning_rate``.

        With the name of a ``projection`` its decay is scaled as its learning rate is, and a frozen one gets ``w``
        itself: adding zeros would not keep its bits where a gradient is not finite. Weights decay, numbers of neurons
        and delays (``population.parameter``) do not: nothing draws a time constant to zero.
        """
        constants = {**self.constants, **self.own.get(projection, {})}
        numbers = tuple((n, v) for n, v in constants.items() if n != "learning_rate")
        *state, (_, change) = ((name, with_constants(text, numbers)) for name, text in self.statements)
        w, decay = symbol("w"), self.decay * self.rates.get(projection, 1.0)
        if "." in (projection or "") or (self.decaying and projection not in self.decaying):
            decay = 0.0
        if self.frozen(projection):
            return (*state, ("w", w))
        if self.halving < float("inf"):
            past = symbol("k") - 1
            falling = clip(past - self.held, 0, sympy.oo) if self.held else past
            change = w + 2 ** (-falling / self.halving) * (change - w)
        return (*state, ("w", change - decay * w if decay else change))

    def rate(self, projection: str) -> float:
        """The learning rate of one projection."""
        return self.constants["learning_rate"] * self.rates.get(projection, 1.0)

    @property
    def label(self) -> str:
        """Name, learning rate, and after how many updates that halves, in a few words."""
        rate = f"{self.name} {self.constants['learning_rate'] ** (1 / self.power):.3g}"
        if self.halving == float("inf"):
            return rate
        return f"{rate}, halved every {self.halving:.0f}" + (f" after {self.held:.0f}" if self.held else "")

    def scaled(self, factor: float) -> "Optimiser":
        """The same optimiser at so many times its learning rate, for a run that goes on; ``decay`` stays.

        Raises
        ------
        LocalplastError
            A change of its rate would also change what it remembers.
        """
        if not self.proportional:
            raise LocalplastError(
                f"{self.name} remembers what its learning rate was, so it cannot change while a run goes on; use one "
                "whose changes are in proportion to it, such as adam()"
            )
        rate = as_number("a factor on the learning rate", factor, 0) * self.constants["learning_rate"]
        return replace(self, constants={**self.constants, "learning_rate": rate})

    @property
    def proportional(self) -> bool:
        """Whether the change of a weight is in proportion to the learning rate, and nothing else depends on it."""
        *state, (_, new) = ((name, to_sympy(text)) for name, text in self.statements)
        rate = symbol("learning_rate")
        rise = sympy.diff(new, rate)
        return not any(e.has(rate) for e in (*(e for _, e in state), rise)) and new.subs(rate, 0) == symbol("w")

    def frozen(self, projection: str | None) -> bool:
        """Whether a projection keeps its weights, bit for bit: its factor is 0."""
        return self.rates.get(projection, 1.0) == 0

    def with_rates(self, **rates: float) -> "Optimiser":
        """The same optimiser with factors on the rates of some projections; 0 freezes one: no change, decay or
        bound.
        """
        return replace(self, rates={**self.rates, **rates})

    def with_constant(self, name: str, **values: float) -> "Optimiser":
        """The same optimiser with another value of one of its constants for some projections:
        ``("beta", rec_out=0.0)``.
        """
        known = sorted({*self.constants} - {"learning_rate"})
        if name not in known:
            raise LocalplastError(
                f"{self.name} has no constant {name!r} to set by projection; it has {known}, and rates by "
                "with_rates(...)"
            )
        own = {p: {**self.own.get(p, {}), name: float(value)} for p, value in values.items()}
        return replace(self, own={**self.own, **own})

    def decayed(self, rate: float, only: Iterable[str] = ()) -> "Optimiser":
        """The same optimiser with weights that decay: ``w_new = w_updated - rate * w_old``, so
        ``(1 - rate) * w + change``.

        Kolen & Pollack 1994: two matrices that receive the same changes and decay alike become alike (used so by
        Akrout et al. 2019). The decay is counted per update and is not multiplied by the learning rate, unlike
        that of AdamW. Chained twice, rates add. ``only`` names the projections that decay (default: all that learn):
        adaptive e-prop lets the readout's weights decay, and with them the feedback that learns beside them.
        """
        if not is_real(rate) or not 0 <= rate <= 1:
            raise LocalplastError(f"the decay rate {rate!r} is not a share; give a number from 0 to 1, per update")
        return replace(self, decay=self.decay + float(rate), decaying=tuple(only) or self.decaying)

    def clipped(self, limit: float) -> "Optimiser":
        """The same optimiser on gradients clipped elementwise: ``g <- min(max(g, -limit), limit)``.

        It comes before everything else (Pascanu et al. 2013 clip the norm instead); ``limit`` has the unit of the
        gradient, which is the mean over the batch. Chained twice, the smaller limit holds.
        """
        if not is_real(limit) or not limit > 0:
            raise LocalplastError(f"gradients cannot be clipped to {limit!r}; give a positive limit")
        smallest = min(float(limit), self.constants.get("limit", float("inf")))
        clipped = replace(self, constants={**self.constants, "limit": smallest})
        if "limit" in self.constants:
            return clipped
        statements = tuple((name, re.sub(r"\bg\b", "clip(g, -limit, limit)", text)) for name, text in self.statements)
        return replace(clipped, statements=statements)

    def halved(self, every: float, *, after: float = 0) -> "Optimiser":
        """The same optimiser with changes that shrink by ``2**(-(k - 1 - after)/every)``, k the number of the update: a
        falling rate, held for so many updates before.
        """
        if not is_real(every) or not every > 0:
            raise LocalplastError(f"the learning rate cannot halve every {every!r} updates; give a positive number")
        if not is_real(after) or not 0 <= after < math.inf:
            raise LocalplastError(f"the learning rate cannot be held for {after!r} updates; give 0 or more")
        return replace(self, halving=float(every), held=float(after))

    def norm_clipped(self, limit: float) -> "Optimiser":
        """The same optimiser on gradients that shrink together where the norm of all of them is above ``limit``.

        Pascanu et al. 2013, ICML, algorithm 1; as ``torch.nn.utils.clip_grad_norm_``. The norm is over all that learns;
        numbers with a rate of their own (:meth:`with_rates`: time constants, delays) are measured in units of that
        factor. It is no local rule: every synapse must know all the others. Learning with BPTT can, and traces summed
        up to the end of a batch on Torch.
        """
        if not is_real(limit) or not limit > 0:
            raise LocalplastError(f"the norm of a gradient cannot be held to {limit!r}; give a positive limit")
        return replace(self, norm=min(float(limit), self.norm))

    def share(self, gradients: Mapping[str, "np.ndarray | torch.Tensor"]) -> float:
        """What is left of every gradient, by name, when their norm is held to the limit: a factor of at most one.

        Raises a :class:`~localplast.errors.RunawayError` where one is not finite: by way of the norm it would reach
        all others.
        """
        if self.norm == float("inf"):
            return 1.0
        parts = {name: self.rates.get(name, 1.0) * length(g) for name, g in gradients.items() if not self.frozen(name)}
        if broken := [name for name, part in parts.items() if not math.isfinite(part)]:
            raise RunawayError(f"the gradient of {broken[0]!r} is not finite")
        norm = math.hypot(*parts.values())
        return 1.0 if norm <= self.norm else self.norm / norm


@functools.lru_cache(maxsize=2**10)
def with_constants(text, constants):
    """A text as sympy, its constants ``(name, number)`` put in: the same for all projections but for a few."""
    return replaced(to_sympy(text), {symbol(name): sympy.Float(number) for name, number in constants})


def length(gradient):
    """The norm of an array or a tensor, whose squares may be too large for its type."""
    largest = float(abs(gradient).max())
    return largest * float(((gradient / largest) ** 2).sum()) ** 0.5 if 0 < largest < math.inf else largest


def check_norm(rule, optimiser, reason):
    """Raise where nobody has the whole gradient."""
    if optimiser.norm < float("inf"):
        raise LocalplastError(
            f"{rule.name}: {reason}, so its norm cannot be held to {optimiser.norm:g}; clip every element: "
            f".clipped({optimiser.norm:g})"
        )


def sgd(learning_rate: float | Quantity) -> Optimiser:
    """``w <- w - learning_rate * g``."""
    return Optimiser("sgd", (("w", "w - learning_rate*g"),), {"learning_rate": learning_rate})


def momentum(learning_rate: float | Quantity, beta: float = 0.9) -> Optimiser:
    """Momentum (Polyak 1964; the form of Sutskever et al. 2013 without the rate inside), as
    ``torch.optim.SGD(momentum=beta)``.

    ``m <- beta * m + g``, then ``w <- w - learning_rate * m``.
    """
    return Optimiser(
        name="momentum",
        statements=(("m", "beta*m + g"), ("w", "w - learning_rate*m")),
        constants={"learning_rate": learning_rate, "beta": beta},
        state={"m": 1},
    )


def rmsprop(learning_rate: float | Quantity, *, decay: float = 0.99, epsilon: float = 1e-8) -> Optimiser:
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5), as ``torch.optim.RMSprop``.

    ``s <- decay * s + (1 - decay) * g**2``, then ``w <- w - learning_rate * g / (sqrt(s) + epsilon)``.

    Other arguments
    ---------------
    decay : float
        Per update; ``alpha`` in Torch.
    epsilon : float
        In the unit of the gradient.
    """
    return divided("rmsprop", "decay*s + (1 - decay)*g**2", learning_rate, decay, epsilon)


def rmaxprop(learning_rate: float | Quantity, *, decay: float, epsilon: float = 1e-8) -> Optimiser:
    """RMaxProp (Zenke & Ganguli 2018): a rate per synapse, set by the largest gradient of late.

    ``s <- max(decay * s, g**2)``, then ``w <- w - learning_rate * g / (sqrt(s) + epsilon)``.

    Other arguments
    ---------------
    decay : float
        Per update: ``exp(-interval/tau_rms)`` where updates are ``interval`` apart.
    epsilon : float
        In the unit of the gradient.
    """
    # of two numbers that are not negative: clip(a, b, a + b) is the larger one, exactly
    return divided("rmaxprop", "clip(decay*s, g**2, decay*s + g**2)", learning_rate, decay, epsilon)


def divided(name: str, memory: str, learning_rate: float | Quantity, decay: float, epsilon: float) -> Optimiser:
    """An optimiser that divides the gradient by the root of a memory ``s`` of its square."""
    return Optimiser(
        name=name,
        statements=(("s", memory), ("w", "w - learning_rate*g/(sqrt(s) + epsilon)")),
        constants={"learning_rate": learning_rate, "decay": decay, "epsilon": epsilon},
        state={"s": 2},
        normalised=True,
    )


def adam(
    learning_rate: float | Quantity,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_hat: bool = False,
) -> Optimiser:
    """Adam (Kingma & Ba 2015, algorithm 1), as ``torch.optim.Adam``.

    Other arguments
    ---------------
    epsilon_hat : bool
        Add epsilon to ``sqrt(s)`` before the bias correction instead of after it (end of their section 2;
        TensorFlow and NEST do so).
    """
    corrected = "sqrt(s)/sqrt(1 - beta2**k)"
    if epsilon_hat:
        step = "learning_rate*sqrt(1 - beta2**k)/(1 - beta1**k)*m/(sqrt(s) + epsilon)"
    else:
        step = f"learning_rate/(1 - beta1**k)*m/({corrected} + epsilon)"
    return Optimiser(
        name="adam",
        statements=(("m", "beta1*m + (1 - beta1)*g"), ("s", "beta2*s + (1 - beta2)*g**2"), ("w", f"w - {step}")),
        constants={"learning_rate": learning_rate, "beta1": beta1, "beta2": beta2, "epsilon": epsilon},
        state={"m": 1, "s": 2},
        normalised=True,
    )


def madgrad(learning_rate: float, *, momentum: float = 0.9, epsilon: float = 1e-6) -> Optimiser:
    """MADGRAD (Defazio & Jelassi 2022, JMLR 23:144, algorithm 1): sums of gradients, divided by a cube root.

    With ``r = learning_rate * sqrt(k)``: ``s <- s + r*g``, ``q <- q + r*g**2``, ``z = x0 - s/(cbrt(q) + epsilon)``,
    then ``w <- momentum * w + (1 - momentum) * z``. ``x0`` is the weight before the first update. The step grows as
    ``learning_rate**(2/3)``, which is the rate that factors by projection act on; the sums are kept without it.

    Other arguments
    ---------------
    momentum : float
        Share of its place that a weight keeps in an update.
    epsilon : float
        In the published place, beside the cube root of what holds the rate.
    """
    learning_rate = as_number("learning_rate of madgrad()", learning_rate, 0, above=True)
    return Optimiser(
        name="madgrad",
        statements=(
            ("start", "start + int(k < 2)*w/learning_rate"),
            ("s", "s + sqrt(k)*g/unit"),
            ("q", "q + sqrt(k)*(g/unit)**2"),
            ("w", "momentum*w + (1 - momentum)*learning_rate*(start - s/(q**(1/3) + epsilon))"),
        ),
        constants={
            "learning_rate": learning_rate ** (2 / 3),
            "momentum": momentum,
            "unit": 1.0,
            "epsilon": as_number("epsilon of madgrad()", epsilon, 0) / learning_rate ** (1 / 3),
        },
        state={"start": 0, "s": 0, "q": 0},
        normalised=True,
        power=2 / 3,
    )


def check_rates(net, optimiser):
    """Raise where the learning rate is not in the unit of the weights, or what is marked as trainable has no rate of
    its own.
    """
    for p in net.plastic:
        weight = unit_text(weight_dimension(net, p))
        if optimiser.unit not in ("", weight) and not optimiser.frozen(p.name):
            raise LocalplastError(
                f"the learning rate of {optimiser.name}() is in {optimiser.unit}, the weights of {p.name!r} in "
                f"{weight}: give the rate as a plain number, in SI units"
            )
    missing = [name for name in net.trainable if name not in optimiser.rates]
    if missing:
        raise LocalplastError(
            f"say how fast {missing[0]} learns beside the weights, as a factor on the learning rate in its own unit "
            f"(delays: steps): optimiser.with_rates(**{{{missing[0]!r}: 1e-3}}); 0 keeps it"
        )
