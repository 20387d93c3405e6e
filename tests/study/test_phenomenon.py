"""The contract of every phenomenon: record, figure, report and command line; and the scans that they are made of."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from brian2 import Hz, ms, mV, nS, pA, pF
from typer.testing import CliRunner

import localplast as lp
from localplast import cli, protocols
from localplast.errors import LocalplastError
from localplast.neuron import Compartment, cell
from localplast.protocols import fixed_plateau
from localplast.runs.record import open_record
from localplast.study.phenomenon import Phenomenon, labelled, write_record
from localplast.study.scan import Drive, double_exponential, events, pulses, scan, threshold, traces

DT = 0.05 * ms
NAMES = [name for name in protocols.names() if isinstance(protocols.load(name), Phenomenon)]
#: Fewer conditions than the quick preset has; a phenomenon that is not here is measured as it is, which may take
#: minutes.
FEWER = {
    "bac-firing": {"offsets": np.array([-5, 4, 10]) * ms, "amplitudes": np.arange(500, 1651, 150) * pA},
    "critical-frequency": {"frequencies": np.array([80, 90]) * Hz},
    "nmda-plateau": {"synapses": (1, 20, 28, 40, 60)},
    "nmda-bistability": {"ramp": 100 * ms},
    "fixed-plateau": {"synapses": (5, 20, 21, 34, 35, 38, 39, 50, 60), "offsets": np.array([-10, 2, 10]) * ms},
}


#: Scans of many conditions; how a phenomenon is measured, drawn and reported shows in the others too.
THOROUGH = {"bac-firing", "fixed-plateau"}
MARKS = {n: pytest.mark.thorough if n in THOROUGH else () if n in FEWER else pytest.mark.slow for n in NAMES}


@pytest.fixture(params=[pytest.param(n, marks=MARKS[n]) for n in NAMES], scope="module")
def measured(request):
    """Every phenomenon with a record of it."""
    phenomenon = protocols.load(request.param)
    return phenomenon, phenomenon.measure(replace(phenomenon.presets["quick"](), **FEWER.get(request.param, {})))


def test_there_are_phenomena():
    assert {"bac-firing", "critical-frequency", "nmda-plateau", "nmda-bistability", "fixed-plateau"} <= set(NAMES)


@pytest.mark.sampled(3)
def test_presets_build(measured):
    phenomenon, _ = measured
    assert {type(build()) for build in phenomenon.presets.values()} == {type(phenomenon.presets["quick"]())}


def test_every_variable_has_dims_and_a_unit(measured):
    phenomenon, record = measured
    assert isinstance(record, xr.DataTree) and record.attrs["phenomenon"] == phenomenon.name and record.children
    for part in record.children.values():
        for name, variable in part.to_dataset().variables.items():
            assert variable.dims and variable.attrs["units"], name
            assert variable.dtype.kind in "biuf", name


def test_records_are_written_whole_and_read_back(measured, tmp_path):
    _, record = measured
    for _ in range(2):  # the second replaces the first
        write_record(record, tmp_path / "it.zarr")
    found = open_record(tmp_path / "it.zarr")
    assert found.attrs["complete"] and [p.name for p in tmp_path.iterdir()] == ["it.zarr"]
    for name, part in record.children.items():
        xr.testing.assert_identical(found[name].to_dataset().compute(), part.to_dataset())


def test_figures_have_units_and_the_literature(measured):
    import matplotlib.pyplot as plt

    phenomenon, record = measured
    figure = phenomenon.figure(record)
    for ax in figure.axes:
        below = ax.get_shared_x_axes().get_siblings(ax)  # one label for a column of panels
        assert ax.get_title() and ax.get_ylabel()
        assert any(each.get_xlabel() for each in below) or ax.get_xticklabels(), ax.get_title()
    dashed = [line for ax in figure.axes for line in ax.lines if line.get_linestyle() in ("--", ":", "-.")]
    assert dashed, "nothing stands for the literature"
    plt.close(figure)


def test_reports_put_what_was_measured_beside_the_literature(measured):
    phenomenon, record = measured
    text = phenomenon.report(record)
    assert phenomenon.summary in text and phenomenon.reference in text and "| measured | literature |" in text
    assert "nan" not in text


def test_a_record_of_a_record_elsewhere_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(LocalplastError, match="mine"):
        write_record(xr.DataTree.from_dict({"/a": labelled(x=(("x",), [1.0], "s"))}), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_unknown_preset_or_backend():
    with pytest.raises(LocalplastError, match="bac-firing has the presets quick, paper, not 'huge'"):
        protocols.load("bac-firing").measure("huge")
    with pytest.raises(LocalplastError, match="backend is 'brian2' or 'torch', not 'numpy'"):
        protocols.load("critical-frequency").measure(backend="numpy")


@pytest.mark.thorough
class TestFixedPlateau:
    """Lengths that hang on the timer alone, and all or none."""

    @pytest.fixture(scope="class", params=["brian2", "torch"])
    def record(self, request):
        conditions = replace(
            fixed_plateau.protocol.presets["quick"](),
            synapses=(10, 20, 21, 34, 35, 38, 39, 45, 60),
            offsets=np.array([-10, 2]) * ms,
        )
        return protocols.load("fixed-plateau").measure(conditions, backend=request.param)

    @pytest.mark.thorough
    def test_length_is_independent_of_strength_to_one_step(self, record):
        # strong input outlasts a short event
        found, tail = (record["events"].to_dataset(), {0: 0.0, 1: 0.0, 2: 4 * float(DT)})
        for number, nominal in enumerate((50, 30, 3.6)):
            event = found["duration"].values[number] > 0
            assert event.any() and not event.all()
            assert np.abs(found["duration"].values[number, event] - nominal * 1e-3).max() < 1.01 * float(DT)
            assert np.ptp(found["above"].values[number, event]) <= tail[number] + 1.01 * float(DT)

    def test_all_or_none(self, record):
        """Peaks grow with the input below the threshold, and hardly above it; between lies a step."""
        found = record["events"].to_dataset()
        for number in range(3):
            event, peak = found["duration"].values[number] > 0, 1e3 * found["peak"].values[number]
            assert peak[event].min() - peak[~event].max() > 20
            assert np.ptp(peak[event]) < 4 and np.ptp(peak[~event]) > 9

    def test_a_calcium_spike_needs_a_coincidence(self, record):
        found = record["coincidence"].to_dataset()
        assert float(found["threshold_alone"][0]) == 35
        assert found["threshold"].values.tolist() == [35, 10]


class TestScan:
    CLOCK = dict(duration=20 * ms, dt=DT)

    def passive(self):
        return cell("passive", Compartment("soma", C=100 * pF, g_leak=5 * nS, E_leak=-70 * mV))

    @pytest.mark.parametrize("backend", ["brian2", "torch"])
    def test_a_current_flows_from_its_onset_on(self, backend):
        """The first step of the pulse is the one that ends one step after its onset; forward Euler by hand."""
        drive = Drive({"I_soma": np.array([100, 200]) * pA}, pulses(10 * ms, 1 * ms, **self.CLOCK))
        net, trials = scan(self.passive(), 2, [drive], dt=DT)
        v = 1e3 * traces(lp.run(net, trials, backend=backend, record=["cells.v_soma"], show=False), "v_soma") + 70
        expected, x = [], np.zeros(2)
        for n in range(400):
            x = x + 0.05 * (-x / 20 + (200 <= n < 220) * np.array([1.0, 2.0]))
            expected.append(x)
        assert np.abs(v - np.transpose(expected)).max() < 1e-12

    def test_conditions_have_waves_of_their_own(self):
        waves = np.stack([pulses(onset, 1 * ms, **self.CLOCK) for onset in (5 * ms, 10 * ms)], 1)
        drive = Drive({"I_soma": 100 * pA}, waves, np.array([1, 0, 1]))
        net, trials = scan(self.passive(), 3, [drive], dt=DT)
        v = traces(lp.run(net, trials, record=["cells.v_soma"], show=False), "v_soma")
        assert np.abs(v[0] - v[2]).max() < 1e-12 and (v > -70e-3 + 1e-9).argmax(1).tolist() == [200, 100, 200]
        with pytest.raises(LocalplastError, match="drive of 'I_soma': wave 2 was asked for; there are 2"):
            scan(self.passive(), 1, [Drive({"I_soma": 100 * pA}, waves, 2)], dt=DT)

    def test_waveforms(self):
        wave = double_exponential(5 * ms, rise=0.5 * ms, decay=5 * ms, **self.CLOCK)
        assert wave.max() == pytest.approx(1, abs=1e-4) and wave[:100].max() == 0 and wave[100] > 0
        assert pulses([2, 6] * ms, 1 * ms, **self.CLOCK).sum() == 40
        assert np.flatnonzero(events([3, 7] * ms, **self.CLOCK)).tolist() == [60, 140]
        with pytest.raises(LocalplastError, match="rise = 5. ms is not between 0 and decay"):
            double_exponential(5 * ms, rise=5 * ms, decay=5 * ms, **self.CLOCK)

    def test_threshold(self):
        reached = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]], bool)
        assert np.array_equal(threshold([10, 20, 30], reached), [20, np.nan, 10], equal_nan=True)


class TestCommandLine:
    def invoke(self, *words):
        return CliRunner().invoke(cli.app, list(map(str, words)))

    def test_run_measures_writes_and_reports(self, tmp_path, monkeypatch):
        name = "critical-frequency"
        phenomenon = protocols.load(name)
        few = {"quick": {**phenomenon.presets["quick"], **FEWER[name]}}
        monkeypatch.setattr(protocols.critical_frequency, "protocol", replace(phenomenon, presets=few))
        done = self.invoke("run", name, "--out", tmp_path)
        assert done.exit_code == 0, done.output
        assert "critical frequency (Hz) | between 80 and 90 | 98 ± 6" in done.output
        assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}-quick-brian2.png", f"{name}-quick-brian2.zarr"]
        assert "Group: /trains" in self.invoke("show", tmp_path / f"{name}-quick-brian2.zarr").output

    @pytest.mark.parametrize("words, message", [
        (("compare", "bac-firing"), "bac-firing is a phenomenon: measured, and nothing learns in it; use localplast run"),
        (("describe", "bac-firing"), "use localplast run bac-firing"),
        (("run", "bac-firing", "--rule", "eprop", "--updates", 3), "nothing learns in it: leave out --rule, --updates"),
        (("run", "bac-firing", "--preset", "huge"), "presets quick, paper, not 'huge'"),
        (("run", "bac-firing", "--backend", "nest"), "backend is 'brian2' or 'torch', not 'nest'"),
    ])  # fmt: skip
    def test_what_does_not_apply_is_refused(self, words, message):
        done = self.invoke(*words)
        assert isinstance(done.exception, LocalplastError) and message in str(done.exception)

    def test_list_tells_them_apart(self):
        learned, _, measured = self.invoke("list").output.partition("phenomena, for run:")
        assert "yin-yang" in learned and "yin-yang" not in measured
        assert all(name in measured and name not in learned for name in NAMES)
