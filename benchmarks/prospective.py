"""Latent equilibrium and its generalisation: generated C beside backprop in Torch, and beside the matrix products
alone.

Float32, learning included. A step of latent equilibrium needs the products that a pass of backprop needs: forward,
errors back, and what each weight learns.
"""

import statistics
import sys
import threading
import time
from itertools import pairwise

import numpy as np
from timing import case_main, memory, reset_peak, rounds, span, table

#: Haider et al. 2021: 784-300-100-10; images side by side, steps for which each is shown, images in one stream.
SIZES, IMAGES, SHOWN = (784, 300, 100, 10), 128, 10
#: Ellenberger et al. 2024: MNIST-1D, 4000 digits of 360 steps, 100 at a time.
DIGITS, BATCHES, STEPS = 100, 40, 360
#: Lengths of a stream.
LENGTHS = (100, 1000, 10_000)


def learner_of(net, rule, optimiser, batch, threads, *, plain=False, loss=None):
    """A learner; the ``plain`` one runs the step of which the kernel is the fast form."""
    import torch

    from localplast.backends.torch.learner import TorchLearner
    from localplast.backends.torch.online import OnlineLearner
    from localplast.program.learn import plan
    from localplast.task.loss import mse

    values = net.draw(0)
    learner = TorchLearner(
        net, values, rule, loss or mse(), optimiser, batch=batch, dtype=torch.float32, threads=threads
    )
    if plain:  # it is made anew where parameters change
        learner.online_learner = lambda learned: OnlineLearner(net, learned, learner.tensors, values.masks, optimiser)
        learner.online = learner.online_learner(plan(net, rule, learner.loss))
    return learner


# --- images, one after the other --------------------------------------------------------------------------------------


def stream_problem(images, batch, shown=SHOWN):
    """The network of the protocol ``latent-equilibrium``, streams of random images, the optimiser."""
    from localplast import sgd
    from localplast.models.layers import classes
    from localplast.protocols.latent_equilibrium import network

    net, rng = network(SIZES), np.random.default_rng(0)
    pixels = rng.random((batch, images, SIZES[0]), np.float32) * (rng.random((batch, images, SIZES[0])) < 0.2)
    trials = classes(pixels, rng.integers(0, 10, (batch, images)), steps=shown, outputs=SIZES[-1])
    return net, trials, sgd(1e-3).with_rates(**{name: 1.0 for name in net.trainable})


def le_case(batch, threads, repeats, *, plain=False):
    """Microseconds per image and step."""
    from localplast.rules import dendritic

    images = max(1, 8 // batch) if plain else max(2, 256 // batch)  # a call has costs of its own
    net, trials, optimiser = stream_problem(images, batch)
    learner = learner_of(net, dendritic(), optimiser, batch, threads, plain=plain)
    return timed(lambda: learner.train(trials), batch * trials.steps, repeats)


def plain_le_case(**options):
    return le_case(**options, plain=True)


def backprop_case(batch, threads, repeats):
    """The same layers, squared error and gradient descent, as Torch users write them; microseconds per image."""
    import torch

    torch.set_num_threads(threads)
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(SIZES)]
    x, y = torch.rand(batch, SIZES[0]), torch.nn.functional.one_hot(torch.arange(batch) % 10, 10).float()
    optimiser = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=1e-3)

    def step():
        rate = x
        for layer in layers[:-1]:
            rate = layer(rate).clamp(0, 1)
        optimiser.zero_grad()
        (0.5 * (layers[-1](rate) - y).square().sum(1)).mean().backward()
        optimiser.step()

    return timed(lambda: [step() for _ in range(20)], 20 * batch, repeats)


def floor_case(batch, threads, repeats, sizes=SIZES):
    """The products of one step alone, results written over each other; the batch is split between threads."""
    import torch

    live = -(-batch // threads)

    def operands():
        rates = [torch.rand(live, n) for n in sizes]
        weights = [torch.rand(a, b) for a, b in pairwise(sizes)]
        return rates, weights, [torch.empty_like(r) for r in rates], [torch.empty_like(w) for w in weights]

    each = [operands() for _ in range(threads)]

    def products(rates, weights, new, gradients):
        torch.set_num_threads(1)  # of each thread
        for _ in range(50):
            for k, w in enumerate(weights):
                torch.mm(rates[k], w, out=new[k + 1])
                if k:
                    torch.mm(rates[k + 1], w.T, out=new[k])
                torch.mm(rates[k].T, rates[k + 1], out=gradients[k])

    def work():
        others = [threading.Thread(target=products, args=each[n]) for n in range(1, threads)]
        for thread in others:
            thread.start()
        products(*each[0])
        for thread in others:
            thread.join()

    return timed(work, 50 * batch, repeats)


def timed(call, count, repeats):
    """Microseconds per one of ``count``, of wall and of processor time."""
    call()
    found = {"us": [], "cpu": []}
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found["us"].append(1e6 * (time.perf_counter() - wall) / count)
        found["cpu"].append(1e6 * (time.process_time() - cpu) / count)
    return found


# --- MNIST-1D ---------------------------------------------------------------------------------------------------------


def digits_case(update, threads, repeats, *, plain=False, steps=STEPS):
    """Microseconds per digit and step, of the network of the protocol ``gle-mnist1d``."""
    from localplast import adam
    from localplast.protocols.gle_mnist1d import network, signals
    from localplast.rules import bptt, dendritic
    from localplast.task.loss import cross_entropy

    rule, net, rng = bptt() if update == "bptt" else dendritic(update=update), network(), np.random.default_rng(0)
    trials = signals(rng.normal(size=(DIGITS, 1, steps)), rng.integers(0, 10, (DIGITS, 1)))
    optimiser = adam(1e-3).with_rates(**{name: 1.0 for name in net.trainable})
    learner = learner_of(net, rule, optimiser, DIGITS, threads, plain=plain, loss=cross_entropy())
    return timed(lambda: learner.train(trials), DIGITS * steps, repeats)


def plain_digits_case(**options):
    return digits_case(**options, plain=True, steps=STEPS // 10)


def floor_digits_case(update, threads, repeats):
    return floor_case(DIGITS, threads, repeats, sizes=(1, *[53] * 6, 10))


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_case(steps, form, threads=1):
    """By how many MB the peak grows while one stream is learned, and what the stream itself takes."""
    from localplast.rules import bptt, dendritic

    net, _, optimiser = stream_problem(1, 1)
    trials = stream_problem(steps // SHOWN, 1)[1]
    learner = learner_of(net, bptt() if form == BPTT else dendritic(), optimiser, 1, threads)
    learner.train(stream_problem(1, 1)[1])  # compiler and libraries
    reset_peak()
    before = memory()
    learner.train(trials)
    return {"growth": memory("VmHWM") - before}


# --- all of them ------------------------------------------------------------------------------------------------------

KERNEL, PLAIN = "localplast, generated C", "localplast, plain Torch"
FLOOR, BACKPROP = "matrix products alone", "backprop by hand, Torch"
BPTT = "localplast, BPTT, generated C"
STREAM = {KERNEL: le_case, PLAIN: plain_le_case, BACKPROP: backprop_case, FLOOR: floor_case}
MNIST1D = {KERNEL: digits_case, PLAIN: plain_digits_case, BPTT: digits_case, FLOOR: floor_digits_case}


def run(table, case, **options):
    """One case, in a process of its own."""
    return {"stream": STREAM, "digits": MNIST1D, "memory": {case: memory_case}}[table][case](**options)


def main(quick=False, count=3):
    """The tables, as Markdown."""
    return "\n".join([streams(quick, count), epochs(quick, count), growth(quick)])


def streams(quick, count):
    repeats = 2 if quick else 5
    jobs = [
        {"table": "stream", "case": case, "batch": batch, "threads": threads, "repeats": repeats}
        for batch, threads in ((IMAGES, 1), (IMAGES, 2), (1, 1))
        for case in STREAM
    ]
    found = rounds(__file__, jobs, count)
    floors = {(j["batch"], j["threads"]): f for j, f in zip(jobs, found, strict=True) if j["case"] == FLOOR}
    rows = []
    for job, f in zip(jobs, found, strict=True):
        batch, threads, steps = job["batch"], job["threads"], SHOWN if job["case"] in (KERNEL, PLAIN) else 1
        measured = cells(f, floors[batch, threads], threads, lambda us, n=steps: f"{1e6 / us / n:.0f}")
        rows.append([job["case"], batch, threads, *measured])
    header = ["", "side by side", "threads", "µs per image and step", "CPU µs", "products = 1", "images per s"]
    layers = "-".join(map(str, SIZES))
    title = f"Latent equilibrium {layers}, every image for {SHOWN} steps, weights change in each; backprop: one pass"
    return table(title, header, rows)


def epochs(quick, count):
    repeats, jobs = 1 if quick else 3, []
    for case, update, threads in (
        (KERNEL, "trial", 1),
        (KERNEL, "trial", 2),
        (KERNEL, "step", 1),
        (PLAIN, "trial", 1),
        (BPTT, "bptt", 1),
        (FLOOR, "", 1),
        (FLOOR, "", 2),
    ):
        jobs.append({"table": "digits", "case": case, "update": update, "threads": threads, "repeats": repeats})
    found = rounds(__file__, jobs, count)
    floors = {j["threads"]: f for j, f in zip(jobs, found, strict=True) if j["case"] == FLOOR}
    rows = []
    for job, f in zip(jobs, found, strict=True):
        when = {"trial": f"after {DIGITS} digits", "step": "every step", "bptt": f"after {DIGITS} digits", "": ""}[
            job["update"]
        ]
        epoch = cells(
            f, floors[job["threads"]], job["threads"], lambda us: f"{us * 1e-6 * DIGITS * BATCHES * STEPS:.3g}"
        )
        rows.append([job["case"], when, job["threads"], *epoch])
    header = ["", "weights change", "threads", "µs per digit and step", "CPU µs", "products = 1", "s per epoch"]
    return table(f"GLE on MNIST-1D, 15,000 parameters, {DIGITS} digits side by side", header, rows)


def cells(f, floor, threads, last):
    """Times, their ratio to that of the products (CPU time with one thread, else wall time), what ``last`` makes of
    the median.
    """
    if "error" in f or "error" in floor:
        return [f.get("error", ""), "", "", ""]
    clock = "cpu" if threads == 1 else "us"
    ratio = statistics.median(f[clock]) / statistics.median(floor[clock])
    return [span(f["us"]), span(f["cpu"]), f"{ratio:.2f}", last(statistics.median(f["us"]))]


def growth(quick):
    lengths = [n // (10 if quick else 1) for n in LENGTHS]
    jobs = [{"table": "memory", "case": case, "form": case, "steps": n} for case in (KERNEL, BPTT) for n in lengths]
    found = dict(zip([(j["case"], j["steps"]) for j in jobs], rounds(__file__, jobs, 1), strict=True))
    rows = []
    for case in (KERNEL, BPTT):
        rows.append([case, *(found[case, n].get("error") or f"{found[case, n]['growth'][0]:.1f}" for n in lengths)])
    rows.append(["the stream, as numbers", *(f"{n * (SIZES[0] + 3 * SIZES[-1] + 1) * 4 / 2**20:.1f}" for n in lengths)])
    return table("Peak memory, MB, over the length of one stream", ["", *(f"{n} steps" for n in lengths)], rows)


if __name__ == "__main__":
    case_main(run) if len(sys.argv) == 2 and sys.argv[1].startswith("{") else sys.exit(__doc__ + "\nSee run.py.")
