"""Neurons of several compartments: a short way to write one ordinary :class:`~localplast.neuron.model.NeuronModel`.

    cell("pyramidal",
         Compartment("soma", C=370*pF, g_leak=23*nS, E_leak=-70*mV),
         Compartment("basal", C=50*pF, g_leak=2.5*nS, E_leak=-70*mV, channels=[ampa(g=0.8*nS, tau=2*ms)]),
         couplings=[coupling("soma", "basal", 4*nS)], threshold="v_soma > v_th", ...)

What comes back is equations, which ``print`` shows. Every name says whose it is: ``v_basal``, ``g_leak_basal``,
``s_ampa_basal``; ``I_basal`` is what graded projections inject.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brian2.units.allunits import amp, siemens
from brian2.units.fundamentalunits import Quantity

from localplast.equations.statements import split_statements
from localplast.errors import ModelError
from localplast.names import check_name
from localplast.neuron.channels import Channel, Piece, check_piece, check_value, renamed, without
from localplast.neuron.model import NeuronModel

__all__ = ["Compartment", "Coupling", "active_coupling", "cell", "coupling", "one_way_coupling"]


@dataclass(frozen=True, eq=False)
class Compartment:
    """One compartment: a capacitance with a leak and channels, or equations of its own.

    Parameters
    ----------
    name : str
        Joins the name of every variable and parameter.

    Other arguments
    ---------------
    C, g_leak, E_leak : Quantity
        Capacitance (farad), leak (siemens) and resting potential (volt): all three, or ``equations``.
    channels : sequence of Channel
        :mod:`localplast.neuron.channels`.
    clamped : bool
        Whether the membrane is held while the neuron is refractory.
    equations : str
        Brian2 equations in full names. They define ``v_<name>``; ``inflow_<name>`` stands for all that channels,
        couplings and graded projections let in (amp).
    parameters, initial : mapping
        Of ``equations``.
    """

    name: str
    C: Quantity | None = None
    g_leak: Quantity | None = None
    E_leak: Quantity | None = None
    channels: Sequence[Channel] = ()
    clamped: bool = False
    equations: str | None = None
    parameters: dict = field(default_factory=dict)
    initial: dict = field(default_factory=dict)

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"compartment {self.name!r}"

    def piece(self, inflow: Sequence[str]) -> Piece:
        """The membrane, into which ``inflow`` (names and terms of currents) flows."""
        return self.own(inflow) if self.equations is not None else self.passive(inflow)

    def passive(self, inflow: Sequence[str]) -> Piece:
        """``C dv/dt = g_leak*(E_leak - v) + inflow``."""
        flag = " (unless refractory)" if self.clamped else ""
        text = f"""
            dv/dt = ({" + ".join(["g_leak*(E_leak - v)", *inflow])})/C : volt{flag}
            I : amp
        """
        given = {"C": self.C, "g_leak": self.g_leak, "E_leak": self.E_leak}
        check_piece(self.where, "C : farad\ng_leak : siemens\nE_leak : volt", given)
        full = {name: f"{name}_{self.name}" for name in ("v", "I", *given)}
        parameters = {full[k]: value for k, value in given.items()}
        return Piece(
            self.where, renamed(without(text, {}), full), parameters, initial={full["v"]: self.E_leak, **self.initial}
        )

    def own(self, inflow: Sequence[str]) -> Piece:
        """The equations given, and ``inflow_<name>`` if they use it."""
        total = f"inflow_{self.name}"
        defined = check_piece(self.where, self.equations, {})
        if f"v_{self.name}" not in defined:
            raise ModelError(
                f"{self.where}: its equations define {sorted(defined)}, and not its membrane 'v_{self.name}'"
            )
        text = without(self.equations, {})
        if re.search(rf"\b{total}\b", text):
            text += renamed(f"\n{total} = {' + '.join(inflow)} : amp\nI : amp", {"I": f"I_{self.name}"})
        elif len(inflow) > 1:
            listed = ", ".join(inflow[:-1])
            raise ModelError(
                f"{self.where}: its equations do not use {total!r}, so that {listed} would have no effect; add it"
            )
        return Piece(self.where, text, self.parameters, initial=self.initial)

    def check(self) -> None:
        """Raise a :class:`ModelError` where it is neither of the two kinds, or no name."""
        check_name("a compartment", self.name, ModelError)
        missing = [name for name in ("C", "g_leak", "E_leak") if getattr(self, name) is None]
        if self.equations is None and missing:
            listed = ", ".join(missing)
            raise ModelError(
                f"{self.where}: {listed} not given; it needs C, g_leak and E_leak, or equations of its own"
            )
        if self.equations is not None and (len(missing) < 3 or self.clamped):
            raise ModelError(
                f"{self.where}: it has equations of its own; write C, g_leak, E_leak and clamping into these"
            )


@dataclass(frozen=True, eq=False)
class Coupling:
    """Currents between two compartments, in full names: a :func:`coupling`, :func:`one_way_coupling` or
    :func:`active_coupling`.

    ``currents`` maps the compartment that receives to the text of the current, ``parameters`` holds values,
    ``dimensions`` what these must be.
    """

    between: tuple
    currents: dict
    parameters: dict
    dimensions: object = siemens.dim

    @property
    def where(self) -> str:
        """How errors name it."""
        return "coupling of {!r} and {!r}".format(*self.between)

    def check(self, names: Sequence[str]) -> None:
        """Raise a :class:`ModelError` where it joins what is not there, or by what is no conductance."""
        for name in self.between:
            if name not in names:
                raise ModelError(f"{self.where}: there is no compartment {name!r}; there are {', '.join(names)}")
        if self.between[0] == self.between[1]:
            raise ModelError(f"{self.where}: a compartment is not coupled to itself; its leak is g_leak")
        for name, value in self.parameters.items():
            check_value(self.where, name, value, self.dimensions)


def coupling(a: str, b: str, g: Quantity, *, back: Quantity | None = None) -> Coupling:
    """``g*(v_a - v_b)`` flows from ``a`` into ``b``, and as much out of ``a``.

    ``back`` is the conductance by which ``a`` feels ``b``, where it is another one (compartments scaled by their
    areas).

    Raises
    ------
    ModelError
        ``back`` is zero: what acts in one direction only has to be asked for, by :func:`one_way_coupling`.
    """
    if back is None:
        name = f"g_{a}_{b}"
        return Coupling((a, b), {a: f"{name}*(v_{b} - v_{a})", b: f"{name}*(v_{a} - v_{b})"}, {name: g})
    if float(back) == 0.0 or float(g) == 0.0:
        raise ModelError(
            f"coupling of {a!r} and {b!r}: {g} one way and {back} back has no reverse; leave back= out, or ask for "
            f"one_way_coupling({a!r}, {b!r}, g)"
        )
    there, again = one_way_coupling(a, b, g), one_way_coupling(b, a, back)
    return Coupling((a, b), there.currents | again.currents, there.parameters | again.parameters)


def one_way_coupling(pre: str, post: str, g: Quantity) -> Coupling:
    """``g*(v_pre - v_post)`` flows into ``post``, and ``pre`` does not feel it."""
    return Coupling((pre, post), {post: f"g_{pre}_{post}*(v_{pre} - v_{post})"}, {f"g_{pre}_{post}": g})


def active_coupling(pre: str, post: str, I: Quantity, *, by: str) -> Coupling:
    """The current ``I*<by>_<pre>`` flows into ``post``: what a channel of ``pre`` does elsewhere, in one direction.

    ``by`` is a dimensionless variable of ``pre``, such as ``'f_ca'``, the activation of its channel ``ca``.
    """
    return Coupling((pre, post), {post: f"I_{pre}_{post}*{by}_{pre}"}, {f"I_{pre}_{post}": I}, amp.dim)


def cell(
    name: str,
    *compartments: Compartment,
    couplings: Sequence[Coupling] = (),
    channels: Mapping[str, Sequence[Channel]] | None = None,
    parameters: Mapping[str, Quantity | float] | None = None,
    threshold: str | None = None,
    reset: str = "",
    adaptation: str = "",
    update: str = "",
    initial: Mapping[str, Quantity | float] | None = None,
    receives: str | None = None,
    method: str = "euler",
    **options: Any,
) -> NeuronModel:
    """One neuron of several compartments, as an ordinary :class:`~localplast.neuron.model.NeuronModel`.

    Parameters
    ----------
    name : str
    compartments : Compartment

    Other arguments
    ---------------
    couplings : sequence of Coupling
        :func:`coupling`, :func:`one_way_coupling`, :func:`active_coupling`.
    channels : mapping of str to sequence of Channel
        More channels, by compartment.
    receives : str, optional
        Where projections land unless they say otherwise; default ``I_<first compartment>``.
    parameters, threshold, reset, adaptation, update, initial, method, options
        As for :class:`~localplast.neuron.model.NeuronModel`, in full names; they join what the compartments bring
        along.

    Raises
    ------
    ModelError
        It names compartment and channel: what is coupled to nothing, placed nowhere, there twice, negative, or of
        another unit.
    """
    try:
        pieces = expand(compartments, couplings, channels or {})
        pieces.append(Piece("the cell itself", "", dict(parameters or {}), update, adaptation, dict(initial or {})))
        check_twice(pieces)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    return NeuronModel(
        name,
        "\n".join(filter(None, (piece.equations for piece in pieces))),
        {key: value for piece in pieces for key, value in piece.parameters.items()},
        threshold=threshold,
        reset=reset,
        adaptation=statements(piece.adaptation for piece in pieces),
        update=statements(piece.update for piece in pieces),
        initial={key: value for piece in pieces for key, value in piece.initial.items()},
        receives=receives or f"I_{compartments[0].name}",
        method=method,
        **options,
    )


def expand(compartments, couplings, more):
    """The pieces of a cell: each compartment's membrane, then its channels; last the values of couplings."""
    names = [compartment.name for compartment in compartments]
    check_parts(compartments, names, couplings, more)
    pieces = []
    for compartment in compartments:
        placed = [
            channel.placed(compartment.name) for channel in (*compartment.channels, *more.get(compartment.name, ()))
        ]
        inflow = [each.currents[compartment.name] for each in couplings if compartment.name in each.currents]
        inflow += [piece.current for piece in placed if piece.current]
        pieces += [compartment.piece([*inflow, "I"]), *placed]
    return pieces + [Piece(each.where, parameters=each.parameters) for each in couplings]


def check_parts(compartments, names, couplings, more):
    """Raise a :class:`ModelError` where compartments, couplings and channels do not fit together."""
    if not compartments:
        raise ModelError("it has no compartment; give at least one Compartment(...)")
    if repeated(names):
        raise ModelError(f"two compartments are called {repeated(names)!r}")
    for name, channels in more.items():
        if name not in names:
            listed = ", ".join(repr(channel.name) for channel in channels)
            raise ModelError(
                f"channel {listed}: there is no compartment {name!r} to place it in; there are {', '.join(names)}"
            )
    for compartment in compartments:
        compartment.check()
    for each in couplings:
        if not isinstance(each, Coupling):
            raise ModelError(f"{each!r} is not a coupling; write coupling('soma', 'apical', 4*nS)")
        each.check(names)
    twice = repeated((frozenset(each.between), to, each.dimensions) for each in couplings for to in each.currents)
    if twice:
        raise ModelError(
            "coupling of {!r} and {!r}: there are two of them; add their conductances".format(*sorted(twice[0]))
        )


def check_twice(pieces):
    """Raise a :class:`ModelError` where two pieces define one name."""
    owner = {}
    for piece in pieces:
        for name in {*check_piece(piece.where, piece.equations, {}), *piece.parameters}:
            if name in owner:
                raise ModelError(
                    f"{piece.where}: {name!r} is there already, from {owner[name]}; give one of them another name"
                )
            owner[name] = piece.where


def repeated(names):
    """The first of ``names`` that is there more than once, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def statements(blocks):
    """The statements of all ``blocks``, one a line."""
    return "\n".join(line for block in blocks for line in split_statements(block))
