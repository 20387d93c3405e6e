"""Delay lines in Torch: a ring with the signals of the last steps, and what of them arrives now.

What arrives in the next k steps is known where delays are at least k - 1 steps: it is read, and multiplied by the
weights, as one block. Channels are sorted by their delays into a few levels, each with its k: the number of products
per step does not depend on the number of distinct delays.

Shapes: signals ``(trial, channel)``, blocks ``(trial, step, channel)``, delays and shares ``(tap, channel)``.
"""

import math
from collections import deque

import torch

__all__ = ["FeedbackProduct", "Line", "product", "rows_of", "slope_of", "taps_of"]

#: The longest delay of a level may exceed the shortest by so many blocks, less one.
REACH = 4
#: Widths of a Gaussian after which it ends: what is left out is less than 1e-13 of it.
GAUSSIAN_REACH = 8
#: Numbers that one block may hold.
LARGEST_BLOCK = 2**24


class FeedbackProduct(torch.autograd.Function):
    """``x @ weight`` whose backward pass to ``x`` uses ``feedback`` in place of ``weight``; both ``(pre, post)``."""

    @staticmethod
    def forward(ctx, x, weight, feedback):
        ctx.save_for_backward(x, feedback)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        x, feedback = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])
        return grad @ feedback.T, flat, None


def product(signal, weight, feedback=None):
    """``signal @ weight``, differentiated with ``feedback`` in its place where that is given."""
    return signal @ weight if feedback is None else FeedbackProduct.apply(signal, weight, feedback)


def taps_of(delays, kind="triangle", width=0.0):
    """Delays as short filters: the whole steps from which signals come, and their shares; both
    ``(tap, *delays.shape)``.

    A delay between two steps, or one that learns, is shared by the steps around it
    (:class:`localplast.network.delays.Kernel`), so that its gradient flows through the shares. They are None where
    delays are whole and nothing is spread.
    """
    whole = delays.detach().floor()
    if width == 0 and not delays.requires_grad and bool((delays == whole).all()):
        return whole.long().unsqueeze(0), None
    reach = math.ceil(width * (GAUSSIAN_REACH if kind == "gaussian" else 1))
    offsets = torch.arange(-reach, reach + 2, device=delays.device).view(-1, *[1] * delays.ndim)
    steps = whole + offsets
    shares = gaussian_shares if kind == "gaussian" and width else triangle_shares
    return steps.clamp(min=0).long(), shares(delays - steps, steps < 0, width)


def triangle_shares(late, never, width):
    """``max(0, 1 + s - |late|)``, normalised; at its corners the derivative is the one to the right."""
    side = torch.where(late < 0, 1 + width + late, 1 + width - late)
    inside = (late >= -1 - width) & (late < 1 + width) & ~never
    height = torch.where(inside, side, torch.zeros_like(side))
    return height / height.sum(0)


def gaussian_shares(late, never, width):
    """``exp(-late^2 / (2 s^2))``, normalised."""
    return (-0.5 * (late / width) ** 2).masked_fill(never, -math.inf).softmax(0)


def slope_of(delays, kind="triangle", width=0.0):
    """As :func:`taps_of`, with the derivatives of the shares in place of the shares."""
    leaf = delays.detach().requires_grad_()
    with torch.enable_grad():
        steps, shares = taps_of(leaf, kind, width)
        slopes = [torch.autograd.grad(share.sum(), leaf, retain_graph=True)[0] for share in shares]
    return steps, torch.stack(slopes)


def rows_of(steps, shares, mask):
    """Filters per synapse, ``(tap, pre, post)``, as rows: each a presynaptic neuron some steps ago.

    Returns
    -------
    pre, late : tensor ``(row,)``
        Which neuron, and how many steps ago.
    shares : tensor ``(row, post)``
        Which part of the synapses' weights lies on this row.
    """
    n_pre, n_post = mask.shape
    shares = torch.ones_like(steps, dtype=mask.dtype) if shares is None else shares
    exists = mask != 0
    exists = exists | ~exists.any()  # without any synapse: all, whose weights are zero
    here = ((shares.detach() != 0) | shares.requires_grad) & exists
    _, pre, post = here.nonzero(as_tuple=True)
    rows, row = (steps[here] * n_pre + pre).unique(return_inverse=True)
    matrix = shares.new_zeros(len(rows) * n_post).scatter_add(0, row * n_post + post, shares[here])
    return rows % n_pre, rows // n_pre, matrix.view(-1, n_post)


class Read(torch.autograd.Function):
    """The delayed signals of a level, ``(trial, step, channel)``, from ``recent`` ``(trial, time * signal)``."""

    @staticmethod
    def forward(ctx, recent, shares, level, steps):
        ctx.level, ctx.steps, ctx.size = level, steps, recent.shape[1]
        ctx.save_for_backward(*(() if shares is None else (recent if shares.requires_grad else None, shares)))
        return level.pick(recent, shares, steps)

    @staticmethod
    def backward(ctx, grad):
        recent, shares = ctx.saved_tensors or (None, None)
        level, d_recent, d_shares = ctx.level, None, None
        if ctx.needs_input_grad[0]:
            d_recent = level.put_back(grad, shares, ctx.steps, ctx.size)
        if ctx.needs_input_grad[1]:
            d_shares = torch.stack([(level.tap(recent, k, ctx.steps) * grad).sum((0, 1)) for k in range(len(shares))])
        return d_recent, d_shares, None, None


class Unfold(torch.autograd.Function):
    """As :class:`Read`, times the weights of the level; keeps ``recent`` only, where many channels read one signal."""

    @staticmethod
    def forward(ctx, recent, weight, feedback, level, steps):
        ctx.level, ctx.steps = level, steps
        ctx.save_for_backward(recent, weight if feedback is None else feedback)
        return level.pick(recent, None, steps) @ weight

    @staticmethod
    def backward(ctx, grad):
        recent, back = ctx.saved_tensors
        level, d_recent, d_weight = ctx.level, None, None
        if ctx.needs_input_grad[0]:
            d_recent = level.put_back(grad @ back.T, None, ctx.steps, recent.shape[1])
        if ctx.needs_input_grad[1]:
            d_weight = level.pick(recent, None, ctx.steps).flatten(0, 1).T @ grad.reshape(-1, grad.shape[-1])
        return d_recent, d_weight, None, None, None


class Level:
    """Channels whose delays are alike, so that blocks of ``block`` steps can be read at once."""

    def __init__(self, members, steps, columns, shares, width):
        self.members, self.width = members, width
        self.steps, self.columns = steps[:, members], columns[members]
        self.shares = None if shares is None else shares[:, members]
        self.shortest, self.longest = int(self.steps.min()), int(self.steps.max())
        self.block = self.shortest + 1
        everybody = len(self.columns) == width and bool(
            (self.columns == torch.arange(width, device=columns.device)).all()
        )
        self.weight = self.feedback = None
        self.plain = shares is None and self.shortest == self.longest and everybody
        self.places, self.ways_back, self.ready = {}, {}, []

    def place(self, tap, steps):
        """Where the signals of a block lie in ``recent``: positions ``(step * channel,)``."""
        if (tap, steps) not in self.places:
            when = torch.arange(steps, device=self.steps.device).unsqueeze(1) - self.steps[tap] + self.longest
            self.places[tap, steps] = (when * self.width + self.columns).flatten()
        return self.places[tap, steps]

    def way_back(self, tap, steps, size):
        """Which numbers of a block come from each position of ``recent``: ``(at most so many, position)``, the last +
        1 if none.
        """
        if (tap, steps) not in self.ways_back:
            self.ways_back[tap, steps] = transpose(self.place(tap, steps), size)
        return self.ways_back[tap, steps]

    def tap(self, recent, tap, steps):
        """The block that one tap reads."""
        if self.plain:
            return recent.unflatten(1, (steps, -1))
        return recent.gather(1, self.place(tap, steps).expand(len(recent), -1)).unflatten(1, (steps, -1))

    def pick(self, recent, shares, steps):
        """The block that all taps read, each with its share."""
        if shares is None:
            return self.tap(recent, 0, steps)
        return sum(self.tap(recent, k, steps) * share for k, share in enumerate(shares))

    def put_back(self, grad, shares, steps, size):
        """The adjoint of :meth:`pick`."""
        if self.plain:
            return grad.reshape(len(grad), -1)
        total = 0
        for k in range(1 if shares is None else len(shares)):
            given = grad if shares is None else grad * shares[k]
            given = torch.nn.functional.pad(given.reshape(len(given), -1), (0, 1))
            for way in self.way_back(k, steps, size):
                total = total + given.gather(1, way.expand(len(given), -1))
        return total

    def start(self, weight, feedback):
        """Nothing has been read ahead; ``weight`` ``(channel, post)`` of the whole line, None to read the signals
        themselves.
        """
        self.weight = None if weight is None else weight[self.members]
        self.feedback = None if feedback is None else feedback[self.members]
        self.ready = []

    def read(self, recent, steps):
        """A block from ``recent`` ``(trial, time, signal)``, times the weights if there are any."""
        recent = recent.flatten(1)
        if self.weight is not None and len(self.columns) > self.width:
            return Unfold.apply(recent, self.weight, self.feedback, self, steps)
        block = Read.apply(recent, self.shares, self, steps)
        return block if self.weight is None else product(block, self.weight, self.feedback)

    def most(self, trials):
        """So many steps may be read at once."""
        return max(1, LARGEST_BLOCK // (trials * len(self.columns)))


def transpose(place, size):
    """For every position below ``size``, where it occurs in ``place``: ``(times, size)``, ``len(place)`` for
    nowhere.
    """
    found, order = place.sort(stable=True)
    rank = torch.arange(len(found), device=place.device) - torch.searchsorted(found, found)
    result = place.new_full((int(rank.max()) + 1, size), len(place))
    return result.index_put((rank, found), order)


class Line:
    """A ring with the signals of the last steps, and the channels that read it.

    Parameters
    ----------
    width : int
        Signals per step.
    steps : long tensor ``(tap, channel)``
    shares : tensor ``(tap, channel)``, optional
        Of the taps; None: one tap.
    columns : long tensor ``(channel,)``, optional
        The signal that each channel reads; default: one channel per signal.
    """

    def __init__(self, width, steps, shares=None, columns=None):
        self.steps, self.shares, self.width = steps, shares, width
        self.columns = torch.arange(width, device=steps.device) if columns is None else columns
        self.longest = int(steps.max())
        self.levels = [self.level(members) for members in levels_of(steps)]
        order = torch.cat([level.members for level in self.levels])
        self.order = None if len(self.levels) == 1 else order.argsort()
        self.start()

    def level(self, members):
        return Level(members, self.steps, self.columns, self.shares, self.width)

    def start(self, steps=math.inf, weight=None, feedback=None):
        """Silence, before a trial of so many steps; with ``weight`` ``(channel, post)``, fixed, products are what
        arrives.
        """
        self.ring, self.age, self.left = deque(maxlen=self.longest + 1), 0, steps
        for level in self.levels:
            level.start(weight, feedback)

    def deliver(self, signal):
        """The products that arrive in this step, ``(trial, post)``, as ``signal`` leaves; None before the first."""
        found = [part for part in self.arriving(signal) if part is not None]
        return sum(found[1:], found[0]) if found else None

    def read(self, signal):
        """As :meth:`deliver`, the signals, ``(trial, channel)``."""
        parts = self.arriving(signal)
        if all(part is None for part in parts):
            return None
        silence = [signal.new_zeros(len(signal), len(level.members)) for level in self.levels]
        parts = [zero if part is None else part for part, zero in zip(parts, silence, strict=True)]
        return parts[0] if self.order is None else torch.cat(parts, 1).gather(1, self.order.expand(len(signal), -1))

    def arriving(self, signal):
        """One step further: what arrives, level by level, None where nothing can have arrived yet."""
        if not self.ring:
            self.ring.extend([torch.zeros_like(signal)] * self.longest)
        self.ring.append(signal)
        self.age, self.left = self.age + 1, self.left - 1
        return [self.next(level) if self.age > level.shortest else None for level in self.levels]

    def next(self, level):
        """What a level delivers now, read ahead as far as it is known."""
        if not level.ready:
            steps = min(level.block, self.left + 1, level.most(len(self.ring[-1])))
            first = self.longest - level.longest
            recent = [self.ring[k] for k in range(first, self.longest - level.shortest + steps)]
            level.ready = list(level.read(torch.stack(recent, 1), steps).unbind(1))[::-1]
        return level.ready.pop()

    def whole(self, signal, weight=None, feedback=None):
        """As step after step, for a ``signal`` ``(time, trial, signal)`` known in advance: one block, or a few."""
        level, duration = self.level(torch.arange(len(self.columns), device=self.columns.device)), len(signal)
        level.start(weight, feedback)
        signal = torch.nn.functional.pad(signal.transpose(0, 1), (0, 0, level.longest, 0))
        blocks, most = [], level.most(len(signal))
        for start in range(0, duration, most):
            steps = min(most, duration - start)
            blocks.append(level.read(signal[:, start : start + level.longest - level.shortest + steps], steps))
        return torch.cat(blocks, 1).transpose(0, 1)

    def in_flight(self):
        """The signals of the last steps, as many as the longest delay."""
        return list(self.ring)[len(self.ring) - self.longest :]

    def resume(self, signals):
        """Go on from what :meth:`in_flight` gave: nothing has been read ahead."""
        self.ring = deque(signals, maxlen=self.longest + 1)
        for level in self.levels:
            level.ready = []


def levels_of(steps):
    """Channels in groups, the fastest first: delays of one group lie within a few blocks of each other."""
    shortest, groups = steps.min(0).values, []
    while len(left := shortest[shortest >= 0]):
        first = int(left.min())
        members = (shortest >= first) & (shortest <= first + (REACH - 1) * (first + 1))
        groups.append(members.nonzero()[:, 0])
        shortest = shortest.masked_fill(members, -1)
    return groups
