"""SuperSpike against autograd of the van Rossum distance, on a network written out by hand.

Output layer: with the filter a linear, ``dL/dw = sum_t (a*(S - S*))(t) (a * dS/dw)(t)`` and
``dS/dw = psi (P - what resets do)``; without the last term, the rule's double-filtered ``psi P`` (facts 14.3). Hidden
layer: the twin loss ``sum_t <a*(B sg(S - S*)), a*S_hidden>`` holds the output neurons as they are.

Published (Zenke & Ganguli 2018, Neural Comput 30:1514; code of the authors): P belongs to the presynaptic neuron, so
neither reset nor refractoriness touch it, and psi is read off the membrane whatever the neuron does.
"""

import numpy as np
import pytest
import torch
from brian2 import ms, mV

import localplast as lp
from localplast.backends.torch import gradient as torch_backend
from localplast.models import superspike_lif, van_rossum_readout
from localplast.network import Input, Network, Population, Projection
from localplast.program.learn import plan
from localplast.rules import superspike
from localplast.task import Trials
from localplast.task.loss import mse

N_IN, N_HID, N_OUT, STEPS, DT = 8, 6, 4, 200, 0.5e-3
TAU_MEM, TAU_SYN, RISE, DECAY, TAU_REF, REST, TH, BETA = 10e-3, 5e-3, 5e-3, 10e-3, 5e-3, -60e-3, -50e-3, 1e3
SILENT = 2  # a channel of the input that never spikes


def network(hidden=True):
    rng = np.random.default_rng(1)
    neuron, source = superspike_lif(), "hid" if hidden else "cues"
    size = N_HID if hidden else N_IN
    layers = {"hid": Population(N_HID, neuron)} if hidden else {}
    links = [
        Projection(source, "spk", weight=rng.normal(12, 9, (size, N_OUT)) * mV),
        Projection("spk", "judge", weight=np.eye(N_OUT), plastic=False),
        Projection("wish", "judge", weight=-np.eye(N_OUT), plastic=False),
    ]  # fmt: skip
    if hidden:
        links.insert(0, Projection("cues", "hid", weight=rng.normal(10, 8, (N_IN, N_HID)) * mV))
    return Network(
        dt=DT * 1000 * ms, cues=Input(N_IN), wish=Input(N_OUT), **layers, spk=Population(N_OUT, neuron),
        judge=Population(N_OUT, van_rossum_readout()), projections=links,
    )  # fmt: skip


def trials(steps=STEPS):
    rng = np.random.default_rng(3)
    cues = rng.random((2, steps, N_IN)) < 0.06
    cues[..., SILENT] = False
    wish = rng.random((2, steps, N_OUT)) < 0.02
    return Trials({"cues": cues, "wish": wish}, np.zeros((2, steps, N_OUT)), np.full(steps, DT))


class Layer:
    """Neurons of the published code; ``reset``: what their spikes do to their own membrane stays in the graph."""

    def __init__(self, shape, reset=False):
        self.reset = reset
        self.v, self.u, self.current = *torch.full((2, *shape), REST, dtype=torch.float64), torch.zeros(shape)
        self.since = torch.full(shape, 10**6)

    def fire(self):
        """One step up to the threshold: ``u`` is the potential that no spike ever reset, in the graph; ``v`` the true
        one.
        """
        self.since = self.since + 1
        ready = (self.since >= round(TAU_REF / DT)).double()
        self.v = self.v + ready * DT / TAU_MEM * (REST - self.v + self.current)
        self.u = self.u + DT / TAU_MEM * (REST - self.u + self.current)
        self.current = np.exp(-DT / TAU_SYN) * self.current
        seen = self.v if self.reset else self.v.detach() + self.u - self.u.detach()
        psi = BETA / (1 + BETA * (self.v.detach() - TH).abs()) ** 2
        hard = (self.v.detach() > TH).double() * ready
        self.z = hard + psi * (seen - seen.detach())
        self.since = torch.where(hard > 0, 0, self.since)
        return self.z

    def receive(self, arrived):
        self.current = self.current + arrived
        z = self.z if self.reset else self.z.detach()
        self.v = self.v * (1 - z) + REST * z


def double(signal):
    """``a * signal`` along the second axis, as the judge computes it (exact solution of its two equations)."""
    rise, decay = np.exp(-DT / RISE), np.exp(-DT / DECAY)
    gain = RISE / (DECAY - RISE) * (decay - rise)
    first, second, found = torch.zeros_like(signal[:, 0]), torch.zeros_like(signal[:, 0]), []
    for t in range(signal.shape[1]):
        second, first = decay * second + gain * first, rise * first
        first = first + signal[:, t]
        found.append(second)
    return torch.stack(found, 1)


class Written:
    def __init__(self, net, given, *, reset=False):
        self.w = {k: torch.tensor(w, requires_grad=True) for k, w in net.draw(0).weights.items() if "judge" not in k}
        cues, self.wish = (torch.tensor(given.inputs[k]).double() for k in ("cues", "wish"))
        names = [k for k in ("cues_hid", "hid_spk", "cues_spk") if k in self.w]
        layers = [Layer((len(cues), self.w[k].shape[1]), reset) for k in names]
        raster = [[] for _ in names]
        for t in range(cues.shape[1]):
            z = [layer.fire() for layer in layers]
            for layer, name, arriving, kept, spikes in zip(layers, names, [cues[:, t], *z], raster, z, strict=False):
                layer.receive(arriving @ self.w[name])
                kept.append(spikes)
        self.layers = [torch.stack(r, 1) for r in raster]

    def alive(self):
        for spikes in self.layers:
            spikes = spikes.detach().numpy()
            gaps = [np.diff(np.flatnonzero(row)) for trial in spikes for row in trial.T]
            assert (
                0.003 < spikes.mean() < 0.8 * DT / TAU_REF
                and min(g.min(initial=999) for g in gaps) <= 1.5 * TAU_REF / DT
            ), spikes.mean()
        return self

    def distance(self):
        """``1/2 int (a*(S - S*))**2 dt``, mean over trials."""
        return 0.5 * DT * (double(self.layers[-1] - self.wish) ** 2).sum((1, 2)).mean()

    def hidden(self, matrix):
        """The twin loss of the hidden layer; ``matrix`` ``(hidden, output)``."""
        heard = double((self.layers[1] - self.wish).detach() @ torch.tensor(matrix).T)
        return DT * (heard * double(self.layers[0])).sum((1, 2)).mean()

    def gradient(self, loss, name):
        return torch.autograd.grad(loss, self.w[name], retain_graph=True)[0].numpy()


@pytest.mark.sampled(6)
@pytest.mark.parametrize("hidden", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("feedback", ["symmetric", "random", "uniform"])
def test_output_layer(hidden, feedback, layered):
    """T1: the update without RMaxProp is minus autograd of the distance, whatever the hidden layer hears."""
    net, given = network(hidden), trials()
    written = Written(net, given).alive()
    name = "hid_spk" if hidden else "cues_spk"
    expected = written.gradient(written.distance(), name)
    layered.equal(net, net.draw(0), given, superspike(feedback=feedback), {name: expected})
    _, info = torch_backend.gradient(net, net.draw(0), given, superspike(), mse())
    assert info["loss"] == pytest.approx(float(written.distance()), rel=1e-12)


def matrix_of(kind, net):
    if kind == "symmetric":
        return net.draw(0).weights["hid_spk"]
    if kind == "uniform":
        return np.full((N_HID, N_OUT), 0.5)
    return plan(net, superspike(feedback=kind, feedback_std=0.5), mse()).fixed["hid", "judge"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["symmetric", "random", "uniform"])
def test_hidden_layer(kind, layered):
    """T2."""
    net, given = network(), trials()
    written, matrix = Written(net, given).alive(), matrix_of(kind, net)
    expected = written.gradient(written.hidden(matrix), "cues_hid")
    layered.equal(net, net.draw(0), given, superspike(feedback=kind, feedback_std=0.5), {"cues_hid": expected})
    if kind == "random":
        assert 0.3 < matrix.std() < 0.7 and len(np.unique(matrix)) == matrix.size
        layered.equal(net, net.draw(0), given, superspike(feedback={"hid": matrix}), {"cues_hid": expected})
    other = written.gradient(
        written.hidden(matrix_of("uniform" if kind == "symmetric" else "symmetric", net)), "cues_hid"
    )
    assert layered.error(expected, other * np.abs(expected).max() / np.abs(other).max()) > 0.1


def test_the_reset_makes_a_difference(layered):
    """T3: and so does the way through the output neurons."""
    net, given = network(), trials()
    with_reset, without = Written(net, given, reset=True), Written(net, given)
    for where, _, grads in layered.estimates(net, net.draw(0), given, superspike()):
        assert layered.error(grads["hid_spk"], with_reset.gradient(with_reset.distance(), "hid_spk")) > 0.05, where
        assert layered.error(grads["cues_hid"], without.gradient(without.distance(), "cues_hid")) > 0.05, where


def test_a_silent_synapse_keeps_its_weight():
    """T5: exactly, on both backends, while its neighbours move."""
    net, given = network(), trials()
    task = lp.Task("same", lambda update, batch, seed: given[update % 2], lambda n, seed: given[:n])
    for backend in ("torch", "brian2"):
        fit = lp.run(
            net, task, rule=superspike(), optimiser=lp.rmaxprop(1e-4, decay=0.98), loss=mse(), backend=backend, updates=3,
            target="numpy",
        )  # fmt: skip
        before, after = net.draw(0).weights["cues_hid"], fit["cues_hid"]["weight"].values
        after = after.reshape(-1, *before.shape)[-1]
        assert np.array_equal(after[SILENT], before[SILENT])
        assert (np.delete(after != before, SILENT, 0)).mean() > 0.5, backend
