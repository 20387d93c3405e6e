"""Compartments and channels against closed forms, hand-written recursions and Brian2 itself."""

from dataclasses import replace

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms, mV, nA, nS, pA, pF
from scipy.linalg import expm

import localplast as lp
from localplast import Compartment, active_coupling, cell, coupling, one_way_coupling
from localplast.backends.brian2.session import codegen
from localplast.models import leaky_readout, plateau_cell, pyramidal, two_compartment
from localplast.neuron.channels import Channel, adaptation, ampa, bap, calcium, gaba, na_spike, nmda, noise, plateau
from localplast.rules import bptt
from localplast.study.scan import Drive, double_exponential, events, pulses, scan, spike_trains, traces

DT = 0.05 * ms
SPIKE = dict(
    g_rise=30 * nS, g_fall=14 * nS, theta=-40 * mV, rise=1.2 * ms, fall=2.4 * ms, pause=0.2 * ms, tau_ref=5 * ms
)


def leaky(name="soma", C=50 * pF, g_leak=2.5 * nS, **options):
    return Compartment(name, C=C, g_leak=g_leak, E_leak=-70 * mV, **options)


def look(model, size, drives, *variables, dt=DT, backend="brian2"):
    """Traces ``(condition, time)`` of each variable, after spike times in ms where the model spikes."""
    net, trials = scan(model, size, drives, dt=dt)
    spikes = ["cells.spikes"] if model.spiking else []
    record = lp.run(net, trials, backend=backend, record=spikes + [f"cells.{v}" for v in variables])
    kept = [traces(record, v) for v in variables]
    return [[np.round(t * 1e3, 4).tolist() for t in spike_trains(record, size)], *kept] if spikes else kept


# ---------------------------------------------------------------------------------------------- the text


def test_what_comes_back_is_equations():
    model = cell(
        "two", leaky(clamped=True), leaky("tuft", channels=[ampa(g=1 * nS, tau=2 * ms)]),
        couplings=[coupling("soma", "tuft", 4 * nS)],
        threshold="v_soma > v_th", reset="v_soma = E_leak_soma", refractory="tau_ref",
        parameters={"v_th": -50 * mV, "tau_ref": 3 * ms},
    )  # fmt: skip
    assert model.equations.splitlines() == [
        "dv_soma/dt = (g_leak_soma*(E_leak_soma - v_soma) + g_soma_tuft*(v_tuft - v_soma) + I_soma)/C_soma : volt"
        " (unless refractory)",
        "I_soma : amp",
        "dv_tuft/dt = (g_leak_tuft*(E_leak_tuft - v_tuft) + g_soma_tuft*(v_soma - v_tuft) + I_ampa_tuft + "
        "I_tuft)/C_tuft : volt",
        "I_tuft : amp",
        "I_ampa_tuft = g_ampa_tuft*s_ampa_tuft*(E_ampa_tuft - v_tuft) : amp",
        "ds_ampa_tuft/dt = -s_ampa_tuft/tau_ampa_tuft : 1",
    ]
    assert all(line in repr(model) for line in model.equations.splitlines())


def native(model, current):
    """``model`` run by Brian2 from its printed text, one neuron, ``current`` ``(time,)`` into the soma: state
    monitor, spikes.
    """
    b2.start_scope()
    clock = b2.Clock(dt=DT)
    given = b2.TimedArray(np.append(0.0, current[:-1]) * b2.amp, dt=DT)  # what is set in one step moves the next
    text = model.equations.replace("I_soma : amp", "I_soma = given(t) : amp")
    group = b2.NeuronGroup(
        1, text, threshold=model.threshold, reset=f"{model.reset}\n{model.adaptation}", refractory=model.refractory, method="euler",
        clock=clock, namespace={**model.parameters, "given": given},
    )  # fmt: skip
    group.run_regularly(model.update, when="groups", order=1)
    for name, value in model.initial.items():
        setattr(group, name, value)
    group.lastspike = -1 * b2.second
    states, fired = b2.StateMonitor(group, True, record=True, when="end", clock=clock), b2.SpikeMonitor(group)
    b2.Network(group, states, fired).run(len(current) * DT, namespace={})
    return states, np.round(np.asarray(fired.t / ms), 4).tolist()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", [pyramidal, plateau_cell])
def test_brian2_runs_the_text_as_printed(model):
    wave = pulses(np.array([5, 20]) * ms, 5 * ms, duration=40 * ms, dt=DT)
    with codegen("numpy"):
        states, fired = native(model(), 2e-9 * wave)
    spikes, soma, apical = look(model(), 1, [Drive({"I_soma": 2 * nA}, wave)], "v_soma", "v_apical")
    assert spikes == [fired] and len(fired) > 1
    np.testing.assert_allclose(soma, states.v_soma_, rtol=1e-14)
    np.testing.assert_allclose(apical, states.v_apical_, rtol=1e-14)


# ---------------------------------------------------------------------------------------------- passive compartments


def pair(**options):
    """Two passive compartments of different size."""
    soma, tuft = leaky(C=200 * pF, g_leak=10 * nS), leaky("tuft")
    return cell("pair", soma, tuft, couplings=[coupling("soma", "tuft", 15 * nS)], **options)


def attracted(times):
    """Deviations from rest ``(compartment, time)`` under 100 pA into the tuft from rest on, by the matrix
    exponential.
    """
    capacities = np.array([200e-12, 50e-12])
    matrix = np.array([[-25e-9, 15e-9], [15e-9, -17.5e-9]]) / capacities[:, None]  # leak plus coupling on the diagonal
    rest = -np.linalg.solve(matrix, np.array([0, 100e-12]) / capacities)
    return (rest - expm(matrix * times[:, None, None]) @ rest).T, rest


def pushed(model, *variables):
    """Traces ``(time,)`` in steps of 0.02 ms under 100 pA into the tuft."""
    return [each[0] for each in look(model, 1, [Drive({"I_tuft": 100 * pA}, np.ones(1000))], *variables, dt=0.02 * ms)]


def test_passive_compartments_relax_as_the_matrix_exponential():
    expected, rest = attracted(np.arange(1000) * 2e-5)
    assert rest[0] / rest[1] == pytest.approx(15 / 25, rel=1e-12)  # attenuation: the coupling over coupling and leak
    assert expected[0].max() > 1e-3
    np.testing.assert_allclose(
        np.array(pushed(pair(method="rk4"), "v_soma", "v_tuft")) + 70e-3, expected, rtol=0, atol=1e-12
    )


def test_a_coupling_of_the_wrong_sign_is_noticed():
    model = pair(method="rk4")
    wrong = replace(
        model, equations=model.equations.replace("g_soma_tuft*(v_tuft - v_soma)", "g_soma_tuft*(v_soma - v_tuft)")
    )
    assert np.abs(pushed(wrong, "v_soma")[0] + 70e-3 - attracted(np.arange(1000) * 2e-5)[0][0]).max() > 1e-4


@pytest.mark.thorough
def test_couplings_that_differ_by_direction():
    """In steady state each compartment weighs what it is coupled to by its own conductance."""
    drive = [Drive({"I_tuft": 100 * pA}, np.ones(6000))]
    cases = {3 / 13: coupling("soma", "tuft", 6 * nS, back=3 * nS), 5 / 15: one_way_coupling("tuft", "soma", 5 * nS)}
    for expected, each in cases.items():
        soma, tuft = look(
            cell("pair", leaky(g_leak=10 * nS), leaky("tuft"), couplings=[each]), 1, drive, "v_soma", "v_tuft"
        )
        assert (soma[0, -1] + 70e-3) / (tuft[0, -1] + 70e-3) == pytest.approx(expected, rel=1e-6)
    assert tuft[0, -1] == pytest.approx(-70e-3 + 100e-12 / 2.5e-9, rel=1e-6)  # it does not feel the soma


def test_a_compartment_of_its_own_equations():
    """A leak that saturates, joined to a passive one: the same in one's own text and as a channel."""
    text = "dv_tuft/dt = (G*tanh((-70*mV - v_tuft)/(10*mV))*10*mV + inflow_tuft)/C : volt"
    values = {"G": 2.5 * nS, "C": 50 * pF}
    own = Compartment("tuft", equations=text, parameters=values, initial={"v_tuft": -70 * mV})
    leak = Channel("leak", "I = G*tanh((-70*mV - v)/(10*mV))*10*mV : amp\nG : siemens", {"G": 2.5 * nS})
    drive = [Drive({"I_tuft": 100 * pA}, np.ones(400))]
    one, other = (
        look(cell("own", leaky(), tuft, couplings=[coupling("soma", "tuft", 5 * nS)]), 1, drive, "v_soma", "v_tuft")
        for tuft in (own, leaky("tuft", g_leak=0 * nS, channels=[leak]))
    )
    assert np.ptp(one) > 5e-3
    np.testing.assert_allclose(one, other, rtol=1e-12)


# ---------------------------------------------------------------------------------------------- channels


@pytest.mark.thorough
def test_a_double_exponential_peaks_at_one():
    model = cell(
        "it", leaky(channels=[ampa(g=1 * nS, tau=5 * ms, rise=0.5 * ms)]), receives="s_ampa_soma", method="rk4"
    )
    drive = [Drive({"s_ampa_soma": 1.0}, events(5 * ms, duration=30 * ms, dt=DT))]
    bare = replace(model, equations=model.equations.replace("peak_ampa_soma*", ""))
    opened, unscaled = (look(each, 1, drive, "open_ampa_soma")[0][0] for each in (model, bare))
    wave = double_exponential(5 * ms, rise=0.5 * ms, decay=5 * ms, duration=30 * ms, dt=DT)
    assert opened.max() == pytest.approx(1.0, abs=1e-4) == wave.max()
    assert np.abs(opened[1:] - wave[:-1]).max() < 1e-6  # graded waves are given one step early
    assert unscaled.max() < 0.8


def test_nmda_follows_its_gate_and_its_gate_the_magnesium():
    """Into a held membrane flows what the published gates let through; without magnesium there is no gate."""
    for options, alpha, gamma, Mg in [
        ({}, 87, 10e-3, 1),
        (lp.channels.JAHR_STEVENS, 62, 0, 1),
        ({"Mg": 0.0}, 87, 10e-3, 0),
    ]:
        held = Compartment(
            "soma", C=1e7 * pF, g_leak=0 * nS, E_leak=-40 * mV, channels=[nmda(g=2 * nS, tau=60 * ms, **options)]
        )
        wave = events(1 * ms, duration=3 * ms, dt=DT)
        (v,) = look(cell("it", held), 1, [Drive({"s_nmda_soma": 3.0}, wave)], "v_soma")
        current = np.diff(v[0])[19:21] / 5e-5 * 1e-5
        expected = 3 * 2e-9 * 40e-3 / (1 + Mg / 3.57 * np.exp(-alpha * (-40e-3 + gamma)))
        assert current == pytest.approx([0.0, expected], rel=1e-6, abs=1e-16)


@pytest.mark.parametrize("start", [-1, 1])
def test_nmda_a_volt_away_is_a_number_on_both_backends(start):
    """The gate is closed there, or open, and neither it nor its slope overflows."""
    held = leaky(channels=[nmda(g=2 * nS, tau=60 * ms)], initial={"v_soma": start * 1000 * mV})
    net = lp.Network(
        dt=DT, cues=lp.Input(2), it=lp.Population(1, cell("it", held, receives="s_nmda_soma")),
        out=lp.Population(1, replace(leaky_readout(), equations="dv/dt = (I - v)/tau_out : 1\nI : 1", receives="I")),
        projections=[lp.Projection("cues", "it", weight=0.5), lp.Projection("it", "out", 1.0, output="v_soma/mV")],
    )  # fmt: skip
    trials = lp.Trials({"cues": np.ones((1, 20, 2), bool)}, np.zeros((1, 20, 1)))
    found = [lp.run(net, trials, backend=b, record=["it.v_soma"])["it"]["v_soma"].values for b in ("torch", "brian2")]
    assert np.isfinite(found[0]).all() and abs(found[0][0, 0, 0]) > 0.9
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    for dtype in ("float64", "float32"):
        assert np.isfinite(lp.gradient(net, trials, bptt(), dtype=dtype)["cues_it"]["gradient"]).all()


@pytest.mark.parametrize("length", [20 * ms, 50 * ms])
def test_a_plateau_has_one_length_and_is_all_or_none(length):
    event = plateau(g=50 * nS, E=-10 * mV, theta=-45 * mV, duration=length, tau_ref=length + 20 * ms)
    # 25 mV at 2.5 nS within 15 ms: 62.5 pA/(1 - exp(-15/20)), 118.5 pA
    amplitudes = np.array([50, 118, 119, 150, 300, 600]) * pA
    wave = pulses(5 * ms, 15 * ms, duration=90 * ms, dt=DT)
    (v,) = look(cell("it", leaky(channels=[event])), 6, [Drive({"I_soma": amplitudes}, wave)], "v_soma")
    before, given = v[:, :-1], np.asarray(amplitudes)[:, None] * wave[:-1]
    flow = np.diff(v) * 50e-12 / 5e-5 - 2.5e-9 * (-70e-3 - before) - given
    lasting = np.abs(flow) > 1e-14
    assert lasting.sum(1).tolist() == [0, 0] + [round(float(length / DT))] * 4
    np.testing.assert_allclose(flow, 50e-9 * (-10e-3 - before) * lasting, rtol=0, atol=1e-14)


def test_a_sodium_spike_is_two_pulses():
    """The conductance seen from outside: 24 steps of the rise, 4 of pause, 48 of the fall, from the step after the
    event.
    """
    model = cell("it", leaky(g_leak=10 * nS, channels=[na_spike(**SPIKE)]))
    wave = pulses(np.array([2, 12]) * ms, 1 * ms, duration=20 * ms, dt=DT)
    v, age = (x[0] for x in look(model, 1, [Drive({"I_soma": 3 * nA}, wave)], "v_soma", "age_na_soma"))
    flow = np.diff(v) * 50e-12 / 5e-5 - 10e-9 * (-70e-3 - v[:-1]) - 3e-9 * wave[:-1]
    steps = np.round(age[:-1] / 5e-5)
    rise, fall = steps < 24, (steps >= 28) & (steps < 76)
    expected = 30e-9 * rise * (50e-3 - v[:-1]) + 14e-9 * fall * (-90e-3 - v[:-1])
    assert rise.sum() == 2 * 24 and fall.sum() == 2 * 48
    np.testing.assert_allclose(flow, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dt", [0.05, 0.1, 0.3])
def test_the_back_propagating_spike_lasts_what_it_says(dt):
    """The box covers the steps from 0.5 ms to 2.5 ms after the spike, both rounded to steps."""
    model = cell(
        "it", leaky(), leaky("tuft", C=100 * pF, g_leak=0 * nS, channels=[bap(I=100 * pA, delay=0.5 * ms, duration=2 * ms)]),
        threshold="v_soma > -50*mV", reset="v_soma = -70*mV",
    )  # fmt: skip
    wave = pulses(5 * ms, 1 * ms, duration=20 * ms, dt=dt * ms)
    spikes, v = look(model, 1, [Drive({"I_soma": 2 * nA}, wave)], "v_tuft", dt=dt * ms)
    since = np.arange(1, v.shape[1]) * dt - spikes[0][0]
    first, last = (np.floor(edge / dt + 0.5) * dt for edge in (0.5, 2.5))
    inside = (since > first - 1e-9) & (since < last - 1e-9)
    assert len(spikes[0]) == 1 and np.array_equal(np.diff(v[0]) > 1e-9, inside)


def test_noise_has_the_moments_of_an_ornstein_uhlenbeck_process():
    shaky = [noise(sigma=50 * pA, tau=2 * ms, mean=20 * pA)]
    model = cell("it", leaky(channels=shaky), leaky("tuft", channels=shaky))
    net, trials = scan(model, 500, [Drive({"I_soma": 0 * pA}, np.zeros(400))], dt=DT)
    record = lp.run(net, trials, record=["cells.I_noise_soma", "cells.I_noise_tuft"])
    one, other = (traces(record, f"I_noise_{name}")[:, 300:] for name in ("soma", "tuft"))
    assert one.mean() == pytest.approx(20e-12, abs=6e-12) and one.std() == pytest.approx(50e-12, rel=0.05)
    assert abs(np.corrcoef(one[:, -1], other[:, -1])[0, 1]) < 0.2  # each compartment has its own
    twin = traces(lp.run(net, trials, backend="torch", record=["cells.I_noise_soma"]), "I_noise_soma")[:, 300:]
    assert twin.mean() == pytest.approx(20e-12, abs=6e-12) and twin.std() == pytest.approx(50e-12, rel=0.05)


# ---------------------------------------------------------------------------------------------- both backends,
# gradients

TARGETS = ("s_ampa_twig", "s_nmda_twig", "s_ampa_tuft", "s_gaba_soma")


def arbour(*, spiking):
    """A soma and two dendrites with every deterministic channel, or with those that are smooth."""
    calm = {
        "soma": [gaba(g=1 * nS, tau=10 * ms, rise=2 * ms)],
        "tuft": [
            ampa(g=1 * nS, tau=5 * ms, rise=1 * ms),
            calcium(I=200 * pA, half=-50 * mV, slope=6 * mV, a=-5 * nS, tau=20 * ms, E=-70 * mV),
        ],
        "twig": [ampa(g=0.8 * nS, tau=2 * ms), nmda(g=0.8 * nS, tau=30 * ms)],
    }  # fmt: skip
    lively = {
        "soma": [adaptation(b=-50 * pA, tau=50 * ms)],
        "tuft": [
            bap(I=500 * pA, delay=0.6 * ms, duration=2 * ms),
            plateau(g=20 * nS, E=-10 * mV, theta=-35 * mV, duration=10 * ms, tau_ref=12 * ms),
        ],
        "twig": [na_spike(**SPIKE)],
    }
    events = dict(
        threshold="v_soma > -50*mV", reset="v_soma = -60*mV", refractory="tau_ref", parameters={"tau_ref": 2 * ms}
    )
    return cell(
        "arbour", leaky(C=200 * pF, g_leak=10 * nS, clamped=spiking, channels=calm["soma"]),
        leaky("tuft", channels=calm["tuft"]), leaky("twig", channels=calm["twig"]), channels=lively if spiking else {},
        couplings=[
            coupling("soma", "twig", 8 * nS), coupling("soma", "tuft", 6 * nS, back=3 * nS),
            active_coupling("tuft", "soma", 300 * pA, by="f_ca"),
        ],
        receives="s_ampa_twig", surrogate=lp.surrogate.fast_sigmoid("5*mV"), output="v_soma/mV", **(events if spiking else {}),
    )  # fmt: skip


def network(model, targets, high, more=(), **nodes):
    """Five channels of spikes onto each of ``targets`` of two cells."""
    rng = np.random.default_rng(0)
    sizes = [0.2 * high if "gaba" in target else high for target in targets]
    weights = [rng.uniform(0, size, (5, 2)) for size in sizes]
    projections = [
        lp.Projection("cues", "it", weight=w, target=t, name=t) for w, t in zip(weights, targets, strict=True)
    ]
    net = lp.Network(
        dt=0.2 * ms, cues=lp.Input(5), it=lp.Population(2, model), projections=[*projections, *more], **nodes
    )
    return net, rng


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", ["euler", "rk2", "exponential_euler"])
def test_every_channel_is_the_same_on_both_backends(method, twins):
    net, rng = network(replace(arbour(spiking=True), method=method), TARGETS, 10.0)
    one, other = twins.both(net, lp.Trials({"cues": rng.random((2, 500, 5)) < 0.02}))
    twins.live(net, {name: array for name, array in one.items() if ".I_s" not in name and ".I_t" not in name})
    assert all((one[f"it.age_{event}"][:, 1:] == 0).any() for event in ("plateau_tuft", "na_twig"))
    twins.compare(one, other)


def test_weights_onto_every_compartment_have_the_right_gradient(twins):
    net, rng = network(arbour(spiking=False), TARGETS, 4.0)
    trials = lp.Trials({"cues": rng.random((2, 200, 5)) < 0.02}, np.full((2, 200, 2), -60.0), np.ones(200))
    grads = lp.gradient(net, trials, lp.rules.bptt(), loss=lp.losses.mse())
    values = net.draw(0)
    steeper = replace(net.nodes["it"], parameters={"alpha_nmda_twig": 0.1 / mV})  # another Mg block: another gradient
    changed = lp.Network(dt=net.dt, cues=net.nodes["cues"], it=steeper, projections=list(net.projections.values()))
    others = lp.gradient(changed, trials, lp.rules.bptt(), loss=lp.losses.mse(), values=changed.draw(0))

    def loss(name, change):
        changed = values.replace_weights({name: values.weights[name] + change})
        v = twins.torch(net, trials, ["it.v_soma"], values=changed)["it.v_soma"] * 1e3
        return 0.5 * ((v + 60.0) ** 2).sum() / len(trials)

    for name in TARGETS:
        direction = rng.standard_normal((5, 2))
        slope = (loss(name, 1e-4 * direction) - loss(name, -1e-4 * direction)) / 2e-4
        found = float((grads[name]["gradient"].values * direction).sum())
        assert abs(slope) > 1.0 and found == pytest.approx(slope, rel=1e-7), name
        blocked = float((others[name]["gradient"].values * direction).sum())
        assert abs(blocked - slope) > 1e-3 * abs(slope), name


SOMATIC = [ampa(g=5 * nS, tau=5 * ms)]
CELLS = {
    "two_compartment": (two_compartment, {"soma": SOMATIC}, ("s_ampa_soma", "s_ampa_dendrite", "s_nmda_dendrite")),
    "pyramidal": (
        pyramidal, {"soma": SOMATIC, "apical": [gaba(g=1 * nS, tau=10 * ms)]},
        ("s_ampa_soma", "s_gaba_apical", "s_ampa_basal", "s_nmda_basal"),
    ),
    "plateau_cell": (plateau_cell, {"soma": SOMATIC}, ("s_ampa_soma", "s_ampa_basal", "s_ampa_apical", "s_ampa_oblique")),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CELLS)
def test_bptt_reaches_every_compartment_of_a_spiking_cell(name):
    make, channels, targets = CELLS[name]
    readout = [lp.Projection("it", "out", weight=np.array([[1.0], [-0.5]]))]
    net, rng = network(make(channels=channels), targets, 2.0, readout, out=lp.Population(1, lp.models.leaky_readout()))
    trials = lp.Trials({"cues": rng.random((2, 300, 5)) < 0.02}, np.ones((2, 300, 1)), np.ones(300))
    assert 4 < lp.run(net, trials, backend="torch", record=["it.raster"])["it"]["spikes"].sum() < 400
    grads = lp.gradient(net, trials, lp.rules.bptt(), loss=lp.losses.mse())
    for target in targets:
        size = np.abs(grads[target]["gradient"].values)
        assert size.min() > 0 and 0.05 < size.max() < 100, target


# ---------------------------------------------------------------------------------------------- models


class TestPlateauCell:
    """What Schemmel et al. 2017 show in one cell; columns are conditions."""

    def look(self, *variables, **weights):
        """Spikes and traces under a somatic pulse at 20 ms (nA), and volleys: basal at 20, apical at 22, oblique at
        45 ms.
        """
        span = dict(duration=80 * ms, dt=DT)
        size = len(next(iter(weights.values())))
        drives = [Drive({"I_soma": np.array(weights.pop("soma", [0] * size)) * nA}, pulses(20 * ms, 3 * ms, **span))]
        for name, start in (("basal", 20), ("apical", 22), ("oblique", 45)):
            drives.append(Drive({f"s_ampa_{name}": weights.get(name, [0.0] * size)}, events(start * ms, **span)))
        return look(plateau_cell(), size, drives, *variables)

    def test_a_somatic_spike_and_an_epsp_make_a_calcium_spike_and_a_burst(self):
        spikes, v = self.look("v_apical", soma=[2, 0, 2], apical=[0.0, 15.0, 15.0])
        assert [len(s) for s in spikes] == [1, 0, 3]
        assert ((v > -30e-3).sum(1) * 0.05).tolist() == [0, 0, pytest.approx(30.0, abs=1.0)]

    @pytest.mark.thorough
    def test_a_sodium_spike_reaches_the_soma_on_an_nmda_plateau_only(self):
        spikes, basal, oblique = self.look(
            "v_basal", "v_oblique", basal=[30.0, 0.0, 30.0, 30.0], oblique=[0.0, 45.0, 45.0, 15.0]
        )
        assert [len(s) for s in spikes] == [0, 0, 1, 0] and 45 < spikes[2][0] < 50
        assert (oblique.max(1) > -10e-3).tolist() == [False, True, True, False]
        assert ((basal > -30e-3).sum(1) * 0.05).tolist() == pytest.approx([50, 0, 50, 50], abs=2)
