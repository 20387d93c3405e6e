"""From a network to the end of its first update, beyond what a later one takes: programs, their C text, the compiler.

Every case runs in two new processes that share a cache: *cold* finds it empty, *warm* finds what the first has left.
What is imported, and the network, are there before. Float32, one thread.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from timing import case_main, cpu_seconds, rounds, span, table


def lif():
    """W1 of ``bptt.py``, 50 steps."""
    import networks
    import numpy as np
    from bptt_cases import localplast_network
    from bptt_problem import PROBLEMS

    from localplast import Trials
    from localplast.task.loss import cross_entropy

    problem = replace(PROBLEMS["W1"], steps=50)
    net, (spikes, labels) = localplast_network(problem), problem.data()
    trials = Trials({"cues": np.ascontiguousarray(spikes.transpose(1, 0, 2))}, labels)
    return lambda: networks.learner(net, trials, cross_entropy(), plain=False)


def evidence(form):
    """The network of ``eprop.py``, 300 steps of one trial."""
    from eprop_problem import SHORTEST, problem, torch_learner

    given = problem(1, SHORTEST)

    def made():
        learner = torch_learner(given, form)
        return lambda: learner.train(given[2])

    return made


def stream():
    """Latent equilibrium of ``prospective.py``, two images."""
    from prospective import learner_of, stream_problem

    from localplast.rules import dendritic

    net, trials, optimiser = stream_problem(2, 1)

    def made():
        learner = learner_of(net, dendritic(), optimiser, 1, 1)
        return lambda: learner.train(trials)

    return made


def digits(rule):
    """GLE on MNIST-1D of ``networks.py``, 20 steps of 8 digits, by errors in the network or by BPTT."""
    import networks
    from prospective import learner_of

    from localplast import adam, rules

    net, trials, loss = networks.digits(20, 8)
    optimiser = adam(1e-3).with_rates(**dict.fromkeys(net.trainable, 1e-3))

    def made():
        learner = learner_of(net, getattr(rules, rule)(), optimiser, 8, 1, loss=loss)
        return lambda: learner.train(trials)

    return made


def network(name):
    """A network of ``networks.py``, few steps."""
    import networks

    net, trials, loss = getattr(networks, name)(50, 8)
    return lambda: networks.learner(net, trials, loss, plain=False)


CASES = {
    "W1, BPTT": (lif,),
    "e-prop, adjoint form": (evidence, "adjoint"),
    "e-prop, weights change in every step": (evidence, "online"),
    "latent equilibrium 784-300-100-10": (stream,),
    "GLE, MNIST-1D, errors in the network": (digits, "dendritic"),
    "GLE, MNIST-1D, BPTT": (digits, "bptt"),
    "microcircuit, BPTT": (network, "microcircuit"),
    "pyramidal cells, BPTT": (network, "pyramidal"),
    "convolutional LE, BPTT": (network, "pictures"),
}


def import_all():
    """Load what learners need, and let Torch begin its own threads."""
    import torch

    import localplast.backends.torch.learner  # noqa: F401

    torch.ones(1, requires_grad=True).sum().backward()


def run(case, cache):
    """Seconds of the first update, from the network on, without those of a later one."""
    os.environ["XDG_CACHE_HOME"] = cache
    make, *options = CASES[case]
    made = make(*options)
    import_all()
    begin = time.perf_counter(), cpu_seconds()
    step = made()
    step()
    first = time.perf_counter() - begin[0], cpu_seconds() - begin[1]
    later = []
    for _ in range(5):
        begin = time.perf_counter(), cpu_seconds()
        step()
        later.append((time.perf_counter() - begin[0], cpu_seconds() - begin[1]))
    wall, cpu = (max(0.0, f - min(column)) for f, column in zip(first, zip(*later, strict=True), strict=True))
    return {"wall": wall, "cpu": cpu}


def main(quick=False, count=3):
    """The table, as Markdown."""
    with tempfile.TemporaryDirectory() as parent:
        caches = [Path(parent) / str(number) for number in range(count)]
        found = [rounds(__file__, [{"case": c, "cache": str(f)} for c in CASES for _ in "cw"], 1) for f in caches]
    rows = []
    for place, case in enumerate(CASES):
        row = [case]
        for which in (0, 1):
            each = [f[2 * place + which] for f in found]
            error = next((e["error"] for e in each if "error" in e), None)
            row += [error or span([e[key][0] for e in each]) for key in ("wall", "cpu")]
        rows.append(row)
    header = ["", "cold: seconds", "CPU seconds", "warm: seconds", "CPU seconds"]
    return table("A kernel in a new process, nothing compiled (cold) and compiled before (warm)", header, rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
