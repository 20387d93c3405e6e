"""Networks of spiking layers that several protocols share: judged by target spikes, or with a readout at every layer.

Zenke & Ganguli 2018, Neural Comput 30:1514; Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424.
"""

import numpy as np
from brian2 import ms, mV

from localplast.models.decolle_lif import decolle_lif
from localplast.models.instant_readout import instant_readout
from localplast.models.superspike_lif import superspike_lif
from localplast.models.van_rossum import van_rossum_readout
from localplast.network import Input, Network, Population, Projection, normal, uniform
from localplast.task import Trials

__all__ = ["judged", "judged_trials", "local_readouts", "locally_read"]


def judged(sizes, *, dt, weight=normal(50 * mV)):
    """A feed-forward network of SuperSpike's neurons whose last layer is compared with target spikes.

    Parameters
    ----------
    sizes : sequence of int
        Of the input, the hidden populations and the output.

    Other arguments
    ---------------
    dt : Quantity
    weight : Random
        Of every layer, in volts.

    Returns
    -------
    Network
        Inputs ``pattern`` and ``target``; populations ``hidden1``, ``hidden2``, ... and ``out``; the readout ``judge``,
        whose output is ``a*(S - S*)``.
    """
    names = ["pattern", *(f"hidden{k}" for k in range(1, len(sizes) - 1)), "out"]
    outputs, one_to_one = sizes[-1], np.eye(sizes[-1], dtype=bool)
    cells = {name: Population(size, superspike_lif()) for name, size in zip(names[1:], sizes[1:], strict=True)}
    return Network(
        dt=dt,
        pattern=Input(sizes[0]),
        target=Input(outputs),
        **cells,
        judge=Population(outputs, van_rossum_readout()),
        projections=[
            *(Projection(pre, post, weight=weight) for pre, post in zip(names[:-1], names[1:], strict=True)),
            Projection("out", "judge", weight=1.0, mask=one_to_one, plastic=False),
            Projection("target", "judge", weight=-1.0, mask=one_to_one, plastic=False),
        ],
    )


def judged_trials(pattern, target, dt):
    """Trials of a :func:`judged` network, whose loss is the van Rossum distance, in milliseconds.

    Parameters
    ----------
    pattern : bool array ``(trial, time, input)``
    target : bool array ``(trial, time, output)``
        Spikes that the output neurons are to send; they arrive at the readout, as the outputs do, in their own step.
    dt : Quantity
    """
    return Trials(
        {"pattern": pattern, "target": target}, np.zeros(target.shape), np.full(target.shape[1], float(dt / ms))
    )


def local_readouts(name, size, outputs, *, reach=0.5):
    """``(population, projection)`` of a local readout for the population ``name``: fixed weights in
    ±``reach/sqrt(size)``.
    """
    fixed = Projection(name, f"{name}_out", weight=uniform(reach), plastic=False)
    return Population(outputs, instant_readout()), fixed


def locally_read(inputs, hidden, *, outputs=10, weight=normal(5.0), dt=1 * ms):
    """Layers of DECOLLE's neurons, each with a readout without memory, reached by fixed random weights.

    Parameters
    ----------
    inputs : int
    hidden : sequence of int
        Sizes of the layers.

    Other arguments
    ---------------
    outputs : int
        Of every readout.
    weight : Random
        Of every layer.
    dt : Quantity

    Returns
    -------
    Network
        Input ``events``; ``hidden1``, ``hidden2``, ... with their readouts ``hidden1_out``, ``hidden2_out``, ... Of the
        readouts, the last one decides.
    """
    nodes, projections, last = {"events": Input(inputs)}, [], "events"
    for number, size in enumerate(hidden, 1):
        name = f"hidden{number}"
        nodes[name] = Population(size, decolle_lif())
        nodes[f"{name}_out"], fixed = local_readouts(name, size, outputs)
        projections += [Projection(last, name, weight=weight), fixed]
        last = name
    return Network(dt=dt, projections=projections, **nodes)
