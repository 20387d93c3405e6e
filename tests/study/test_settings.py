"""A preset is data, and every number of it can be set otherwise: in Python, and by ``--set`` on the command line."""

import numpy as np
import pytest
import xarray as xr
from brian2 import Hz, Quantity, ms, mV, pA, pamp
from typer.testing import CliRunner

import localplast as lp
from localplast import cli, protocols
from localplast.equations.expressions import quantity
from localplast.errors import LocalplastError
from localplast.models import leaky_readout, lif
from localplast.rules import eprop
from localplast.study.numbers import read, settings, written
from localplast.study.phenomenon import Phenomenon
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import cross_entropy


def build(*, dt, updates, hidden=(3,), tau=20 * ms, rate=0.01, code="left", shuffled=True, train=None, batch=2, test=4):
    def generate(rng, n):
        raster = rng.random((n, 10, 2)) < 0.5
        return lp.Trials({"cues": raster}, rng.integers(0, 2, n))

    net = lp.Network(
        dt=dt,
        cues=lp.Input(2),
        rec=lp.Population(hidden[0], lif(v_th=0.1, tau_mem=tau)),
        out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "rec"), lp.Projection("rec", "out")],
    )
    options = dict(loss=cross_entropy(), learning_rate=rate, batch=batch, updates=updates, test=test, hidden="rec")
    return Preset(net, lp.Task.generated("toy", generate), rules={"e-prop": eprop()}, **options)


TOY = Protocol(
    "toy", "a test", "none", build, {"quick": dict(dt=1 * ms, updates=2), "paper": dict(dt=1 * ms, updates=9, train=5)}
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(protocols, "load", lambda name: TOY)


def invoke(*words):
    return CliRunner().invoke(cli.app, list(map(str, words)), catch_exceptions=False)


class TestPython:
    def test_a_preset_is_data_that_builds_when_it_is_called(self):
        assert dict(TOY.presets["paper"]) == {"dt": 1 * ms, "updates": 9, "train": 5}
        assert TOY.presets["paper"]().updates == TOY.preset("paper").updates == 9
        assert TOY.preset().task.attrs == {}

    def test_numbers_are_set_and_the_task_says_so(self):
        found = TOY.preset("quick", updates=3, hidden=[5], tau=5 * ms, rate=1)
        assert found.updates == 3 and found.network.size("rec") == 5 and found.learning_rate == 1.0
        assert found.network.nodes["rec"].model.parameters["tau_mem"] == 5 * ms
        assert found.task.attrs == {"settings": "updates=3, hidden=5,, tau=5*ms, rate=1.0"}
        assert dict(TOY.presets["quick"]) == {"dt": 1 * ms, "updates": 2}  # as before

    def test_whatever_another_preset_has_can_be_set(self):
        assert TOY.preset("quick", train=7).task.attrs == {"settings": "train=7"}
        assert TOY.preset("paper", train=None).task.attrs == {"settings": "train=none"}

    @pytest.mark.parametrize("name, value, kind", [
        ("updates", 2.0, "a whole number"), ("updates", True, "a whole number"), ("updates", "2", "a whole number"),
        ("updates", None, "a whole number"), ("dt", 1, "a quantity in second"), ("dt", 1 * mV, "a quantity in second"),
        ("dt", [1, 2] * ms, "a quantity in second"), ("dt", np.inf * ms, "a quantity in second"),
        ("rate", "much", "a number"), ("rate", np.nan, "a number"), ("rate", np.inf, "a number"),
        ("rate", 1 * ms, "a number"),
        ("code", 1, "a text"), ("shuffled", 1, "true or false"), ("train", 0.5, "a whole number or none"),
        ("hidden", 3, "several values, each a whole number"), ("hidden", (3.5,), "several values, each a whole number"),
        ("hidden", "33", "several values, each a whole number"), ("rate", lambda: 1, "a number"),
    ])  # fmt: skip
    def test_a_value_of_another_kind_is_refused_by_a_list_of_what_can_be_set(self, name, value, kind):
        with pytest.raises(LocalplastError) as caught:
            TOY.preset("quick", **{name: value})
        told = str(caught.value)
        assert (
            told.startswith(f"toy, preset quick: {name} is {kind}")
            and f"given {value!r:.80}; can be set: dt=1*ms, updates=2" in told
        )

    def test_an_unknown_name_is_refused_by_a_list_of_what_can_be_set(self):
        every = "hidden=3,, tau=20*ms, rate=0.01, code=left, shuffled=true, train=none, batch=2, test=4"
        with pytest.raises(LocalplastError) as caught:
            TOY.preset("quick", neurons=3)
        assert str(caught.value) == f"toy has no 'neurons' to set; can be set: dt=1*ms, updates=2, {every}"
        with pytest.raises(LocalplastError, match="toy has the presets quick, paper, not 'huge'"):
            TOY.preset("huge")

    @pytest.mark.parametrize(
        "name, value", [("updates", 0), ("batch", -1), ("test", -1), ("hidden", (0,)), ("dt", -1 * ms)]
    )
    def test_numbers_that_nothing_can_be_built_with_are_refused(self, name, value):
        with pytest.raises(LocalplastError):
            TOY.preset("quick", **{name: value})

    @pytest.mark.parametrize("name, value, legal", [
        ("updates", -1, "a whole number, 0 or more; given -1"), ("hidden", (-3,), "several values, each a whole number, 0 or more; given -3,"),
        ("hidden", (), "several values, each a whole number, one or more of them; given none"),
        ("dt", -1 * ms, "a quantity in second, above 0; given -1\\*ms"), ("dt", 0 * ms, "a quantity in second, above 0; given 0\\*"), ("rate", -0.1, "a number, 0 or more; given -0.1"),
        ("train", -5, "a whole number or none, 0 or more; given -5"),
    ])  # fmt: skip
    def test_senseless_numbers_are_refused_before_anything_is_built(self, name, value, legal):
        with pytest.raises(LocalplastError, match=f"^toy, preset quick: {name} is {legal}"):
            TOY.presets["quick"].changed({name: value})

    @pytest.mark.parametrize("name", [n for n in protocols.names() if isinstance(protocols.load(n), Protocol)])
    def test_no_number_of_any_protocol_may_be_negative_that_no_preset_has_so(self, name):
        for number, value in (numbers := protocols.load(name).presets["quick"]).items():
            if isinstance(value, (bool, str, type(None))) or not np.size(value):
                continue
            negative = tuple(-1 - v for v in value) if isinstance(value, tuple) else -value
            with pytest.raises(LocalplastError, match=f"^{name}, preset quick: {number} is .* 0.*; given .*-"):
                numbers.changed({number: negative})

    def test_a_number_may_be_negative_and_a_list_empty_where_a_preset_has_it_so(self):
        numbers = Protocol("toy", "a test", "none", lambda *, at, dense: (at, dense), {
            "quick": {"at": np.array([-1, 1]) * ms, "dense": (3,)}, "paper": {"at": np.array([1]) * ms, "dense": ()},
        }).presets["paper"]  # fmt: skip
        found = numbers.changed({"at": [-7] * ms, "dense": ()})
        assert dict(found) == {"at": [-7] * ms, "dense": ()} and found.changes == dict(found)

    def test_what_goes_wrong_in_other_libraries_is_said_with_what_was_set(self):
        def failing(*, size):
            return np.zeros(size)

        failing = Protocol("failing", "a test", "none", failing, {"quick": {"size": 1}, "paper": {"size": -2}})
        with pytest.raises(
            LocalplastError,
            match="failing, preset quick cannot be built with size=-1: negative dimensions.*; can be set: size=-1",
        ):
            failing.preset("quick", size=-1)

    @pytest.mark.parametrize("value", [lambda: 1, {"a": 1}, eprop(), (1, eprop())])
    def test_presets_hold_nothing_but_data(self, value):
        with pytest.raises(LocalplastError, match="rate of preset 'quick' is .* give numbers, quantities and texts"):
            Protocol("toy", "a test", "none", build, {"quick": {"rate": value}})

    def test_a_preset_is_no_function(self):
        with pytest.raises(LocalplastError, match="toy: preset 'quick' is a dict of numbers for build="):
            Protocol("toy", "a test", "none", build, {"quick": build})


class TestText:
    @pytest.mark.parametrize("text, value", [
        ("500", 500), ("-1", -1), ("1_000", 1000), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False),
        ("none", None), ("left", "left"), ("100,50", (100, 50)), ("(100, 50)", (100, 50)), ("[7]", (7,)), ("7,", (7,)),
        ("()", ()), ("brian2", "brian2"), ("1+1", "1+1"), ("2 ms", "2 ms"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
    ])  # fmt: skip
    def test_text_is_read_and_never_evaluated(self, text, value):
        found = read(text)
        assert found == value and type(found) is type(value)

    @pytest.mark.parametrize("text, value", [
        ("20*ms", 20 * ms), ("0.3*ms", 0.3 * ms), ("-70*mV", -70 * mV), ("3000*pA**2", 3000 * pA**2), ("0*ms", 0 * ms),
        ("2*pA/ms", 2 * pA / ms), ("1/ms", 1 / ms), ("ms", 1 * ms), ("1e-3 * second", 1 * ms),
        ("3000.*pamp**2", 3000 * pamp**2),
    ])  # fmt: skip
    def test_numbers_with_units_are_those_of_python_to_the_bit(self, text, value):
        assert isinstance(read(text), Quantity) and read(text).dim is value.dim and float(read(text)) == float(value)

    @pytest.mark.parametrize("text", [
        "foo", "2*foo", "exp(1)*ms", "1*ms + 1*mV", "0*ms + 1*ms", "5*2*ms", "randn()*ms", "9**9**9*ms", "ms**0.5", "",
        "*ms", "1.2.3*ms", "a.b*ms", "5", "__import__('os')*ms", "lambda: 1",
    ])  # fmt: skip
    def test_nothing_else_is_a_quantity(self, text):
        with pytest.raises(ValueError):
            quantity(text)

    @pytest.mark.parametrize("value", [
        3, -0.25, True, None, "left", (1, 0.5), (3,), (), 20 * ms, 0.3 * mV, 3000 * pA**2, 0 * ms, 1e-9 / ms,
    ])  # fmt: skip
    def test_what_is_written_is_read_again(self, value):
        found = read(written(value))
        assert found == value and getattr(found, "dim", None) is getattr(value, "dim", None)

    @pytest.mark.parametrize("texts, message", [
        (["updates"], "NAME=VALUE"), (["=3"], "NAME=VALUE"), (["updates="], "NAME=VALUE"),
        (["updates=1", "updates=2"], "gives updates twice: 1 and 2"),
    ])  # fmt: skip
    def test_what_sets_nothing_is_refused(self, texts, message):
        with pytest.raises(LocalplastError, match=message):
            settings(texts)


class TestCommandLine:
    def test_a_run_is_another_with_other_numbers_and_says_so(self, toy, tmp_path):
        words = ["run", "toy", "--backend", "torch", "--out", tmp_path]
        invoke(*words)
        invoke(*words, "--set", "hidden=5,", "--set", "tau=5*ms")
        plain = tmp_path / "toy-quick-eprop-default-torch-seed0.zarr"
        other = tmp_path / "toy-quick-hidden=5,-tau=5%2Ams-eprop-default-torch-seed0.zarr"
        assert "settings" not in lp.open(plain).attrs
        assert lp.open(other).attrs["settings"] == "hidden=5,, tau=5*ms"
        assert lp.open(other)["cues_rec"]["weight"].shape == (2, 5) and lp.open(plain)["cues_rec"]["weight"].shape == (
            2,
            3,
        )

    def test_settings_are_part_of_the_identity(self, tmp_path):
        def run(preset, **options):
            more = dict(loss=preset.loss, batch=2, updates=preset.updates, path=tmp_path / "run.zarr", backend="torch")
            return lp.run(preset.network, preset.task, rule=eprop(), optimiser=preset.optimiser, **more, **options)

        run(TOY.preset("quick", code="right"))
        run(TOY.preset("quick", code="right"), resume=True)
        with pytest.raises(LocalplastError, match=r"other settings \('code=right', not None\)"):
            run(TOY.preset("quick"), resume=True)

    @pytest.mark.thorough
    def test_a_comparison_says_what_was_set(self, toy, tmp_path):
        words = ["--seeds", "1", "--backend", "torch", "--out", tmp_path]
        said = invoke("compare", "toy", *words, "--set", "rate=0.02", "--set", "hidden=4,").output
        assert "toy, preset quick with rate=0.02, hidden=4,, 2 updates" in said
        assert "localplast compare toy --preset quick --seeds 1 --backend torch --set rate=0.02 --set hidden=4," in said
        folder = tmp_path / "toy-quick-rate=0.02-hidden=4,"
        tree = xr.open_datatree(folder / "comparison.zarr", engine="zarr", consolidated=False)
        assert tree.attrs["settings"] == "rate=0.02, hidden=4,"
        assert lp.open(folder / "runs" / "e-prop-seed0.zarr").attrs["settings"] == "rate=0.02, hidden=4,"

    @pytest.mark.parametrize("words, message", [
        (("run", "toy", "--set", "updates=1.5"), "toy, preset quick: updates is a whole number; given 1.5; can be set: dt="),
        (("run", "toy", "--set", "neurons=3"), "toy has no 'neurons' to set; can be set: dt="),
        (("run", "toy", "--set", "updates"), "--set takes NAME=VALUE"),
        (("run", "toy", "--updates", "3", "--set", "updates=3"), "--updates and --set updates"),
        (("compare", "toy", "--set", "rate=1*ms"), "toy, preset quick: rate is a number"),
        (("compare", "toy", "--batch", "3", "--set", "batch=3"), "--batch and --set batch"),
        (("describe", "eprop", "--set", "dt=1*ms"), "--set is for numbers of a protocol, and 'eprop' is none"),
    ])  # fmt: skip
    def test_nothing_that_is_set_is_ignored(self, toy, tmp_path, words, message):
        with pytest.raises(LocalplastError) as caught:
            invoke(*words, *(() if words[0] == "describe" else ("--out", tmp_path)))
        assert message in str(caught.value) and not list(tmp_path.iterdir())

    def test_a_protocol_is_described_with_what_was_set(self):
        plain, other = (invoke("describe", "yin-yang", *words).output for words in ((), ("--set", "dt=0.5*ms")))
        assert plain != other


def conditions(*, frequencies, dt=0.1 * ms):
    return frequencies, dt


class TestPhenomena:
    PRESETS = {"quick": dict(frequencies=np.array([60, 70]) * Hz), "paper": dict(frequencies=np.array([60.0]) * Hz)}

    def measured(self, **options):
        def scanned(given, run):
            return {"scan": xr.Dataset({"frequency": ("frequency", np.asarray(given[0])), "dt": float(given[1])})}

        toy = Phenomenon(
            "toy", "a test", "none", conditions, self.PRESETS, scanned, lambda record: None, lambda record: []
        )
        return toy, toy.measure(**options)

    def test_conditions_are_set_and_the_record_says_so(self):
        toy, record = self.measured(settings={"frequencies": (80 * Hz, 90 * Hz), "dt": 0.05 * ms})
        assert record["scan"]["frequency"].values.tolist() == [80, 90] and float(record["scan"]["dt"]) == 0.05e-3
        assert record.attrs["settings"] == "frequencies=80*Hz,90*Hz, dt=50*us"
        assert "preset quick with frequencies=80*Hz,90*Hz, dt=50*us" in toy.table(record).header[0]
        assert "settings" not in self.measured()[1].attrs

    @pytest.mark.parametrize("preset, given, message", [
        ("quick", {"frequencies": 80}, "toy, preset quick: frequencies is several numbers in hertz; given 80; can be set: freq"),
        ("quick", {"model": 80}, "toy has no 'model' to set; can be set: frequencies=60"),
        (conditions(frequencies=[60] * Hz), {"dt": 1 * ms}, "settings are those of a preset"),
    ])  # fmt: skip
    def test_what_cannot_be_set_is_refused(self, preset, given, message):
        with pytest.raises(LocalplastError, match=message):
            self.measured(preset=preset, settings=given)

    @pytest.mark.parametrize("name", [n for n in protocols.names() if isinstance(protocols.load(n), Phenomenon)])
    def test_every_number_of_every_phenomenon_is_checked(self, name):
        """Negative, and none at all: told in one sentence each, not by another library."""
        found = protocols.load(name)
        for number, value in found.presets["quick"].items():
            if np.min(value) >= 0:
                with pytest.raises(LocalplastError, match=f"^{name}, preset quick: {number} is .* 0.*; given -"):
                    found.measure(settings={number: tuple(-v for v in value) if isinstance(value, tuple) else -value})
            if np.ndim(value):
                with pytest.raises(LocalplastError, match=f"^{name}, preset quick: {number} is .* one or more of them"):
                    found.measure(settings={number: value[:0]})

    def test_an_error_of_another_library_is_said_with_what_was_set(self):
        with pytest.raises(
            LocalplastError, match="nmda-bistability, preset quick cannot be built with ramp=0.*; can be"
        ):
            protocols.load("nmda-bistability").measure(settings={"ramp": 0 * ms})
        with pytest.raises(
            LocalplastError,
            match=r"^nmda-plateau, preset quick with shown=21,: shown is a choice of synapses.*given \[21\]",
        ):
            protocols.load("nmda-plateau").measure(settings={"shown": (21,)})
