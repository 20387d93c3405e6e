"""A step program: the arrays of a network that runs, and what one time step does to them, as data."""

from dataclasses import dataclass, replace

from localplast.program.arrays import Array, Neurons, One, Synapses
from localplast.program.check import check
from localplast.program.instructions import Draw, Every, Fire, Jump, Map, Outer, Reduce, Send, Taps

__all__ = ["Program"]


@dataclass(frozen=True)
class Program:
    """What one step does, statement by statement; checked when it is made.

    Attributes
    ----------
    spaces : dict of str to space
        By name (:mod:`localplast.program.arrays`).
    arrays : dict of str to Array
    step : tuple of instructions
        In order (:mod:`localplast.program.instructions`).

    Raises
    ------
    ProgramError
        Where the statements cannot mean anything (:mod:`localplast.program.check`).
    """

    spaces: dict[str, Neurons | Synapses | One]
    arrays: dict[str, Array]
    step: tuple

    def __post_init__(self):
        check(self)

    def with_step(self, step, arrays=()) -> "Program":
        """The program with other statements, and more ``arrays``."""
        return replace(self, step=tuple(step), arrays={**self.arrays, **{a.name: a for a in arrays}})

    def of(self, *lives) -> list[Array]:
        """The arrays of these lives, in the order in which they were made."""
        return [a for a in self.arrays.values() if a.life in lives]

    def __str__(self):
        return "\n".join(line for s in self.step for line in written(s))


def written(s):
    """A statement in lines that people read."""
    if isinstance(s, (Map, Jump)):
        yield f"{s.space}:" if isinstance(s, Map) else f"{s.space}, where {s.spikes}{' (cut)' if s.cut else ''}:"
        yield from (f"    let {name} = {e}" for name, e in getattr(s, "lets", ()))
        yield from (f"    {name} {'+=' if name in getattr(s, 'adds', ()) else '='} {e}" for name, e in s.lines)
    if isinstance(s, Fire):
        yield f"{s.space}:"
        yield f"    {s.spikes} = ({s.argument} {'>' if s.strict else '>='} 0){'' if s.ready == 1 else f' * {s.ready}'}"
        if s.psi is not None:
            yield f"    {s.slope} = {s.psi}"
    if isinstance(s, Send):
        product = f" @ {s.weight}{'.T' if s.back else ''}" if s.weight else ""
        how = f"{' (slopes)' if s.slopes else ''}{late(s.taps)}{product}{' (cut)' if s.cut else ''}"
        yield f"{s.link}: {s.target} {'+=' if s.add else '='} {s.source}{how}"
    if isinstance(s, Outer):
        yield f"{s.link}: {s.into} += {s.pre} x {s.post}{late(s.taps)}{' (slopes)' if s.slopes else ''}"
    if isinstance(s, Reduce):
        squares = f" of each {s.within.size} x {s.within.size}" if s.within else ""
        yield f"{s.space}: {s.into} = {s.op}({s.expression}){squares}"
    if isinstance(s, Every):
        yield "at the end of each trial:" if s.when == "trial" else f"every {s.when} steps, and at the end of a trial:"
        yield from (f"    {line}" for q in s.body for line in written(q))
    if isinstance(s, Draw):
        yield f"{s.space}: {s.into} = randn()"


def late(taps: Taps | None):
    """How old a signal is, in words."""
    return "" if taps is None else f" of {taps.delay} steps ago{f', {taps.spread}' if taps.spread else ''}"
