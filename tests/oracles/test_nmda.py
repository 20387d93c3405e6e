"""NMDA bistability: knees, ranges and critical slopes from the static solver, and hysteresis in simulation on both
backends.
"""

from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, mV

import localplast as lp
from localplast import protocols
from localplast.analysis.bistability import Branch, critical_slope
from localplast.errors import LocalplastError
from localplast.neuron.channels import HIPPOCAMPAL, JAHR_STEVENS
from localplast.protocols.nmda_bistability import branch, jumps
from localplast.study.scan import Drive, events, scan, traces

STEP = 0.05 * ms


def gate(slope, shift):
    return {"alpha": slope / mV, "beta": 3.57, "gamma": shift * mV}


def opened(v, slope, shift):
    """The block by hand, ``v`` in mV."""
    return 1 / (1 + np.exp(-slope * (v + shift)) / 3.57)


@pytest.mark.parametrize("slope, shift, leak, drives, knees", [
    (0.08, 0, -70, (5.44, 6.56), (-52.4, -28.8)), (0.087, 10, -70, (3.44, 4.11), (-53.9, -32.3)),
    (0.087, 0, -70, (6.24, 9.42), None), (0.1, 0, -70, (7.7, 19.4), None), (0.08, 0, -80, (6.73, 11.97), None),
    (0.08, 0, -65, (4.77, 5.00), None),
])  # fmt: skip
def test_range_and_knees(slope, shift, leak, drives, knees):
    found = Branch(gate(slope, shift), leak * mV)
    digits = 1 if slope == 0.1 else 2
    assert np.round(found.drives, digits).tolist() == list(drives)
    if knees:
        assert np.round(np.asarray(found.knees / mV), 1).tolist() == list(knees)


def test_the_gate_of_jahr_and_stevens_has_no_knees_and_the_default_gate_has():
    assert Branch(JAHR_STEVENS).drives is None and len(Branch(JAHR_STEVENS).knees) == 0
    assert Branch().gate is HIPPOCAMPAL and len(Branch().knees) == 2


@pytest.mark.parametrize(
    "shift, slopes", [(0, (0.0617, 0.0658, 0.0705, 0.0759)), (10, (0.0666, 0.0715, 0.0771, 0.0837))]
)
def test_critical_slopes(shift, slopes):
    found = [float(critical_slope(gamma=shift * mV, E_leak=leak * mV) * mV) for leak in (-80, -75, -70, -65)]
    assert np.round(found, 4).tolist() == list(slopes)
    for leak, slope in zip((-80, -75, -70, -65), found, strict=True):
        below, above = (Branch(gate(slope * factor, shift), leak * mV).drives for factor in (0.999, 1.001))
        assert below is None and above is not None


@pytest.mark.parametrize("slope, shift", [(0.08, 0), (0.087, 10)])
def test_steady_states_balance_the_currents_and_the_middle_one_is_unstable(slope, shift):
    found = Branch(gate(slope, shift))
    low, high = found.drives
    for drive, count in ((0.9 * low, 1), ((low + high) / 2, 3), (1.1 * high, 1)):
        states = np.asarray(found.steady(drive) / mV)
        assert len(states) == count and np.all(np.diff(states) > 0)

        def current(v, drive=drive):
            return -(v + 70) + drive * opened(v, slope, shift) * (0 - v)

        assert np.abs(current(states)).max() < 1e-9
        slopes = (current(states + 1e-4) - current(states - 1e-4)) / 2e-4
        assert (slopes < 0).tolist() == ([True] if count == 1 else [True, False, True])


def test_at_a_knee_the_drive_neither_rises_nor_falls():
    found = Branch()
    for knee in np.asarray(found.knees):
        around = found.drive(knee + 1e-6 * np.array([-1, 0, 1]))
        assert abs(around[2] - around[0]) < 1e-9 * around[1]
        assert abs(found.drive(knee + 1e-3) - found.drive(knee)) > 1e-5  # a millivolt away it does


def test_bad_branches():
    with pytest.raises(LocalplastError, match="E_leak = -70.0 is not a potential"):
        Branch(E_leak=-70.0)
    with pytest.raises(LocalplastError, match="E_leak = .* is not below E = "):
        Branch(E_leak=10 * mV)
    with pytest.raises(LocalplastError, match=r"the gate has \['alpha'\]; it needs"):
        Branch({"alpha": 0.08 / mV})
    with pytest.raises(LocalplastError, match="drive .* -1 is not a finite number"):
        Branch().steady(-1)
    with pytest.raises(LocalplastError, match="without magnesium no slope"):
        critical_slope(Mg=0)
    assert Branch(Mg=0.0).drives is None


def ends(backend, model, drives):
    """Where the branch ends up, mV ``(drive, start)``, from its low and its high state, after 300 time constants."""
    size = 2 * len(drives)
    start = np.tile([-70, -5], len(drives)) * mV
    silent = Drive({"s_nmda_branch": 0.0}, events([] * ms, duration=300 * ms, dt=STEP))
    net, trials = scan(
        model, size, [silent], dt=STEP, initial={"v_branch": start, "s_nmda_branch": np.repeat(drives, 2)}
    )
    v = traces(lp.run(net, trials, backend=backend, record=["cells.v_branch"], every=100, show=False), "v_branch")
    return 1e3 * v[:, -1].reshape(-1, 2)


def check_hysteresis(backend, model, found):
    """Raise unless the branch has two end states inside the range of ``found`` and one outside, where the solver
    says.
    """
    low, high = found.drives
    drives = np.array([0.97 * low, 1.03 * low, 0.97 * high, 1.03 * high])
    states = ends(backend, model, drives)
    for drive, (lower, upper) in zip(drives, states, strict=True):
        steady = np.asarray(found.steady(drive) / mV)
        assert (lower, upper) == pytest.approx((steady[0], steady[-1]), abs=1e-3)
    assert (np.abs(np.diff(states, axis=1))[:, 0] > 10).tolist() == [False, True, True, False]


@pytest.mark.parametrize("backend", ["brian2", "torch"])
def test_hysteresis_on_both_sides_of_the_range(backend):
    check_hysteresis(backend, branch(), Branch())


@pytest.mark.thorough
def test_without_the_block_or_with_a_shallow_one_there_is_no_hysteresis():
    for model in (branch(Mg=0.0), branch(gate=JAHR_STEVENS)):
        with pytest.raises(AssertionError):
            check_hysteresis("brian2", model, Branch())
    wide = np.linspace(0.5, 12, 24)
    assert np.abs(np.diff(ends("brian2", branch(gate=JAHR_STEVENS), wide), axis=1)).max() < 1e-3


@pytest.mark.thorough
def test_the_loop_of_a_ramp_goes_round_the_range():
    """A drive that rises passes the upper end of the range before the branch jumps, one that falls the lower end."""
    phenomenon = protocols.load("nmda-bistability")
    record = phenomenon.measure(replace(phenomenon.presets["quick"](), ramp=200 * ms))
    found = jumps(record)
    assert np.isnan(found[0]).all()
    for (up, down), gate_ in zip(found[1:], (gate(0.08, 0), HIPPOCAMPAL), strict=True):
        low, high = Branch(gate_).drives
        assert high < up < 1.2 * high and 0.8 * low < down < low
