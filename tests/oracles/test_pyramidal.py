"""The reduced pyramidal cell against its equations written out in numpy, and against what they were measured to do.

The numbers come from Brian2 (forward Euler, dt 0.05 ms) with the equations written by hand; thresholds are those of
the grid.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from brian2 import Hz, ms, nA, nS, pA

import localplast as lp
from localplast import protocols
from localplast.models import pyramidal
from localplast.protocols import bac_firing, critical_frequency, nmda_plateau
from localplast.study.scan import Drive, double_exponential, events, pulses, scan, spike_trains

DT = 0.05 * ms
#: The back-propagating action potential lasts from 0.5 to 2.5 ms after a spike: these steps, the last one included.
BOX = (10, 49)
#: What one more step of it adds to the apical membrane, in mV.
BOX_STEP = 2600 / 170 * 0.05


def by_hand(soma, apical, synapses, coupled, boxes=(BOX,)):
    """The equations of the cell, step by step, in mV, ms, pA, nS and pF.

    Parameters
    ----------
    soma, apical : array ``(time, condition)``
        Currents that flow in each step.
    synapses : array ``(time, condition)``
        How many are activated in each step.
    coupled : array ``(condition,)``
        Conductance between soma and basal branch.
    boxes : sequence of (first, last)
        In which steps after the first, second, ... spike the action potential is felt in the dendrite.

    Returns
    -------
    v : array ``(3, time, condition)``
        Soma, apical, basal, at the end of every step.
    spikes : bool array ``(time, condition)``
    """
    steps, size = soma.shape
    vs, vd, vb = np.full((3, size), -70.0)
    ws, wd, ampa, nmda = np.zeros((4, size))
    last, count = np.full(size, -(10**9)), np.zeros(size, int)
    first, end = np.array(boxes).T
    v, spikes = np.empty((3, steps, size)), np.zeros((steps, size), bool)
    for n in range(steps):
        f, since = 1 / (1 + np.exp(-(vd + 38) / 6)), n - last
        box = np.clip(count - 1, 0, len(boxes) - 1)
        felt = (since >= first[box]) & (since <= end[box])
        block = 1 / (1 + np.exp(-0.087 * (vb + 10)) / 3.57)
        rates = [
            -(vs + 70) / 16 + (1300 * f + ws + soma[n] + coupled * (vb - vs)) / 370,
            -(vd + 70) / 7 + (1200 * f + wd + 2600 * felt + apical[n]) / 170,
            (2.5 * (-70 - vb) + coupled * (vs - vb) + 0.8 * (ampa + nmda * block) * (0 - vb)) / 50,
            -ws / 100, (-wd - 13 * (vd + 70)) / 30, -ampa / 2, -nmda / 60,
        ]  # fmt: skip
        rates[0] = np.where(since < 60, 0, rates[0])  # refractory for 3 ms
        vs, vd, vb, ws, wd, ampa, nmda = (
            x + 0.05 * rate for x, rate in zip((vs, vd, vb, ws, wd, ampa, nmda), rates, strict=True)
        )
        z = (vs > -50) & (since >= 60)
        ampa, nmda = ampa + synapses[n], nmda + synapses[n]
        vs, ws, last, count = np.where(z, -70, vs), ws - 200 * z, np.where(z, n, last), count + z
        v[:, n], spikes[n] = (vs, vd, vb), z
    return v, spikes


#: Conditions of the comparison: the triplet, trains of 80 and 90 Hz, a volley of synapses, and pulses near the
#: rheobase.
CLOCK = dict(duration=150 * ms, dt=DT)
SOMA_WAVES = [
    pulses(50 * ms, 5 * ms, **CLOCK),
    *(pulses(50 * ms + np.arange(5) / f, 2 * ms, **CLOCK) for f in (80 * Hz, 90 * Hz)),
]
SOMA = np.array([2000, 0, 2000, 5000, 5000, 0, 0, 0, 1600, 1500, 1800.0])
SOMA_WAVE = np.array([0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0])
APICAL = np.array([0, 900, 900, 0, 0, 0, 0, 0, 0, 0, 0.0])
SYNAPSES = np.array([0, 0, 0, 0, 0, 10, 28, 60, 40, 40, 0])
COUPLED = np.array([0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4.0])
EPSC, VOLLEY = double_exponential(54 * ms, rise=0.5 * ms, decay=5 * ms, **CLOCK), events(50 * ms, **CLOCK)


def simulated(backend, model=None):
    """Membranes in mV ``(3, time, condition)`` and rasters ``(time, condition)`` of these conditions."""
    drives = [
        Drive({"I_soma": SOMA * pA}, np.stack(SOMA_WAVES, 1), SOMA_WAVE), Drive({"I_apical": APICAL * pA}, EPSC),
        Drive({"s_ampa_basal": SYNAPSES, "s_nmda_basal": SYNAPSES}, VOLLEY),
    ]  # fmt: skip
    net, trials = scan(model or pyramidal(), len(SOMA), drives, dt=DT, parameters={"g_soma_basal": COUPLED * nS})
    names = ["v_soma", "v_apical", "v_basal"]
    cells = lp.run(net, trials, backend=backend, record=[f"cells.{n}" for n in (*names, "raster")], show=False)["cells"]
    return 1e3 * np.stack([cells[name].values[0] for name in names]), cells["spikes"].values[0]  # the raster


def agree(model=None, backend="brian2"):
    """Raise unless the cell does what its equations say, in every compartment, to rounding."""
    late = partial(np.roll, shift=1, axis=0)  # what is set in one step flows in the next
    soma, apical = late(np.stack(SOMA_WAVES, 1)[:, SOMA_WAVE] * SOMA), late(EPSC)[:, None] * APICAL
    expected, fired = by_hand(soma, apical, VOLLEY[:, None] * SYNAPSES, COUPLED)
    v, spikes = simulated(backend, model)
    assert fired.sum(0).tolist() == [1, 0, 2, 4, 5, 0, 0, 0, 1, 0, 1]
    assert np.array_equal(spikes, fired)
    assert np.abs(v - expected).max() < 1e-9 * np.abs(expected).max()


def broken(old, new):
    """The cell with one piece of its equations changed."""
    model = pyramidal()
    assert model.equations.count(old) == 1
    return replace(model, equations=model.equations.replace(old, new))


#: A coupling that pushes apart what it should pull together.
REPELLING = ("g_soma_basal*(v_basal - v_soma)", "g_soma_basal*(v_soma - v_basal)")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_it_does_what_its_equations_say(backend):
    agree(backend=backend)


@pytest.mark.thorough
def test_the_comparison_notices_what_is_wrong():
    unblocked, late = {"Mg_nmda_basal": 0.0}, {"delay_bap_apical": 0.55 * ms}
    for model in (broken(*REPELLING), *(pyramidal().with_parameters(**wrong) for wrong in (unblocked, late))):
        with pytest.raises(AssertionError):
            agree(model)


@pytest.mark.thorough
class TestBacFiring:
    @pytest.fixture(scope="class")
    def record(self):
        return protocols.load("bac-firing").measure()

    def test_threshold_of_the_calcium_spike_at_nine_offsets(self, record):
        found = record["coincidence"].to_dataset()
        assert np.allclose(1e3 * found["offset"], [-5, -2, 0, 2, 4, 5, 7, 10, 15])
        assert np.allclose(1e12 * found["threshold"], [950, 700, 600, 550, 550, 600, 750, 1050, 1450])
        assert float(found["threshold_alone"][0]) == pytest.approx(1550e-12, abs=1e-15)

    def test_alone_it_makes_two_somatic_spikes(self, record):
        found = record["coincidence"].to_dataset()
        assert found["spikes_alone"].sel(amplitude=1550e-12, method="nearest") == 2

    def test_triplet(self, record):
        found = record["triplet"].to_dataset()
        assert found["spikes"].values[:3].tolist() == [1, 0, 2]
        times, whose = 1e3 * found["spike_time"].values, found["spike_condition"].values
        assert times[whose == 0] == pytest.approx([54.10], abs=0.051)
        assert times[whose == 2] == pytest.approx([54.10, 66.45], abs=0.051)
        assert 1e3 * float(found["v_apical_max"][0]) == pytest.approx(-42.1, abs=0.05)
        # Measured as +4.7 mV where the second box is one step longer: see the test below.
        assert 1e3 * float(found["v_apical_max"][2]) == pytest.approx(4.7, abs=BOX_STEP)

    def test_plateau_alone(self, record):
        """An EPSC of 1.2 times the threshold holds the dendrite above -38 mV for 33 ms."""
        assert 1e3 * float(record["triplet"]["plateau"][3]) == pytest.approx(33, abs=0.5)

    def test_rheobase(self, record):
        assert np.allclose(1e12 * record["rheobase"]["rheobase"], [1700, 1800, 1600])

    def test_without_the_action_potential_in_the_dendrite_there_is_no_window(self):
        """And the negative twin of the coupling: a branch that pushes its soma away cannot lower the rheobase."""
        few = replace(bac_firing.protocol.presets["quick"](), offsets=np.array([2]) * ms)
        run = partial(lp.run, show=False)
        silent = bac_firing.coincidences(replace(few, model=pyramidal(I_bap=0 * pA)), run)
        assert 1e12 * float(silent["threshold"][0]) > 1400
        found = 1e12 * bac_firing.rheobase(replace(few, model=broken(*REPELLING)), run)["rheobase"].values
        assert found[0] == pytest.approx(1700) and not np.isclose(found[1:], [1800, 1600]).any()


def test_why_the_dendrite_was_measured_half_a_millivolt_higher():
    """``t - lastspike <= 2.5*ms`` is decided by rounding errors: the box has 40 steps after the first spike, 41 after
    the second.

    So were +4.7 mV measured in the triplet. Here 2 ms are 40 steps after every spike.
    """
    late = partial(np.roll, shift=1, axis=0)
    soma, apical = late(SOMA_WAVES[0])[:, None] * 2000.0, late(EPSC)[:, None] * 900.0
    quiet, apart = np.zeros_like(soma), np.zeros(1)
    rounding, exact = (by_hand(soma, apical, quiet, apart, boxes)[0][1].max() for boxes in ((BOX, (10, 50)), (BOX,)))
    assert rounding == pytest.approx(4.7, abs=0.05) and exact == pytest.approx(4.15, abs=0.05)


class TestCriticalFrequency:
    @pytest.fixture(scope="class")
    def record(self):
        return protocols.load("critical-frequency").measure()

    def test_it_lies_between_80_and_90_hz(self, record):
        assert critical_frequency.switch(record["trains"].to_dataset()) == (80, 90)

    def test_peaks_with_the_box_they_were_measured_with(self):
        """-33, -7 and -2 mV at 80, 90 and 100 Hz come from a box that includes both its ends, 41 steps."""
        clock = dict(duration=150 * ms, dt=DT)
        starts = [np.ceil((50 + np.arange(5) * 1000 / f) / 0.05 - 1e-9) * DT for f in (80, 90, 100)]
        soma = np.roll(np.stack([pulses(start, 2 * ms, **clock) for start in starts], 1), 1, axis=0) * 5000.0
        quiet, apart = np.zeros_like(soma), np.zeros(3)
        closed, half_open = (by_hand(soma, quiet, quiet, apart, [box])[0][1].max(0) for box in ((10, 50), BOX))
        assert np.round(closed).tolist() == [-33, -7, -2]
        assert np.all(half_open < closed) and (half_open > -20).tolist() == [False, True, True]

    def test_shorter_action_potentials_in_the_dendrite_raise_it(self):
        weak = replace(critical_frequency.protocol.presets["quick"](), model=pyramidal(I_bap=2000 * pA))
        found = critical_frequency.scanned(weak, partial(lp.run, show=False))["trains"]
        assert critical_frequency.switch(found)[1] > 90


#: Synapses: local and somatic peak above rest (mV), and for how long the branch is above -40 mV (ms).
TABLE = {
    10: (13.8, 1.2, 0.0), 20: (26.9, 2.4, 0.0), 24: (32.8, 3.2, 7.3), 28: (39.4, 4.3, 19.7), 32: (45.7, 5.4, None),
    40: (53.2, 6.6, 47.6), 60: (60.6, 7.8, 73.2),
}  # fmt: skip


class TestNmdaTable:
    def measured(self, **parameters):
        conditions = replace(
            nmda_plateau.protocol.presets["quick"](),
            synapses=tuple(TABLE),
            model=pyramidal().with_parameters(**parameters),
        )
        return nmda_plateau.scanned(conditions, partial(lp.run, show=False))["synapses"].isel(gate=0)

    def check(self, found):
        """Every number to half its last digit."""
        columns = [1e3 * found[name].values for name in ("local", "somatic", "duration")]
        for row, (count, expected) in enumerate(TABLE.items()):
            for column, value in zip(columns, expected, strict=True):
                assert value is None or column[row] == pytest.approx(value, abs=0.0501), count
        assert not found["spikes"].any()

    def test_peaks_and_durations(self):
        found = self.measured()
        self.check(found)
        longer = 1e3 * float(found["duration"].sel(synapses=60) - found["duration"].sel(synapses=40))
        assert longer == pytest.approx(25.6, abs=0.0501) and longer == pytest.approx(60 * np.log(60 / 40), rel=0.06)

    @pytest.mark.thorough
    def test_without_the_block_the_table_is_another(self):
        with pytest.raises(AssertionError):
            self.check(self.measured(Mg_nmda_basal=0.0))

    @pytest.mark.thorough
    def test_only_the_default_gate_makes_synapses_add_more_than_the_first(self):
        record = protocols.load("nmda-plateau").measure()["synapses"].to_dataset()
        default, jahr_stevens = (nmda_plateau.growth_beyond_first(record.isel(gate=gate)) for gate in (0, 1))
        assert default > 1.15 and jahr_stevens == pytest.approx(1, abs=1e-12)


@pytest.mark.thorough
def test_spikes_are_the_same_on_torch_near_thresholds():
    """Amplitudes on both sides of the threshold, at offsets on both sides of the best one."""
    amplitudes, offsets, clock = np.array([500, 550, 600, 650, 700, 750]), (-2, 4, 7), dict(duration=100 * ms, dt=DT)
    waves = np.stack(
        [double_exponential((50 + offset) * ms, rise=0.5 * ms, decay=5 * ms, **clock) for offset in offsets], 1
    )
    size = len(offsets) * len(amplitudes)
    drives = [
        Drive({"I_soma": 2 * nA}, pulses(50 * ms, 5 * ms, **clock)),
        Drive(
            {"I_apical": np.tile(amplitudes, len(offsets)) * pA},
            waves,
            np.repeat(np.arange(len(offsets)), len(amplitudes)),
        ),
    ]
    net, trials = scan(pyramidal(), size, drives, dt=DT, parameters={"g_soma_basal": 0 * nS})
    trains = [
        spike_trains(lp.run(net, trials, backend=b, record=["cells.spikes"], show=False), size)
        for b in ("brian2", "torch")
    ]
    assert {len(train) for train in trains[0]} == {1, 2}
    assert all(np.array_equal(a, b) for a, b in zip(*trains, strict=True))
