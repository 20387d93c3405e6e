"""e-prop on evidence accumulation (``eprop_problem.py``) in localplast, in NEST, in Brian2 and Torch by hand, in
BrainTrace.

Microseconds per step of the network, for the whole batch, learning included.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import eprop_handwritten
import numpy as np
from eprop_problem import (
    ALPHA,
    CHANNELS,
    KAPPA,
    LEARNING_RATE,
    NEURONS,
    RHO,
    SHORTEST,
    TAU_REF,
    V_TH,
    WINDOW,
    adaptation,
    problem,
    rule,
    torch_learner,
)
from nest_eprop import Program
from timing import case_main, measure, rounds, span, table

#: Trials of one run of a compiled Brian2 program, and of NEST.
BLOCK = 8


def per_step(found, steps):
    """Seconds as microseconds per step of the network."""
    return {"us": [1e6 * s / steps for s in found["wall"]], "cpu": [1e6 * s / steps for s in found["cpu"]]}


def torch_case(batch, steps, threads, repeats, directory, *, form):
    """localplast on Torch, float32."""
    given = problem(batch, steps)
    learner, trials = torch_learner(given, form, batch=batch, threads=threads), given[2]
    learner.train(trials)
    np.savez(Path(directory) / f"{form}_{batch}.npz", **learner.numbers())
    return per_step(measure(lambda: learner.train(trials), repeats=repeats, warmup=0), steps)


def adjoint(**options):
    return torch_case(**options, form="adjoint")


def carried(**options):
    return torch_case(**options, form="carried")


def online(**options):
    return torch_case(**options, form="online")


def backpropagation(**options):
    return torch_case(**options, form="bptt")


def brian2_case(batch, steps, repeats, directory, *, update):
    """localplast's generated C++ program; the time includes writing its inputs and reading its results."""
    from localplast import adam, sgd
    from localplast.backends.brian2.learner import Brian2Learner
    from localplast.task.loss import mse

    net, values, trials, numbers = problem(BLOCK, steps)
    optimiser = adam(LEARNING_RATE, epsilon_hat=True) if update == "trial" else sgd(LEARNING_RATE)
    start = time.perf_counter()
    learner = Brian2Learner(
        net,
        values,
        rule(numbers, update=update),
        mse(),
        optimiser,
        trials,
        batch=batch,
        target="cpp",
        updates_per_block=BLOCK,
    )
    build = time.perf_counter() - start
    found = learner.train(trials)
    metrics = {key: [m[key] for m in found] for key in ("loss", "rate")}
    np.savez(Path(directory) / f"generated_{update}.npz", **learner.numbers(), **metrics)
    timed = per_step(measure(lambda: learner.train(trials), repeats=repeats), steps * BLOCK)
    learner.close()
    return {**timed, "build": build}


def brian2_trial(threads, **options):
    return brian2_case(**options, update="trial")


def brian2_step(threads, **options):
    return brian2_case(**options, update="step")


def brian2_by_hand(batch, steps, threads, repeats, directory):
    """The hand-written C++ program; the time is that of its run alone."""
    *_, numbers = problem(BLOCK, steps)
    folder = Path(directory) / "handwritten"
    start = time.perf_counter()
    synapses = eprop_handwritten.build(numbers, folder)
    build = time.perf_counter() - start
    eprop_handwritten.learn(folder)
    learned = {s.name: numbers.weights[s.name].copy() for s in synapses}
    for s in synapses:
        learned[s.name][s.i[:], s.j[:]] = s.w[:]
    np.savez(Path(directory) / "handwritten.npz", **learned)
    found = per_step(measure(lambda: eprop_handwritten.learn(folder), repeats=repeats), steps * BLOCK)
    return {**found, "build": build}


def nest(batch, steps, threads, repeats, directory):
    """NEST; the time is that of its simulation alone, all input spikes are there beforehand."""
    *_, numbers = problem(BLOCK, steps)
    watched = Program(numbers, 1, threads=threads, watched=True)
    watched.run(BLOCK)
    np.savez(Path(directory) / "nest.npz", loss=watched.losses(), rate=watched.rate(BLOCK))
    start = time.perf_counter()
    program = Program(numbers, 1 + repeats, threads=threads)
    build = time.perf_counter() - start
    return {**per_step(measure(lambda: program.run(BLOCK), repeats=repeats), steps * BLOCK), "build": build}


def eager(batch, steps, threads, repeats, directory):
    """Traces carried forward in Torch, in place, as one writes it by hand; the update is Adam's, once per trial."""
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    *_, numbers = problem(batch, steps)
    w_in, w_rec, w_out = (
        torch.tensor(numbers.weights[k], dtype=torch.float32) for k in ("cues_rec", "rec_rec", "rec_out")
    )
    back = torch.tensor(numbers.feedback.T, dtype=torch.float32)
    optimiser = torch.optim.Adam([w_in, w_rec, w_out], LEARNING_RATE)
    x = torch.as_tensor(numbers.spikes).transpose(0, 1).float()
    target = torch.eye(2)[torch.as_tensor(numbers.labels)]
    beta = torch.as_tensor(adaptation(), dtype=torch.float32)

    @torch.no_grad()
    def step():
        v, a, z, rest = (torch.zeros(batch, NEURONS) for _ in range(4))
        y, traces = torch.zeros(batch, 2), [torch.zeros(batch, n) for n in (CHANNELS, NEURONS, NEURONS)]
        eps_a, filtered, grads = ([torch.zeros(batch, n, NEURONS) for n in (CHANNELS, NEURONS)] for _ in range(3))
        grad_out = torch.zeros(batch, NEURONS, 2)
        before = torch.zeros(batch, CHANNELS)
        for t in range(steps):
            v = ALPHA * (v + before @ w_in + z @ w_rec) - V_TH * z
            a = RHO * (a + z)
            rest = torch.where(z > 0, TAU_REF - 1.0, rest - 1)
            argument, ready = v - V_TH - beta * a, rest <= 0
            psi = 0.3 / V_TH * (1 - argument.abs() / V_TH).clamp(min=0) * ready
            for k, arrived in enumerate((before, z)):
                traces[k] = ALPHA * (traces[k] + arrived)
                elig = psi.unsqueeze(1) * (traces[k].unsqueeze(2) - beta * eps_a[k].mul_(RHO))
                eps_a[k].add_(elig)
                filtered[k].mul_(KAPPA).add_(elig)
            z = ((argument > 0) & ready).float()
            y = KAPPA * y + z @ w_out
            traces[2] = KAPPA * traces[2] + z
            if t >= steps - WINDOW:
                error = (y - target) / WINDOW
                signal = (error @ back).unsqueeze(1)
                for k in (0, 1):
                    grads[k].addcmul_(filtered[k], signal)
                grad_out += traces[2].unsqueeze(2) * error.unsqueeze(1)
            before = x[t]
        for weight, grad in zip((w_in, w_rec, w_out), (*grads, grad_out), strict=True):
            weight.grad = grad.mean(0)
        w_rec.grad.fill_diagonal_(0)
        optimiser.step()

    step()
    names, new = ("cues_rec", "rec_rec", "rec_out"), (w_in, w_rec, w_out)
    np.savez(Path(directory) / f"eager_{batch}.npz", **{k: w.numpy() for k, w in zip(names, new, strict=True)})
    return per_step(measure(step, repeats=repeats, warmup=0), steps)


def braintrace(batch, steps, threads, repeats, directory):
    from eprop_braintrace import braintrace_step

    *_, numbers = problem(batch, steps)
    step = braintrace_step(numbers.spikes, numbers.labels, adaptation(), V_TH)
    return per_step(measure(step, repeats=repeats), steps)


ADJOINT, CARRIED = "localplast, Torch, adjoint form", "localplast, Torch, traces carried"
ONLINE, BPTT = "localplast, Torch, weights change in every step", "localplast, Torch, BPTT"
EAGER, BRAINTRACE, NEST = "eager traces by hand, Torch", "BrainTrace EProp (JAX)", "NEST"
GENERATED, GENERATED_STEP = "localplast, Brian2 C++", "localplast, Brian2 C++, weights change in every step"
BY_HAND = "Brian2 C++ by hand"
CASES = {
    ADJOINT: adjoint,
    CARRIED: carried,
    ONLINE: online,
    BPTT: backpropagation,
    EAGER: eager,
    BRAINTRACE: braintrace,
    NEST: nest,
    GENERATED: brian2_trial,
    GENERATED_STEP: brian2_step,
    BY_HAND: brian2_by_hand,
}
#: Cases and threads.
BATCHED = ((ADJOINT, 1), (ADJOINT, 2), (CARRIED, 1), (BPTT, 1), (BPTT, 2), (EAGER, 1), (BRAINTRACE, 1))
SINGLE = (
    (GENERATED, 1),
    (GENERATED_STEP, 1),
    (ADJOINT, 1),
    (CARRIED, 1),
    (ONLINE, 1),
    (NEST, 1),
    (NEST, 2),
    (BY_HAND, 1),
    (EAGER, 1),
    (BRAINTRACE, 1),
)


def run(case, **options):
    """One case, in a process of its own."""
    return CASES[case](**options)


def agreement(directory):
    """How far the programs that do the same work differ, in words."""
    found = {f.stem: dict(np.load(f)) for f in Path(directory).glob("*.npz")}
    start, said = problem(1, SHORTEST)[3].weights, []

    def changes(one, other):
        """The largest difference between two changes of the weights, relative to the largest change."""
        both = [{k: found[name][k] - start[k] for k in start} for name in (one, other)]
        return max(np.abs(both[0][k] - both[1][k]).max() / np.abs(both[1][k]).max() for k in start)

    if {"nest", "generated_trial"} <= set(found):
        nest, ours = found["nest"], found["generated_trial"]
        loss, rates = np.abs(nest["loss"] / ours["loss"] - 1).max(), (float(nest["rate"]), ours["rate"].mean())
        said.append(
            f"Losses of {BLOCK} trials in NEST and in the generated Brian2 program differ by {loss:.1e} at most "
            f"(relative); rates: {rates[0]:.6g} and {rates[1]:.6g} Hz."
        )
    if {"handwritten", "generated_trial"} <= set(found):
        apart = changes("generated_trial", "handwritten")
        said.append(
            f"Weight changes of the generated and the hand-written Brian2 program differ by {apart:.1e} at most."
        )
    for name, words in (("carried_64", "traces carried"), ("eager_64", "eager traces")):
        if {name, "adjoint_64"} <= set(found):
            apart = changes("adjoint_64", name)
            said.append(
                f"First updates at batch 64, adjoint form and {words}, differ by {apart:.1e} at most (single "
                "precision)."
            )
    return " ".join(said)


def section(title, jobs, found, reference):
    """One table; its last column but one compares CPU time with that of ``reference`` (on its first number of
    threads).
    """
    base = next(
        (median(f["cpu"]) for j, f in zip(jobs, found, strict=True) if j["case"] == reference and "cpu" in f), None
    )
    rows = []
    for job, f in zip(jobs, found, strict=True):
        cells = (
            [f["error"], "", "", ""]
            if "error" in f
            else [
                span(f["us"]),
                span(f["cpu"]),
                f"{median(f['cpu']) / base:.3g}" if base else "",
                f"{max(f['build']):.1f}" if "build" in f else "",
            ]
        )
        rows.append([job["case"], job["threads"], *cells])
    header = ["", "threads", "µs per step", "CPU µs per step", f"CPU, times that of {reference}", "first build, s"]
    return table(title, header, rows)


def main(quick=False, count=3):
    """All tables, as Markdown."""
    steps, directory = 450 if quick else 2250, tempfile.mkdtemp(prefix="eprop-")
    options = {"steps": steps, "repeats": 2 if quick else 3, "directory": directory}
    jobs = [{"case": case, "batch": 64, "threads": threads, **options} for case, threads in BATCHED]
    jobs[-1] |= {"steps": SHORTEST, "repeats": 2}  # milliseconds per step: a short trial tells the same
    jobs += [{"case": case, "batch": 1, "threads": threads, **options} for case, threads in SINGLE]
    try:
        found = rounds(__file__, jobs, count)
        same = agreement(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    n = len(BATCHED)
    title = f"e-prop, {steps} steps, {NEURONS} neurons, batch"
    single = section(f"{title} 1", jobs[n:], found[n:], NEST)
    return "\n".join([single, f"{same}\n", section(f"{title} 64", jobs[:n], found[:n], BPTT)])


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
