"""The one border between the names that people give and those inside: a network as plans and backends spell it.

A model may call its variables what plans and backends call what they keep themselves (:mod:`localplast.names`). Whoever
hands a network to a backend hands over ``net.spelling.net``, with values and an optimiser spelled like it, and calls
what comes back as its models do. Of most networks the spelling is their own.
"""

import contextlib
import dataclasses
import functools

from localplast.errors import LocalplastError
from localplast.names import inner, outer
from localplast.neuron.spelling import by_inner, spelled, spelled_text, told, words_of

__all__ = ["Spelling"]


class Spelling:
    """How the names in ``net`` are spelled inside.

    Attributes
    ----------
    net : Network
        The network as plans and backends take it: itself, where none of its names is theirs.
    """

    def __init__(self, net):
        self.outside = net

    @functools.cached_property
    def net(self):
        """See above."""
        net = self.outside
        if not self.words:
            return net
        nodes = {name: node_spelled(node) for name, node in net.nodes.items()}
        projections = [projection_spelled(net, p) for p in net.projections.values()]
        made = type(net)(dt=net.dt, projections=projections, **nodes)
        made.__dict__["spelling"] = Inside(made)
        return made

    @property
    def differs(self):
        """Whether anything is spelled otherwise inside."""
        return bool(self.words)

    @functools.cached_property
    def words(self):
        """What is called otherwise inside, as it is spelled there."""
        return frozenset().union(*(words_of(p.model) for p in self.outside.populations.values()))

    def name(self, name):
        """``'rec.w'`` as it is spelled inside; names of projections and of what they have stay."""
        owner, _, key = name.partition(".")
        return f"{owner}.{inner(key)}" if self.differs and owner in self.outside.populations else name

    def back(self, name):
        """What people call ``name``."""
        owner, _, key = name.partition(".")
        return f"{owner}.{outer(key)}" if self.differs and owner in self.outside.populations else name

    def names(self, values):
        """A mapping by such names, for inside."""
        return {self.name(name): value for name, value in values.items()}

    def named_back(self, values):
        """A mapping by such names, for people."""
        return {self.back(name): value for name, value in values.items()}

    def values(self, values):
        """The :class:`~localplast.network.values.Values` of the network, for inside."""
        if not self.differs:
            return values
        return dataclasses.replace(values, parameters={n: by_inner(each) for n, each in values.parameters.items()})

    def optimiser(self, optimiser):
        """The :class:`~localplast.learning.optimise.Optimiser` of the network, for inside."""
        if not self.differs or optimiser is None:
            return optimiser
        by_name = {what: self.names(getattr(optimiser, what)) for what in ("rates", "own")}
        return dataclasses.replace(optimiser, **by_name, decaying=tuple(map(self.name, optimiser.decaying)))

    def told(self, value, alone=""):
        """What was said inside, in the names of people; see :func:`~localplast.neuron.spelling.told`."""
        return told(value, self.words, alone)

    @contextlib.contextmanager
    def errors(self):
        """Let errors from within speak of people's names."""
        try:
            yield
        except LocalplastError as error:
            error.args = self.told(error.args)
            raise


class Inside(Spelling):
    """That of a network which is spelled so already."""

    words = frozenset()


def node_spelled(node):
    """A population or an input as it is spelled inside."""
    if not hasattr(node, "model"):
        return node
    own = {what: by_inner(getattr(node, what)) for what in ("parameters", "initial", "trainable")}
    return dataclasses.replace(node, model=spelled(node.model), **own)


def projection_spelled(net, p):
    """A projection as it is spelled inside."""
    output = p.output if p.output is None else spelled_text(net.nodes[p.pre].model, p.output)
    return dataclasses.replace(p, target=inner(p.target), output=output)
