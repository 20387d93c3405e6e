"""Where the arrays of a program that learns lie: those of trials side by side in the workspace of a thread, all others
where Python has them.
"""

from dataclasses import dataclass, field

import numpy as np

from localplast.backends.c.expression import Constants
from localplast.backends.c.loops import share
from localplast.backends.c.memory import SPARE, Memory
from localplast.program.arrays import ONE, Kernel, Life, One, Sparse, Synapses
from localplast.program.instructions import Every, writes

__all__ = ["OnlineMemory"]


@dataclass
class OnlineMemory(Memory):
    """Where arrays lie: those of all trials side by side in the workspace of a thread, all others where Python has
    them.

    Attributes
    ----------
    alone : bool
        Whether numbers change as soon as one trial says so.
    schedules : dict of str to list of expressions
        What depends on the number of the update alone, by space.
    """

    alone: bool = False
    schedules: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        ends = [s for s in self.forward.step if isinstance(s, Every) and s.when != "trial"]
        moved = set().union(*(writes(s) for s in (self.forward.step if self.alone else ends)))
        #: what changes within a trial
        self.moving = {n for n in moved if self.arrays[n].life is Life.LEARNED}

    def constant(self, name, space):
        return name not in self.moving and super().constant(name, space)

    def constants_of(self, space):
        found = self.spaces[space]
        if space not in self.constants and isinstance(found, Synapses):
            shared = {n: x for n, x in self.numbers.items() if self.constant(n, space) and self.common(n)}
            own = {f"{n}@post": x for n, x in self.numbers.items() if self.constant(n, found.post)}
            self.constants[space] = Constants(shared | own, False)
        return super().constants_of(space)

    def common(self, name):
        return isinstance(self.spaces[self.arrays[name].space], One)

    # --- sizes --------------------------------------------------------------------------------------------------------

    def many_rows(self, space):
        """Rows of an array: of synapses one for each neuron before them."""
        found = self.spaces[space]
        if isinstance(found, Synapses) and isinstance(found.form, Kernel):
            return found.form.convolution.shape[0]
        return self.size(found.pre) if isinstance(found, Synapses) else 1

    def many_columns(self, space):
        """Numbers of a row that are there."""
        found = self.spaces[space]
        if isinstance(found, Synapses) and isinstance(found.form, Kernel):
            return int(np.prod(found.form.convolution.shape[1:]))
        return self.size(found.post if isinstance(found, Synapses) else space)

    def columns(self, space):
        """Numbers of a row, padded."""
        return self.whole(self.many_columns(space)) if space != ONE else 1

    def share(self, space):
        """C text of the first and last row of this thread's share."""
        return share(self.many_rows(space))

    def parts(self, space):
        """C text of a sum of a thread: how many numbers it has, from which to which they are in this one's share, and
        how many belong together.
        """
        (low, high), link = self.share(space), self.spaces[space]
        if isinstance(getattr(link, "form", None), Sparse):
            start, _ = self.neighbours(link)
            return self.count(link)[1], f"{start}[{low}]", f"{start}[{high}]", 1
        n = self.columns(space)
        return (self.many_rows(space) + SPARE) * n, low, high, n

    # --- places -------------------------------------------------------------------------------------------------------

    def slotted(self, name):
        return False

    def of_few(self, array):
        """As :meth:`values`, of numbers of few synapses."""
        link, name = self.spaces[array.space], self.identifier(array.name)
        (laid, used), shape = self.count(link), (self.many_synapses(link),)
        if array.life is Life.SUM and not array.trial:
            return f"({self.argument(f'sum_{name}', 'real', ('team', *shape), ('sum', array.name))} + w->mine * {used})"
        if array.life in (Life.LEARNED, Life.FIXED):
            return self.argument(f"number_{name}", "real", shape, ("number", array.name))
        return self.want(f"x_{name}", "real", f"S * {laid}" if array.trial else laid, self.region(array.name))

    def vector(self, link, weight):
        own = weight in self.moving or self.arrays[weight].life is Life.STEP
        return self.values(weight) if own else super().vector(link, weight)

    def values(self, name):
        array = self.arrays[name]
        if isinstance(getattr(self.spaces[array.space], "form", None), Sparse):
            return self.of_few(array)
        if array.trial:
            many = self.many_rows(array.space) * self.columns(array.space)
            return self.want(f"x_{self.identifier(name)}", "real", f"S * {many}", self.region(name))
        shape = (self.many_rows(array.space), self.columns(array.space))
        if array.life is Life.GIVEN:
            return f"({self.argument(f'given_{self.identifier(name)}', 'real', ('T',), ('along', name))} + t)"
        if array.life is Life.SUM:
            shape = shape[0] + SPARE, shape[1]
            found = self.argument(f"sum_{self.identifier(name)}", "real", ("team", *shape), ("sum", name))
            return f"({found} + w->mine * {shape[0] * shape[1]})"
        if array.life in (Life.LEARNED, Life.FIXED):
            shape = shape[0] + SPARE * isinstance(getattr(self.spaces[array.space], "form", None), Kernel), shape[1]
            return self.argument(f"number_{self.identifier(name)}", "real", shape, ("number", name))
        return self.want(f"x_{self.identifier(name)}", "real", f"{shape[0] * shape[1]}")

    def index(self, name, space):
        own = self.arrays[name].space == space
        return ("o" if own else "s") if self.arrays[name].trial else "i" if own else "0"

    def total(self, name):
        return self.values(name)

    def matrix(self, link, weight, turned):
        own = link.name == self.arrays[weight].space
        if self.arrays[weight].life is Life.STEP or (weight in self.moving and own and not turned):
            return self.values(weight)
        return super().matrix(link, weight, turned)

    def kernel(self, link, weight):
        moves = weight in self.moving and link.times == 1
        return self.values(weight) if moves else super().kernel(link, weight)

    def copies(self):
        """``(slot, weight, transposed, times)`` of copies of what changes within a trial."""
        for slot, (kind, *source) in self.sources.items():
            if kind == "kernel" and source[0] in self.moving:
                yield slot, source[0], False, source[1].times
            if kind == "matrix" and source[0] in self.moving:
                weight, link, turned = source
                of_weight = self.arrays[weight].role == "weight"
                yield slot, weight, turned != (of_weight and link.turned), link.times if of_weight else 1.0

    def schedule(self, space):
        return self.schedules.setdefault(space, [])

    def now(self, space, schedule):
        """C declaration of the numbers of this update."""
        if not schedule:
            return []
        slot = f"schedule_{self.identifier(space)}"
        found = self.argument(slot, "real", ("U", f"many_{slot}"), ("schedule", space))
        many = self.argument(f"many_{slot}", "long", (1,), ("many", space))  # more may be asked for later
        return [f"const real *restrict now = {found} + w->update * *{many};"]
