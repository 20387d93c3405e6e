"""Streams that prospective networks learn from: what they hold, and what comes of learning with and without
prospective rates.
"""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from brian2 import ms
from matplotlib.figure import Figure
from scipy.signal import sawtooth

import localplast as lp
from localplast import protocols
from localplast.errors import RunawayError
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.circuit import TARGETS
from localplast.models.layers import layered, stream
from localplast.protocols import fourier_synthesis, presentation_time
from localplast.protocols import latent_equilibrium as images
from localplast.rules import bptt, dendritic
from localplast.study.alignment import gradient_measures
from localplast.study.contenders import Contender
from localplast.study.report import contenders, inside, report
from localplast.task.datasets import mnist
from localplast.task.streams import bars_task, digit_streams

needs_mnist = pytest.mark.needs_data("mnist/train-images-idx3-ubyte.gz")


def learned(preset, name, *, updates=None, seed=0, **options):
    """The record of one contender of a preset."""
    own = contenders(preset)[name].completed(preset.network, preset.optimiser, preset.loss)
    given = {"batch": preset.batch, "updates": updates or preset.updates, "test": preset.test, **options}
    given |= {"rule": own.rule, "optimiser": own.optimiser, "loss": own.loss, "backend": own.backend}
    return lp.run(own.network, preset.task, seed=seed, **given)


def last(record, metric):
    return float(record["metrics"][metric][-1])


class TestFourierSynthesis:
    def test_pieces_follow_each_other_and_hold_sines_and_a_sawtooth(self):
        dt, together = 0.05 * ms, fourier_synthesis.pieces(0, 10, dt=0.05 * ms)
        t = np.arange(4000) * 0.05e-3
        sines = np.sin(2 * np.pi * np.outer(t, [10, 500]))
        np.testing.assert_allclose(together.inputs["sense"].reshape(-1, 50)[:, [0, 49]], sines, atol=1e-9)
        whole = sawtooth(2 * np.pi * (np.arange(4000) % 500 + 1e-9) / 500)
        np.testing.assert_allclose(together.target.ravel(), whole, atol=1e-6)
        alone = fourier_synthesis.pieces(7, 1, dt=dt)
        np.testing.assert_array_equal(alone.inputs["sense"][0], together.inputs["sense"][7])

    def test_the_paper_preset_is_the_published_stream(self):
        preset = protocols.load("fourier-synthesis").presets["paper"]()
        assert float(preset.network.dt) == pytest.approx(0.005e-3)
        assert preset.optimiser.constants["learning_rate"] == pytest.approx(0.25 * 0.005)
        assert preset.updates * preset.task.training(0, 1, 0).steps * 0.005 == pytest.approx(400)
        assert [preset.network.size(n) for n in ("sense", "hidden1", "out")] == [50, 30, 1]
        assert (
            float(preset.network.nodes["out"].values["beta"]) == 0.1
            and contenders(preset)["LE, symmetric"].backend == "brian2"
        )

    @pytest.mark.thorough
    def test_it_learns_where_rates_are_prospective_and_hidden_weights_move(self):
        preset = protocols.load("fourier-synthesis").presets["quick"]()
        names = ("LE, symmetric", "LE, hidden frozen", "not prospective")
        loss = {name: last(learned(preset, name), "test_loss") for name in names}
        silence = 1 / 6  # of a readout that says nothing: half the variance of a sawtooth
        assert (
            loss["LE, symmetric"] < 0.015
            and loss["LE, hidden frozen"] > 0.08
            and loss["not prospective"] > 0.9 * silence
        )

    @pytest.mark.slow
    def test_brian2_and_torch_learn_the_same(self):
        preset = protocols.load("fourier-synthesis").presets["quick"]()
        found = [
            learned(
                replace(preset, rules={"LE": replace(contenders(preset)["LE, symmetric"], backend=b)}), "LE", updates=5
            )
            for b in ("brian2", "torch")
        ]
        for name in ("up1", "up2"):
            np.testing.assert_allclose(found[0][name]["weight"], found[1][name]["weight"], rtol=0, atol=1e-10)


class TestPresentationTime:
    @pytest.fixture(scope="class")
    def preset(self):
        return presentation_time.protocol.preset("quick", ratios=(0.3, 3, 100), updates=10)

    def weights(self, preset, name):
        return learned(preset, name, test=0)["up1"]["weight"].values

    @pytest.mark.thorough
    def test_what_is_learned_does_not_hang_on_tau_where_rates_are_prospective(self, preset):
        short, long = (self.weights(preset, f"prospective, shown {ratio} tau") for ratio in ("0.3", "100"))
        np.testing.assert_allclose(short, long, rtol=0, atol=1e-11)
        short, long = (self.weights(preset, f"lagging, shown {ratio} tau") for ratio in ("0.3", "100"))
        assert np.abs(short - long).max() > 0.05

    def test_names_carry_the_ratio_and_networks_its_tau(self, preset):
        for name, contender in preset.rules.items():
            tau = float(contender.network.nodes["hidden1"].values["tau"])
            assert float(name.split()[-2]) == pytest.approx(20e-3 / tau) and name.startswith(
                tuple(presentation_time.FORMS)
            )

    def test_the_figure_shows_accuracy_against_the_ratio(self):
        names = [f"{form}, shown {ratio} tau" for form in presentation_time.FORMS for ratio in (0.3, 100)]
        accuracy = xr.DataArray(np.linspace(0, 1, 8).reshape(4, 2, 1), {"rule": names}, ("rule", "seed", "update"))
        tree = xr.DataTree.from_dict({"/curves": xr.Dataset({"test_accuracy": accuracy})})
        ratio, found = presentation_time.results(tree)["lagging"]
        np.testing.assert_array_equal(ratio, [0.3, 100])
        np.testing.assert_allclose(found, np.array([[4, 5], [6, 7]]) / 7)
        figure = presentation_time.figure(tree)
        assert len(figure.axes[0].containers) == len(presentation_time.FORMS)
        np.testing.assert_allclose(figure.axes[0].containers[1].lines[0].get_ydata(), 100 * found.mean(1))

    @pytest.mark.thorough
    def test_a_report_writes_the_figure_of_a_whole_comparison(self, preset, tmp_path):
        net = layered((9, 2, 3), latent_equilibrium(), latent_equilibrium_output())
        rules, task = {"LE": Contender(dendritic(), "torch")}, bars_task("bars", steps=2, shown=2, targets=TARGETS)
        small = replace(preset, network=net, task=task, test=2, batch=1, rules=rules)
        seen = []
        protocol = replace(protocols.load("presentation-time"), overview=lambda tree: seen.append(tree) or Figure())
        text = report(protocol, small, preset="quick", seeds=[0], folder=tmp_path, updates=5)
        assert "overview.png" in text and (tmp_path / "overview.png").is_file() and "curves" in seen[0].children

    @pytest.mark.slow
    def test_short_presentations_hurt_only_where_rates_lag(self):
        preset = presentation_time.protocol.preset("quick", ratios=(0.3, 100))
        runs = {name: [learned(preset, name, seed=seed) for seed in range(3)] for name in preset.rules}
        accuracy = {
            name: np.mean([last(record, "test_accuracy") for record in records]) for name, records in runs.items()
        }
        assert accuracy["prospective, shown 0.3 tau"] == accuracy["prospective, shown 100 tau"] > 0.95
        assert accuracy["lagging, shown 0.3 tau"] < 0.6 < 0.75 < accuracy["lagging, shown 100 tau"]


@needs_mnist
class TestLatentEquilibrium:
    @pytest.fixture(scope="class")
    def preset(self):
        return protocols.load("latent-equilibrium").presets["quick"]()

    def test_images_follow_each_other_without_a_gap(self):
        task = digit_streams("digits", mnist(), steps=4, images=3, shown=6, train=9)
        trials, pixels = task.training(0, 3, seed=0), mnist()[0][0][:9].reshape(9, -1) / 255
        shown = trials.inputs["sense"].reshape(9, 4, 784)
        assert np.array_equal(shown, np.repeat(shown[:, :1], 4, axis=1)) and shown.max() == 1.0
        order = [int(np.flatnonzero((pixels == image).all(1))[0]) for image in shown[:, 0]]
        assert sorted(order) == list(range(9)), "an epoch shows every image once"
        wanted = np.eye(10)[mnist()[0][1][:9][order]]
        np.testing.assert_array_equal(trials.inputs["target"].reshape(9, 4, 10)[:, 2], wanted)
        assert task.testing(5, seed=0).target.tolist() == mnist()[1][1][:5].tolist()

    def test_what_learns_by_kolen_and_pollack_decays_alike(self, preset):
        own = preset.rules["LE, learned"].completed(preset.network, preset.optimiser, preset.loss)
        for down, up in (("down1", "up2"), ("down2", "up3")):
            rates = [own.optimiser.rate(name) for name in (down, up)]
            assert rates[0] == rates[1] > 0 and {down, up} <= set(own.optimiser.decaying)
        assert "up1" not in own.optimiser.decaying

    @pytest.mark.parametrize("name", ["quick", "paper"])
    def test_bptt_moves_as_far_as_all_steps_together_in_which_an_image_has_settled(self, name):
        """Once for as many images as one step of the others sees, as often as these change; all images alike."""
        numbers = protocols.load("latent-equilibrium").presets[name]
        preset, rates = numbers(), []
        online, offline = preset.optimiser, preset.rules["BPTT"]
        steps = preset.task.training(0, 1, seed=0).steps
        for optimiser in (online, offline.optimiser):
            rates.append([optimiser.rate(k) for k in ("up1", "hidden1.b", "up2", "hidden2.b", "up3", "out.b")])
        settled = steps / numbers["images"] - 4  # two steps up to the output, two down again
        np.testing.assert_allclose(rates[1], np.array(rates[0]) * images.BETA * settled)
        assert offline.batch * numbers["images"] == preset.batch
        assert offline.updates == preset.updates * numbers["images"]
        shown = [preset.task.training(0, 2 * offline.batch, 0).inputs["sense"]]
        shown.append(np.concatenate([preset.task.training(k, offline.batch, 0).inputs["sense"] for k in (0, 1)]))
        np.testing.assert_array_equal(*shown)

    def test_weights_and_biases_are_drawn_alike(self, preset):
        for name in ("hidden1", "hidden2", "out"):
            assert preset.network.populations[name].parameters["b"] == lp.normal(0.07, fan_in=False)
        drawn = preset.network.draw(3).parameters["hidden1"]["b"]
        assert len(drawn) == 100 and drawn.std() == pytest.approx(0.07, rel=0.25)

    def test_lagging_rates_cannot_bear_the_rate_of_prospective_ones(self, preset):
        slow = preset.rules["not prospective"]
        fast = replace(preset, rules={"fast": replace(slow, optimiser=preset.optimiser)})
        with pytest.raises(RunawayError, match="is not finite from step"):
            learned(fast, "fast", updates=20, test=0)

    @pytest.mark.slow
    def test_brian2_and_torch_learn_the_same_online(self, preset):
        found = [
            learned(
                replace(preset, batch=1, rules={"LE": replace(preset.rules["LE, learned"], backend=b)}),
                "LE",
                updates=20,
                test=0,
            )
            for b in ("brian2", "torch")
        ]
        for name in ("up1", "up2", "up3", "down1", "down2"):
            np.testing.assert_allclose(found[0][name]["weight"], found[1][name]["weight"], rtol=0, atol=1e-12)
            moved = found[0][name]["weight"] - preset.rules["LE, learned"].network.draw(0).weights[name]
            assert np.abs(moved).max() > 1e-3
        np.testing.assert_allclose(
            found[0]["learned"]["hidden1.b"], found[1]["learned"]["hidden1.b"], rtol=0, atol=1e-12
        )

    @pytest.mark.slow
    def test_accuracies(self, preset):
        accuracy = {
            name: last(learned(preset, name, updates=200), "test_accuracy") for name in preset.rules if name != "BPTT"
        }
        assert min(accuracy[f"LE, {kind}"] for kind in ("symmetric", "random", "learned")) > 0.8
        assert accuracy["LE, hidden frozen"] < 0.7 and accuracy["not prospective"] < 0.3


def test_feedback_weights_that_learn_are_no_part_of_the_hidden_gradient():
    net, rng = (
        layered((4, 5, 3), latent_equilibrium(), latent_equilibrium_output(), feedback="learned"),
        np.random.default_rng(0),
    )
    trials = stream(rng.random((2, 1, 4)), rng.random((2, 1, 3)), steps=30)
    rule, loss = dendritic(update="trial"), lp.losses.mse()
    found = gradient_measures(net, net.draw(0), trials, rule, loss, "hidden1", 0)
    assert found["norm_ratio"] == found["norm_ratio.up1"]
    local, exact = (lp.gradient(net, trials, each, loss=loss) for each in (rule, bptt()))
    whole = np.linalg.norm([np.linalg.norm(local[name]["gradient"]) for name in ("up1", "down1")])
    assert abs(whole / np.linalg.norm(exact["up1"]["gradient"]) - found["norm_ratio"]) > 0.1, "both would be the same"


def test_networks_of_rates_have_no_spikes_to_count_or_to_see():
    preset = protocols.load("presentation-time").presets["quick"]()
    own = next(iter(contenders(preset).values())).completed(preset.network, preset.optimiser, preset.loss)
    assert inside(preset, own, None, 0) is None
    record = learned(preset, next(iter(preset.rules)), updates=1)
    assert np.isnan(last(record, "test_spikes")) and np.isfinite(last(record, "test_loss"))
