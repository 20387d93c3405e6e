"""A network is frozen data: printed, compared, saved, and its numbers drawn alike everywhere."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from brian2 import ms, mV, second

from localplast.errors import LocalplastWarning, NetworkError
from localplast.models import alif, cuba_lif, leaky_readout, lif
from localplast.network import (
    Delay,
    Input,
    Network,
    Population,
    Projection,
    axonal,
    dendritic,
    normal,
    same_as,
    synaptic,
    uniform,
)
from localplast.network.delays import gaussian
from localplast.neuron import Mismatch
from localplast.show.examples import sample


def network(**changes):
    """A network with something of everything that a file must hold."""
    rng = np.random.default_rng(0)
    weight = changes.pop("weight", normal(2.0))
    return Network(**{
        "dt": 1 * ms, "cues": Input(4), "drive": Input(2, "currents"),
        "rec": Population(5, alif(tau_ref=2 * ms), {"beta": rng.random(5)}, {"v": 0.2}),
        "volts": Population(3, cuba_lif()), "out": Population(2, leaky_readout()),
        "projections": [
            Projection("cues", "rec", weight=weight, delay=dendritic(rng.integers(0, 9, 5) * ms)),
            Projection("rec", "rec", weight=uniform(1.0), mask=0.5, delay=synaptic(rng.integers(0, 9, (5, 5)) * ms)),
            Projection("rec", "volts", weight=rng.random((5, 3)) * mV, mask=rng.random((5, 3)) < 0.5),
            Projection("volts", "out", delay=axonal(2.6 * ms), plastic=False, name="last"),
        ],
        **changes,
    })  # fmt: skip


def test_learned_delays_survive_a_file(tmp_path):
    """Their bounds, one of them open, and their kernel."""
    delay = axonal([1.3, 2] * ms, trainable=(None, 9 * ms), kernel=gaussian(3 * ms))
    projections = [Projection("cues", "out", delay=delay)]
    net = Network(dt=1 * ms, cues=Input(2), out=Population(3, leaky_readout()), projections=projections)
    net.save(tmp_path / "net.json")
    again = Network.load(tmp_path / "net.json")
    assert again == net and again.limits("cues_out.delay") == (0.0, 9.0)
    assert again.projections["cues_out"].delay.kernel == delay.kernel and again.learned_delays == ("cues_out",)


def test_weights_that_cannot_be_scaled_are_named():
    net = Network(
        dt=1 * ms, cues=Input(2), out=Population(3, leaky_readout()), rec=Population(4, lif()),
        projections=[Projection("rec", "rec", weight=normal(0.0).scaled(2.0)), Projection("rec", "out")],
    )  # fmt: skip
    with pytest.raises(
        NetworkError, match="projection 'rec_rec': weights .4, 4. that form no loop cannot be scaled to radius 2"
    ):
        net.draw(0)


def test_a_network_survives_a_file(tmp_path):
    net = network()
    net.save(tmp_path / "net.json")
    again = Network.load(tmp_path / "net.json")
    assert again == net and repr(again) == repr(net)
    for one, other in zip(vars(net.draw(3)).values(), vars(again.draw(3)).values(), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_equal(one[name], other[name])
    assert [p.name for p in tmp_path.iterdir()] == ["net.json"], "a temporary file was left behind"


def test_dendrites_and_teachers_survive_a_file(tmp_path):
    net = sample("dendrites")
    back = replace(net.projections["top_rec"], output="u_breve", weight=same_as("rec_top", transposed=True))
    net = Network(
        dt=net.dt, projections=[*(p for p in net.projections.values() if p.name != "top_rec"), back], **net.nodes
    )
    net.save(tmp_path / "net.json")
    again = Network.load(tmp_path / "net.json")
    assert again == net and again.teachers == ("target", "teaching")
    assert again.nodes["rec"].model.mismatch["v_api"] == Mismatch("-v_api")
    np.testing.assert_array_equal(again.draw(1).weights["top_rec"], net.draw(1).weights["rec_top"].T)
    assert "  top_rec: top.u_breve -> rec.v_api, graded" in repr(
        again
    ) and "  target: 2 input of currents, a teacher's" in repr(again)


def test_equality_is_by_content():
    assert network() == network()
    assert network() != network(dt=0.5 * ms)
    assert network() != network(weight=normal(2.1))
    assert network() != network(out=Population(2, leaky_readout(tau_out=21 * ms)))
    assert network() != "network"
    assert Population(3, lif()) == Population(3, lif()) != Population(4, lif())
    assert axonal(2 * ms) == axonal(2 * ms) != dendritic(2 * ms)


def test_a_network_is_frozen():
    net = network()
    with pytest.raises(AttributeError, match="a Network is frozen; make another one instead of changing 'dt'"):
        net.dt = 2 * ms
    with pytest.raises(AttributeError):
        net.projections["last"].plastic = True


def test_printing_shows_every_part():
    lines = repr(network()).splitlines()
    assert lines[0] == "Network, dt = 1. ms"
    assert "  cues: 4 input of spikes" in lines and "  drive: 2 input of currents" in lines and "  rec: 5 alif" in lines
    assert "  cues_rec: cues -> rec.v, event, dendritic delay" in lines
    assert "  rec_volts: rec -> volts.I, event" in lines
    assert "  last: volts -> out.v, event, axonal delay, fixed" in lines


def test_what_a_network_knows_of_itself():
    net = network()
    assert list(net.populations) == ["rec", "volts", "out"] and list(net.inputs) == ["cues", "drive"]
    assert net.readouts == ("out",)
    assert [p.name for p in net.plastic] == ["cues_rec", "rec_rec", "rec_volts"]


def edited(net, tmp_path, change):
    """``net`` written, its JSON changed, and read."""
    path = tmp_path / "net.json"
    net.save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return Network.load(path)


def test_loading_builds_only_known_types(tmp_path):
    def change(data):
        data["map"]["nodes"]["map"]["out"]["type"] = "Popen"

    with pytest.raises(ValueError, match="unknown type 'Popen' in the file; known are Convolution, Delay, Input"):
        edited(network(), tmp_path, change)


def test_loading_refuses_objects(tmp_path):
    def change(data):
        data["map"]["projections"][2]["weight"]["quantity"]["dtype"] = "|O"

    with pytest.raises(ValueError, match=r"dtype '\|O' is not plain numbers"):
        edited(network(), tmp_path, change)


def test_loading_checks_what_it_builds(tmp_path):
    def change(data):
        data["map"]["projections"][0]["post"] = "nobody"

    with pytest.raises(NetworkError, match="there is no 'nobody' in the network"):
        edited(network(), tmp_path, change)


def test_drawn_numbers_depend_on_the_seed_and_the_name_only():
    one, again, other = network().draw(1), network().draw(1), network().draw(2)
    np.testing.assert_equal(vars(one), vars(again))
    assert not np.array_equal(one.weights["cues_rec"], other.weights["cues_rec"])
    assert not np.array_equal(one.masks["rec_rec"], other.masks["rec_rec"])
    reduced = Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, alif()), projections=[Projection("cues", "rec", weight=normal(2.0))]
    )
    np.testing.assert_array_equal(reduced.draw(1).weights["cues_rec"], one.weights["cues_rec"])


def test_drawn_numbers_are_the_same_on_every_machine():
    """A changed stream would make every stored seed mean another network."""
    net = Network(dt=1 * ms, cues=Input(2), rec=Population(2, lif()), projections=[Projection("cues", "rec")])
    np.testing.assert_allclose(
        net.draw(0).weights["cues_rec"],
        [[-0.18634439378265802, -0.5539583059630485], [1.2051376443844957, -0.7789772473318187]],
        rtol=1e-12,
    )


@pytest.mark.parametrize("kind, limit", [(normal, 5.0), (uniform, 1.0)])
def test_the_spread_of_weights(kind, limit):
    net = Network(
        dt=1 * ms, cues=Input(400), rec=Population(100, lif()),
        projections=[Projection("cues", "rec", weight=kind(3.0, mean=0.5))],
    )  # fmt: skip
    drawn = net.draw(0).weights["cues_rec"]
    spread = 3.0 / np.sqrt(400)
    assert abs(drawn.mean() - 0.5) < 0.01 * spread * 5
    assert abs(drawn.std() / spread - (1 if kind is normal else 1 / np.sqrt(3))) < 0.02
    assert np.abs(drawn - 0.5).max() < limit * spread
    assert kind(3.0, fan_in=False).draw(np.random.default_rng(0), (400, 100)).std() > 1.5


def test_masks_and_autapses():
    net = network()
    mask = net.draw(0).masks["rec_rec"]
    assert not mask.diagonal().any() and 0 < mask.sum() < 20
    weights = net.draw(0).weights["rec_rec"]
    assert np.all(weights[~mask] == 0) and np.all(weights[mask] != 0)
    with_autapses = Network(
        dt=1 * ms, rec=Population(5, lif()), projections=[Projection("rec", "rec", autapses=True)]
    ).draw(0)
    assert with_autapses.masks["rec_rec"].all()
    given = np.eye(5, k=1, dtype=bool)
    chain = Network(dt=1 * ms, rec=Population(5, lif()), projections=[Projection("rec", "rec", mask=given)]).draw(0)
    np.testing.assert_array_equal(chain.masks["rec_rec"], given)


LOOPS = {
    "a mask": (dict(mask=np.ones((4, 4), bool)), "its mask has 4 numbers on the diagonal"),
    "a mask in numbers": (dict(mask=np.eye(4, k=1) + np.diag([0, 0, 1, 0])), "its mask has 1 numbers on the diagonal"),
    "one to one": (dict(mask=np.eye(4, dtype=bool)), "its mask has 4 numbers on the diagonal"),
    "a mask, and weights": (dict(mask=np.ones((4, 4)), weight=np.ones((4, 4)) - np.eye(4)), "its mask has 4 numbers"),
    "weights one to one": (dict(weight=2 * np.eye(4)), "its weights have 4 numbers on the diagonal"),
}


def loop(**options):
    """A network whose neurons project to each other."""
    links = [Projection("cues", "rec", weight=normal(1.0), name="first"), Projection("rec", "rec", **options)]
    return Network(dt=1 * ms, cues=Input(4), rec=Population(4, lif()), projections=links)


@pytest.mark.parametrize("case", LOOPS)
def test_synapses_to_oneself_are_not_lost(case):
    options, message = LOOPS[case]
    ending = "from a neuron to itself, and it is to have none; write autapses=True to keep them, or set the diagonal to zero$"
    with pytest.raises(NetworkError, match=f"^projection 'rec_rec': {message}.*{ending}"):
        loop(**options)
    there = loop(**options, autapses=True).draw(0).masks["rec_rec"]
    np.testing.assert_array_equal(there, np.asarray(options.get("mask", np.ones((4, 4))), bool))
    assert loop(**{k: x * (1 - np.eye(4)) for k, x in options.items()}, bounds=(-9, 9)).draw(0) is not None


@pytest.mark.parametrize("weight", [np.arange(16.0).reshape(4, 4), same_as("first")])
def test_weights_to_oneself_are_left_out_aloud(weight):
    message = "^projection 'rec_rec': its weights.* have [34] numbers on the diagonal, .* which are left out; write autapses=True"
    with pytest.warns(LocalplastWarning, match=message):
        net = loop(weight=weight)
    assert not net.draw(0).weights["rec_rec"].diagonal().any()
    with warnings.catch_warnings():
        warnings.simplefilter("error", LocalplastWarning)
        assert loop(weight=weight, autapses=True).draw(0).weights["rec_rec"].diagonal().any()
        loop(weight=weight, mask=1 - np.eye(4))  # a mask says which there are


@pytest.mark.parametrize("options", [{}, {"mask": 1.0}, {"mask": 0.5}, {"weight": 0.5}, {"weight": uniform(1.0)}])
def test_none_is_asked_for_by_one_number(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LocalplastWarning)
        assert not loop(**options).draw(0).masks["rec_rec"].diagonal().any()
        assert Network(
            dt=1 * ms, a=Input(4), rec=Population(4, lif()), projections=[Projection("a", "rec", weight=np.eye(4))]
        )


def test_delays_and_bounds_of_no_synapse_ask_for_none():
    square = np.arange(16.0).reshape(4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LocalplastWarning)
        net = loop(delay=synaptic(square * ms), bounds=(square - 20, square + 0.5))
    assert not net.draw(0).weights["rec_rec"].diagonal().any()


@pytest.mark.parametrize(
    "delay, steps",
    [
        (None, 0), (axonal(3 * ms), 3), (axonal(2.4 * ms), 2), (axonal(2.5 * ms), 3), (dendritic(2.6 * ms), 3),
        (axonal(0.3 * ms), 0), (axonal([0, 1, 2, 3] * ms), [0, 1, 2, 3]), (axonal(2.4 * ms, trainable=True), 2.4),
    ],
)  # fmt: skip
def test_delays_are_rounded_to_the_nearest_step(delay, steps):
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, lif()), projections=[Projection("cues", "rec", delay=delay)]
    )
    np.testing.assert_allclose(net.draw(0).delays["cues_rec"], steps, rtol=1e-15)


def test_delays_are_whole_steps_at_any_dt():
    """0.1 ms is no binary fraction: 3 steps must not come out as 2."""
    delay = axonal(np.arange(200) * 0.1 * ms)
    net = Network(
        dt=0.1 * ms, cues=Input(200), rec=Population(1, lif()), projections=[Projection("cues", "rec", delay=delay)]
    )
    np.testing.assert_array_equal(net.draw(0).delays["cues_rec"], np.arange(200))


def test_parameters_are_overridden_per_population():
    values = network().draw(0).parameters
    assert values["rec"]["beta"].shape == (5,) and values["rec"]["tau_mem"] == 0.02
    assert values["volts"]["v_th"] == -0.05


def test_weights_are_replaced_in_a_copy():
    values = network().draw(0)
    other = values.replace_weights({"cues_rec": np.zeros((4, 5))})
    assert not other.weights["cues_rec"].any() and values.weights["cues_rec"].any()
    assert other.weights["rec_rec"] is values.weights["rec_rec"]


def test_delay_kinds():
    assert [d.kind for d in (axonal(1 * ms), dendritic(1 * ms), synaptic([[1]] * ms))] == [
        "axonal",
        "dendritic",
        "synaptic",
    ]
    assert Delay("axonal", 1 * second).trainable is False
