"""DECOLLE and OTTT in two layers of 100 neurons behind 100 inputs: generated C, plain Torch, generated Brian2 C++.

Microseconds per step of the network, for the whole batch, learning included.
"""

import sys
import time

import numpy as np
from timing import case_main, measure, rounds, span, table

CHANNELS, NEURONS, OUTPUTS, RATE, LEARNING_RATE, BATCH = 100, 100, 10, 0.04, 1e-4, 32
#: Trials of one run of a compiled Brian2 program.
BLOCK = 8


def problem(rule, trials, steps):
    """The network, its numbers, trials: DECOLLE gets local readouts, OTTT one on top."""
    from brian2 import ms

    from localplast import Input, Network, Population, Projection, Trials, normal
    from localplast.models import decolle_lif, instant_readout, leaky_readout, lif

    neuron, strength = (decolle_lif(), 1.5) if rule == "decolle" else (lif(), 1.5)
    nodes = {"cues": Input(CHANNELS), "low": Population(NEURONS, neuron), "top": Population(NEURONS, neuron)}
    links = [Projection("cues", "low", weight=normal(strength)), Projection("low", "top", weight=normal(strength))]
    if rule == "decolle":
        nodes |= {f"say_{n}": Population(OUTPUTS, instant_readout()) for n in ("low", "top")}
        links += [Projection(n, f"say_{n}", plastic=False) for n in ("low", "top")]
    else:
        nodes["out"] = Population(OUTPUTS, leaky_readout())
        links.append(Projection("top", "out"))
    net, rng = Network(dt=1 * ms, **nodes, projections=links), np.random.default_rng(1)
    spikes = rng.random((trials, steps, CHANNELS), np.float32) < RATE
    return net, net.draw(0), Trials({"cues": spikes}, rng.integers(0, OUTPUTS, trials), np.full(steps, 1 / steps))


def learning(rule, update):
    from localplast import rules, sgd
    from localplast.task.loss import mse

    return getattr(rules, rule)(update=update), mse(), sgd(LEARNING_RATE)


def torch_case(rule, batch, steps, threads, repeats, *, plain=False):
    """Float32; one trial at a time learns in every step, a batch at its end."""
    import torch

    from localplast.backends.torch.learner import TorchLearner
    from localplast.backends.torch.online import OnlineLearner
    from localplast.program.learn import plan

    net, values, trials = problem(rule, batch, steps)
    options = {"batch": batch, "dtype": torch.float32, "threads": threads}
    learner = TorchLearner(net, values, *learning(rule, "step" if batch == 1 else "trial"), **options)
    # DECOLLE by the batch would be differentiated: here traces are timed
    learned = plan(net, learner.rule, learner.loss)
    slow = OnlineLearner(net, learned, learner.tensors, values.masks, learner.optimiser) if plain else None
    learner.online = slow or learner.online_learner(learned)
    return per_step(measure(lambda: learner.train(trials), repeats=repeats), steps)


def plain_case(**options):
    return torch_case(**options, plain=True)


def brian2_case(rule, batch, steps, threads, repeats):
    """The time includes writing inputs and reading results."""
    from localplast.backends.brian2.learner import Brian2Learner

    net, values, trials = problem(rule, BLOCK, steps)
    start = time.perf_counter()
    learner = Brian2Learner(
        net, values, *learning(rule, "step"), trials, batch=batch, target="cpp", updates_per_block=BLOCK
    )
    build = time.perf_counter() - start
    found = per_step(measure(lambda: learner.train(trials), repeats=repeats), steps * BLOCK)
    learner.close()
    return {**found, "build": build}


def per_step(found, steps):
    """Seconds as microseconds per step of the network."""
    return {"us": [1e6 * s / steps for s in found["wall"]], "cpu": [1e6 * s / steps for s in found["cpu"]]}


KERNEL, PLAIN, BRIAN2 = "localplast, Torch, generated C", "localplast, plain Torch", "localplast, Brian2 C++"
CASES = {KERNEL: torch_case, PLAIN: plain_case, BRIAN2: brian2_case}


def run(case, **options):
    """One case, in a process of its own."""
    return CASES[case](**options)


def main(quick=False, count=3):
    """The table, as Markdown."""
    steps, repeats, jobs = 100 if quick else 500, 2 if quick else 3, []
    for rule in ("decolle", "ottt"):
        one = {"rule": rule, "batch": 1, "threads": 1, "steps": steps, "repeats": repeats}
        jobs += [{"case": case, **one} for case in CASES]
        jobs += [
            {"case": case, **one, "batch": BATCH, "threads": n} for case, n in ((KERNEL, 1), (KERNEL, 2), (PLAIN, 1))
        ]
    rows = []
    for job, f in zip(jobs, rounds(__file__, jobs, count), strict=True):
        changed = "every step" if job["batch"] == 1 else f"every {job['batch']} trials"
        cells = (
            [f["error"], "", ""]
            if "error" in f
            else [span(f["us"]), span(f["cpu"]), f"{max(f['build']):.0f}" if "build" in f else ""]
        )
        rows.append([job["rule"], job["case"], changed, job["threads"], *cells])
    header = ["rule", "", "weights change", "threads", "µs per step", "CPU µs per step", "first build, s"]
    return table(f"Layers, {steps} steps", header, rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
