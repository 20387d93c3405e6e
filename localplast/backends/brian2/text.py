"""Small pieces of Brian2 text, and the order of what happens at the end of a step."""

import re
from dataclasses import dataclass, replace

from localplast.equations.units import unit_of

__all__ = [
    "END_OF_TRIAL",
    "LEARN",
    "MONITOR",
    "UPDATE",
    "Line",
    "gated",
    "replace_words",
    "tables",
    "updates_so_far",
    "where",
    "zero",
]

#: Of the end of a step: synapses after neurons, which come in the order in which they wait for each other.
LEARN = 1000
END_OF_TRIAL, UPDATE, MONITOR = range(LEARN + 1, LEARN + 4)


@dataclass(frozen=True)
class Line:
    """``name = text``, or ``name += text``; a name of this text alone is ``local``."""

    name: str
    text: str
    adds: bool = False
    local: bool = False

    def __str__(self):
        return f"{self.name} {'+=' if self.adds else '='} {self.text}"


def zero(name, dimension):
    """The line that sets a variable to zero, in its unit."""
    unit = unit_of(dimension)
    return Line(name, f"0*{unit}" if unit else "0")


def replace_words(text, words):
    """``text`` with each of ``words`` replaced by its value, all at once: one may stand in the value of another."""
    return re.sub(rf"\b({'|'.join(map(re.escape, words))})\b", lambda found: words[found[1]], text)


def tables(model, **given):
    """Tables by name for the text of neurons of this ``model``, others where it has a variable called so; and the text
    of what each holds.
    """
    names = {name: name + "_table" * (name in model.dimensions) for name in given}
    return {names[n]: table for n, table in given.items()}, {n: t.text(names[n]) for n, t in given.items()}


def updates_so_far(plan, dt):
    """Text of the number of updates so far, those before the block included."""
    within = plan.rule.interval(dt)
    if not within:
        return "_updates + t_in_timesteps//(_period*_batch)"
    before = f"(t_in_timesteps//_period)*((_steps + {within - 1})//{within})"
    return f"_updates + {before} + (t_in_timesteps % _period)//{within}"


def gated(lines, block, interval):
    """Lines of the optimiser within a trial, run where it is time for an update, and never in the gaps."""
    step = "(t_in_timesteps % _period)"
    due = f"({step} % {interval} == {interval - 1}) or ({step} == _steps - 1)" if interval > 1 else ""
    condition = " and ".join(f"({c})" for c in (due, block.active) if c)
    if not condition or not lines:
        return lines
    return [Line("_on", f"int({condition})", local=True), *(where(line, "_on") for line in lines)]


def where(line, on):
    """A line that changes nothing where ``on`` is 0; it is 1 elsewhere."""
    new = "" if re.fullmatch(r"0(\*.*)?", line.text) else f"{on}*({line.text}) + "
    return line if line.local else replace(line, text=f"{new}(1 - {on})*{line.name}")
