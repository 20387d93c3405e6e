"""Pyramidal cells with dendrites: the generated Brian2 model, the same by hand, Dendrify, and the Torch twin forward
and backward.

CPU seconds per biological second of 1000 cells at a step of 0.05 ms, without input and with 200 channels onto their
basal branches.
"""

import shutil
import sys
import tempfile
from statistics import median

import numpy as np
from dendrites_problem import CHANNELS, DT, drive
from timing import case_main, measure, rounds, span, table

CELLS, STEPS = 1000, 20_000
#: Cells and steps of the Torch twin.
TWIN_CELLS, TWIN_STEPS = 100, 1000
CASES = {
    "localplast, Brian2 numpy": ("generated", "numpy"),
    "by hand, Brian2 numpy": ("dendrites_handwritten", "numpy"),
    "Dendrify, two compartments, Brian2 numpy": ("dendrites_dendrify", "numpy"),
    "localplast, Brian2 C++": ("generated", "cpp"),
    "by hand, Brian2 C++": ("dendrites_handwritten", "cpp"),
}
TWINS = {"forward": "kernel", "forward and backward, kernel": "kernel", "forward and backward, plain step": "plain"}


def problem(given, steps, readout=False):
    """The network, and its inputs ``(trial, time, channel)`` for so many steps."""
    from brian2 import ms, pA

    from localplast import Input, Network, Population, Projection
    from localplast.models import leaky_readout, pyramidal

    size = len(given.soma)
    cells = Population(size, pyramidal(), initial={"I_soma": given.soma * pA, "I_apical": given.apical * pA})
    targets = ("s_ampa_basal", "s_nmda_basal") if given.spikes is not None else ()
    links = [
        Projection("cues", "cells", weight=1.0, mask=given.contacts, target=t, name=t, plastic=readout) for t in targets
    ]
    # a trial has some input, heard or not
    raster = given.spikes if given.spikes is not None else np.zeros((steps, 1), bool)
    nodes = {"cues": Input(raster.shape[1]), "cells": cells}
    if readout:
        nodes["out"] = Population(10, leaky_readout())
        links.append(Projection("cells", "out", plastic=False))
    return Network(dt=DT * ms, **nodes, projections=links), {"cues": raster[None]}


def generated(given, steps, target):
    """What presents the trial to localplast's Brian2 model and returns the number of spikes."""
    from localplast import Trials
    from localplast.backends.brian2.learner import block_for
    from localplast.backends.brian2.session import session

    net, inputs = problem(given, steps)
    values, trials = net.draw(0), Trials(inputs)
    running = session(
        target, net, values, block_for(net, trials, values), trials, request=[("cells", "spikes")], seed=0
    )
    return lambda: len(running.run(trials).spikes("cells")[0])


def handwritten(module, given, steps, target, folder):
    """The same for a module with ``network(given)``; every run goes on from the last one under numpy."""
    import brian2 as b2

    if target == "cpp":
        b2.set_device("cpp_standalone", build_on_run=False)
    else:
        b2.prefs.codegen.target = target
    network, spikes = module.network(given)
    if target == "cpp":
        network.run(steps * DT * b2.ms, namespace={})
        b2.device.build(directory=folder, run=False, with_output=False)
    else:
        network.store()

    def step():
        if target == "cpp":
            b2.device.run(directory=folder, with_output=False, run_args=[])
        else:
            network.restore()
            network.run(steps * DT * b2.ms, namespace={})
        return int(spikes.num_spikes)

    return step


def run(case, steps, inputs=True, repeats=2, threads=1):
    """One case of Brian2, or of the Torch twin, in a process of its own."""
    if case in TWINS:
        return twin(case, steps, repeats)
    import importlib

    kind, target = CASES[case]
    given, folder, counts = drive(CELLS, steps, inputs=inputs), tempfile.mkdtemp(), []
    if kind == "generated":
        step = generated(given, steps, target)
    else:
        step = handwritten(importlib.import_module(kind), given, steps, target, folder)
    found = measure(lambda: counts.append(step()), repeats=repeats)
    shutil.rmtree(folder)
    seconds = steps * DT * 1e-3
    return {"cpu": [s / seconds for s in found["cpu"]], "growth": found["growth"], "spikes": counts[-1]}


def twin(case, steps, repeats):
    """Torch, float32, one trial: the gradient of a readout's error with respect to all synapses, spikes' resets cut."""
    import torch

    from localplast import Trials, sgd
    from localplast.backends.torch.gradient import gradient
    from localplast.backends.torch.learner import TorchLearner
    from localplast.rules import bptt
    from localplast.task.loss import mse

    net, inputs = problem(drive(TWIN_CELLS, steps), steps, readout=True)
    values, rule = net.draw(0), bptt(cut={"reset", "adaptation"})
    trials = Trials(inputs, np.zeros((1, steps, 10)), np.full(steps, 1 / steps))
    if TWINS[case] == "plain":
        found = measure(lambda: gradient(net, values, trials, rule, mse(), dtype=torch.float32), repeats=repeats)
    else:
        learner = TorchLearner(net, values, rule, mse(), sgd(0.0), batch=1, dtype=torch.float32)
        work = learner.evaluate if case == "forward" else learner.train
        found = measure(lambda: work(trials), repeats=repeats)
    return {"cpu": [1e3 * s for s in found["cpu"]], "growth": found["growth"]}


def main(quick=False, count=3):
    """Both tables, as Markdown."""
    return "\n".join([brian2_table(quick, count), twin_table(quick, count)])


def brian2_table(quick, count):
    steps = STEPS // (20 if quick else 1)
    jobs = [{"case": case, "steps": steps, "inputs": inputs} for case in CASES for inputs in (False, True)]
    found = dict(zip([(j["case"], j["inputs"]) for j in jobs], rounds(__file__, jobs, count), strict=True))
    rows = []
    for case, (_, target) in CASES.items():
        row = [case]
        for inputs in (False, True):
            here, base = (
                found[case, inputs],
                found[f"by hand, Brian2 {'numpy' if target == 'numpy' else 'C++'}", inputs],
            )
            ratio = "" if "error" in here or "error" in base else f"{median(here['cpu']) / median(base['cpu']):.2f}"
            row += [
                here.get("error") or span(here["cpu"]),
                ratio,
                "" if "error" in here else f"{median(here['spikes']):.0f}",
            ]
        rows.append(row)
    parts, columns = ("no input", f"{CHANNELS} channels"), ("CPU s per s", "by hand = 1", "spikes")
    header = [f"{part}: {what}" for part in parts for what in columns]
    return table(f"{CELLS} pyramidal cells, step {DT} ms, {steps * DT * 1e-3:g} s", ["", *header], rows)


def twin_table(quick, count):
    jobs = [{"case": case, "steps": TWIN_STEPS // (10 if quick else 1)} for case in TWINS]
    found = rounds(__file__, jobs, count)
    rows = [
        [job["case"], f["error"], ""] if "error" in f else [job["case"], span(f["cpu"]), f"{median(f['growth']):.1f}"]
        for job, f in zip(jobs, found, strict=True)
    ]
    title = f"Torch twin: {TWIN_CELLS} pyramidal cells, {jobs[0]['steps']} steps, {CHANNELS} channels, one trial"
    return table(title, ["", "CPU ms", "peak memory, MB"], rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
