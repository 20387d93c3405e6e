"""Small networks to show a rule on, each in the setting that some rules were published for."""

import numpy as np
from brian2 import ms

from localplast.models import (
    alif,
    graded_readout,
    instant_readout,
    leaky_readout,
    lif,
    sacramento_output,
    sacramento_pyramidal,
    van_rossum_readout,
)
from localplast.network.network import Network
from localplast.network.nodes import Input, Population, Projection

__all__ = ["SAMPLES", "sample"]

SAMPLES = {
    "recurrent": "adaptive neurons with recurrent weights, one leaky readout",
    "deep": "two layers of LIF neurons, one leaky readout",
    "local": "two layers of LIF neurons, each with a readout without memory of its own, reached by fixed weights",
    "dendrites": "pyramidal cells with a basal and an apical dendrite, two layers that project to each other",
    "spikes": "LIF neurons whose spikes are compared with target spikes by a van Rossum readout",
}


def sample(kind="recurrent"):
    """The :class:`~localplast.network.network.Network` called ``kind``, one of :data:`SAMPLES`."""
    if kind == "dendrites":
        return dendrites()
    if kind == "recurrent":
        return Network(
            dt=1 * ms,
            cues=Input(4),
            rec=Population(5, alif()),
            out=Population(2, leaky_readout()),
            projections=[Projection("cues", "rec"), Projection("rec", "rec"), Projection("rec", "out")],
        )
    if kind == "spikes":
        return Network(
            dt=1 * ms,
            cues=Input(4),
            target=Input(5),
            out=Population(5, lif()),
            judge=Population(5, van_rossum_readout()),
            projections=[
                Projection("cues", "out"),
                Projection("out", "judge", weight=1.0, mask=np.eye(5, dtype=bool), plastic=False),
                Projection("target", "judge", weight=-1.0, mask=np.eye(5, dtype=bool), plastic=False),
            ],
        )
    layers: dict[str, Input | Population] = {"cues": Input(4), "a": Population(5, lif()), "b": Population(5, lif())}
    links = [Projection("cues", "a"), Projection("a", "b")]
    if kind == "deep":
        return Network(
            dt=1 * ms, **layers, out=Population(2, leaky_readout()), projections=[*links, Projection("b", "out")]
        )
    readouts = {f"out_{n}": Population(2, instant_readout()) for n in "ab"}
    fixed = [Projection(n, f"out_{n}", plastic=False) for n in "ab"]
    return Network(dt=1 * ms, **layers, **readouts, projections=[*links, *fixed])


def dendrites():
    """Pyramidal cells of a dendritic microcircuit, whose apical dendrites receive from the layer above."""
    return Network(
        dt=0.1 * ms,
        cues=Input(4, "currents"),
        target=Input(2, "currents", teacher=True),
        teaching=Input(1, "currents", teacher=True),
        rec=Population(5, sacramento_pyramidal()),
        top=Population(2, sacramento_output()),
        out=Population(2, graded_readout()),
        projections=[
            Projection("cues", "rec"),
            Projection("rec", "top"),
            Projection("top", "rec", target="v_api"),
            Projection("target", "top", target="u_target", weight=np.eye(2), plastic=False),
            Projection("teaching", "top", target="teach", weight=1.0, plastic=False),
            Projection("top", "out", weight=np.eye(2), plastic=False),
        ],
    )
