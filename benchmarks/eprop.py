"""e-prop: 40 inputs, 50 LIF and 50 ALIF, 2 readouts, 14,000 plastic synapses; the loss looks at the last 150 steps.

Microseconds per step of the network, for the whole batch, learning included.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

import eprop_handwritten
from timing import case_main, measure, rounds, span, table

CHANNELS, NEURONS, WINDOW, RATE, LEARNING_RATE = 40, 100, 150, 0.04, 1e-3
#: Threshold of an ALIF neuron rises by BETA with every spike; LIF neurons are those with beta = 0.
V_TH, BETA = 0.6, 0.0174
#: Trials of one run of a compiled Brian2 program.
BLOCK = 8


def adaptation():
    return np.repeat([0.0, BETA], NEURONS // 2)


def draw(trials, steps):
    """Spikes bool ``(trial, time, channel)`` and labels."""
    rng = np.random.default_rng(1)
    return rng.random((trials, steps, CHANNELS), np.float32) < RATE, rng.integers(0, 2, trials)


def problem(trials, steps):
    """The network, its numbers, and trials, for localplast."""
    from brian2 import ms

    from localplast import Input, Network, Population, Projection, Trials, normal
    from localplast.models import alif, leaky_readout

    net = Network(
        dt=1 * ms,
        cues=Input(CHANNELS),
        rec=Population(NEURONS, alif(tau_adapt=2000 * ms, v_th=V_TH), {"beta": adaptation()}),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "rec"), Projection("rec", "rec"), Projection("rec", "out", weight=normal(0.05)),
        ],
    )
    spikes, labels = draw(trials, steps)
    weight = np.zeros(steps)
    weight[-WINDOW:] = 1 / WINDOW
    return net, net.draw(0), Trials({"cues": spikes}, labels, weight)


def per_step(found, steps):
    """Seconds as microseconds per step of the network."""
    return {"us": [1e6 * s / steps for s in found["wall"]], "cpu": [1e6 * s / steps for s in found["cpu"]]}


def torch_case(batch, steps, threads, repeats, *, update):
    """localplast on Torch, float32."""
    import torch

    from localplast import adam, sgd
    from localplast.backends.torch_learn import TorchLearner
    from localplast.loss import mse
    from localplast.rules import eprop

    net, values, trials = problem(batch, steps)
    optimiser = adam(LEARNING_RATE) if update == "trial" else sgd(LEARNING_RATE)
    learner = TorchLearner(
        net, values, eprop(update=update), mse(), optimiser, batch=batch, dtype=torch.float32, threads=threads
    )
    return per_step(measure(lambda: learner.train(trials), repeats=repeats), steps)


def adjoint(**options):
    return torch_case(**options, update="trial")


def online(**options):
    return torch_case(**options, update="step")


def brian2_case(batch, steps, repeats, directory, *, update):
    """localplast's generated C++ program; the time includes writing its inputs and reading its results."""
    from localplast import adam, sgd
    from localplast.backends.brian2_backend import Brian2Learner
    from localplast.loss import mse
    from localplast.rules import eprop

    net, values, trials = problem(BLOCK, steps)
    optimiser = adam(LEARNING_RATE) if update == "trial" else sgd(LEARNING_RATE)
    start = time.perf_counter()
    learner = Brian2Learner(
        net, values, eprop(update=update), mse(), optimiser, trials, batch=batch, target="cpp", updates_per_block=BLOCK
    )
    build = time.perf_counter() - start
    rate = learner.train(trials)[0]["rate"]
    np.savez(Path(directory) / f"generated_{update}.npz", **learner.numbers())
    found = per_step(measure(lambda: learner.train(trials), repeats=repeats), steps * BLOCK)
    learner.close()
    return {**found, "build": build, "rate": rate}


def brian2_trial(threads, **options):
    return brian2_case(**options, update="trial")


def brian2_step(threads, **options):
    return brian2_case(**options, update="step")


def brian2_by_hand(batch, steps, threads, repeats, directory):
    """The hand-written C++ program; the time is that of its run alone."""
    _, values, trials = problem(BLOCK, steps)
    folder = Path(directory) / "handwritten"
    start = time.perf_counter()
    synapses = eprop_handwritten.build(
        values.weights, adaptation(), trials.inputs["cues"], trials.target, WINDOW, LEARNING_RATE, folder
    )
    build = time.perf_counter() - start
    eprop_handwritten.learn(folder)
    learned = {s.name: values.weights[s.name].copy() for s in synapses}
    for s in synapses:
        learned[s.name][s.i[:], s.j[:]] = s.w[:]
    np.savez(Path(directory) / "handwritten.npz", **learned)
    found = per_step(measure(lambda: eprop_handwritten.learn(folder), repeats=repeats), steps * BLOCK)
    return {**found, "build": build}


def eager(batch, steps, threads, repeats):
    """Traces carried forward in Torch, in place, as one writes it by hand; the update is Adam's, once per trial."""
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    alpha, rho, kappa = (float(np.exp(-1 / tau)) for tau in (20, 2000, 20))
    _, values, trials = problem(batch, steps)
    w_in, w_rec, w_out = (torch.tensor(values.weights[k], dtype=torch.float32) for k in ("cues_rec", "rec_rec", "rec_out"))
    optimiser = torch.optim.Adam([w_in, w_rec, w_out], LEARNING_RATE)
    x = torch.as_tensor(trials.inputs["cues"]).transpose(0, 1).float()
    target = torch.eye(2)[torch.as_tensor(trials.target)]
    beta = torch.as_tensor(adaptation(), dtype=torch.float32)

    @torch.no_grad()
    def step():
        v, a, z = (torch.zeros(batch, NEURONS) for _ in range(3))
        y, traces = torch.zeros(batch, 2), [torch.zeros(batch, n) for n in (CHANNELS, NEURONS, NEURONS)]
        eps_a, filtered, grads = ([torch.zeros(batch, n, NEURONS) for n in (CHANNELS, NEURONS)] for _ in range(3))
        grad_out = torch.zeros(batch, NEURONS, 2)
        before = torch.zeros(batch, CHANNELS)
        for t in range(steps):
            v = alpha * (v + before @ w_in + z @ w_rec - V_TH * z)
            a = rho * (a + z)
            argument = v - V_TH - beta * a
            psi = 0.3 / V_TH * (1 - argument.abs() / V_TH).clamp(min=0)
            for k, arrived in enumerate((before, z)):
                traces[k] = alpha * (traces[k] + arrived)
                elig = psi.unsqueeze(1) * (traces[k].unsqueeze(2) - beta * eps_a[k].mul_(rho))
                eps_a[k].add_(elig)
                filtered[k].mul_(kappa).add_(elig)
            z = (argument > 0).float()
            y = kappa * y + z @ w_out
            traces[2] = kappa * traces[2] + z
            if t >= steps - WINDOW:
                error = (y - target) / WINDOW
                signal = (error @ w_out.T).unsqueeze(1)
                for k in (0, 1):
                    grads[k].addcmul_(filtered[k], signal)
                grad_out += traces[2].unsqueeze(2) * error.unsqueeze(1)
            before = x[t]
        for weight, grad in zip((w_in, w_rec, w_out), (*grads, grad_out), strict=True):
            weight.grad = grad.mean(0)
        w_rec.grad.fill_diagonal_(0)
        optimiser.step()

    return per_step(measure(step, repeats=repeats), steps)


def braintrace(batch, steps, threads, repeats):
    from eprop_braintrace import braintrace_step

    step = braintrace_step(*draw(batch, steps), adaptation(), V_TH)
    return per_step(measure(step, repeats=repeats), steps)


CASES = {
    "localplast, Torch, adjoint form": adjoint,
    "localplast, Torch, weights change in every step": online,
    "eager traces by hand, Torch": eager,
    "BrainTrace EProp (JAX)": braintrace,
    "localplast, Brian2 C++": brian2_trial,
    "localplast, Brian2 C++, weights change in every step": brian2_step,
    "Brian2 C++ by hand": brian2_by_hand,
}


def run(case, **options):
    """One case, in a process of its own."""
    return CASES[case](**options)


def agreement(directory):
    """Largest difference between the weight changes of both Brian2 programs, relative to the largest change."""
    files = [Path(directory) / f"{name}.npz" for name in ("generated_trial", "handwritten")]
    if not all(file.exists() for file in files):
        return "one of the Brian2 programs did not run"
    start = problem(1, WINDOW)[1].weights
    both = [{k: a - start[k] for k, a in np.load(file).items()} for file in files]
    worst = max(np.abs(both[0][k] - both[1][k]).max() / np.abs(both[1][k]).max() for k in start)
    return f"Weight changes of the generated and the hand-written Brian2 program differ by {worst:.1e} at most (relative)."


def main(quick=False, count=3):
    """All tables, as Markdown."""
    steps, directory = 450 if quick else 2250, tempfile.mkdtemp(prefix="eprop-")
    options = {"steps": steps, "repeats": 2 if quick else 3}
    names, single = list(CASES), {"batch": 1, "threads": 1, **options}
    batched = [(names[0], 1), (names[0], 2), (names[2], 1)]
    jobs = [{"case": case, "batch": 64, "threads": threads, **options} for case, threads in batched]
    # milliseconds per step: a tenth of the trial tells the same
    jobs += [{"case": names[3], "batch": 64, "threads": 1, "steps": steps // 10, "repeats": 2}]
    jobs += [{"case": case, **single} for case in names[:4]]
    jobs += [{"case": case, "directory": directory, **single} for case in names[4:]]
    try:
        found = rounds(__file__, jobs, count)
        same = agreement(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    rows = []
    for job, f in zip(jobs, found, strict=True):
        cells = [f["error"], "", ""] if "error" in f else [
            span(f["us"]), span(f["cpu"]) if "cpu" in f else "", f"{max(f['build']):.0f}" if "build" in f else "",
        ]
        rows.append([job["case"], job["batch"], job["threads"], *cells])
    header = ["", "batch", "threads", "µs per step", "CPU µs per step", "first build, s"]
    return table(f"e-prop, {steps} steps, {NEURONS} neurons", header, rows) + f"\n{same}\n"


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
