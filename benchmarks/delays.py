"""DelayNet: one training step beside a hand-written loop and a JAX scan, and what distinct delays cost."""

import sys
from dataclasses import replace
from statistics import median

import delays_problem
from delays_problem import Problem
from timing import case_main, measure, rounds, span, table

CASES = {
    "localplast": delays_problem.localplast,
    "localplast, plain Torch step": delays_problem.localplast_plain,
    "eager loop, one masked matrix per delay": delays_problem.eager,
    "JAX scan": delays_problem.jax_scan,
}
#: Updates in an epoch of 1024 trials.
EPOCH = 16


def run(case, threads, repeats, **problem):
    """One case, in a process of its own."""
    return measure(CASES[case](replace(Problem(), **problem), threads), repeats=repeats, warmup=2)


def training(quick, count):
    """One training step of DelayNet."""
    steps = 225 if quick else 2250
    cases = [*((case, 1) for case in CASES), ("localplast", 2), ("JAX scan", 2)]
    jobs = [{"case": case, "threads": threads, "steps": steps, "repeats": 2} for case, threads in cases]
    found = rounds(__file__, jobs, count)
    base = next(
        (f for job, f in zip(jobs, found, strict=True) if job["case"].startswith("eager") and "wall" in f), None
    )
    rows = []
    for job, f in zip(jobs, found, strict=True):
        if "error" in f:
            rows.append([job["case"], job["threads"], f["error"], "", "", "", ""])
            continue
        speed = f"{median(base['wall']) / median(f['wall']):.3g}" if base else ""
        epoch = f"{EPOCH * median(f['wall']):.3g}"
        rows.append(
            [job["case"], job["threads"], span(f["wall"]), span(f["cpu"]), epoch, f"{median(f['growth']):.0f}", speed]
        )
    title = f"DelayNet: one training step, 40-125-2, delays 1, 80 and 100 of {steps} steps, batch 64"
    return table(
        title, ["", "threads", "seconds", "CPU seconds", "seconds per epoch", "memory, MB", "speed (eager = 1)"], rows
    )


def distinct(quick, count):
    """What a step of the network costs when its neurons have more and more different delays."""
    numbers, steps = ((1, 10) if quick else (1, 3, 10, 30, 100)), 300
    jobs = [{"case": c, "threads": 1, "steps": steps, "repeats": 2, "distinct": n} for c in CASES for n in numbers]
    found = rounds(__file__, jobs, count)
    by_case = {case: [f for job, f in zip(jobs, found, strict=True) if job["case"] == case] for case in CASES}
    rows = [[c, *(f.get("error") or span(f["cpu"], 1e6 / steps) for f in each)] for c, each in by_case.items()]
    title = f"CPU µs per time step, forward and backward, batch 64, 1 thread, {steps} steps: distinct axonal delays"
    return table(title, ["", *map(str, numbers)], rows)


def main(quick=False, count=3):
    """All tables, as Markdown."""
    return "\n".join([training(quick, count), distinct(quick, count)])


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
