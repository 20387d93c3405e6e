"""Step programs, run plainly: forward they are the plain step, backward they are its automatic differentiation."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from brian2 import ms

import localplast.models
from localplast.backends.torch.interpreter import Interpreter, numbers
from localplast.backends.torch.step import Twin, leaves, noise_dice, simulate
from localplast.models import alif, leaky_readout, lif
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
from localplast.neuron.surrogate import triangle as surrogate_triangle
from localplast.program import adjoint as adjoints
from localplast.program.adjoint import adjoint
from localplast.program.arrays import at
from localplast.program.cut import cut_edges
from localplast.program.forward import forward
from localplast.program.instructions import Fire, Jump, Map, Send

STEPS, TRIALS = 40, 2


class Both:
    """A network by the plain step, and by its program: what is recorded, and gradients of a random functional of it.

    ``change`` plants an error into the program that runs forward, ``change_back`` into its adjoint.
    """

    def __init__(self, net, record=(), learned=(), edges=(), feedback=None, change=None, change_back=None, given=None):
        self.net, self.values, feedback = net, net.draw(0), feedback or {}
        wanted = [f"{n}.weight" for n in net.projections if n not in net.tied] + list(learned)
        record = [*(f"{n}.output" for n in net.readouts), *record]
        tensors = leaves(net, self.values, trainable=wanted)
        given = given or inputs(net)
        twin = Twin(net, tensors, self.values.masks, cut=edges, feedback=feedback)
        self.plain = simulate(twin, given, record, 0)
        pull = {n: torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape).cos() for n, x in self.plain.items()}
        total = sum((self.plain[n] * pull[n]).sum() for n in record)
        found = torch.autograd.grad(total, [tensors[n] for n in wanted], allow_unused=True)
        self.gradients = dict(zip(wanted, found, strict=True))
        program = cut_edges(forward(net, self.values, record=record, learned=learned, feedback=feedback), edges)
        program = change(program) if change else program
        self.forward, self.backward = adjoint(program, wanted)
        if change_back:
            self.backward = change_back(self.backward)
        tensors = {n: x.detach() for n, x in tensors.items()}
        self.numbers = numbers(net, self.forward, tensors, self.values.masks, feedback)
        given = {f"{n}.given": x for n, x in given.items()}
        trace = Interpreter(self.forward, self.numbers).run(given, dice=noise_dice(0))
        self.seen = {n.removesuffix(".seen"): x for n, x in trace.seen.items()}
        given |= {f"d_{n}.seen": x for n, x in pull.items()}
        self.sums = Interpreter(self.backward, self.numbers).run(given, backwards=True, trace=trace).sums

    def found(self, name):
        """The gradient by the adjoint program, in the shape of the parameter."""
        plain, found = self.gradients[name], self.sums.get(f"d_{name}")
        if found is None:
            return torch.zeros_like(plain)
        owner, key = name.rsplit(".", 1)
        if key == "weight":
            return found * torch.as_tensor(self.values.masks[owner])
        if key == "delay" and found.ndim == 2:
            found = found * self.numbers[f"{owner}.weight"]
        return found if found.ndim == plain.ndim else found.sum()

    def apart(self):
        """The largest difference of outputs, and of gradients over their norm; nan counts as infinite."""
        seen = [float(((self.seen[n] - x).abs().max() / (1 + x.abs().max())).detach()) for n, x in self.plain.items()]
        known = [n for n, g in self.gradients.items() if g is not None]
        far = [float((self.found(n) - self.gradients[n]).norm() / (self.gradients[n].norm() + 1e-300)) for n in known]
        assert len(known) > len(self.gradients) / 2
        return np.nan_to_num([max(seen), max(far)], nan=np.inf)


def inputs(net, share=0.2):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(STEPS, TRIALS, node.size, generator=generator) < share
        if node.kind == "spikes"
        else torch.randn(STEPS, TRIALS, node.size, generator=generator, dtype=torch.float64)
        for name, node in net.inputs.items()
    }


def layered(late=None, *, first=lif, second=None, short_term=None, readout=leaky_readout, **population):
    """Two populations, the first recurrent with ``late`` as its delay, the second adaptive, and a readout of both."""
    return Network(
        dt=1 * ms,
        cues=Input(9),
        a=Population(7, first(), **population),
        b=Population(8, alif(beta=0.3, tau_ref=2 * ms) if second is None else second()),
        out=Population(2, readout()),
        projections=[
            Projection("cues", "a", weight=normal(2.0), short_term=short_term),
            Projection("a", "a", weight=normal(1.0), delay=late, short_term=short_term),
            Projection("a", "b", weight=normal(2.0)),
            Projection("b", "out", weight=normal(1.0)),
            Projection("a", "out", weight=normal(1.0)),
        ],
    )


def spiking(found, name="a"):
    """Raise unless what was compared is alive."""
    share = float(found.plain[f"{name}.spikes"].detach().mean())
    assert 0.01 < share < 0.7, f"{name} spikes in {share:.2g} of all steps"
    return found


# --- forward, and backward by automatic differentiation --------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", localplast.models.__all__)
def test_every_model_is_its_program(name, alive, driven):
    net, model = alive(name), getattr(localplast.models, name)()
    trials = driven(np.random.default_rng(1), TRIALS, STEPS)
    given = {n: torch.as_tensor(x).transpose(0, 1) for n, x in trials.inputs.items()}
    record = ["follower.v", "out.v", *(f"it.{k}" for k in lower(model).state), *["it.spikes"] * model.spiking]
    learned = [f"it.{k}" for k in net.nodes["it"].values]
    seen, gradients = Both(net, record, learned, given=given).apart()
    assert seen < 1e-13 and gradients < 1e-11


def test_without_delays_between_synapses_every_bit_is_the_same():
    both = spiking(Both(layered(axonal(3 * ms)), ["a.spikes", "b.a", "b.psi"]))
    assert all(torch.equal(both.seen[n], x) for n, x in both.plain.items())


CUTS = ["reset", "adaptation", "recurrent", "feedforward", "spike", "readout", "leak", "recurrent reset", "a_b leak"]


@pytest.mark.parametrize("edges", CUTS)
def test_every_cut_is_that_of_automatic_differentiation(edges):
    whole, found = differentiated(), Both(layered(axonal(2 * ms)), edges=edges.split())
    seen, gradients = found.apart()
    assert seen == 0 and gradients < 1e-12
    kept = ["b_out.weight", "a_out.weight"] if "readout" not in edges else []
    changed = [n for n in found.gradients if (found.found(n) - whole.found(n)).norm() > 1e-6 * whole.found(n).norm()]
    assert changed and not set(changed) & set(kept)


@functools.cache
def differentiated():
    return Both(layered(axonal(2 * ms)))


LATE = {
    "one for all": lambda rng: (axonal, ()),
    "axonal": lambda rng: (axonal, (7,)),
    "dendritic": lambda rng: (dendritic, (7,)),
    "synaptic": lambda rng: (synaptic, (7, 7)),
}  # fmt: skip
SPREADS = {"between two steps": None, "triangle": triangle(2.5 * ms), "gaussian": gaussian(1.2 * ms)}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("kind", LATE)
def test_delays_that_learn(kind, spread):
    rng = np.random.default_rng(1)
    make, shape = LATE[kind](rng)
    late = make((0.3 + 4 * rng.random(shape)) * ms, trainable=(0 * ms, 20 * ms), kernel=SPREADS[spread])
    both = spiking(Both(layered(late), ["a.spikes"], ["a_a.delay"]))
    seen, gradients = both.apart()
    assert seen < 1e-14 and gradients < 1e-12
    assert both.gradients["a_a.delay"].abs().max() > 0


@pytest.mark.parametrize("kind", LATE)
def test_whole_delays_and_feedback_in_place_of_weights(kind):
    rng = np.random.default_rng(1)
    make, shape = LATE[kind](rng)
    net = layered(make(rng.integers(0, 6, shape) * ms))
    matrix = torch.as_tensor(rng.standard_normal((7, 7)))
    plain, other = Both(net, ["a.spikes"]), Both(net, ["a.spikes"], feedback={"a_a": matrix})
    for both in (plain, other):
        seen, gradients = spiking(both).apart()
        assert seen < 1e-14 and gradients < 1e-12
    assert (plain.found("cues_a.weight") - other.found("cues_a.weight")).norm() > 1e-3


@pytest.mark.parametrize("edges", ["", "recurrent"])
def test_short_term_plasticity(edges):
    for found in (depression(0.5, 20 * ms), facilitation(0.2, 30 * ms, tau_rec=20 * ms)):
        both = spiking(Both(layered(short_term=found, first=lambda: lif(v_th=0.5)), ["a.spikes"], edges=edges.split()))
        seen, gradients = both.apart()
        assert seen == 0 and gradients < 1e-12


def pictures():
    kernel = convolution((2, 6, 6), 3, 3, padding=1, weight=normal(3.0))
    return Network(
        dt=1 * ms, cues=Input(72), a=Population(108, lif()), b=Population(27, lif()), out=Population(2, leaky_readout()),
        projections=[
            Projection("cues", "a", weight=kernel), Projection("b", "out"),
            Projection("a", "b", weight=pooling((3, 6, 6), 2), plastic=False),
            Projection("a", "b", weight=max_pooling((3, 6, 6), 2), plastic=False, name="most"),
        ],
    )  # fmt: skip


def test_convolutions():
    seen, gradients = spiking(Both(pictures(), ["a.spikes"])).apart()
    assert seen == 0 and gradients < 1e-12


def graded():
    """Rate neurons on a cycle: errors come back through weights that are those of the way up."""
    cell = NeuronModel(
        name="cell", equations="du/dt = (I + J - u)/tau : 1\n I : 1\n J : 1", output="tanh(u)", receives="I",
        parameters={"tau": 5 * ms},
    )  # fmt: skip
    up = {"transmission": "graded", "target": "I"}
    return Network(
        dt=1 * ms, drive=Input(5, "currents"), a=Population(6, cell), b=Population(4, cell),
        out=Population(2, localplast.models.graded_readout()),
        projections=[
            Projection("drive", "a", **up), Projection("a", "b", name="up", **up),
            Projection("b", "a", weight=transposed("up", times=-0.5), target="J", transmission="graded", name="down", plastic=False),
            Projection("b", "out"),
        ],
    )  # fmt: skip


def test_weights_that_are_read_both_ways_on_a_graded_cycle():
    both = Both(graded(), ["a.u"], ["a.tau"])
    seen, gradients = both.apart()
    assert seen < 1e-14 and gradients < 1e-12


# --- planted errors ---------------------------------------------------------------------------------------------------


def with_each(program, kind, which, **changes):
    """``program`` with all statements of this ``kind``, ``which`` is a question to each, changed."""
    found = [isinstance(s, kind) and which(s) for s in program.step]
    assert any(found)
    return program.with_step(
        [dataclasses.replace(s, **changes) if f else s for s, f in zip(program.step, found, strict=True)]
    )


def without(program, kind):
    assert any(isinstance(s, kind) for s in program.step)
    return program.with_step([s for s in program.step if not isinstance(s, kind)])


PLANTED = {
    "a delay of none": dict(change=lambda p: p.with_step(
        [Map("a", (), ((s.target, at(s.source)),)) if getattr(s, "taps", None) else s for s in p.step])),
    "an early threshold": dict(change=lambda p: p.with_step(sorted(p.step, key=lambda s: not fires_b(s)))),
    "no reset in the adjoint": dict(change_back=lambda p: without(p, Jump)),
    "a gradient that arrives elsewhere": dict(
        change_back=lambda p: with_each(p, Send, lambda s: s.link == "a_out", target="d_a.v")),
    "weights not turned on the way back": dict(
        change_back=lambda p: with_each(p, Send, lambda s: s.link == "a_a", back=False)),
}  # fmt: skip


def fires_b(s):
    return isinstance(s, Fire) and s.space == "b"


def to_zero():
    """A neuron without refractoriness, whose reset forgets."""
    return NeuronModel(
        name="forgetful", equations="dv/dt = -v/tau : 1", threshold="v > 1", reset="v = 0",
        parameters={"tau": 10 * ms}, surrogate=surrogate_triangle(1.0), receives="v",
    )  # fmt: skip


@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_seen(error):
    net = layered(axonal(2 * ms), first=to_zero, second=to_zero)
    assert max(Both(net).apart()) < 1e-12
    assert max(Both(net, **PLANTED[error]).apart()) > 1e-3


def test_a_state_that_is_overwritten_needs_the_fixed_point(monkeypatch):
    """Without going round, what a graded input's gradient was a step later would be added to what it is now."""

    def once(program, wanted):
        found = adjoints.Adjoint(program, frozenset(wanted), frozenset())
        found.write()
        return found.programs()

    assert Both(graded()).apart()[1] < 1e-12
    monkeypatch.setitem(globals(), "adjoint", once)
    assert Both(graded()).apart()[1] > 1e-2


def test_noise_is_drawn_as_by_the_plain_step():
    noisy = NeuronModel(
        name="noisy", equations="dv/dt = -v/tau + 0.3*xi*tau**-0.5 : 1", threshold="v > 0.4", reset="v = 0",
        method="euler", parameters={"tau": 10 * ms}, surrogate=surrogate_triangle(0.4), receives="v",
    )  # fmt: skip
    both = Both(layered(first=lambda: noisy), ["a.v", "a.spikes"])
    assert torch.equal(both.seen["a.v"], both.plain["a.v"]) and both.apart()[1] < 1e-12


def test_parameters_thresholds_and_readouts():
    learned = ["a.tau_mem", "a.v_th", "b.beta", "b.tau_adapt", "out.tau_out"]
    net = layered(parameters={"tau_mem": np.linspace(10, 30, 7) * ms})
    both = spiking(Both(net, ["a.spikes"], learned))
    assert both.apart()[1] < 1e-12 and all(both.gradients[n].abs().max() > 0 for n in learned)


def test_counts_and_sums_are_those_of_the_rasters():
    net = layered()
    program = forward(net, net.draw(0), record=["a.spikes", "a.count", "a.sum"])
    found = Interpreter(program, numbers(net, program, leaves(net, net.draw(0)), net.draw(0).masks))
    seen = found.run({f"{n}.given": x for n, x in inputs(net).items()}).seen
    assert torch.equal(seen["a.count.seen"], seen["a.spikes.seen"].sum(0)) and seen["a.count.seen"].sum() > 0
    assert torch.equal(seen["a.sum.seen"], seen["a.spikes.seen"].sum(-1, keepdim=True))


# --- random networks --------------------------------------------------------------------------------------------------


def some_delay(rng, pre, post):
    """None, or a delay of any kind, whole, between steps or spread, which learns or not."""
    make, shape = [(axonal, (pre,)), (axonal, ()), (dendritic, (post,)), (synaptic, (pre, post))][rng.integers(4)]
    chosen = rng.integers(5)
    if chosen == 0:
        return None, False
    steps = rng.integers(0, 6, shape) if chosen == 1 else 0.2 + 5 * rng.random(shape)
    kernel = [None, None, None, triangle(2.5 * ms), gaussian(1.2 * ms)][chosen]
    learns = {} if chosen == 1 else {"trainable": (0 * ms, 20 * ms), "kernel": kernel}
    return make(steps * ms, **learns), bool(chosen > 1)


def driven_cell():
    """A spiking neuron that also hears graded signals."""
    return NeuronModel(
        name="driven", equations="dv/dt = (sin(J) - v)/tau : 1 (unless refractory)\n J : 1", threshold="v > 1",
        reset="v = 0.2*v", refractory="tau_ref", parameters={"tau": 10 * ms, "tau_ref": 2 * ms}, receives="v",
        surrogate=surrogate_triangle(1.0), method="exponential_euler",
    )  # fmt: skip


def rate_cell():
    """A graded neuron on which spikes land, too."""
    return NeuronModel(
        name="rate", equations="du/dt = (tanh(I) - u)/tau : 1\n I : 1", output="u**2 + u", receives="I",
        parameters={"tau": 8 * ms}, method="exponential_euler",
    )  # fmt: skip


def random_network(seed):
    """``(network, learned, edges)``: spikes and graded values on cycles, delays of every kind, some of it learns and
    some is cut.
    """
    rng, sizes = np.random.default_rng(seed), {"a": 5, "b": 6, "r": 4}
    links = [
        Projection("cues", "a", weight=normal(2.5)), Projection("a", "r", weight=normal(1.0), target="u"),
        Projection("r", "r"), Projection("r", "b", target="J", transmission="graded"), Projection("b", "out"),
    ]  # fmt: skip
    learned = ["a.tau_mem"]
    for pre, post in (("a", "a"), ("a", "b"), ("b", "a"), ("b", "r")):
        if rng.random() < 0.7:
            late, learns = some_delay(rng, sizes[pre], sizes[post])
            short = depression(0.5, 20 * ms) if late is None and rng.random() < 0.3 else None
            options = {"target": "u"} if post == "r" else {}
            mask = 0.6 if rng.random() < 0.5 else None
            links.append(Projection(pre, post, weight=normal(1.5), delay=late, short_term=short, mask=mask, **options))
            learned += [f"{pre}_{post}.delay"] * learns
    first = [lif(), alif(beta=0.3), lif(tau_ref=3 * ms)][rng.integers(3)]
    parts = {"a": Population(5, first), "b": Population(6, driven_cell()), "r": Population(4, rate_cell())}
    learned += [name for name in ("b.tau", "r.tau") if rng.random() < 0.5]
    edges = [e for e in ("reset", "adaptation", "recurrent", "feedforward", "leak", "readout") if rng.random() < 0.15]
    out = Population(2, leaky_readout())
    return Network(dt=1 * ms, cues=Input(7), out=out, projections=links, **parts), learned, edges


def differ(seed):
    """Nothing, or what a random network's program gets wrong."""
    net, learned, edges = random_network(seed)
    both = Both(net, ["a.spikes", "r.u", "b.v"], learned, edges)
    seen, gradients = both.apart()
    return [] if seen < 1e-12 and gradients < 1e-9 else [(seed, seen, gradients)]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_networks():
    assert not [wrong for seed in range(6) for wrong in differ(seed)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_thousand_random_networks():
    assert not [wrong for seed in range(1000) for wrong in differ(seed)]
