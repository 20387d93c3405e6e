"""A dendritic microcircuit learns what another network does: teacher and student of the same size.

Sacramento et al. 2018, NeurIPS, arXiv:1810.11393, section 3.2: a circuit of 30, 20 and 10 neurons learns the map of a
feedforward network with random weights, while inputs come without a pause.
"""

from localplast.analysis.answers import apical_potentials
from localplast.learning.optimise import sgd
from localplast.models.circuit import STEP, as_teacher, circuit
from localplast.study.circuits import circuit_contenders
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import taught_streams

__all__ = ["network", "protocol"]

SIZES = (30, 20, 10)


def network(**options):
    """The student; its readout says the potentials of the output as they are."""
    return circuit(SIZES, plastic=("up", "ip"), targets=(0.0, 1.0), **options)


def build(*, steps, pace, updates, batch=1, test=200):
    """``pace`` times rates of 0.05, 0.01 (onto the output) and 0.02 (interneurons) per ms."""
    return Preset(
        network=network(),
        task=taught_streams("microcircuit-teacher", SIZES[0], as_teacher(network()), steps=steps, patterns=50),
        loss=mse(),
        optimiser=sgd(pace * STEP).with_rates(up1=0.05, up2=0.01, ip1=0.02),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=circuit_contenders(network, backend="brian2"),
    )


protocol = Protocol(
    name="microcircuit-teacher",
    summary="A dendritic microcircuit learns the map of another network, whose output nudges its own.",
    reference="Sacramento et al. 2018, NeurIPS, arXiv:1810.11393, section 3.2",
    build=build,
    presets={
        # 10,000 inputs of 2 ms.
        "quick": dict(steps=20, pace=3.0, updates=200),
        # 10,000 inputs of 100 ms, as long as published, with rates that are lower by as much.
        "paper": dict(steps=1000, pace=0.06, updates=200),
    },
    rule="dendritic",
    drawn=apical_potentials,
)
