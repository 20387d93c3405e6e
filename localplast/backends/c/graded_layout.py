"""What a graded kernel must do, and the arrays that it needs."""

import functools
from dataclasses import dataclass

from localplast.backends.c.arguments import numbers_of
from localplast.backends.c.graded_optimise import factors
from localplast.backends.c.layout import Cells
from localplast.network.sent import sent_text, sent_texts
from localplast.neuron.step import resolved

__all__ = ["Graded", "fields", "given", "width"]


@dataclass(frozen=True, eq=False)
class Graded:
    """What the kernel must do.

    Attributes
    ----------
    net : Network
    body : kernel_plan.Plan
        Its nodes and links.
    learned : localplast.program.learn.Plan or None
        None: nothing learns.
    adaptations : tuple of Adaptation
        What changes within the trial, every ``interval`` steps; none: gradients are summed over the trials.
    delays : dict of str to int
        Steps, by projection.
    diagonal : frozenset of str
        Projections that join each neuron to one partner.
    """

    net: object
    body: object
    learned: object
    adaptations: tuple
    delays: dict
    diagonal: frozenset
    interval: int

    def plastic(self):
        return [k for k in self.body.links if self.learned and k.name in self.learned.synapses]

    def plan(self, n):
        """What a population computes: a :class:`~localplast.program.statements.NeuronPlan`."""
        return self.learned.neurons[n.name]

    def program(self, n, *parts):
        """Statements of a population's plan, in its state variables."""
        found = [pair for part in parts for pair in getattr(self.plan(n), part)] if self.learned else []
        return [(name, resolved(n.step.model, e)) for name, e in found]

    def parameters(self, n):
        """Names of the parameters of a population that learn."""
        return self.learned.parameters[n.name] if self.learned else ()

    def moving(self, n):
        """Names of those that change within the trial."""
        return [a.parameter for a in self.adaptations if a.node is n]

    def sent(self, n):
        """What leaves a population, by expression: its place among the arrays ``e``."""
        return {text: place for place, text in enumerate(sent_texts(self.net, n.name))}

    def text_sent(self, k):
        """What a link carries; of an input there is only one thing."""
        return sent_text(self.net.projections[k.name], k.pre.step.model) if isinstance(k.pre, Cells) else None

    def ring(self, n, text=None):
        """Steps for which what leaves a node is kept; of a population by expression."""
        return (
            max([self.delays[k.name] for k in self.body.links if k.pre is n and self.text_sent(k) == text], default=0)
            + 1
        )

    @functools.cached_property
    def factors(self):
        """``{link: [(presynaptic name, place of the postsynaptic factor among the arrays m of its population)]}``."""
        found = {k: factors(self.learned.synapses[k.name]) for k in self.plastic()}
        return {k: [(pre, self.products[k.post].index(post)) for pre, post in pairs] for k, pairs in found.items()}

    @functools.cached_property
    def products(self):
        """Postsynaptic factors of gradients, by population, each once."""
        found = {n: {} for n in self.body.cells}
        for k in self.plastic():
            found[k.post].update(dict.fromkeys(post for _, post in factors(self.learned.synapses[k.name])))
        return {n: list(posts) for n, posts in found.items()}

    @functools.cached_property
    def kept(self):
        """Per-neuron names that outlive a function, by population."""
        return {n: sorted(self.outliving(n)) for n in self.body.cells}

    def outliving(self, n):
        if not self.learned:
            return set()
        early = {name for name, _ in self.program(n, "shift", "before", "after")}
        late = [e for _, e in self.program(n, "before_reset", "end")] + [
            resolved(n.step.model, e) for e in self.products[n]
        ]
        read = {s.name for e in late for s in e.free_symbols}
        return {*self.plan(n).past, *self.plan(n).sums} | (early & read)

    def source(self, k):
        """The variable or subexpression of the presynaptic neurons that a link learns from, where that is not what it
        carries.
        """
        return self.learned.synapses[k.name].eligibility.source

    def seen(self, n):
        """Subexpressions of a population that synapses look at, at the end of a step."""
        return sorted({self.source(k) for k in self.plastic() if k.pre is n} - {None, *n.variables})

    def hoisted(self, k):
        """Traces of the presynaptic neurons of a link."""
        return self.learned.synapses[k.name].eligibility.pre if self.learned and k.name in self.learned.synapses else ()

    @property
    def readouts(self):
        return [n for n in self.body.cells if n.name in self.net.readouts]


def width(node):
    """Numbers from one trial to the next in the arrays of a node."""
    return node.padded if isinstance(node, Cells) else node.size


def fields(g):
    """``(slot, shape)`` of every array; ``'trial'`` stands for the trials of a block, None for those of
    :func:`given`.
    """
    for n in g.body.channels:
        yield f"data{n.number}", None
        yield f"e{n.number}", (g.ring(n), "trial", n.size)
    for n in g.body.cells:
        block = ("trial", n.padded)
        yield from ((f"{what}{n.number}", None) for what in ("shared", "each", "initial"))
        yield from ((f"x{n.number}_{v}", block) for v in n.variables)
        yield from ((f"e{n.number}_{place}", (g.ring(n, text), *block)) for text, place in g.sent(n).items())
        yield from ((f"noise{n.number}_{name}", None) for name in n.step.noise)
        yield from ((f"q{n.number}_{name}", block) for name in g.kept[n])
        yield from ((f"m{n.number}_{place}", block) for place, _ in enumerate(g.products[n]))
        yield from ((f"v{n.number}_{name}", block) for name in g.seen(n))
        if not g.adaptations:
            yield from ((f"gradient{n.number}_{name}", None) for name in g.parameters(n))
    for k in g.body.links:
        yield f"weight{k.number}", None
        yield from ((f"e{k.number}_of_{name}", ("trial", width(k.pre))) for name, _ in g.hoisted(k))
        if k in g.plastic() and not g.adaptations:
            yield f"gradient{k.number}", None
    for a in g.adaptations:
        yield from a.fields()
    yield from (("output", None), ("gate", None))


def given(g):
    """The arrays that the caller gives (:mod:`localplast.backends.c.arguments`).

    They are of ``T`` steps, ``B`` trials and ``U`` updates, noise of ``stretch`` steps. Matrices have some rows more
    than the network has neurons.
    """
    found = {f"data{n.number}": ("B", "T", n.size) for n in g.body.channels}
    found |= {f"weight{k.number}": (k.pre.size + 8, k.post.padded) for k in g.body.links}
    found |= {f"gradient{k.number}": ("team", k.pre.size + 8, k.post.padded) for k in g.plastic()}
    for n in g.body.cells:
        found |= {f"noise{n.number}_{name}": ("stretch", "B", n.padded) for name in n.step.noise}
        found |= {f"gradient{n.number}_{name}": ("team", 9, n.padded) for name in g.parameters(n)}
    for a in g.adaptations:
        found |= a.given()
    found["output"] = ("T", "B", sum(n.size for n in g.readouts))
    numbers = {slot: declared for n in g.body.cells for slot, declared in numbers_of(n).items()}
    return {slot: ("real", shape) for slot, shape in found.items()} | numbers | {"gate": ("long long", (3,))}
