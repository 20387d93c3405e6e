"""The credit graph: which edges a network has, under the names that ``bptt(cut=...)`` and rules use.

=============== ==========================================================================
edge            from, to
=============== ==========================================================================
``leak``        state of a spiking neuron before spikes arrive at t-1, its state at t
``readout``     state of a neuron without threshold at t-1, its state at t
``reset``       a neuron's spike, its own reset
``adaptation``  a neuron's spike, its own adaptation
``spike``       spike argument, spike (the surrogate)
``recurrent``   a spike or output, targets in the same cycle of populations
``feedforward`` a spike or output, spiking targets in another population
=============== ==========================================================================

The name of a projection is also the name of an edge. A projection into a neuron without threshold is cut only by its
name.
"""

from localplast.errors import NetworkError

__all__ = ["EDGES", "check_cut", "components", "projection_edges"]

EDGES = ("leak", "readout", "reset", "adaptation", "spike", "recurrent", "feedforward")


def successors(net):
    """Targets of every population, by name."""
    result = {name: set() for name in net.populations}
    for p in net.projections.values():
        if p.pre in result:
            result[p.pre].add(p.post)
    return result


def reachable(links, start):
    seen, stack = set(), [start]
    while stack:
        for name in links[stack.pop()] - seen:
            seen.add(name)
            stack.append(name)
    return seen


def components(net):
    """Populations that lie on common cycles, as frozensets, in the order in which signals flow."""
    links = successors(net)
    reach = {name: reachable(links, name) for name in links}
    groups = []
    for name in links:
        group = frozenset({name} | {other for other in reach[name] if name in reach[other]})
        if group not in groups:
            groups.append(group)
    ordered = []
    while groups:
        ready = next(g for g in groups if not any(g & reach[n] for h in groups if h is not g for n in h))
        ordered.append(ready)
        groups.remove(ready)
    return ordered


def projection_edges(net):
    """For every projection the edge names that cut it."""
    of = {name: number for number, group in enumerate(components(net)) for name in group}
    edges = {}
    for name, p in net.projections.items():
        edges[name] = {name}
        if p.pre not in of:
            continue
        if of[p.pre] == of[p.post]:
            edges[name].add("recurrent")
        elif net.nodes[p.post].model.spiking:
            edges[name].add("feedforward")
    return edges


def check_cut(net, cut):
    """``cut`` as a frozenset; raises a :class:`NetworkError` for a name that is no edge of ``net``."""
    cut = frozenset([cut] if isinstance(cut, str) else cut)
    unknown = cut - set(EDGES) - set(net.projections)
    if unknown:
        raise NetworkError(
            f"cannot cut {sorted(unknown)}: the edges are {', '.join(EDGES)} "
            f"and the projections {', '.join(net.projections)}"
        )
    return cut
