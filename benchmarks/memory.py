"""Peak memory over the length of a trial: learning online must not pay for it, backpropagation does.

One trial at a time through the e-prop network of ``eprop.py``, the input drawn from rates inside the backend.
"""

import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
from eprop_problem import CHANNELS, LEARNING_RATE, SHORTEST, problem, rule, torch_learner
from timing import case_main, memory, reset_peak, rounds, table

#: Steps of the shortest trial, factors; rate of the input in hertz.
FIRST, FACTORS, RATE = 225, (1, 10, 100), 40.0
#: Backends and rules; programs that Brian2 compiles run outside this process, which is looked at, too.
CASES = {
    "e-prop, Brian2 numpy": ("numpy", "eprop"),
    "e-prop, Brian2 C++": ("cpp", "eprop"),
    "e-prop in every step, Torch": ("torch", "online"),
    "BPTT, Torch, fused kernel": ("torch", "bptt"),
    "BPTT, Torch, plain step": ("plain", "bptt"),
}


def rates(given, steps):
    """``given``, with one trial whose input is drawn from rates inside the backend; every step counts in the loss
    alike.
    """
    from dataclasses import replace

    from localplast import Poisson

    net, values, trials, numbers = given
    poisson = Poisson(np.full((1, 1, CHANNELS), RATE), steps)
    return net, values, replace(trials, inputs={"cues": poisson}, weight=np.full(steps, 1 / steps)), numbers


def brian2_step(target, steps):
    """A learner, and the call that presents one trial to it."""
    from localplast import adam
    from localplast.backends.brian2.learner import Brian2Learner
    from localplast.task.loss import mse

    net, values, trials, numbers = rates(problem(1, SHORTEST), steps)
    learner = Brian2Learner(net, values, rule(numbers), mse(), adam(LEARNING_RATE), trials, target=target)
    return lambda: learner.train(trials)


def torch_step(form, steps):
    given = rates(problem(1, SHORTEST), steps)
    learner = torch_learner(given, form)
    return lambda: learner.train(given[2])


def plain_step(form, steps):
    """Automatic differentiation of the plain Torch step."""
    import torch

    from localplast import gradient
    from localplast.rules import bptt

    net, values, trials, _ = rates(problem(1, SHORTEST), steps)
    return lambda: gradient(net, trials, bptt(), values=values, dtype=torch.float32)


class Children:
    """The largest memory of programs called ``main`` that this process has started, looked up every few ms."""

    def __enter__(self):
        self.peak, self.going = 0.0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        children = Path("/proc/self/task")
        while self.going:
            for listed in children.glob("*/children"):
                for process in listed.read_text().split():
                    self.look(process)
            time.sleep(0.002)

    def look(self, process):
        try:
            if Path(f"/proc/{process}/comm").read_text().strip() == "main":
                self.peak = max(self.peak, memory("VmHWM", process))
        except (OSError, StopIteration):  # it has ended meanwhile
            pass

    def __exit__(self, *_):
        self.going = False
        self.thread.join()


def run(case, steps, threads=1):
    """Peak memory while two trials of ``steps`` steps are learned, beyond what the process had before."""
    backend, form = CASES[case]
    make = {"torch": torch_step, "plain": plain_step}.get(backend)
    step = make(form, steps) if make else brian2_step(backend, steps)
    reset_peak()
    before = memory()
    with Children() as children:
        for _ in range(2):
            step()
    return {"growth": memory("VmHWM") - before, "program": children.peak}


def main(quick=False, count=1):
    """The table, as Markdown."""
    lengths = [FIRST * factor // (5 if quick else 1) for factor in FACTORS]
    jobs = [{"case": case, "steps": steps} for case in CASES for steps in lengths]
    found = dict(zip([(j["case"], j["steps"]) for j in jobs], rounds(__file__, jobs, 1), strict=True))
    rows = []
    for case in CASES:
        cells = []
        for steps in lengths:
            f = found[case, steps]
            program = f" + {f['program'][0]:.1f}" if "error" not in f and f["program"][0] else ""
            cells.append(f.get("error") or f"{statistics.median(f['growth']):.1f}{program}")
        rows.append([case, *cells])
    title = "Peak memory, MB (batch 1): growth of the process, + the whole of the compiled program"
    return table(title, ["", *(f"{steps} steps" for steps in lengths)], rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
