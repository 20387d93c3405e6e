"""Edges of the credit graph (:mod:`localplast.network.credit_graph`), cut out of a program: the adjoint sees none."""

from dataclasses import replace

from localplast.equations.language import stop
from localplast.program.arrays import Life, at
from localplast.program.instructions import Fire, Jump, Map, Send

__all__ = ["cut_edges"]


def cut_edges(program, edges):
    """The program without the derivatives that pass through ``edges``, a set of names; what it computes is the same."""
    edges, found = frozenset(edges), []
    for s in program.step:
        if "leak" in edges and isinstance(s, Send) and not any(isinstance(q, Send) for q in found):
            found += forgetting(program)
        found.append(severed(program, s) if s_edges(s) & edges else s)
    return program.with_step(found)


def s_edges(s):
    return getattr(s, "edges", frozenset())


def severed(program, s):
    """One statement without its derivative by what the edge starts from."""
    if isinstance(s, (Send, Jump)):
        return replace(s, cut=True)
    if isinstance(s, Fire):
        return replace(s, psi=None)
    if "readout" in s.edges:
        names = [a.name for a in program.arrays.values() if a.space == s.space and a.role == "state"]
    else:  # what synapses release: their resources follow the spikes, which are cut
        names = [a.name for a in program.arrays.values() if a.role in ("spikes", "input")]
    stopped = {at(n): stop(at(n)) for n in names}
    lets, lines = ([(n, e.xreplace(stopped)) for n, e in part] for part in (s.lets, s.lines))
    return replace(s, lets=tuple(lets), lines=tuple(lines))


def forgetting(program):
    """Before anything arrives: what was in the state of a spiking neuron carries no gradient on."""
    for space in [s.space for s in program.step if isinstance(s, Fire)]:
        names = [a.name for a in program.of(Life.STATE) if a.space == space and a.role == "state"]
        yield Map(space, (), tuple((n, stop(at(n))) for n in names))
