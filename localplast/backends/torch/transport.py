"""What travels along a link of a step program, in Torch: products, delay lines, and both at once.

A :class:`Carrier` runs one Send or Outer. Going forward, delays are read from lines
(:mod:`localplast.backends.torch.delay_line`); adjoint programs read them tap by tap.
"""

from collections import deque
from dataclasses import replace

import torch

from localplast.backends.torch.convolution import convolved, kernel_gradient
from localplast.backends.torch.delay_line import Line, product, rows_of, slope_of, taps_of
from localplast.backends.torch.synapses import joined, joint, neurons_of
from localplast.program.arrays import Diagonal, Kernel, Sparse
from localplast.program.instructions import Outer

__all__ = ["Carrier", "carrier"]


def carrier(s, program, read, like, fixed=False):
    """The :class:`Carrier` of a statement; ``read(name)`` gives an array as it is now, ``fixed`` says whether weights
    stay as they are while trials go on.
    """
    link = program.spaces[s.link]
    ends = size_of(program, link.pre), size_of(program, link.post)
    if isinstance(link.form, Sparse):
        kind = FewOuters if isinstance(s, Outer) else FewSends if s.weight else FewArrivals
        return kind(s, link, ends, read, like)
    if isinstance(s, Outer):
        return Outers(s, link, ends, read, like)
    if program.arrays[s.target].space == s.link:
        return Arrivals(s, link, ends, read, like)
    if s.taps is None or s.back:
        return Sends(s, link, ends, read, like)
    if s.weight is None:
        return LateSignals(s, link, ends, read, like)
    return (AheadProducts if fixed else LateProducts)(s, link, ends, read, like)


def size_of(program, space):
    return program.spaces[space].size


class Carrier:
    """One Send or Outer.

    Parameters
    ----------
    s : Send or Outer
    link : Synapses
    ends : (int, int)
        Neurons before and behind.
    read : callable
        Gives an array as it is now, by name.
    like : tensor
        Of the type and on the device of all others.
    """

    def __init__(self, s, link, ends, read, like):
        self.s, self.link, self.ends, self.read, self.like = s, link, ends, read, like
        self.diagonal = isinstance(link.form, Diagonal)

    def start(self, steps):
        """Begin a trial of so many steps: nothing is in flight."""

    def shape(self):
        """Of the delays, one for each neuron or synapse that has one of its own."""
        if self.diagonal:
            return self.ends[:1]
        return {"axonal": self.ends[:1], "dendritic": self.ends[1:], "synaptic": self.ends}[self.s.taps.kind]

    def taps(self, shape=None):
        """``(steps, shares)`` of the delays, in the given shape: ``(tap, *shape)``."""
        taps, own = self.s.taps, self.shape()
        delay = torch.as_tensor(self.read(taps.delay), dtype=self.like.dtype, device=self.like.device).expand(own)
        if shape is not None:
            delay = (delay.unsqueeze(-1) if taps.kind == "axonal" else delay).expand(shape)
        find = slope_of if self.s.slopes else taps_of
        return find(delay, taps.spread or "triangle", taps.width)

    def matrix(self, weight):
        """Numbers ``(pre, post)`` of synapses as the weights that they share, and back."""
        weight = weight.T if self.link.turned else weight
        return weight if self.link.times == 1 else self.link.times * weight

    def weights(self):
        """The present weights of a Send."""
        return self.matrix(self.read(self.s.weight))

    def feedback(self):
        """What stands in place of them on the way back, or None."""
        return None if self.s.feedback is None else self.read(self.s.feedback)


class ByTap(Carrier):
    """What reads its delays tap by tap."""

    def start(self, steps):
        self.shares = [(0, None)] if self.s.taps is None else by_tap(*self.taps(None if self.diagonal else self.ends))
        self.past = deque(maxlen=1 + max(late for late, _ in self.shares))

    def earlier(self, signal):
        """``(signal of so many steps ago, share)`` of every tap that has one, as ``signal`` comes in."""
        self.past.appendleft(signal)
        return [(self.past[late], share) for late, share in self.shares if late < len(self.past)]


class Sends(ByTap):
    """A Send without delay, or back through delays: those of an adjoint program, tap by tap."""

    def __call__(self, signal):
        parts = [self.product(earlier, share) for earlier, share in self.earlier(signal)]
        return sum(parts) if parts else self.like.new_zeros(())

    def product(self, signal, share=None):
        if self.s.weight is None:
            return signal if share is None else signal * share
        weight = self.weights()
        if isinstance(self.link.form, Kernel):
            form = self.link.form.convolution
            return convolved(signal, weight, replace(form, transposed=not form.transposed) if self.s.back else form)
        weight = weight if share is None else weight * share
        return signal @ weight.T if self.s.back else product(signal, weight, self.feedback())

    def whole(self, signal):
        """As calling it on every step of ``signal`` ``(time, trial, pre)``, without delays."""
        return self.product(signal)


class LateSignals(Carrier):
    """A delay line: every neuron to itself."""

    def start(self, steps):
        self.line = Line(self.ends[0], *self.taps())

    def __call__(self, signal):
        found = self.line.read(signal)
        return self.like.new_zeros(()) if found is None else found

    def whole(self, signal):
        """As calling it on every step of ``signal`` ``(time, trial, neuron)``."""
        return self.line.whole(signal)


class Arrivals(Carrier):
    """What arrives at every synapse, ``(trial, pre, post)``."""

    def start(self, steps):
        if self.s.taps is None:
            self.line = None
            return
        steps, shares = self.taps(self.ends)
        columns = torch.arange(self.ends[0], device=self.like.device).repeat_interleave(self.ends[1])
        self.line = Line(self.ends[0], steps.flatten(1), None if shares is None else shares.flatten(1), columns)

    def __call__(self, signal):
        if self.line is None:
            return signal.unsqueeze(-1)
        found = self.line.read(signal)
        return self.like.new_zeros(()) if found is None else found.unflatten(1, self.ends)


class LateProducts(Carrier):
    """Weights times signals that are late synapse by synapse: rows, each a presynaptic neuron some steps ago."""

    def start(self, steps):
        exist = self.read(self.s.weight).detach() != 0 if self.s.feedback is None else torch.ones(self.ends)
        self.rows, late, self.shares = rows_of(*self.taps(self.ends), self.matrix(exist).to(self.like))
        self.line = Line(self.ends[0], late.unsqueeze(0), columns=self.rows)

    def matrices(self):
        """The present weights and the feedback of all rows."""
        feedback = self.feedback()
        feedback = None if feedback is None else feedback[self.rows] * self.shares.detach()
        return self.weights()[self.rows] * self.shares, feedback

    def __call__(self, signal):
        found = self.line.read(signal)
        return self.like.new_zeros(()) if found is None else product(found, *self.matrices())

    def whole(self, signal):
        """As calling it on every step of ``signal`` ``(time, trial, neuron)``."""
        return self.line.whole(signal, *self.matrices())


class AheadProducts(LateProducts):
    """The same, where weights stay as they are: products are made for as many steps at once as delays allow."""

    def start(self, steps):
        super().start(steps)
        self.line.start(steps, *self.matrices())

    def __call__(self, signal):
        found = self.line.deliver(signal)
        return self.like.new_zeros(()) if found is None else found


class Outers(ByTap):
    """The product of both ends, that behind as it was some steps ago."""

    def __call__(self, pre, post):
        return sum(self.product(pre, earlier, share) for earlier, share in self.earlier(post))

    def product(self, pre, post, share):
        if self.diagonal:
            return (pre * post * share).sum(0)
        if isinstance(self.link.form, Kernel):
            return self.matrix(kernel_gradient(pre, post, self.link.form.convolution))
        return self.matrix(pre.T @ post * (1 if share is None else share))


class Few(Carrier):
    """What reads the two neurons of each of few synapses."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.pre, self.post = neurons_of(self.link.form, self.like.device)


class FewSends(Few):
    """Weighted signals, forth or back."""

    def __call__(self, signal):
        (start, _), (end, size) = ends = (self.pre, self.ends[0]), (self.post, self.ends[1])
        if self.s.back:
            (end, size), (start, _) = ends
        return joined(signal, self.weights(), start, end, size)


class FewOuters(Few):
    """The product of both ends of every synapse."""

    def __call__(self, pre, post):
        return joint(pre, post, self.pre, self.post)


class FewArrivals(Few):
    """What arrives at every synapse, ``(trial, synapse)``."""

    def start(self, steps):
        self.line = None if self.s.taps is None else Line(self.ends[0], *self.taps(), columns=self.pre)

    def taps(self, shape=None):
        """Of the neuron whose delay a synapse has: ``(tap, synapse)``."""
        which = self.pre if self.s.taps.kind == "axonal" else self.post
        return [x if x is None else x[:, which] for x in super().taps()]

    def __call__(self, signal):
        if self.line is None:
            return signal[:, self.pre]
        found = self.line.read(signal)
        return self.like.new_zeros(()) if found is None else found


def by_tap(steps, shares):
    """``[(steps ago, shares)]``."""
    shares = 1 if shares is None else shares
    return [(int(late), ((steps == late) * shares).sum(0)) for late in steps.unique()]
