"""A network of few synapses, beside the same network in matrices that are mostly zero.

2,000 leaky integrate-and-fire neurons, each of which hears 2 % of the others, 100 inputs (Bernoulli, 2 %), 10 leaky
readouts, 100 steps; float32, one thread, Adam.
"""

import statistics
import sys

import numpy as np
from timing import case_main, measure, rounds, table

NEURONS, CHANNELS, OUTPUTS, SHARE, RATE = 2000, 100, 10, 0.02, 0.02
#: Rules, and how many trials they are shown at once.
RULES = {"BPTT": 32, "e-prop in every step": 1}


def network(full):
    """The network with the synapses that there are, or with all of which most are zero; and its first weights."""
    from brian2 import ms

    from localplast import Input, Network, Population, Projection, normal
    from localplast.models import leaky_readout, lif

    rng = np.random.default_rng(0)
    there = rng.random((NEURONS, NEURONS)) < SHARE
    weight = np.where(there, rng.normal(size=there.shape) / np.sqrt(SHARE * NEURONS), 0.0)
    rec = {"autapses": True, "mask": np.ones_like(there) if full else there}
    return Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        rec=Population(NEURONS, lif()),
        out=Population(OUTPUTS, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=normal(2.0)),
            Projection("rec", "rec", weight=weight, **rec),
            Projection("rec", "out", weight=normal(1.0)),
        ],
    )


def run(case, rule, steps, full, repeats, threads=1):
    """Seconds of one batch, and by how much memory grows."""
    import torch

    from localplast import Trials, adam
    from localplast.backends.torch.learner import TorchLearner
    from localplast.rules import bptt, eprop
    from localplast.task.loss import mse

    torch.set_num_threads(threads)
    net, batch, rng = network(full), RULES[rule], np.random.default_rng(1)
    given = {"cues": rng.random((batch, steps, CHANNELS)) < RATE}
    trials = Trials(given, rng.normal(size=(batch, steps, OUTPUTS)))
    chosen = bptt() if rule == "BPTT" else eprop(update="step")
    learner = TorchLearner(net, net.draw(0), chosen, mse(), adam(1e-4), batch=batch, dtype=torch.float32)
    return measure(lambda: learner.train(trials), repeats=repeats)


def main(quick=False, count=1):
    """The table, as Markdown."""
    steps, rows = 20 if quick else 100, []
    jobs = [
        {
            "case": f"{rule}, {'matrices' if full else 'synapses'}",
            "rule": rule,
            "steps": steps,
            "full": full,
            "repeats": 3,
        }
        for rule in RULES
        for full in (False, True)
    ]
    found = rounds(__file__, jobs, count)
    for few, whole in zip(found[::2], found[1::2], strict=True):
        for what, unit in (("cpu", "CPU seconds"), ("growth", "MB")):
            row = [f.get("error") or f"{statistics.median(f[what]):.3g}" for f in (few, whole)]
            known = not (few.get("error") or whole.get("error"))
            share = f"{statistics.median(few[what]) / statistics.median(whole[what]):.3f}" if known else ""
            rows.append([f"{list(RULES)[len(rows) // 2]}, {unit}", *row, share])
    title = f"One batch of {NEURONS} neurons that hear {SHARE:.0%} of each other, {steps} steps"
    return table(title, ["", "synapses", "matrices", "share"], rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
