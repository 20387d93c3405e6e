"""Every instruction of a step program on every engine: either it runs, and learns what the plain step learns, or the
engine refuses it in a sentence that names what it is about.
"""

import functools

import numpy as np
import pytest
from brian2 import Hz, ms

import localplast as lp
from localplast.backends.c.compile import missing
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.errors import UnsupportedError
from localplast.learning.optimise import sgd
from localplast.models import leaky_readout, lif
from localplast.network.delays import gaussian
from localplast.program.arrays import Dense, Diagonal, Kernel, Synapses
from localplast.program.check import statements
from localplast.program.instructions import Draw, Every, Fire, Jump, Map, Outer, Reduce, Send
from localplast.program.learn import plan
from localplast.protocols.latent_equilibrium_cnn import network as pictures
from localplast.rules import dendritic, eprop
from localplast.task.loss import cross_entropy, mse, rate, reward

STEPS = 30


def learns(net, rule=None, loss=None, optimiser=None):
    rates = {f"{name}.delay": 1.0 for name in net.learned_delays}
    return net, rule or eprop(), loss or mse(), (optimiser or sgd(0.01)).with_rates(**rates)


def late(kind, **options):
    """A recurrent network whose spikes are late."""
    return lambda bench: learns(bench.recurrent(lif(), 4.0, late=lambda pre, post: kind((pre, post)), late_out=False))


def actor(bench):
    """Spikes, an actor and a critic."""
    net = lp.Network(
        dt=1 * ms,
        cues=lp.Input(5),
        dice=lp.Input(3, "currents"),
        rec=lp.Population(7, lif()),
        policy=lp.Population(3, leaky_readout()),
        value=lp.Population(1, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.uniform(4.0, mean=0.7)),
            lp.Projection("rec", "policy"),
            lp.Projection("rec", "value"),
        ],
    )
    return learns(net, eprop(feedback="random"), reward(5 * ms))


def noisy(bench):
    return learns(bench.mirror(), dendritic(update="step"), optimiser=bench.rates(bench.mirror(), sgd(1e-3)))


def of(kind, *, form=None, **fields):
    """Whether a statement is of this kind, on a link of this form, with these fields (True: any)."""

    def found(program, s):
        link = program.spaces.get(getattr(s, "link", None) or getattr(s, "space", None))
        if not isinstance(s, kind):
            return False
        fits = all(bool(getattr(s, k)) if v is True else getattr(s, k) == v for k, v in fields.items())
        return fits and (form is None or isinstance(getattr(link, "form", None), form))

    return found


def of_synapses(program, s):
    return isinstance(s, Map) and isinstance(program.spaces[s.space], Synapses)


spiking = functools.partial(lambda bench: learns(bench.of("lif, refractory")))
rates = functools.partial(lambda bench: learns(bench.le(), dendritic(), optimiser=bench.rates(bench.le(), sgd(1e-3))))
#: By instruction: which statement it is, and what has one.
ROWS = {
    "Map": (of(Map), spiking),
    "Map of synapses": (of_synapses, spiking),
    "Fire": (of(Fire), spiking),
    "Jump": (of(Jump), spiking),
    "Send": (of(Send, form=Dense, taps=None, back=False), spiking),
    "Send, back": (of(Send, form=Dense, back=True), spiking),
    "Send along a line": (of(Send, form=Diagonal, taps=True), late(lambda n: lp.axonal(np.arange(n[0]) % 4 * ms))),
    "Send, each synapse late": (
        of(Send, form=Dense, taps=True),
        late(lambda n: lp.synaptic(np.arange(n[0] * n[1]).reshape(n) % 4 * ms)),
    ),
    "Send between two steps": (of(Send, taps=True), late(lambda n: lp.axonal(1.5 * ms))),
    "Send, spread": (
        lambda program, s: isinstance(s, Send) and s.taps and s.taps.spread == "gaussian",
        late(lambda n: lp.axonal(3 * ms, trainable=True, kernel=gaussian(1 * ms))),
    ),
    "Send through a kernel": (
        of(Send, form=Kernel),
        lambda bench: learns(pictures((1, 8, 8), (2,), (4,), 3, size=3, activation="tanh"), dendritic()),
    ),
    "Outer": (of(Outer, form=Dense), rates),
    "Outer of a kernel": (
        of(Outer, form=Kernel),
        lambda bench: learns(pictures((1, 8, 8), (2,), (4,), 3, size=3, activation="tanh"), dendritic()),
    ),
    "Reduce, sum": (of(Reduce, op="sum"), actor),
    "Reduce, softmax": (of(Reduce, op="softmax"), lambda bench: learns(bench.of("lif"), loss=cross_entropy())),
    "Reduce, argmax": (of(Reduce, op="argmax"), actor),
    "Reduce, argmax of each square": (
        of(Reduce, op="argmax", within=True),
        lambda bench: learns(pictures((1, 8, 8), (2,), (4,), 3, size=3, activation="logistic"), dendritic()),
    ),
    "Draw": (of(Draw), noisy),
    "Every trial": (lambda _, s: s == "trial", lambda bench: learns(bench.of("lif"), loss=mse() + rate(20 * Hz, 1e-3))),
    "Every step": (lambda _, s: s == 1, lambda bench: learns(bench.of("lif"), eprop(update="step"))),
    "Every few steps": (lambda _, s: s == 7, lambda bench: learns(bench.of("lif"), eprop(update=7 * ms))),
}
#: What an engine cannot run, and what it says.
REFUSED = {
    ("Send through a kernel", "Brian2"): "is a convolution, which Brian2 does not know",
    ("Outer of a kernel", "Brian2"): "is a convolution, which Brian2 does not know",
    ("Reduce, argmax of each square", "Brian2"): "is a convolution, which Brian2 does not know",
    ("Send, spread", "Brian2"): "shared by two steps, not spread by a gaussian",
}
#: Draws of its own: it is the same in law only.
OTHERWISE = {("Draw", "Brian2")}


def presented(net, loss):
    """Trials that make neurons spike, and targets."""
    rng, readout = np.random.default_rng(5), loss.policy if hasattr(loss, "policy") else net.readouts[-1]
    inputs = {
        name: rng.random((2, STEPS, node.size)) < 0.3
        if node.kind == "spikes"
        else rng.normal(size=(2, STEPS, node.size))
        for name, node in net.inputs.items()
    }
    labels = loss.derived.coupled or hasattr(loss, "policy")
    target = rng.integers(0, net.size(readout), 2) if labels else rng.normal(size=(2, STEPS, net.size(readout)))
    return lp.Trials(inputs, target, np.where(np.arange(STEPS) < STEPS - 10, 1 / STEPS, 0.0))  # a reward takes its time


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_instruction(row, bench):
    asked, make = ROWS[row]
    net, rule, loss, optimiser = make(bench)
    values = net.draw(1)
    program = OnlineLearner(net, plan(net, rule, loss), leaves(net, values), values.masks, optimiser).program
    when = [s.when for s in program.step if isinstance(s, Every)]
    assert any(asked(program, s) for s in (when if row.startswith("Every") else statements(program)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("row", "engine"), [(r, e) for e in ("traces in C", "Brian2") for r in ROWS if (r, e) not in OTHERWISE]
)
@pytest.mark.skipif(missing() is not None, reason="needs a C compiler")
def test_every_instruction_on_every_engine(row, engine, bench):
    net, rule, loss, optimiser = ROWS[row][1](bench)
    described = net, rule, loss, optimiser, presented(net, loss)
    if (row, engine) in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[row, engine]):
            bench.course(engine, *described, batch=1)
        return
    found, _ = bench.same_learning(engine, *described, batch=1, first=1e-8, last=1e-8, said=1e-8, alive=None)
    for p in net.plastic:
        assert bench.size(found.moved[-1][f"weight.{p.name}"]) > 1e-9, f"{p.name} has nothing to learn"


def test_instructions_are_all_here():
    """A new one is a new row; what an adjoint is made of is compared in tests of its own."""
    kinds = {"Map", "Fire", "Jump", "Send", "Outer", "Reduce", "Draw", "Every"}
    assert {row.split()[0].rstrip(",") for row in ROWS} == kinds
