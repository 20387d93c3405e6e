"""What every local rule keeps per synapse beside the weight, next to the least that its equations need.

Counted in the plans that both backends run (``localplast.program.locality.storage``), not measured: a plan's numbers
are the rule's own, to which a backend adds indices of neurons and padding.
"""

import sys

from timing import table

__all__ = ["main"]

#: The least number of traces per synapse, by rule and network: with traces of a neuron's inputs kept once per
#: presynaptic neuron and what its own state contributes once per postsynaptic neuron, only products that are smoothed
#: or that decay at a rate of their own remain. SuperSpike smooths with two exponentials.
LEAST = {
    "decolle": {"LIF, instantaneous": 0, "ALIF, instantaneous": 0, "DECOLLE's, instantaneous": 0},
    "dfa": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "drtp": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "eprop": {"LIF, leaky": 1, "ALIF, leaky": 2, "LIF, instantaneous": 0, "ALIF, instantaneous": 1},
    "erbp": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "es_d_rtrl": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "feedback_alignment": {"LIF, leaky": 1, "ALIF, leaky": 2},
    "ostl": {"LIF, leaky": 1, "ALIF, leaky": 2},
    "ottt": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "s_tllr": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "sltt": {"LIF, leaky": 0, "ALIF, leaky": 0},
    "superspike": {"SuperSpike's, van Rossum": 2},
}


def networks():
    """One plastic projection onto a layer, by neuron and readout; the projection's name is ``cues_rec`` or the
    first.
    """
    from brian2 import ms

    from localplast.models import alif, decolle_lif, instant_readout, leaky_readout, lif
    from localplast.network import Input, Network, Population, Projection
    from localplast.protocols import superspike_single

    def layer(neuron, readout):
        return Network(
            dt=1 * ms,
            cues=Input(4),
            rec=Population(5, neuron),
            out=Population(2, readout),
            projections=[Projection("cues", "rec"), Projection("rec", "out")],
        )

    return {
        "LIF, leaky": layer(lif(), leaky_readout()),
        "ALIF, leaky": layer(alif(), leaky_readout()),
        "LIF, instantaneous": layer(lif(), instant_readout()),
        "ALIF, instantaneous": layer(alif(), instant_readout()),
        "DECOLLE's, instantaneous": layer(decolle_lif(), instant_readout()),
        "SuperSpike's, van Rossum": superspike_single.network(),
    }


def made(name):
    from localplast import rules

    return rules.feedback_alignment(rules.eprop()) if name == "feedback_alignment" else getattr(rules, name)()


def stored(net, rule):
    """The :class:`~localplast.program.locality.Storage` of the first plastic projection, with Adam."""
    from localplast import adam
    from localplast.program.learn import plan
    from localplast.program.locality import storage
    from localplast.task.loss import mse

    return storage(plan(net, rule, mse(), adam(1e-3)), net, next(p.name for p in net.plastic))


def both(numbers):
    """Bytes in double and in single precision."""
    return f"{8 * numbers} / {4 * numbers}"


def row(name, network, found, least):
    traces, always = len(found.synapse), len(found.sums) + len(found.optimiser)
    return [
        f"`{name}`",
        network,
        traces,
        least,
        both(traces + 1),
        both(traces + always),
        both(least + always),
        both(least),
        len(found.pre),
        len(found.post),
    ]


def main(quick=False, count=1):
    """The table, as Markdown."""
    from localplast import rules

    nets, rows = networks(), []
    local = [
        name for name in rules.__all__ if made(name).local and made(name).signal.hears_errors
    ]  # those keep what their model says
    if missing := set(local) - set(LEAST):
        raise KeyError(f"say in LEAST what {', '.join(sorted(missing))} must keep")
    for name in local:
        for network, least in LEAST[name].items():
            rows.append(row(name, network, stored(nets[network], made(name)), least))
    header = [
        "rule",
        "neuron, readout",
        "traces",
        "least",
        "bytes, gradient summed",
        "bytes, with Adam",
        "least, with Adam",
        "least, changed in every step",
        "numbers per presynaptic neuron",
        "per postsynaptic",
    ]
    return table("State per synapse beside the weight (bytes: float64 / float32)", header, rows)


if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) == 1 else __doc__)
