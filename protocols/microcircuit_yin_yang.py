"""Yin-Yang in a dendritic microcircuit: which part of the figure is a point in, learned online from a stream of points.

The task is that of Kriener, Göltz & Petrovici 2022, NICE, arXiv:2102.08211. Microcircuits have learned it in Max et
al., phaseless alignment learning, arXiv:2212.10249 (protocol ``pal-yin-yang``); here feedback stays as it is, random
or the transpose.
"""

from functools import partial

from brian2 import ms

from localplast.analysis.answers import apical_potentials
from localplast.models.circuit import TARGETS, circuit
from localplast.network import uniform
from localplast.study.circuits import alignment_learning, circuit_contenders
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import point_streams

__all__ = ["network", "protocol"]


def network(*, hidden=30, first=(0.3, 0.1), **options):
    """Four channels (x, y, 1 - x, 1 - y), ``hidden`` pyramidal cells, three outputs; all cells tanh.

    Weights onto each layer begin within ``first``, and may grow as they like: where they are held within a few units,
    hidden weights come to rest at their bounds. ``options`` are those of :func:`~localplast.models.circuit.circuit`.
    """
    weight = tuple(uniform(limit, fan_in=False) for limit in first)
    usual = {"weight": weight, "limits": None, "plastic": ("up", "ip"), "dt": 0.01 * ms}
    return circuit((4, hidden, 3), activation="tanh", **{**usual, **options})


def build(*, hidden, up, ip, tau, steps, stream, batch, updates, test=1000):
    """Rates per ms, and the low-pass filter ``tau``, of :func:`~localplast.study.circuits.alignment_learning`: every
    step is an update.
    """
    made = partial(network, hidden=hidden)
    net = made()
    return Preset(
        network=net,
        task=point_streams(
            "microcircuit-yin-yang", (6000, 1000), steps=steps, points=stream, shown=100, targets=TARGETS
        ),
        loss=mse(),
        optimiser=alignment_learning(net, up=up, ip=ip, pi=0.0, down=0.0, alpha=0.0, tau=tau),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=circuit_contenders(made, backend="torch" if batch > 1 else "brian2", tied=True),
    )


protocol = Protocol(
    name="microcircuit-yin-yang",
    summary="Yin-Yang in a dendritic microcircuit, learned online from a stream of points.",
    reference="Kriener et al. 2022, NICE, arXiv:2102.08211; Haider et al. 2021, NeurIPS, arXiv:2110.14549",
    build=build,
    presets={
        # 80 times 6000 points of 0.2 ms, in eight streams side by side, from the mean of which weights learn: at
        # eight times the rates of one stream, low-pass filtered for an eighth of the time.
        "quick": dict(hidden=30, up=(160.0, 0.4), ip=2.0, tau=1.25 * ms, steps=20, stream=500, batch=8, updates=120),
        # The same points in one stream, online.
        "paper": dict(hidden=30, up=(20.0, 0.05), ip=0.25, tau=10 * ms, steps=20, stream=500, batch=1, updates=960),
    },
    rule="dendritic",
    drawn=apical_potentials,
)
