"""What the oracles of layered rules share: a stack of layers written out in plain Torch, and how gradients are
compared.

Nothing of localplast computes here, except the numbers (weights, delays) that a network draws.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.brian2 import learner as brian2_backend
from localplast.backends.torch import gradient as torch_backend
from localplast.models import alif, leaky_readout
from localplast.network import Input, Network, Population, Projection, axonal, normal
from localplast.task import Trials
from localplast.task.loss import mse

N_IN, SIZES, N_OUT, TRIALS, TAU_REF = 6, {"low": 7, "top": 5}, 3, 2, 2
BETA = {"low": np.array([0, 0, 0, 0.8, 1.2, 0.6, 1.5]), "top": np.array([0, 0, 0.5, 1.0, 0.7])}  # LIF beside ALIF
START = {name: np.linspace(0.3, 1.6, n) for name, n in SIZES.items()}
ALPHA, RHO, KAPPA = np.exp(-1 / 20), np.exp(-1 / 60), np.exp(-1 / 15)


def stack(*, skip=False, loop=False, delay=0, readout=None, fixed=(), surrogate=None):
    """cues -> low -> top -> out; ``skip``: low -> out too; ``loop``: low -> low; ``fixed``: projections that do not
    learn.
    """
    neuron = alif(tau_adapt=60 * ms, tau_ref=TAU_REF * ms, surrogate=surrogate)
    made = {n: Population(k, neuron, {"beta": BETA[n]}, {"v": START[n]}) for n, k in SIZES.items()}
    path = axonal(delay * ms) if delay else None
    links = [
        Projection("cues", "low", weight=normal(1.2, mean=0.35)),
        Projection("low", "top", weight=normal(1.6, mean=0.25), delay=path, plastic="low_top" not in fixed),
        Projection("top", "out", weight=normal(2.0)),
    ]
    if skip:
        links.append(Projection("low", "out", weight=normal(2.0)))
    if loop:
        links.append(Projection("low", "low", weight=normal(1.0)))
    return Network(
        dt=1 * ms,
        cues=Input(N_IN),
        **made,
        out=Population(N_OUT, readout or leaky_readout(tau_out=15 * ms)),
        projections=links,
    )


def trials(steps=50, count=TRIALS):
    rng = np.random.default_rng([7, steps])
    target = rng.standard_normal((count, steps, N_OUT))
    return Trials({"cues": rng.random((count, steps, N_IN)) < 0.4}, target, weight=rng.uniform(0.2, 1.0, steps))


class Stack:
    """The network of :func:`stack`, with ``detach()`` where an edge is cut.

    ``cut`` names edges by layer: ``'leak top'`` (a state and what it was before this step's spikes arrived),
    ``'reset low'``, ``'adaptation low'``, ``'memory'`` (of the readout), ``'loop'``, and projections. ``feedback``
    ``{projection: (pre, post)}`` stands in for weights in the backward pass to the spikes. ``psi`` is the surrogate.
    """

    def __init__(self, net, values, given, *, cut=(), feedback=None, psi=None):
        self.psi = psi or (lambda x: 0.3 * torch.clamp(1 - x.abs(), min=0))
        self.w = {k: torch.tensor(w, requires_grad=True) for k, w in values.weights.items()}
        self.cut, self.feedback = set(cut), {k: torch.tensor(b) for k, b in (feedback or {}).items()}
        self.delay = int(values.delays.get("low_top", 0))
        self.target, self.weight = torch.tensor(given.target), torch.tensor(given.weight)
        self.run(torch.tensor(given.inputs["cues"]).double())

    def seen(self, edge, x):
        return x.detach() if edge in self.cut else x

    def through(self, name, z):
        """What the projection ``name`` delivers."""
        z = self.seen(name, z)
        if name not in self.feedback:
            return z @ self.w[name]
        return z.detach() @ self.w[name] + (z - z.detach()) @ self.feedback[name]

    def run(self, x):
        v = {n: torch.tensor(START[n]).expand(len(x), -1) for n in SIZES}
        a = {n: torch.zeros(len(x), k) for n, k in SIZES.items()}
        silent, y = {n: torch.zeros(len(x), k) for n, k in SIZES.items()}, torch.zeros(len(x), N_OUT)
        self.z, outputs = {n: [] for n in SIZES}, []
        for t in range(x.shape[1]):
            for n in SIZES:
                v[n], a[n] = ALPHA * v[n], RHO * a[n]
                argument = v[n] - 1 - torch.tensor(BETA[n]) * a[n]
                ready = (silent[n] <= 0).double()
                psi = self.psi(argument.detach()) * ready
                hard = (argument.detach() > 0).double() * ready
                self.z[n].append(hard + psi * (argument - argument.detach()))
                silent[n] = torch.where(hard > 0, float(TAU_REF), silent[n]) - 1
                v[n], a[n] = self.seen(f"leak {n}", v[n]), self.seen(f"leak {n}", a[n])
            low, top = (self.z[n][-1] for n in SIZES)
            v["low"] = v["low"] + x[:, t] @ self.w["cues_low"]
            if "low_low" in self.w:
                v["low"] = v["low"] + self.seen("loop", low) @ self.w["low_low"]
            if t >= self.delay:
                v["top"] = v["top"] + self.through("low_top", self.z["low"][t - self.delay])
            y = self.seen("memory", KAPPA * y) + self.through("top_out", top)
            if "low_out" in self.w:
                y = y + self.through("low_out", low)
            outputs.append(y)
            for n in SIZES:
                v[n] = v[n] - self.seen(f"reset {n}", self.z[n][-1])
                a[n] = a[n] + self.seen(f"adaptation {n}", self.z[n][-1])
        self.y = torch.stack(outputs, 1)

    def loss(self):
        return 0.5 * (self.weight[:, None] * (self.y - self.target) ** 2).sum((1, 2)).mean()

    def errors(self):
        """dE/dy ``(trial, time, readout)``, as numbers."""
        return (self.weight[:, None] * (self.y - self.target)).detach()

    def spikes(self, name):
        """``(trial, time, neuron)``, alive in the graph."""
        return torch.stack(self.z[name], 1)

    def gradient(self, name, loss=None):
        """Of ``loss`` with respect to the weights ``name``; zero where nothing connects them."""
        loss = self.loss() if loss is None else loss
        found = torch.autograd.grad(loss, self.w[name], retain_graph=True, allow_unused=True)[0]
        found = torch.zeros_like(self.w[name]) if found is None else found
        return (found * (1 - torch.eye(len(found))) if name == "low_low" else found).numpy()

    def alive(self):
        """Raise unless every layer spikes, in bursts as fast as it can, without being saturated."""
        for n in SIZES:
            spikes = self.spikes(n).detach().numpy()
            assert 0.03 < spikes.mean() < 0.9 / TAU_REF, f"{n}: {spikes.mean():.3f} spikes per neuron and step"
            assert min(np.diff(np.flatnonzero(row)).min(initial=99) for trial in spikes for row in trial.T) == TAU_REF
        return self


def error(found, expected):
    """The largest difference over the largest value; silence compared with silence is an error of the test."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    if not np.isfinite(scale) or scale < 1e-12:
        raise ValueError("nothing to compare: the expected gradient is zero")
    return np.abs(found - expected).max() / scale


def estimates(net, values, given, rule, loss=None, *, seed=0):
    """``(where, tolerance, gradients by projection)`` of a local rule as it runs forward in time, on both backends."""
    loss = loss or mse()
    traces, _ = torch_backend.gradient(net, values, given, rule, loss, form="traces", seed=seed)
    online, _ = brian2_backend.gradient(net, values, given, rule, loss, target="numpy", seed=seed)
    for where, tolerance, grads in (("torch", 1e-10, traces), ("brian2", 1e-8, online)):
        yield where, tolerance, {k.removesuffix(".weight"): g for k, g in grads.items()}


def autograd(net, values, given, rule, loss=None, *, seed=0):
    """Gradients by localplast's own automatic differentiation, by projection."""
    grads, _ = torch_backend.gradient(net, values, given, rule, loss or mse(), seed=seed)
    return {k.removesuffix(".weight"): g for k, g in grads.items()}


def equal(net, values, given, rule, expected, loss=None, *, seed=0):
    """Raise unless ``rule`` gives the ``expected`` gradients on both backends; returns those found, by backend."""
    found = {}
    for where, tolerance, grads in estimates(net, values, given, rule, loss, seed=seed):
        for name, array in expected.items():
            assert error(grads[name], array) < tolerance, (where, name, error(grads[name], array))
        found[where] = grads
    return found


@pytest.fixture(scope="session")
def layered():
    """The functions of this file, for the oracles."""
    return SimpleNamespace(
        Stack=Stack,
        stack=stack,
        trials=trials,
        error=error,
        estimates=estimates,
        autograd=autograd,
        equal=equal,
        sizes=SIZES,
    )


# --- latent equilibrium, written out ----------------------------------------------------------------------------------

#: Rates and their slopes, by name.
PHI = {
    "linear": (lambda u: u, np.ones_like),
    "tanh": (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
    "logistic": (lambda u: 1 / (1 + np.exp(-u)), lambda u: np.exp(-u) / (1 + np.exp(-u)) ** 2),
    "hard_sigmoid": (lambda u: np.clip(u, 0, 1), lambda u: 1.0 * ((u > 0) & (u < 1))),
    "softplus": (lambda u: np.log1p(np.exp(u)), lambda u: 1 / (1 + np.exp(-u))),
    "relu": (lambda u: np.maximum(u, 0), lambda u: 1.0 * (u > 0)),
}


def equilibrium(
    weights, given, *, activation="tanh", beta=0.1, feedback="symmetric", rates=None, decay=0.0, biases=None, late=0, mixed=False,
    error=None,
):  # fmt: skip
    """Latent equilibrium in plain numpy, of the first trial, learning in every step; linear outputs.

    A step: what left at the end of the last one arrives, ``I = W r`` and ``W^T delta`` (unless ``feedback`` is
    symmetric, ``down delta``, of the layer above or, if it is direct, of the output); then
    ``delta = phi'(u_breve_old) * feedback``, ``u_breve = I + b + delta``; then weights and biases move by ``rates``
    times the product of ``delta`` and the rate that made ``I``. ``late``: steps that rates take on top. ``mixed``:
    errors are ``u_breve - I - b`` with the two of different steps. ``error``: stands in for ``target - answer``.

    Returns the learned ``weights`` and, per layer, ``u_breve`` and ``delta`` ``(time, neuron)``.
    """
    w = {k: v.copy() for k, v in weights.items() if k[:2] in ("up", "do")}
    depth = sum(k.startswith("up") for k in w)
    sizes, moving = [w[f"up{k + 1}"].shape[1] for k in range(depth)], rates or {}
    phi, slope = zip(*([PHI[activation]] * (depth - 1) + [PHI["linear"]]), strict=True)
    b = [np.array((biases or {}).get(k, np.zeros(n))) for k, n in enumerate(sizes)]
    u_breve, delta, sent = [x.copy() for x in b], [np.zeros(n) for n in sizes], [np.zeros(n) for n in sizes]
    emitted = [[f(u)] * (late + 1) for f, u in zip(phi, u_breve, strict=True)]
    kept = {"u_breve": [[] for _ in sizes], "delta": [[] for _ in sizes]}
    for t in range(given.steps):
        pre = [given.inputs["sense"][0, t], *(r[-1 - late] for r in emitted)]
        current = [pre[k] @ w[f"up{k + 1}"] for k in range(depth)]
        wanted = given.inputs["target"][0, t] - phi[-1](u_breve[-1]) if error is None else error[t]
        back = [w[f"up{k + 2}"].T if feedback == "symmetric" else w[f"down{k + 1}"] for k in range(depth - 1)]
        heard = [sent[-1 if feedback == "direct" else k + 1] @ matrix for k, matrix in enumerate(back)]
        heard.append(beta * given.inputs["teach"][0, t] * wanted)
        past, delta = u_breve, [slope[k](u_breve[k]) * heard[k] for k in range(depth)]
        u_breve = [current[k] + b[k] + delta[k] for k in range(depth)]
        sent = [past[k] - current[k] - b[k] for k in range(depth)] if mixed else delta
        for k in range(depth):
            change(w, f"up{k + 1}", np.outer(pre[k], delta[k]), moving, decay)
            kept["u_breve"][k].append(u_breve[k])
            kept["delta"][k].append(delta[k])
            b[k] = b[k] + moving.get(f"b{k + 1}", 0.0) * delta[k]
            u_breve[k] = current[k] + b[k] + delta[k]  # what leaves next is of the end of this step, learning included
            emitted[k].append(phi[k](u_breve[k]))
        for k in range(depth - 1):
            change(w, f"down{k + 1}", np.outer(delta[k + 1], phi[k](past[k])), moving, decay)
    return {**w, **{f"b{k + 1}": x for k, x in enumerate(b)}}, {n: [np.array(x) for x in kept[n]] for n in kept}


def change(w, name, product, rates, decay):
    """One update of one matrix, in place of what it was."""
    if name in rates:
        w[name] = (1 - decay) * w[name] + rates[name] * product


@pytest.fixture(scope="session")
def by_hand():
    """:func:`equilibrium`, for the oracles."""
    return equilibrium
