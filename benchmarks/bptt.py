"""Training steps with backpropagation through time: localplast and its peers, the same network and inputs.

W1: 40 inputs, 100 recurrent LIF, 2 readouts, 2250 steps, batch 64. W2: 784-512-512-10, 100 steps, batch 128.
"""

import sys
from dataclasses import replace
from statistics import median

import bptt_cases
import bptt_peers
from bptt_problem import PROBLEMS
from timing import case_main, exponent, measure, rounds, span, table

FLOOR = "products back and event sums alone"
CASES = {
    "localplast": bptt_cases.localplast_learner,
    "localplast, kernel alone": bptt_cases.localplast_kernel,
    "localplast, plain Torch step": bptt_cases.localplast_plain,
    "eager loop by hand": bptt_cases.eager,
    FLOOR: bptt_cases.floor,
    "snnTorch": bptt_peers.snntorch,
    "Norse": bptt_peers.norse,
    "SpikingJelly": bptt_peers.spikingjelly,
    "Spyx (JAX)": bptt_peers.spyx,
}
#: JAX compiles again on its second and third call.
WARMUP = {"Spyx (JAX)": 3}


def run(problem, case, threads, steps, repeats):
    """One case, in a process of its own."""
    step = CASES[case](replace(PROBLEMS[problem], steps=steps), threads)
    return measure(step, repeats=repeats, warmup=WARMUP.get(case, 1))


def compare(name, quick, count):
    """The table of one problem."""
    problem = PROBLEMS[name]
    steps = problem.steps // 10 if quick and problem.steps > 1000 else problem.steps
    cases = [(case, 1) for case in CASES if case != FLOOR or not problem.recurrent]
    cases += [(c, 2) for c in ("localplast", "localplast, kernel alone", "Spyx (JAX)")]
    jobs = [
        {"problem": name, "case": case, "threads": threads, "steps": steps, "repeats": 2 if quick else 3}
        for case, threads in cases
    ]
    found = rounds(__file__, jobs, count)
    base = next(
        (f for job, f in zip(jobs, found, strict=True) if job["case"].startswith("eager") and "wall" in f), None
    )
    rows = []
    for job, f in zip(jobs, found, strict=True):
        if "error" in f:
            rows.append([job["case"], job["threads"], f["error"], "", "", ""])
            continue
        speed = f"{median(base['wall']) / median(f['wall']):.3g}" if base else ""
        rows.append([job["case"], job["threads"], span(f["wall"]), span(f["cpu"]), f"{median(f['growth']):.0f}", speed])
    sizes = "-".join(map(str, problem.sizes))
    kind = "recurrent " if problem.recurrent else ""
    title = f"{name}: one training step, {kind}LIF {sizes}, {steps} steps, batch {problem.batch}"
    return table(title, ["", "threads", "seconds", "CPU seconds", "memory, MB", "speed (eager = 1)"], rows)


def linearity(quick, count):
    """How localplast's training step grows with the length of the trial."""
    lengths = [length // (10 if quick else 1) for length in (1125, 2250, 4500)]
    jobs = [{"problem": "W1", "case": "localplast", "threads": 1, "steps": n, "repeats": 3} for n in lengths]
    found = rounds(__file__, jobs, count)
    if any("error" in f for f in found):
        return table("W1: length of the trial", ["error"], [[f["error"]] for f in found if "error" in f])
    rows = [
        [n, span(f["wall"]), span(f["cpu"]), f"{median(f['growth']):.0f}"] for n, f in zip(lengths, found, strict=True)
    ]
    slope = exponent(lengths, [median(f["cpu"]) for f in found])
    title = f"W1, localplast, 1 thread: length of the trial (CPU seconds grow with its power {slope:.2f})"
    return table(title, ["steps", "seconds", "CPU seconds", "memory, MB"], rows)


def main(quick=False, count=3):
    """All tables, as Markdown."""
    return "\n".join([compare("W1", quick, count), compare("W2", quick, count), linearity(quick, count)])


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
