"""1000 leaky integrate-and-fire neurons, a tenth of all synapses, each with a delay of its own: nothing learns.

CPU seconds of Brian2's C++ programs, compiling and running apart: localplast's, and the same network written by hand.
"""

import os
import sys
import tempfile
from statistics import median

import numpy as np
from timing import case_main, cpu_seconds, rounds, span, table

#: Neurons; length of a step in ms; steps of a trial, and of the other one that is presented after it.
SIZE, DT, STEPS, OTHER = 1000, 0.1, 100_000, 50_000
CASES = ("localplast", "by hand")
MADE, RUN, AGAIN, ANEW = COLUMNS = ("compiling", "running", "the same once more", "half as long, twice")


def problem(seed=0):
    """Weights ``(pre, post)``, where synapses are, their delays in steps, and the potentials at the start."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((SIZE, SIZE)) < 0.1) & ~np.eye(SIZE, dtype=bool)
    weight = np.where(np.arange(SIZE) < SIZE * 4 // 5, 0.02, -0.1)[:, None] * mask
    return weight, mask, rng.integers(10, 101, (SIZE, SIZE)), rng.random(SIZE)


class Ours:
    """A network in localplast; ``made`` and ``run`` take the trials, and return what they leave."""

    def __init__(self):
        from brian2 import ms

        from localplast import Input, Network, NeuronModel, Population, Projection, synaptic

        weight, mask, delay, start = problem()
        model = NeuronModel(
            name="leaky",
            equations="dv/dt = (drive - v)/tau : 1",
            threshold="v > 1",
            reset="v = 0",
            refractory="tau_ref",
            parameters={"tau": 20 * ms, "drive": 1.05, "tau_ref": 2 * ms},
        )
        links = [Projection("rec", "rec", weight=weight, mask=mask, delay=synaptic(delay * DT * ms), plastic=False)]
        # a trial has some input, heard or not
        nodes = {"cues": Input(1), "rec": Population(SIZE, model, initial={"v": start})}
        self.net = Network(dt=DT * ms, **nodes, projections=links)
        self.values = self.net.draw(0)

    def made(self, steps, number):
        from localplast import Trials
        from localplast.backends.brian2.learner import block_for
        from localplast.backends.brian2.session import session

        self.trials = Trials({"cues": np.zeros((number, steps, 1), bool)})
        block = block_for(self.net, self.trials, self.values)
        self.session = session("cpp", self.net, self.values, block, self.trials, request=[("rec", "spikes")])

    def run(self):
        trial, step, neuron = self.session.run(self.trials).spikes("rec")
        return step[trial == 0], neuron[trial == 0]


class ByHand:
    """The same as Brian2 users write it, one trial after the other."""

    def made(self, steps, number):
        import brian2 as b2
        from brian2 import ms

        b2.set_device("cpp_standalone", build_on_run=False)
        b2.device.reinit()
        b2.device.activate(build_on_run=False)
        b2.defaultclock.dt = DT * ms
        weight, mask, delay, start = problem()
        equations = "dv/dt = (1.05 - v)/(20*ms) : 1"
        group = b2.NeuronGroup(SIZE, equations, threshold="v > 1", reset="v = 0", refractory=2 * ms, method="exact")
        group.v = start
        synapses = b2.Synapses(group, group, "w : 1", on_pre="v_post += w")
        synapses.connect(i=np.nonzero(mask)[0], j=np.nonzero(mask)[1])
        synapses.w, synapses.delay = weight[mask], delay[mask] * DT * ms
        self.spikes, self.number = b2.SpikeMonitor(group), number
        b2.Network(group, synapses, self.spikes).run(steps * DT * ms, namespace={"ms": ms})
        self.folder = tempfile.mkdtemp()
        b2.device.build(directory=self.folder, run=False, with_output=False)

    def run(self):
        import brian2 as b2

        for _ in range(self.number):
            b2.device.run(directory=self.folder, with_output=False, run_args=[])
        return np.round(self.spikes.t / b2.ms / DT).astype(int), np.array(self.spikes.i)


def run(case, steps, other, repeats=3, threads=1):
    """One case in a process of its own, which finds nothing compiled; ``spikes`` tells those of the first trial."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    one = Ours() if case == "localplast" else ByHand()
    found = {MADE: timed(one.made, steps, 1)}
    one.run()
    found[RUN] = [timed(one.run) for _ in range(repeats)]
    found[AGAIN] = timed(lambda: (one.made(steps, 1), one.run()))
    spikes = [int(x) for x in np.bincount(one.run()[0], minlength=steps).cumsum()[[steps // 10, -1]]]
    found[ANEW] = timed(lambda: (one.made(other, 2), one.run()))
    return found | {"early spikes": spikes[0], "spikes": spikes[1]}


def timed(work, *arguments):
    before = cpu_seconds()
    work(*arguments)
    return cpu_seconds() - before


def main(quick=False, count=3):
    """The table, as Markdown."""
    steps, other = (n // (10 if quick else 1) for n in (STEPS, OTHER))
    jobs = [{"case": case, "steps": steps, "other": other} for case in CASES]
    found = dict(zip(CASES, rounds(__file__, jobs, count), strict=True))
    rows = []
    for case in CASES:
        here = found[case]
        if "error" in here:
            rows.append([case, here["error"], *[""] * (len(COLUMNS) + 1)])
            continue
        base = found["by hand"].get(RUN)
        ratio = f"{median(here[RUN]) / median(base):.2f}" if base else ""
        rows.append([case, *(span(here[column]) for column in COLUMNS), ratio, f"{median(here['spikes']):.0f}"])
    header = ["Brian2 C++, CPU s", *COLUMNS, "running, by hand = 1", "spikes"]
    return table(f"{SIZE} neurons, delays of 1 to 10 ms, step {DT} ms, {steps * DT * 1e-3:g} s", header, rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
