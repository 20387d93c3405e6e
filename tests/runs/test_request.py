"""What may be recorded of a network, and what is said of everything else."""

import pytest

from localplast.errors import NetworkError
from localplast.runs.request import Request


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("hid.v", r"cannot record 'hid.v': there is no 'hid' in the network; it has \['cues', 'cues_rec', 'drive'"),
        ("rec.u", r"cannot record 'rec.u': of 'rec' there are \['rec.v', 'rec.spikes', 'rec.raster'\]"),
        ("rec", "cannot record 'rec'"),
        ("out.spikes", r"of 'out' there are \['out.v'\]"),
        ("drive.raster", r"of 'drive' there are \['drive.currents'\]"),
        ("cues_rec.delay", r"of 'cues_rec' there are \['cues_rec.weight'\]"),
        ({"rec.v": {"stride": 3}}, "unknown option 'stride'; give every or neurons"),
        ({"rec.v": {"every": 0}}, "every=0 is not a positive whole number"),
        ({"rec.v": {"every": 2.0}}, "every=2.0 is not a positive whole number"),
        ({"rec.raster": {"every": 2}}, "every=2 would lose spikes"),
        ({"cues_rec.weight": {"neurons": [0]}}, "weights are kept whole"),
        ({"rec.v": {"neurons": [4]}}, r"neurons=\[4\]; give different indices from 0 to 3"),
        ({"rec.v": {"neurons": [-1]}}, "give different indices"),
        ({"rec.v": {"neurons": [1, 1]}}, "give different indices"),
        ({"rec.v": {"neurons": [0.5]}}, "give different indices"),
        ({"rec.v": {"neurons": [True, False]}}, "give different indices"),
        ({"rec.v": {"neurons": slice(4, None)}}, "give different indices"),
    ],
)
def test_requests_that_make_no_sense_say_what_there_is(net, wanted, message):
    with pytest.raises(NetworkError, match=message):
        Request.parse(net, wanted if isinstance(wanted, dict) else [wanted])


def test_every_part_of_a_network_can_be_asked_for(net):
    names = ["cues.spikes", "cues.raster", "drive.currents", "rec.v", "out.v", "cues_rec.weight", "rec_out.weight"]
    assert [entry.name for entry in Request.parse(net, names).entries] == names
    assert Request.parse(net, "rec.v").find("rec", "v").neurons.tolist() == [0, 1, 2, 3]
    assert Request.parse(net, "rec.v").find("out", "v") is None


def test_stride_and_subset_apply_to_states_and_options_override_them(net):
    names = {"rec.v": None, "out.v": {"every": 1, "neurons": slice(None)}, "rec.spikes": None, "cues_rec.weight": None}
    v, out, spikes, weight = Request.parse(net, names, every=3, neurons=[3, 1]).entries
    assert (v.every, v.neurons.tolist()) == (3, [3, 1])
    assert (out.every, out.neurons.tolist()) == (1, [0, 1])
    assert (spikes.every, spikes.neurons.tolist()) == (1, [3, 1])
    assert (weight.every, weight.neurons) == (1, None)


def test_series_with_other_axes_get_a_node_of_their_own(net):
    wanted = {"rec.v": {"every": 2}, "rec.raster": {}, "rec.spikes": {}}
    assert [entry.group for entry in Request.parse(net, wanted).entries] == ["rec", "rec.raster", "rec"]
    assert [entry.group for entry in Request.parse(net, ["rec.v", "rec.raster"]).entries] == ["rec", "rec"]
