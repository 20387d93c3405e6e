"""e-prop and BPTT on Torch at batch 64 over trials of growing length: time per step, and memory at the peak.

The network and the task of ``eprop_problem.py``, Adam after every batch. Inputs, targets and outputs grow with the
trial whatever the rule: what preparing them takes is a row of its own.
"""

import sys
from statistics import median

from eprop_problem import problem, torch_learner
from timing import case_main, measure, rounds, span, table

BATCH, FIRST, FACTORS = 64, 600, (1, 4, 16)
CASES = {
    "e-prop, adjoint form": "adjoint",
    "e-prop, traces carried": "carried",
    "BPTT": "bptt",
    "presenting the inputs, no learning": "forward",
    "preparing the inputs alone": None,
}


def run(case, steps, threads, repeats):
    """One case, in a process of its own."""
    form, given = CASES[case], problem(BATCH, steps)
    trials = given[2]
    learner = torch_learner(given, "adjoint" if form in (None, "forward") else form, batch=BATCH, threads=threads)
    work = {None: learner.prepare, "forward": learner.evaluate}.get(form, learner.train)
    found = measure(lambda: work(trials), repeats=repeats)
    return {"cpu": [1e6 * s / steps for s in found["cpu"]], "growth": found["growth"]}


def main(quick=False, count=3):
    """The table, as Markdown."""
    lengths = [FIRST * factor // (2 if quick else 1) for factor in FACTORS]
    options = {"threads": 1, "repeats": 2 if quick else 3}
    jobs = [{"case": case, "steps": steps, **options} for case in CASES for steps in lengths]
    found = dict(zip([(j["case"], j["steps"]) for j in jobs], rounds(__file__, jobs, count), strict=True))
    rows = []
    for case in CASES:
        row = [found[case, steps] for steps in lengths]
        errors = [f["error"] for f in row if "error" in f]
        if errors:
            rows.append([case, errors[0], *[""] * (2 * len(lengths) - 1)])
            continue
        peaks = [median(f["growth"]) for f in row]
        rows.append([case, *(span(f["cpu"]) for f in row), *(f"{p:.1f}" for p in peaks)])
    header = ["", *(f"{n} steps: CPU µs per step" for n in lengths), *(f"{n} steps: MB" for n in lengths)]
    return table(f"e-prop and BPTT on Torch, batch {BATCH}, 1 thread: length of the trial", header, rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
