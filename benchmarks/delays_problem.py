"""DelayNet as the delay benchmarks run it: 125 recurrent neurons with axonal delays of 1, 80 or 100 steps, 2250
steps, batch 64.

Every function takes a :class:`Problem` and a number of threads, and returns ``step() -> loss``: forward, backward,
Adam, with weights, both time constants and the threshold learned. In every step: decay, threshold, what arrives, reset.
"""

from dataclasses import dataclass

import numpy as np
from bptt_problem import torch_threads

__all__ = ["Problem", "eager", "jax_scan", "localplast", "localplast_plain"]

RATE, BRANCHING = 1e-3, 1e-3
#: Time constants in steps (ms), threshold.
START = {"tau_mem": 45.0, "tau_out": 45.0, "v_th": 0.5}


@dataclass(frozen=True)
class Problem:
    """Sizes, and how many distinct delays there are: 0 for DelayNet's three, else so many from 1 to 100 steps."""

    steps: int = 2250
    batch: int = 64
    neurons: int = 125
    distinct: int = 0

    def delays(self):
        """Steps, ``(pre,)``."""
        rng = np.random.default_rng(2)
        if not self.distinct:
            return rng.choice([1, 80, 100], self.neurons, p=[0.176, 0.424, 0.4])
        return np.round(np.linspace(1, 100, self.distinct)).astype(int)[np.arange(self.neurons) % self.distinct]

    def weights(self):
        """``(pre, post)``: input, recurrent (spectral radius of its sizes 2), readout."""
        rng, n = np.random.default_rng(0), self.neurons
        square = rng.uniform(-1, 1, (n, n)) * ~np.eye(n, dtype=bool)
        square *= 2 / np.abs(np.linalg.eigvals(np.abs(square))).max()
        return [
            w.astype(np.float32) for w in (rng.uniform(-0.387, 0.387, (40, n)), square, rng.uniform(-0.2, 0.2, (n, 2)))
        ]

    def data(self):
        """Input bool ``(time, trial, channel)`` and labels ``(trial,)``."""
        rng = np.random.default_rng(1)
        return rng.random((self.steps, self.batch, 40), np.float32) < 0.02, rng.integers(0, 2, self.batch)


def learner(problem, threads, plain):
    import torch
    from brian2 import ms

    from localplast import Input, Network, Population, Projection, Trials, adam, axonal
    from localplast.backends.torch.learner import TorchLearner
    from localplast.models import leaky_readout, lif
    from localplast.neuron.surrogate import ramp
    from localplast.rules import bptt
    from localplast.task.loss import branching, cross_entropy

    cues, square, out = problem.weights()
    bounds = (0.1 * ms, 50 * ms)
    rec = Population(
        problem.neurons,
        lif(tau_mem=START["tau_mem"] * ms, v_th=START["v_th"], surrogate=ramp(width=1.0)),
        trainable={"tau_mem": bounds, "v_th": (0.1, 100)},
    )
    net = Network(
        dt=1 * ms,
        cues=Input(40),
        rec=rec,
        out=Population(2, leaky_readout(tau_out=START["tau_out"] * ms), trainable={"tau_out": bounds}),
        projections=[
            Projection("cues", "rec", weight=cues),
            Projection("rec", "rec", weight=square, delay=axonal(problem.delays() * ms), autapses=True),
            Projection("rec", "out", weight=out),
        ],
    )
    spikes, labels = problem.data()
    weight = np.zeros(problem.steps)
    weight[-1] = 1.0
    trials = Trials({"cues": np.ascontiguousarray(spikes.transpose(1, 0, 2))}, labels, weight)
    optimiser = adam(RATE).with_rates(**{"rec.tau_mem": 1e-3, "out.tau_out": 1e-3, "rec.v_th": 1.0})
    made = TorchLearner(
        net,
        net.draw(0),
        bptt(),
        cross_entropy() + branching(BRANCHING),
        optimiser,
        batch=problem.batch,
        dtype=torch.float32,
        threads=threads,
    )
    if plain:
        torch_threads(threads)
        made.forward.kernel = None
    elif made.forward.kernel is None:
        raise RuntimeError("the generated kernel does not run this network")
    return lambda: made.train(trials)[0]["loss"]


def localplast(problem, threads):
    """What a user runs: the generated kernel, bool trials in, weights changed by localplast's own Adam, metrics out."""
    return learner(problem, threads, plain=False)


def localplast_plain(problem, threads):
    """The step in plain Torch that stands in where there is no compiler, and on a GPU."""
    return learner(problem, threads, plain=True)


def eager(problem, threads):
    """A loop over time as the authors' code writes it: one masked matrix per distinct delay, every step a product
    with each.
    """
    torch = torch_threads(threads)
    torch.set_flush_denormal(True)
    weights = [torch.tensor(w, requires_grad=True) for w in problem.weights()]
    numbers = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    delays = torch.as_tensor(problem.delays())
    masks = {d: (delays == d).float()[:, None] for d in sorted(set(delays.tolist()))}
    spikes, labels = problem.data()
    x, labels = torch.as_tensor(spikes).float(), torch.as_tensor(labels)
    optimiser = torch.optim.Adam([*weights, *numbers.values()], RATE)

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x > 0).to(x.dtype)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * (1 + x).clamp(0, 1)

    def forward():
        alpha, kappa = torch.exp(-1 / numbers["tau_mem"]), torch.exp(-1 / numbers["tau_out"])
        grouped = {d: weights[1] * mask for d, mask in masks.items()}
        v, y, past = x.new_zeros(problem.batch, problem.neurons), x.new_zeros(problem.batch, 2), []
        for signal in x.unbind(0):
            v, y = alpha * v, kappa * y
            past.append(Spike.apply(v - numbers["v_th"]))
            v = v + signal @ weights[0] - numbers["v_th"] * past[-1]
            for d, weight in grouped.items():
                if len(past) > d:
                    v = v + past[-1 - d] @ weight
            y = y + past[-1] @ weights[2]
        return y, torch.stack(past).sum(-1)

    def step():
        optimiser.zero_grad()
        y, sums = forward()
        loss = torch.nn.functional.cross_entropy(y, labels) + BRANCHING * (sums[1:] - sums[:-1]).square().mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def jax_scan(problem, threads):
    """The training step as one compiled JAX program: ``lax.scan`` over time, delays as a gather from a ring of
    spikes.
    """
    import jax
    import jax.numpy as jnp
    import optax

    delays, size, neurons = jnp.asarray(problem.delays()), int(problem.delays().max()) + 1, jnp.arange(problem.neurons)
    parameters = {
        "weights": [jnp.asarray(w) for w in problem.weights()],
        **{k: jnp.float32(v) for k, v in START.items()},
    }
    spikes, labels = problem.data()
    x, labels, optimiser = jnp.asarray(spikes, jnp.float32), jnp.asarray(labels), optax.adam(RATE)

    @jax.custom_jvp
    def spike(x):
        return (x > 0).astype(x.dtype)

    spike.defjvp(lambda primals, tangents: (spike(*primals), tangents[0] * jnp.clip(1 + primals[0], 0, 1)))

    def loss(p):
        alpha, kappa, (cues, square, out) = jnp.exp(-1 / p["tau_mem"]), jnp.exp(-1 / p["tau_out"]), p["weights"]

        def one(carry, signal):
            v, y, ring, t = carry
            v, y = alpha * v, kappa * y
            z = spike(v - p["v_th"])
            ring = ring.at[t % size].set(z)
            late = ring[(t - delays) % size, :, neurons].T
            v = v + signal @ cues + late @ square - p["v_th"] * z
            return (v, y + z @ out, ring, t + 1), z.sum(-1)

        start = (
            jnp.zeros((problem.batch, problem.neurons)),
            jnp.zeros((problem.batch, 2)),
            jnp.zeros((size, problem.batch, problem.neurons)),
            0,
        )
        (_, y, _, _), sums = jax.lax.scan(one, start, x)
        counted = optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()
        return counted + BRANCHING * jnp.square(sums[1:] - sums[:-1]).mean()

    @jax.jit
    def update(p, state):
        value, grads = jax.value_and_grad(loss)(p)
        change, state = optimiser.update(grads, state)
        return value, optax.apply_updates(p, change), state

    kept = [parameters, optimiser.init(parameters)]

    def step():
        value, *kept[:] = update(*kept)
        return float(value)

    return step
