"""Short-term plasticity against closed forms, a recursion by hand, the other backend, and differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms, mV

import localplast as lp
from localplast.backends.torch.step import Twin, leaves
from localplast.errors import NetworkError, UnsupportedError
from localplast.learning.optimise import sgd
from localplast.models import burst_poisson, graded_readout, instant_readout, leaky_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal, depression, facilitation, normal
from localplast.network.short_term import ShortTerm
from localplast.neuron import Mismatch
from localplast.rules import bptt, dendritic, eprop, rtrl
from localplast.task import Task, Trials
from localplast.task.loss import mse

DT = 1e-3
KINDS = {
    "depression": depression(0.5, 80 * ms),
    "facilitation": facilitation(0.1, 90 * ms),
    "both": facilitation(0.02, 100 * ms, tau_rec=100 * ms, jump=0.1),  # feedback of Payeur et al. 2021
}


def by_hand(spikes, found):
    """What every spike of ``spikes`` ``(time,)`` releases: ``u*x`` just before it, from spike to spike."""
    u, x, last, released = found.U, 1.0, None, np.zeros(len(spikes))
    jump = found.U if found.jump is None else found.jump
    for t in np.flatnonzero(spikes):
        if last is not None:
            gap = (t - last) * DT
            x = 1 - (1 - x) * np.exp(-gap / float(found.tau_rec)) if found.tau_rec is not None else 1.0
            u = (
                found.U + (u - found.U) * np.exp(-gap / float(found.tau_facil))
                if found.tau_facil is not None
                else found.U
            )
        released[t], last = u * x, t
        x, u = x * (1 - u), u + jump * (1 - u)
    return released


def one_synapse(found, relay=False):
    """What a synapse of weight 1.7 delivers is the output of ``out``; the spikes come from outside or from a neuron."""
    nodes, source = dict(cues=Input(2), out=Population(2, instant_readout())), "cues"
    links = [
        Projection("cues", "out", weight=1.7 * np.eye(2), mask=np.eye(2, dtype=bool), short_term=found, name="synapse")
    ]
    if relay:
        nodes["relay"], source = Population(2, lif(v_th=0.8, tau_mem=5 * ms)), "relay"
        links = [
            Projection("cues", "relay", weight=np.eye(2)),
            Projection(source, "out", weight=1.7 * np.eye(2), short_term=found),
        ]
    return Network(dt=DT * 1000 * ms, projections=links, **nodes)


def trains(steps=600, trials=2, rate=40):
    return np.random.default_rng(4).random((trials, steps, 2)) < rate * DT


@pytest.mark.sampled(3)
@pytest.mark.parametrize("relay", [False, True], ids=["input", "neuron"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_arrives_is_the_recursion_from_spike_to_spike(kind, relay, twins):
    """Trials begin with all resources; a neuron relays spikes one step late."""
    net, spikes = one_synapse(KINDS[kind], relay), trains()
    late = np.roll(spikes, 1, axis=1) if relay else spikes
    late[:, 0] &= not relay  # what was rolled over from the end
    released = [[by_hand(train, KINDS[kind]) for train in trial.T] for trial in late]
    expected = 1.7 * np.array(released).transpose(0, 2, 1)
    for found in twins.both(net, Trials({"cues": spikes}), ["out.y"]):
        assert np.abs(found["out.y"] - expected).max() < 1e-12
    assert np.ptp(expected[expected > 0]) > 0.1  # negative: constant synapses would deliver one size


@pytest.mark.sampled(2)
@pytest.mark.parametrize("period", [5, 20, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_a_regular_train_settles_at_the_closed_form(kind, period, twins):
    spikes, found = np.zeros((1, 4000, 2), bool), KINDS[kind]
    spikes[:, ::period] = True
    last = twins.torch(one_synapse(found), Trials({"cues": spikes}), ["out.y"])["out.y"][0, ::period, 0][-1] / 1.7
    expected = closed_form(found, period * DT)
    assert last == pytest.approx(expected, rel=1e-10)
    never = {"depression": 0.0, "facilitation": 1.0, "both": 0.0}[kind]  # without recovery: run dry, or all there is
    assert abs(expected - never) > 1e-2 or period == 5


def closed_form(found, period):
    """``u*x`` of a train that has gone on for ever."""
    jump, u, x = found.U if found.jump is None else found.jump, found.U, 1.0
    if found.tau_facil is not None:
        e = np.exp(-period / float(found.tau_facil))
        u = (found.U * (1 - e) + jump * e) / (1 - (1 - jump) * e)
    if found.tau_rec is not None:
        e = np.exp(-period / float(found.tau_rec))
        x = (1 - e) / (1 - (1 - u) * e)
    return u * x


def test_depression_passes_on_events_and_facilitation_bursts():
    """Of the second spike of a burst, 10 ms after the first, against the first after a long silence."""
    burst = np.zeros(500, bool)
    burst[[400, 410]] = True
    first, second = by_hand(burst, depression(0.9, 100 * ms))[burst]
    assert second < 0.2 * first
    first, second = by_hand(burst, facilitation(0.02, 100 * ms, jump=0.2))[burst]
    assert second > 5 * first


def recurrent():
    """Every projection of spikes changes: from outside, recurrent, and to the readout."""
    return Network(
        dt=1 * ms, cues=Input(8), a=Population(6, lif(tau_ref=3 * ms)), out=Population(3, leaky_readout()),
        projections=[
            Projection("cues", "a", weight=normal(1.0, mean=0.5), short_term=KINDS["depression"]),
            Projection("a", "a", weight=normal(0.5), short_term=KINDS["both"]),
            Projection("a", "out", short_term=KINDS["facilitation"]),
        ],
    )  # fmt: skip


def inputs(steps=150, trials=3):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((trials, steps, 3))
    return Trials({"cues": rng.random((trials, steps, 8)) < 0.2}, target, np.full(steps, 1 / steps))


def test_both_backends_agree(twins):
    net, trials = recurrent(), inputs()
    one, other = twins.both(net, trials)
    twins.live(net, one)
    twins.compare(one, other)


def test_the_gradient_is_that_of_differences():
    """Of a readout's weights, in which the network is smooth, through what its synapses release."""
    net, trials = recurrent(), inputs()
    values, step = net.draw(0), 1e-5
    found = lp.gradient(net, trials, bptt(), loss=mse(), values=values, backend="torch")["a_out"]["gradient"].values

    def loss(weight):
        record = lp.run(
            net, trials, values=values.replace_weights({"a_out": weight}), backend="torch", record=["out.v"]
        )
        return 0.5 * ((record["out"]["v"].values - trials.target) ** 2).mean(1).sum() / len(trials)

    for i, j in [(0, 0), (2, 1), (5, 2)]:
        nudge = np.zeros_like(values.weights["a_out"])
        nudge[i, j] = step
        slope = (loss(values.weights["a_out"] + nudge) - loss(values.weights["a_out"] - nudge)) / (2 * step)
        assert found[i, j] == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert np.abs(found).max() > 1e-3


def test_a_spike_is_felt_in_what_later_spikes_release(twins):
    """The derivative of all that is delivered with respect to one spike, by a recursion by hand with spikes of any
    size.
    """
    found, spikes = KINDS["depression"], np.zeros(60)
    spikes[[5, 20, 40]] = 1.0
    net = one_synapse(found)
    twin = Twin(net, leaves(net, net.draw(0)), net.draw(0).masks)
    sent = torch.tensor(np.stack([spikes, spikes], 1)[:, None]).requires_grad_()
    twin.start({"cues": sent})
    total = sum(twin.advance(t) or twin.read("out.y")[0, 0] for t in range(60))
    (gradient,) = torch.autograd.grad(total, sent)
    e = np.exp(-0.015 / 0.08), np.exp(-0.02 / 0.08)
    x1 = 1.0
    x2 = 1 - (1 - 0.5 * x1) * e[0]
    x3 = 1 - (1 - 0.5 * x2) * e[1]
    later = -0.5 * x1 * e[0] * (0.5 + 0.5 * 0.5 * e[1])  # x2 loses, and so x3 = 1 - e2 + e2*x2/2 loses half of that
    assert gradient[5, 0, 0].item() == pytest.approx(1.7 * (0.5 * x1 + later), rel=1e-12)
    assert gradient[40, 0, 0].item() == pytest.approx(1.7 * 0.5 * x3, rel=1e-12)


def test_a_network_with_it_is_written_and_read(tmp_path):
    net = recurrent()
    net.save(tmp_path / "net.json")
    again = Network.load(tmp_path / "net.json")
    assert again == net and again.projections["a_a"].short_term == KINDS["both"]
    assert "a -> a.v, event, facilitation(U=0.02, tau_rec=100. ms, tau_facil=100. ms)" in repr(net)


@pytest.mark.parametrize(
    "options, told",
    [
        (dict(short_term=depression(0.0, 50 * ms)), "U = 0.0 is not a share"),
        (dict(short_term=depression(1.2, 50 * ms)), "U = 1.2 is not a share"),
        (dict(short_term=facilitation(0.1, 50 * ms, jump=-0.1)), "jump = -0.1 is not a share"),
        (dict(short_term=depression(0.5, 50)), "tau_rec = 50 is not a positive time"),
        (dict(short_term=depression(0.5, 50 * mV)), "tau_rec = .* is not a positive time"),
        (dict(short_term=facilitation(0.5, -1 * ms)), "tau_facil = .* is not a positive time"),
        (dict(short_term=ShortTerm(0.5)), "never changes"),
        (dict(short_term=0.5), "no short-term plasticity"),
        (dict(short_term=depression(0.5, 50 * ms), delay=axonal(2 * ms)), "with a delay is not supported yet"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, told):
    with pytest.raises(NetworkError, match=f"projection 'cues_out': .*{told}"):
        Network(
            dt=1 * ms,
            cues=Input(2),
            out=Population(1, leaky_readout()),
            projections=[Projection("cues", "out", **options)],
        )


def test_graded_values_have_none():
    with pytest.raises(NetworkError, match="projection 'drive_out': only synapses that spikes reach"):
        Network(
            dt=1 * ms, drive=Input(2, "currents"), out=Population(1, graded_readout()),
            projections=[Projection("drive", "out", short_term=depression(0.5, 50 * ms))],
        )  # fmt: skip


def test_the_kernel_and_rules_with_constant_synapses_refuse_it():
    net, trials = recurrent(), inputs(steps=20)
    for rule in (eprop(), rtrl()):
        with pytest.raises(UnsupportedError, match="short.term"):
            lp.gradient(net, trials, rule, loss=mse(), backend="torch")


def pair(mismatch=None):
    """Two bursting cells, one readout: a depressing synapse that learns from bursts."""
    model = burst_poisson() if mismatch is None else replace(burst_poisson(), mismatch=mismatch)
    die, one = Input(2, "currents"), dict(plastic=False, weight=np.eye(2), mask=np.eye(2, dtype=bool))
    return Network(
        dt=1 * ms, die_a=die, die_b=die, a=Population(2, model, {}, {"v_s": -45 * mV}), b=Population(2, model),
        out=Population(2, leaky_readout()),
        projections=[
            Projection("die_a", "a", target="die", **one), Projection("die_b", "b", target="die", **one),
            Projection("a", "b", weight=0.5, short_term=depression(0.9, 100 * ms)), Projection("b", "out", **one),
        ],
    )  # fmt: skip


def test_what_learns_from_the_presynaptic_neuron_may_have_it():
    rng = np.random.default_rng(0)

    def draw(update, batch, seed):
        return Trials({k: 0.1 * rng.random((1, 50, 2)) for k in ("die_a", "die_b")}, np.zeros((1, 50, 2)))

    task = Task("pairs", draw, lambda n, seed: draw(0, n, seed))
    options = dict(rule=dendritic(), optimiser=sgd(0.1), loss=mse(), updates=1, backend="torch")
    lp.run(pair(), task, **options)
    with pytest.raises(UnsupportedError, match="'a_b': dendritic does not follow what its depression"):
        lp.run(pair({"g_exc": Mismatch("event")}), task, **options)
