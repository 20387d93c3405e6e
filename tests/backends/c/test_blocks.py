"""The kernel made of a step program: every kind of network, against the plain step and its automatic differentiation."""

import dataclasses

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast.models
from localplast.backends.c import compile as kernel_build
from localplast.backends.c import function as functions
from localplast.backends.c.call import Kernel
from localplast.backends.c.function import NetworkFunction
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.models import alif, graded_readout, leaky_readout, lif
from localplast.network import (
    Input,
    Network,
    Population,
    Projection,
    axonal,
    convolution,
    dendritic,
    max_pooling,
    normal,
    pooling,
    synaptic,
    transposed,
)
from localplast.network.delays import gaussian, triangle
from localplast.network.short_term import depression, facilitation
from localplast.neuron import NeuronModel
from localplast.neuron.step import lower
from localplast.neuron.surrogate import triangle as surrogate
from localplast.program.arrays import at
from localplast.program.instructions import Fire, Jump, Map, Outer, Send, writes
from localplast.protocols.gle_mnist1d import network as prospective
from localplast.protocols.latent_equilibrium_cnn import network as pixels
from localplast.protocols.microcircuit_yin_yang import network as microcircuit

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

STEPS, TRIALS = 40, 3


def inputs(net, share=0.2):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(STEPS, TRIALS, node.size, generator=generator) < share
        if node.kind == "spikes"
        else torch.randn(STEPS, TRIALS, node.size, generator=generator, dtype=torch.float64)
        for name, node in net.inputs.items()
    }


def apart(net, record=(), learned=(), *, given=None, dtype=torch.float64, threads=1, **options):
    """The largest differences of kernel and plain step: of what is seen, and of gradients over their norm."""
    values, wanted = net.draw(0), [f"{n}.weight" for n in net.projections if n not in net.tied] + list(learned)
    tensors, given = leaves(net, values, dtype=dtype, trainable=wanted), given or inputs(net)
    spiking = [n for n, p in net.populations.items() if p.model.spiking]
    seen = [*(f"{n}.output" for n in net.readouts), *record]
    plain = simulate(Twin(net, tensors, values.masks, **options), given, [*seen, *(f"{n}.spikes" for n in spiking)], 0)
    wanting = {n: plain[n] for n in seen}
    for n in spiking:
        wanting |= {f"{n}.count": plain[f"{n}.spikes"].sum(0), f"{n}.sum": plain[f"{n}.spikes"].sum(-1)}
    function = NetworkFunction(
        net, tensors, values.masks, record=[*record, *(f"{n}.sum" for n in spiking)], threads=threads, **options
    )
    found = function({n: tensors[f"{n}.weight"] for n in net.projections}, given, {n: tensors[n] for n in learned})
    assert all(torch.equal(found[n], wanting[n]) for n in wanting if n.endswith(("count", "sum"))), "spikes"
    pull = {n: torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape).cos() for n, x in wanting.items()}
    pairs = [
        torch.autograd.grad(
            sum((results[n] * pull[n]).sum() for n in pull), [tensors[n] for n in wanted], allow_unused=True
        )
        for results in (found, wanting)
    ]
    alive = [(a, b) for a, b in zip(*pairs, strict=True) if b is not None and float(b.norm()) > 1e-200]
    assert len(alive) > len(wanted) / 2 and all(0.005 < float(plain[f"{n}.spikes"].mean()) < 0.8 for n in spiking)
    outputs = max(float(((found[n] - x).abs().max() / (1 + x.abs().max())).detach()) for n, x in wanting.items())
    return outputs, max(float((a - b).norm() / b.norm()) if a is not None else np.inf for a, b in alive)


def layered(delays=(), first=lambda: lif(tau_ref=3 * ms), **options):
    """Two populations on a cycle, and a readout of both; ``delays`` by projection."""
    late = dict(delays)
    return Network(
        dt=1 * ms,
        cues=Input(9),
        a=Population(7, first()),
        b=Population(17, alif(beta=0.3)),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "a", weight=normal(3.0), delay=late.get("cues_a"), **options),
            Projection("a", "a", weight=normal(1.0), delay=late.get("a_a"), **options),
            Projection("a", "b", weight=normal(3.0), delay=late.get("a_b")),
            Projection("b", "a", weight=normal(1.0), delay=late.get("b_a")),
            Projection("b", "out", delay=late.get("b_out")),
            Projection("a", "out"),
        ],
    )


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", localplast.models.__all__)
def test_every_model(name, alive, driven):
    net, model = alive(name), getattr(localplast.models, name)()
    trials = driven(np.random.default_rng(1), TRIALS, STEPS)
    given = {n: torch.as_tensor(x).transpose(0, 1) for n, x in trials.inputs.items()}
    record = ["follower.v", *(f"it.{k}" for k in lower(model).state)]
    seen, gradients = apart(net, record, [f"it.{k}" for k in list(net.nodes["it"].values)[:4]], given=given)
    assert seen < 1e-12 and gradients < 1e-10


def real(*shape):
    return (0.3 + 4 * np.random.default_rng(1).random(shape)) * ms


def learning(make, shape, kernel=None):
    return make(real(*shape), trainable=(0 * ms, 20 * ms), kernel=kernel)


#: One network each; every kind of delay with every spread, on events and on what weights have made of them.
DELAYS = {
    "triangle": {"cues_a": learning(axonal, (9,), triangle(2.5 * ms)), "a_a": learning(dendritic, (7,), triangle(2 * ms)),
                 "a_b": learning(synaptic, (7, 17), triangle(1.5 * ms)), "b_out": learning(axonal, (), triangle(3 * ms))},
    "gaussian": {"cues_a": learning(dendritic, (7,), gaussian(1 * ms)), "a_a": learning(synaptic, (7, 7), gaussian(1 * ms)),
                 "a_b": learning(dendritic, (), gaussian(1 * ms)), "b_a": learning(axonal, (17,), gaussian(0.5 * ms))},
    "between two steps": {"cues_a": learning(synaptic, (9, 7)), "a_a": learning(axonal, (7,)),
                          "a_b": learning(dendritic, (17,)), "b_a": learning(axonal, ())},
    "whole": {"cues_a": axonal(2 * ms), "a_a": dendritic(np.arange(7) % 4 * ms), "b_out": dendritic(3 * ms),
              "a_b": synaptic(np.arange(7 * 17).reshape(7, 17) % 9 * ms), "b_a": axonal(np.arange(17) % 5 * ms)},
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", DELAYS)
def test_delays(kind):
    """Those that learn too, and where a feedback matrix stands in place of the weights."""
    net, generator = layered(DELAYS[kind]), torch.Generator().manual_seed(5)
    feedback = {"a_a": torch.randn(7, 7, generator=generator, dtype=torch.float64),
                "a_b": torch.randn(7, 17, generator=generator, dtype=torch.float64)}  # fmt: skip
    for more in ({}, {"feedback": feedback}):
        seen, gradients = apart(net, (), net.trainable, **more)
        assert seen < 1e-13 and gradients < 1e-11


@pytest.mark.parametrize("edges", [(), ("recurrent",)])
def test_short_term_plasticity(edges):
    net = layered(short_term=facilitation(0.3, 30 * ms, tau_rec=20 * ms))
    assert max(apart(net, cut=edges)) < 1e-11
    sizes = {"cues": torch.rand(STEPS, TRIALS, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64)}
    assert (
        max(apart(layered(short_term=depression(0.5, 20 * ms)), given=sizes, cut=edges)) < 1e-11
    )  # numbers, and dense


def pictures():
    """Padding, strides and groups; the way back through the kernel itself, and through one of its own."""
    kernel = convolution((2, 6, 6), 4, 3, padding=1, groups=2, weight=normal(3.0))
    strided = convolution((4, 6, 6), 3, 2, stride=2, weight=normal(3.0))
    return Network(
        dt=1 * ms, cues=Input(72), a=Population(144, lif()), b=Population(27, lif()), c=Population(36, lif()),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "a", weight=kernel), Projection("a", "b", weight=strided, name="up"),
            Projection("b", "out"),
            Projection("a", "c", weight=pooling((4, 6, 6), 2)), Projection("c", "out"),
            Projection("a", "c", weight=max_pooling((4, 6, 6), 2), plastic=False, name="most"),
            Projection("b", "a", weight=dataclasses.replace(strided, transposed=True, weight=normal(1.0)), name="back"),
        ],
    )  # fmt: skip


def test_convolutions():
    seen, gradients = apart(pictures())
    assert seen < 1e-13 and gradients < 1e-11


def cycle():
    """Rate neurons whose errors come back through the weights of the way up; noise, and weights that are shared."""
    cell = NeuronModel(
        name="cell", equations="du/dt = (I + J - u)/tau + 0.1*xi*tau**-0.5 : 1\n I : 1\n J : 1", output="tanh(u)",
        receives="I", method="euler", parameters={"tau": 5 * ms},
    )  # fmt: skip
    up = {"transmission": "graded", "target": "I"}
    back = {"transmission": "graded", "target": "J", "plastic": False}
    return Network(
        dt=1 * ms, drive=Input(5, "currents"), a=Population(6, cell), b=Population(4, cell),
        out=Population(2, graded_readout()),
        projections=[
            Projection("drive", "a", **up), Projection("a", "b", name="up", **up, delay=axonal(real(6), trainable=True)),
            Projection("b", "a", weight=transposed("up", times=-0.5), name="down", **back),
            Projection("b", "b", target="J", transmission="graded", delay=synaptic(np.arange(16).reshape(4, 4) % 3 * ms)),
            Projection("b", "out"),
        ],
    )  # fmt: skip


def test_graded_cycles_with_noise_and_tied_weights():
    seen, gradients = apart(cycle(), ["a.u"], ["a.tau", "up.delay"])
    assert seen < 1e-13 and gradients < 1e-11


@pytest.mark.parametrize(
    "net",
    [
        lambda: prospective(layers=2, slow=4, fast=3),
        lambda: microcircuit(hidden=5),
        lambda: pixels((1, 8, 8), (2,), (5,), size=3),
    ],
)
def test_networks_with_errors_in_them(net):
    """Prospective neurons, microcircuits, kernels that are read both ways: feedback through shared weights."""
    net = net()
    assert max(apart(net, (), net.trainable)) < 1e-11


@pytest.mark.parametrize(
    "net", [lambda: layered(DELAYS["triangle"]), cycle, lambda: prospective(layers=2, slow=4, fast=3)],
    ids=["spread delays", "noise and tied weights", "errors in the network"],
)  # fmt: skip
def test_every_window_begins_with_the_state_that_the_forward_run_had(net, monkeypatch):
    net = net()
    monkeypatch.setattr(Kernel, "window", lambda *_: 4)
    assert max(apart(net, (), net.trainable)) < 1e-11


def gated(gain, **parameters):
    """Noisy rate neurons of which one sends ``gain`` times its state, at once and later, to where something was; neurons
    that spike, whose adaptation and surrogate a number may end.
    """
    cell = NeuronModel(
        name="cell", equations="du/dt = (I + J - u)/tau + 0.1*xi*tau**-0.5 : 1\n sent = gain*u : 1\n I : 1\n J : 1",
        output="tanh(u)", receives="I", method="euler", parameters={"tau": 5 * ms, "gain": 1.0},
    )  # fmt: skip
    up = {"transmission": "graded", "target": "I"}
    return Network(
        dt=1 * ms, drive=Input(5, "currents"), cues=Input(6), a=Population(6, cell, parameters={"gain": gain}),
        b=Population(4, cell, initial={"J": 0.7}), s=Population(7, alif(**parameters)), out=Population(2, graded_readout()),
        said=Population(2, leaky_readout()),
        projections=[
            Projection("drive", "a", **up), Projection("a", "b", target="J", transmission="graded", output="sent"),
            Projection("drive", "b", **up), Projection("b", "out"), Projection("cues", "s", weight=normal(3.0)),
            Projection("a", "b", name="late", output="sent", delay=axonal(2 * ms), **up), Projection("s", "said"),
        ],
    )  # fmt: skip


@pytest.mark.parametrize("gain", [0.0, np.zeros(6), np.array([0.0, 0, 1, 0, 0, 0]), 0.5])
def test_what_is_zero_falls_away(gain):
    """Other numbers are another program; noise is drawn as before, and what stood somewhere before a zero came stays."""
    net, of_spikes = gated(gain, beta=0.0 if np.ndim(gain) else 0.3), ["said.output", "s.count"]
    assert max(apart(net, ["b.u", "b.J"])) < 1e-12
    values = net.draw(0)
    function = NetworkFunction(net, leaves(net, values), values.masks, record=of_spikes)
    asked = [f"{n}.weight" for n in ("drive_a", "drive_b", "cues_s")]
    keeping, _ = function.pair(frozenset(), frozenset(asked), {})
    written = {n for s in keeping.step for n in writes(s)}
    assert ("a.u" in written) == ("a_b" in {getattr(s, "link", "") for s in keeping.step}) == bool(np.any(gain))


def test_a_number_that_may_change_is_none_that_is_zero():
    net = gated(0.0)
    assert max(apart(net, learned=["a.gain"])) < 1e-12


def test_single_precision_threads_and_blocks(monkeypatch):
    net = layered({"a_a": axonal(real(7), trainable=True)})
    seen, gradients = apart(net, (), net.trainable, dtype=torch.float32)
    assert seen < 1e-5 and gradients < 1e-3
    for block, threads in ((1, 1), (2, 2)):  # one trial at a time; and more places than trials
        monkeypatch.setattr(functions, "WIDEST_BLOCK", block)
        assert max(apart(net, (), net.trainable, threads=threads)) < 1e-11


def test_no_two_arrays_have_one_name():
    """Populations called as another and its variable, or its gradient; variables called as what a program keeps."""
    clock = NeuronModel(
        name="clock", equations="dv/dt = (since - v)/tau : 1\n dsince/dt = (1 - since)/tau : 1", threshold="v > 0.5",
        reset="v -= 1", refractory="tau_ref", parameters={"tau": 10 * ms, "tau_ref": 3 * ms}, surrogate=surrogate(0.5),
        receives="v", method="euler",
    )  # fmt: skip
    net = Network(
        dt=1 * ms, a=Input(3), a_given=Population(4, clock), u=Population(2, lif()), d_u=Population(3, lif()),
        u_v=Population(2, leaky_readout()),
        projections=[Projection("a", "a_given", weight=normal(4.0)), Projection("a_given", "u", weight=normal(4.0), name="p"),
                     Projection("a_given", "d_u", weight=normal(4.0), name="d_p"), Projection("d_u", "u_v"),
                     Projection("u", "u_v"), Projection("a_given", "u_v")],
    )  # fmt: skip
    assert max(apart(net, ["a_given.since"])) < 1e-11


# --- planted errors ---------------------------------------------------------------------------------------------------


def to_zero():
    """A neuron whose reset forgets."""
    return NeuronModel(
        name="forgetful", equations="dv/dt = -v/tau : 1", threshold="v > 1", reset="v = 0",
        parameters={"tau": 10 * ms}, surrogate=surrogate(1.0), receives="v",
    )  # fmt: skip


def changed(kind, which, **changes):
    """What changes the statements of this ``kind`` for which ``which`` is true, in one of two programs."""

    def change(program):
        found = [isinstance(s, kind) and which(s) for s in program.step]
        assert any(found)
        step = [dataclasses.replace(s, **changes) if f else s for s, f in zip(program.step, found, strict=True)]
        return program.with_step(step)

    return change


def halved(program):
    """Half of every gradient of ``a``."""
    step = [
        dataclasses.replace(s, lines=tuple((n, e / 2) for n, e in s.lines))
        if isinstance(s, Map) and s.space == "a"
        else s
        for s in program.step
    ]
    return program.with_step(step)


def without(kind):
    return lambda program: program.with_step([s for s in program.step if not isinstance(s, kind)])


def twice(kind):
    """Statements of this kind done again: the last of them adds to what it had added."""
    return lambda program: program.with_step([*program.step, next(s for s in program.step if isinstance(s, kind))])


def half_psi(program):
    """The surrogate of one population, half as large."""
    return program.with_step(
        [dataclasses.replace(s, psi=s.psi / 2) if isinstance(s, Fire) and s.space == "b" else s for s in program.step]
    )


def at_once(program):
    """Delay lines that let everything through."""
    late = [s for s in program.step if isinstance(s, Send) and s.taps]
    assert late
    passed = {id(s): Map(program.spaces[s.link].pre, (), ((s.target, at(s.source)),)) for s in late}
    return program.with_step([passed.get(id(s), s) for s in program.step])


#: By what is wrong: which of (forward, backward), and how it is changed.
PLANTED = {
    "Map": (1, halved),
    "Fire": (0, half_psi),
    "Jump": (1, without(Jump)),
    "Send": (1, changed(Send, lambda s: s.link == "a_a", source="d_a.v.arrived", back=False, weight="a_a.weight")),
    "Outer": (1, twice(Outer)),
    "taps": (0, at_once),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_seen(error, monkeypatch):
    place, change = PLANTED[error]
    own = functions.NetworkPrograms.pair

    def spoiled(*args):
        pair = list(own(*args))
        pair[place] = change(pair[place])
        return tuple(pair)

    monkeypatch.setattr(functions.NetworkPrograms, "pair", spoiled)
    with pytest.raises(AssertionError):  # of the numbers, or of the spikes already
        assert max(apart(layered({"b_a": axonal(2 * ms)}, first=to_zero))) < 1e-6
