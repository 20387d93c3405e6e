"""ELiSe (Kriener et al. 2024, arXiv:2402.16763) against the authors' unit numbers, its identities, and a recursion by
hand.
"""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, mV, nS, pA

import localplast as lp
from localplast import protocols
from localplast.analysis.replay import best_phase
from localplast.models import elise, graded_readout
from localplast.protocols import elise as protocol
from localplast.rules import dendritic

# in mV, nS, pF, ms and pA
C, G_L, G_DEN, E_L, E_EXC, E_INH, SLOPE, U_HALF = 1.0, 0.1, 2.0, -70.0, 0.0, -75.0, 0.3, -58.0


def phi(u):
    return 1 / (1 + np.exp(SLOPE * (U_HALF - u)))


def prediction(v):
    return (G_L * E_L + G_DEN * v) / (G_L + G_DEN)


def simulate(net, trials, record=("cells.u", "cells.v"), **options):
    """What was recorded, arrays ``(time, neuron)`` of the first trial; potentials in mV."""
    tree = lp.run(net, trials, record=list(record), **options)
    pairs = [name.split(".") for name in record]
    return [tree[node][variable].values[0] * (1e3 if variable in "uv" else 1.0) for node, variable in pairs]


class TestUnitNumbers:
    """The numbers in the unit tests of the authors' code."""

    potentials = np.array([-70.0, -65, -60, -55, -50])
    rates = np.array([0.02659699, 0.10909682, 0.35434369, 0.7109495, 0.9168273])

    def settled(self, weight=0.0):
        """Five cells with those potentials as somata, which project to five others; ``shown`` is what they send."""
        net = lp.Network(
            dt=0.1 * ms, tones=lp.Input(5, "currents"),
            cells=lp.Population(5, elise(), initial={"u": self.potentials * mV, "v": self.clamping() * mV}),
            after=lp.Population(5, elise()), out=lp.Population(5, graded_readout()),
            projections=[
                lp.Projection("tones", "cells", weight=0.0, plastic=False),
                lp.Projection("cells", "after", weight=weight),
                lp.Projection("cells", "out", weight=np.eye(5), plastic=False),
            ],
        )  # fmt: skip
        return lp.run(
            net, lp.Trials({"tones": np.zeros((1, 1, 5))}), record=["out.shown", "after.I_den"], backend="torch"
        )

    def clamping(self):
        """Dendritic potentials at which the somata rest where they are, for a moment."""
        return ((G_L + G_DEN) * self.potentials - G_L * E_L) / G_DEN

    def test_rates(self):
        np.testing.assert_allclose(self.settled()["out"]["shown"].values[0, 0], self.rates, rtol=0, atol=1e-8)

    def test_dendritic_current(self):
        """Their weights are (post, pre), without autapses."""
        weight = np.linspace(0, 0.5, 25).reshape(5, 5) * (1 - np.eye(5))
        current = self.settled(weight.T * pA)["after"]["I_den"].values[0, 0]
        expected = [0.13787379, 0.34484235, 0.49049918, 0.5330847, 0.56188277]
        np.testing.assert_allclose(current / 1e-12, expected, rtol=0, atol=1e-8)


def pair(weight=0.0, *, model=None):
    """One presynaptic current, one cell: ``drive`` -> dendrite, a teacher, and what the dendrite predicts."""
    return lp.Network(
        dt=1 * ms, drive=lp.Input(1, "currents"), tones=lp.Input(1, "currents"), nudging=lp.Input(1, "currents"),
        cells=lp.Population(1, model or elise()), out=lp.Population(1, graded_readout()),
        projections=[
            lp.Projection("drive", "cells", weight=weight * pA),
            lp.Projection("tones", "cells", target="u_target", weight=1 * mV, plastic=False),
            lp.Projection("nudging", "cells", target="g_nudge", weight=(G_L + G_DEN) * nS, plastic=False),
            lp.Projection("cells", "out", output="predicted_rate", weight=1.0, plastic=False),
        ],
    )  # fmt: skip


def constant(steps, *, drive=1.0, tones=0.0, nudging=0.0, target=0.0):
    """``nudging`` is the share lam of the target; 0: no teacher."""
    odds = nudging / (1 - nudging)
    inputs = {
        name: np.full((1, steps, 1), value) for name, value in (("drive", drive), ("tones", tones), ("nudging", odds))
    }
    return lp.Trials(inputs, np.full((1, steps, 1), target), np.ones(steps))


@pytest.mark.parametrize("lam", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("target", [-72.0, -50.0, -20.0])
def test_nudging_settles_between_prediction_and_target(lam, target):
    u, v = simulate(pair(0.7), constant(300, tones=target, nudging=lam), backend="torch")
    np.testing.assert_allclose(v[-1], E_L + 0.7 / G_L, rtol=0, atol=1e-9)
    np.testing.assert_allclose(u[-1], (1 - lam) * prediction(v[-1]) + lam * target, rtol=0, atol=1e-9)


def swapped(model, old, new):
    """The model with one part of its equations replaced."""
    assert old in model.equations
    return replace(model, equations=model.equations.replace(old, new))


@pytest.mark.parametrize("sign", ["(u - u_target)", "(-u_target - u)"])
def test_nudging_the_wrong_way_is_noticed(sign):
    net = pair(0.7, model=swapped(elise(), "(u_target - u)", sign))
    u, v = simulate(net, constant(300, tones=-50.0, nudging=0.3), backend="torch")
    assert not abs(u[-1] - (0.7 * prediction(v[-1]) + 0.3 * -50.0)) < 1.0


def test_no_teacher_no_nudging():
    """With zeros from the teacher, and nothing on the soma, the dendrite is right about it: nothing is left to
    learn.
    """
    u, v = simulate(pair(0.7), constant(300), backend="torch")
    np.testing.assert_allclose(phi(u[-1]) - phi(prediction(v[-1])), 0, atol=1e-12)
    assert u[-1] > E_L + 5


def learned(net, trials, rates, *, backend="torch", rule=None, **options):
    """The record of one stream that is learned from; ``rates`` in SI units per step."""
    task = lp.Task("stream", lambda update, batch, seed: trials, lambda n, seed: trials)
    optimiser = lp.sgd(1.0).with_rates(**rates)
    return lp.run(
        net,
        task,
        rule=rule or dendritic(),
        optimiser=optimiser,
        backend=backend,
        updates=1,
        loss=lp.losses.mse(),
        **options,
    )


def test_constant_teacher_is_learned_exponentially():
    """Close to the target, with learning slower than the membranes: d(u* - v*)/dt = -k (u* - v*)."""
    target, lam, rate, start = -55.0, 0.6, 0.003, 0.98
    q = G_DEN / (G_L + G_DEN)
    k = rate * q**2 * lam * SLOPE * phi(target) * (1 - phi(target)) / G_L
    net, reached = pair(start * (target - E_L) * G_L / q), (target - E_L) * G_L / q
    gap = []
    for steps in (300, 600, 900):
        record = learned(net, constant(steps, tones=target, nudging=lam), {"drive_cells": rate * 1e-12})
        gap.append(1 - record["drive_cells"]["weight"].values.item() / (reached * 1e-12))
    np.testing.assert_allclose(np.diff(np.log(gap)), -300 * k, rtol=0.03)


def by_hand(net, values, trials, rates):
    """The stream of the first trial, cell by cell as in the paper, with exponential Euler; weights (pA) after it, and
    ``u``.

    In every step: membranes (with what arrived one step ago), rates, what arrives after its delay, weights.
    """
    dt, size, visible = float(net.dt / ms), net.size("cells"), net.size("tones")
    plastic = {name: values.weights[name] / 1e-12 for name in rates}
    scaffold = values.weights["g_exc"] > 0
    v, u, r_bar, arrived, current, excitation, inhibition = (np.zeros(size) for _ in range(7))
    v, u = v + E_L, u + E_L
    wanted, odds = np.zeros(size), np.zeros(size)
    past = {"rate": [], "floored": []}

    def late(kind, steps):
        return np.array([past[kind][-1 - int(d)][i] if d < len(past[kind]) else 0.0 for i, d in enumerate(steps)])

    somata = []
    for t in range(trials.steps):
        nudge = odds * (G_L + G_DEN)
        up, down = nudge * (wanted - E_INH) / (E_EXC - E_INH), nudge * (E_EXC - wanted) / (E_EXC - E_INH)
        e, i = excitation + up, inhibition + down
        total = G_L + G_DEN + e + i
        rest = (G_L * E_L + G_DEN * v + e * E_EXC + i * E_INH) / total
        u = rest + (u - rest) * np.exp(-total / C * dt)
        decay = np.exp(-G_L / C * dt)
        v = E_L + current / G_L + (v - E_L - current / G_L) * decay
        r_bar = decay * r_bar + (1 - decay) * G_DEN / (G_L + G_DEN) * arrived
        past["rate"].append(phi(u))
        past["floored"].append(np.maximum(phi(u), phi(E_L)))
        arrived = late("rate", values.delays["others"])
        current = arrived @ sum(plastic.values())
        excitation = 0.3 * late("floored", values.delays["g_exc"]) @ scaffold
        inhibition = 6.0 * late("floored", values.delays["g_inh"]) @ scaffold
        wanted[:visible], odds[:visible] = trials.inputs["tones"][0, t], trials.inputs["nudging"][0, t]
        change = dt * np.outer(r_bar, phi(u) - phi(prediction(v)))
        plastic = {name: w + rates[name] * change * values.masks[name] for name, w in plastic.items()}
        somata.append(u)
    return plastic, np.array(somata)


RATES = {"among_visible": 0.01, "others": 0.1}  # pA/ms


def small(steps, **options):
    """Two tones, four latent cells: a network and a stream of ``steps`` steps of 1 ms."""
    net = protocol.network(visible=2, latent=4, dt=1 * ms, **options)
    cycle = protocol.melody(protocol.TWO_TOKENS, 2, 40 * ms, 1 * ms)
    stream = protocol.stream(cycle, -(-steps // 40), phases=[7])
    return net, lp.Trials({k: x[:, :steps] for k, x in stream.inputs.items()}, stream.target[:, :steps], np.ones(steps))


def assert_as_by_hand(steps, rule=None, **options):
    net, trials = small(steps)
    values = net.draw(0)
    expected, _ = by_hand(net, values, trials, RATES)
    record = learned(net, trials, {name: rate * 1e-12 for name, rate in RATES.items()}, rule=rule, **options)
    for name, weight in expected.items():
        moved = np.abs(weight - values.weights[name] / 1e-12).max()
        assert moved > 1e-3
        np.testing.assert_allclose(record[name]["weight"].values / 1e-12, weight, rtol=0, atol=1e-8 * moved)


@pytest.mark.parametrize(
    "backend, target", [("torch", None), ("brian2", "numpy"), pytest.param("brian2", "cpp", marks=pytest.mark.slow)]
)
@pytest.mark.sampled(2)
def test_weights_that_change_in_every_step_are_those_by_hand(backend, target):
    assert_as_by_hand(1000, backend=backend, target=target)


def test_weights_that_change_later_differ_from_those_by_hand():
    with pytest.raises(AssertionError):
        assert_as_by_hand(200, rule=dendritic(update="trial"))


@pytest.mark.parametrize("backend", ["torch", "brian2"])
def test_potentials_are_those_by_hand(backend):
    net, trials = small(200)
    _, expected = by_hand(net, net.draw(0), trials, dict.fromkeys(RATES, 0.0))
    (u,) = simulate(net, trials, ["cells.u"], backend=backend)
    assert expected.std() > 1
    np.testing.assert_allclose(u, expected, rtol=0, atol=1e-9)


def test_inhibition_is_excitation_25_ms_later():
    net, trials = small(160)
    excitation, inhibition = simulate(net, trials, ["cells.g_exc", "cells.g_inh"], backend="brian2")
    assert excitation[:, 2:].std() > 0 and not excitation[:, :2].any()
    np.testing.assert_allclose(inhibition[25:], 6 / 0.3 * excitation[:-25], rtol=1e-12, atol=0)


def test_the_scaffold_never_sends_less_than_rest():
    net, trials = small(160)
    (excitation,) = simulate(net, trials, ["cells.g_exc"], backend="brian2")
    received = (net.draw(0).weights["g_exc"] > 0).sum(0)
    assert np.all(excitation[60:] >= 0.3e-9 * phi(E_L) * received * (1 - 1e-12))


QUICK = protocols.load("elise").presets["quick"]()


def replayed(net, updates):
    """Replay without a teacher of a two-tone loop, after updates of 25 cycles: correlations along it, and the values
    learned.
    """
    values = net.draw(0)
    if updates:
        record = lp.run(
            net,
            QUICK.task,
            rule=dendritic(),
            optimiser=QUICK.optimiser,
            loss=QUICK.loss,
            backend="brian2",
            target="numpy",
            updates=updates,
        )
        values = net.values_from(record)
    cycle = QUICK.task.meta["cycle"]
    played = protocol.played(net, values, protocol.stream(cycle, 2, silent=8))[0, 2 * len(cycle) :]
    return best_phase(played, protocol.rates(cycle))["correlation"].values, values


@pytest.fixture(scope="module")
def two_tones():
    return replayed(QUICK.network, updates=4)


@pytest.mark.thorough
def test_a_loop_of_two_tones_is_played_without_the_teacher(two_tones):
    assert two_tones[0].min() > 0.9


def with_cells(net, model):
    cells = replace(net.nodes["cells"], model=model)
    return lp.Network(dt=net.dt, **{**net.nodes, "cells": cells}, projections=list(net.projections.values()))


def test_nothing_is_played_without_plasticity():
    assert replayed(QUICK.network, updates=0)[0][-8:].max() < 0.5


@pytest.mark.thorough
def test_nothing_is_played_after_a_teacher_of_the_wrong_sign():
    wrong = swapped(elise(), "g_nudge*(u_target - u)", "0.3*g_nudge*(u - u_target)")
    assert replayed(with_cells(QUICK.network, wrong), updates=2)[0][-8:].max() < 0.5


@pytest.mark.thorough
def test_replay_recovers_from_disturbances(two_tones):
    found = protocol.recovery(QUICK.network, two_tones[1], QUICK.task.meta["cycle"])
    means = {
        part: found["correlation"].where(found["part"] == part, drop=True) for part in ("before", "during", "after")
    }
    assert means["before"].min() > 0.9 and means["after"].min() > 0.9
    assert means["during"].sel(replay="silenced").min() < 0.9 < means["during"].sel(replay="undisturbed").min()
    ahead = (found["phase"].sel(replay="shifted") - found["phase"].sel(replay="undisturbed")).values / 40 % 1
    assert ahead[0] == 0 and 0.3 < ahead[-1] < 0.7


@pytest.mark.thorough
def test_what_is_reported(two_tones):
    text = protocol.report(QUICK.network, QUICK.task.testing(1, 0), two_tones[1])
    assert text.startswith("replay without the teacher: correlation 0.9") and "first cell silenced" in text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_twelve_tones_are_played_without_the_teacher(seed):
    """The first notes of Für Elise, in which the same tone goes on to different ones."""
    preset = protocol.protocol.preset("sequence", seed=seed)
    record = lp.run(
        preset.network,
        preset.task,
        rule=dendritic(),
        optimiser=preset.optimiser,
        loss=preset.loss,
        updates=preset.updates,
        seed=seed,
    )
    found = protocol.recovery(preset.network, preset.network.values_from(record), preset.task.meta["cycle"])
    assert found["correlation"].sel(replay="undisturbed").min() > 0.9
    assert found["correlation"].where(found["part"] == "after", drop=True).min() > 0.9
