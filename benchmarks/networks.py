"""BPTT of networks that are not layers of spiking points: one training step by the generated kernel and by the plain
step.

Float32, Adam, one thread. The plain step is automatic differentiation; beside MNIST-1D stand the products of its
matrices.
"""

import sys
from statistics import median

import numpy as np
from prospective import floor_case
from timing import case_main, measure, rounds, span, table

KERNEL, PLAIN, FLOOR = "generated C", "plain Torch step", "matrix products alone"


def digits(steps=360, batch=100):
    """GLE on MNIST-1D: 1-53-53-53-53-53-53-10, errors in the network, as the protocol ``gle-mnist1d``."""
    from localplast.protocols.gle_mnist1d import network, signals
    from localplast.task.loss import cross_entropy

    rng = np.random.default_rng(0)
    trials = signals(rng.normal(size=(batch, 1, steps)), rng.integers(0, 10, (batch, 1)))
    return network(), trials, cross_entropy()


def microcircuit(steps=100, batch=64):
    """Dendritic microcircuit, 4-30-3, as the protocol ``microcircuit-yin-yang``."""
    from localplast.protocols.microcircuit_yin_yang import network
    from localplast.task.loss import mse
    from localplast.task.streams import classes

    rng = np.random.default_rng(0)
    shown = rng.uniform(-1, 1, (batch, steps // 50, 4)), rng.integers(0, 3, (batch, steps // 50))
    return network(), classes(*shown, steps=50, outputs=3), mse()


def pyramidal(steps=200, batch=64):
    """100 pyramidal cells of three compartments, all to all."""
    from brian2 import ms

    from localplast import Input, Network, Population, Projection, Trials
    from localplast.models import leaky_readout
    from localplast.models import pyramidal as cell
    from localplast.network import uniform
    from localplast.task.loss import cross_entropy

    rng = np.random.default_rng(0)
    net = Network(
        dt=0.1 * ms,
        cues=Input(40),
        rec=Population(100, cell()),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", target="s_ampa_basal", weight=uniform(1.0, mean=1.0)),
            Projection("rec", "rec", target="s_ampa_basal", weight=uniform(1.0, mean=0.1)),
            Projection("rec", "out"),
        ],
    )
    return net, Trials({"cues": rng.random((batch, steps, 40)) < 0.05}, rng.integers(0, 2, batch)), cross_entropy()


def spread(steps=500, batch=64):
    """DelayNet's sizes, axonal delays that learn, each spread over a triangle of 10 steps to either side."""
    from brian2 import ms

    from localplast import Input, Network, Population, Projection, Trials, axonal
    from localplast.models import leaky_readout, lif
    from localplast.network import uniform
    from localplast.network.delays import triangle
    from localplast.task.loss import cross_entropy

    rng = np.random.default_rng(0)
    late = axonal(rng.uniform(1, 100, 125) * ms, trainable=(0 * ms, 110 * ms), kernel=triangle(10 * ms))
    net = Network(
        dt=1 * ms,
        cues=Input(40),
        rec=Population(125, lif(tau_mem=45 * ms, v_th=0.5)),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec", weight=uniform(2.0)),
            Projection("rec", "rec", weight=uniform(1.0), delay=late),
            Projection("rec", "out"),
        ],
    )
    return net, Trials({"cues": rng.random((batch, steps, 40)) < 0.02}, rng.integers(0, 2, batch)), cross_entropy()


def pictures(steps=30, batch=32):
    """Latent equilibrium on 28 x 28 pixels: 8 and 16 kernels of 5 x 5, averages of 2 x 2, 100 neurons, 10 outputs."""
    from localplast.protocols.latent_equilibrium_cnn import network
    from localplast.task.loss import mse
    from localplast.task.streams import classes

    rng = np.random.default_rng(0)
    trials = classes(rng.random((batch, 1, 784)), rng.integers(0, 10, (batch, 1)), steps=steps, outputs=10)
    return network((1, 28, 28), (8, 16), (100,)), trials, mse()


NETWORKS = {
    "GLE, MNIST-1D, 360 steps, batch 100": digits,
    "microcircuit 5-30-3, 100 steps, batch 64": microcircuit,
    "pyramidal cells 40-100-2, 200 steps, batch 64": pyramidal,
    "delays with triangles 40-125-2, 500 steps, batch 64": spread,
    "convolutional LE, 30 steps, batch 32": pictures,
}


def learner(net, trials, loss, *, plain):
    """A call that learns from the trials once."""
    import torch

    from localplast import adam
    from localplast.backends.torch.learner import TorchLearner
    from localplast.rules import bptt

    optimiser = adam(1e-3).with_rates(**{name: 1e-3 for name in net.trainable})
    made = TorchLearner(net, net.draw(0), bptt(), loss, optimiser, batch=len(trials), dtype=torch.float32)
    if plain:
        made.forward.kernel = None
    elif made.forward.kernel is None:
        raise RuntimeError("the generated kernel does not run this network")
    return lambda: made.train(trials)


def run(network, case, repeats):
    """One case, in a process of its own."""
    if case == FLOOR:
        found = floor_case(100, 1, repeats, sizes=(1, *[53] * 6, 10))
        return {"wall": [us * 0.036 for us in found["us"]], "cpu": [us * 0.036 for us in found["cpu"]], "growth": 0.0}
    return measure(learner(*NETWORKS[network](), plain=case == PLAIN), repeats=repeats)


def main(quick=False, count=3):
    """The table, as Markdown."""
    names = list(NETWORKS)
    jobs = [{"network": n, "case": c, "repeats": 1 if quick else 3} for n in names for c in (KERNEL, PLAIN)]
    jobs.insert(2, {"network": names[0], "case": FLOOR, "repeats": 5})
    found = rounds(__file__, jobs, count)
    plain = {j["network"]: f for j, f in zip(jobs, found, strict=True) if j["case"] == PLAIN and "cpu" in f}
    rows = []
    for job, f in zip(jobs, found, strict=True):
        if "error" in f:
            rows.append([job["network"], job["case"], f["error"], "", "", ""])
            continue
        base = plain.get(job["network"])
        speed = f"{median(base['cpu']) / median(f['cpu']):.3g}" if base else ""
        rows.append([job["network"], job["case"], span(f["wall"]), span(f["cpu"]), f"{median(f['growth']):.0f}", speed])
    header = ["", "", "seconds", "CPU seconds", "memory, MB", "speed (plain = 1)"]
    return table("BPTT, one training step, 1 thread", header, rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
