"""Bars in a dendritic microcircuit: errors live in apical dendrites, and learning goes on while patterns follow each other.

Haider et al. 2021, NeurIPS, arXiv:2110.14549, section 4 and figure 3 (after Sacramento et al. 2018, NeurIPS, arXiv:1810.11393): a
square of 3 x 3 pixels shows a horizontal, a vertical or a diagonal bar. With prospective cells (latent equilibrium) the circuit
learns however short a pattern is shown; the original one needs several of its time constants per pattern.
"""

import numpy as np
from brian2 import ms

from localplast.errors import NetworkError
from localplast.models import sacramento_interneuron, sacramento_output, sacramento_pyramidal, sacramento_readout
from localplast.network import Input, Network, Population, Projection, uniform

__all__ = ["circuit", "self_predicting"]


def circuit(
    sizes, *, prospective=True, activation="soft_relu", weight=None, down=None, targets=(0.1, 1.0), parameters=None, dt=0.1 * ms
):
    """A dendritic microcircuit: layers of pyramidal cells, interneurons that predict the layer above, a teacher, a readout.

    Layer ``l`` of ``sizes`` is ``sense``, ``hidden1``, ``hidden2``, ..., ``out``. With ``below``, ``hidden<l>`` and ``above``
    following each other, these projections make one circuit:

    ============ =================================== ==============================================
    projection   from, to                            weights
    ============ =================================== ==============================================
    ``up<l>``    below to hidden<l>.v_bas (or out)   plastic, within ±4 (±5 onto out)
    ``ip<l>``    hidden<l> to inter<l>.v_den         plastic
    ``pi<l>``    inter<l> to hidden<l>.v_api         plastic
    ``down<l>``  above to hidden<l>.v_api            fixed
    ``nudge<l>`` above (its potential) to inter<l>   one to one
    ============ =================================== ==============================================

    Parameters
    ----------
    sizes : sequence of int
        Channels of the input, neurons of the hidden layers and of the output.

    Other arguments
    ---------------
    prospective : bool
        Latent equilibrium; else the original form.
    activation : str
        Of all cells: ``'soft_relu'``, ``'logistic'`` or ``'tanh'``.
    weight, down : Random
        What plastic weights and those of ``down`` start from; default uniform within ±1.
    targets : (float, float)
        Potentials of an output neuron that should be off, and on: 0 and 1 of the readout ``said``.
    parameters : mapping of str to Quantity
        Conductances of all cells that have them, such as ``g_som``, where they are not the models' own.
    dt : Quantity

    The inputs are ``sense`` and, from the teacher, ``teach`` (one channel: does it speak?) and ``target`` (potentials).
    """
    if len(sizes) < 3:
        raise NetworkError(f"a microcircuit has an input, hidden layers and an output; sizes={tuple(sizes)} needs three numbers or more")
    form = {"prospective": prospective, "activation": activation}
    depth, outputs, draw = len(sizes) - 2, sizes[-1], weight or uniform(1.0, fan_in=False)
    layers = ["sense", *(f"hidden{k}" for k in range(1, depth + 1)), "out"]
    nodes = {"sense": Input(sizes[0], "currents")}
    nodes |= {"teach": Input(1, "currents", teacher=True), "target": Input(outputs, "currents", teacher=True)}
    projections = []
    for k in range(1, depth + 1):
        nodes[f"hidden{k}"] = population(sizes[k], sacramento_pyramidal(**form), parameters)
        nodes[f"inter{k}"] = population(sizes[k + 1], sacramento_interneuron(**form), parameters)
        projections += one_circuit(k, layers, sizes, draw, down or draw)
    nodes["out"] = population(outputs, sacramento_output(**form), parameters)
    nodes["said"] = Population(outputs, sacramento_readout(low=targets[0], high=targets[1]))
    projections += [
        Projection(layers[-2], "out", weight=draw, bounds=(-5.0, 5.0), name=f"up{depth + 1}"),
        Projection("teach", "out", weight=1.0, target="teach", plastic=False, name="teaching"),
        one_to_one("target", "out", outputs, target="u_target", name="wanted"),
        one_to_one("out", "said", outputs, output="u_breve", name="saying"),
    ]
    return Network(dt=dt, projections=projections, **nodes)


def population(size, model, parameters):
    """Neurons of a ``model``, with those of the ``parameters`` that it has."""
    return Population(size, model, {k: v for k, v in (parameters or {}).items() if k in model.parameters})


def one_circuit(k, layers, sizes, draw, down):
    """The projections of hidden layer ``k``; see :func:`circuit`."""
    below, here, above, inter = layers[k - 1], layers[k], layers[k + 1], f"inter{k}"
    return [
        Projection(below, here, weight=draw, bounds=(-4.0, 4.0), name=f"up{k}"),
        Projection(here, inter, weight=draw, name=f"ip{k}"),
        Projection(inter, here, weight=draw, target="v_api", name=f"pi{k}"),
        Projection(above, here, weight=down, target="v_api", plastic=False, name=f"down{k}"),
        one_to_one(above, inter, sizes[k + 1], target="u_above", output="u_breve", name=f"nudge{k}"),
    ]


def one_to_one(pre, post, size, **options):
    """Each neuron of ``pre`` reaches its partner in ``post`` with weight 1; fixed."""
    return Projection(pre, post, weight=np.eye(size), mask=np.eye(size, dtype=bool), plastic=False, **options)


def self_predicting(net, values):
    """``values`` with lateral weights with which interneurons do as the layer above does, and cancel what it sends down.

    ``W_pi = -W_down`` and ``W_ip = W_up g_b (g_l + g_d) / (g_d (g_l + g_b + g_a))``, with ``W_up`` and the second sum those of the
    layer above (``g_a = 0`` for the output): without a teacher apical potentials then rest at zero, for any input.

    Parameters
    ----------
    net : Network
        From :func:`circuit`.
    values : Values
    """
    weights = {}
    for name in values.weights:
        if name.startswith("down"):
            k = int(name.removeprefix("down"))
            cell, above = values.parameters[f"inter{k}"], values.parameters[net.projections[name].pre]
            total = above["g_l"] + above["g_b"] + above.get("g_a", 0.0)
            ratio = above["g_b"] * (cell["g_l"] + cell["g_d"]) / (cell["g_d"] * total)
            weights |= {f"pi{k}": -values.weights[name], f"ip{k}": values.weights[f"up{k + 1}"] * ratio}
    return values.replace_weights(weights)
