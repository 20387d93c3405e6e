"""Dendritic microcircuits: layers of pyramidal cells with interneurons that predict the layer above, as networks.

Sacramento et al. 2018, NeurIPS, arXiv:1810.11393; Haider et al. 2021, NeurIPS, arXiv:2110.14549, section 4.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from brian2 import ms

from localplast.errors import NetworkError
from localplast.models.graded_readout import graded_readout
from localplast.models.layers import in_turn, one_to_one
from localplast.models.microcircuit import sacramento_interneuron, sacramento_output, sacramento_pyramidal
from localplast.network import Input, Network, Population, Projection, same_as, uniform
from localplast.network.weights import SameAs
from localplast.neuron import NeuronModel

__all__ = [
    "STEP",
    "TARGETS",
    "as_teacher",
    "basal_share",
    "circuit",
    "of_kind",
    "self_predicting",
    "soft_relu",
    "undisturbed",
]

#: Potentials of an output neuron that should be off, and on (Haider et al. 2021): 0 and 1 of the readout.
TARGETS = (0.1, 1.0)
#: Milliseconds per time step: published rates of learning are per ms.
STEP = 0.1
#: What makes the cells of a circuit.
CELLS: dict[str, Callable[..., NeuronModel]] = {
    "hidden": sacramento_pyramidal,
    "inter": sacramento_interneuron,
    "out": sacramento_output,
}


def circuit(
    sizes,
    *,
    prospective=True,
    activation="softplus",
    parameters=None,
    weight=None,
    limits=(4.0, 5.0),
    down=None,
    lateral=None,
    plastic=("up", "ip", "pi"),
    targets=TARGETS,
    dt=STEP * ms,
    cells=CELLS,
):
    """A dendritic microcircuit: layers of pyramidal cells, interneurons that predict the layer above, a teacher, a
    readout.

    The layers are ``sense``, ``hidden1``, ``hidden2``, ..., ``out``. With ``below``, ``hidden<l>`` and ``above``
    following each other, these projections make one circuit:

    ============ =================================== ======================================================
    projection   from, to                            weights
    ============ =================================== ======================================================
    ``up<l>``    below to hidden<l>.v_bas (or out)   within ``limits``
    ``ip<l>``    hidden<l> to inter<l>.v_den         begin self-predicting
    ``pi<l>``    inter<l> to hidden<l>.v_api         begin self-predicting
    ``down<l>``  above to hidden<l>.v_api            fixed, unless the cells know how feedback learns
    ``nudge<l>`` above (its potential) to inter<l>   one to one, fixed
    ============ =================================== ======================================================

    Parameters
    ----------
    sizes : sequence of int
        Channels of the input, neurons of the hidden layers and of the output.

    Other arguments
    ---------------
    prospective : bool
        Latent equilibrium; else the original form.
    activation : str
        Of all cells: one of :data:`~localplast.models.prospective.ACTIVATIONS`.
    parameters : mapping of str to Quantity
        Conductances of all cells that have them, such as ``g_som``, where they are not the models' own.
    weight : Random or sequence of Random
        Weights of all ``up`` at first, or of each; default uniform within ±1.
    limits : (float, float), optional
        How far the weights of ``up`` may get from zero, onto hidden layers and onto the output; None: any far.
    down : what :class:`~localplast.network.network.Projection` takes, or a sequence of such
        Weights of ``down``, or of each; default uniform within ±1.
    lateral : the same, optional
        Those of ``ip`` and ``pi``; default: the self-predicting state, see :func:`self_predicting`. Where ``down`` is
        :func:`~localplast.network.weights.transposed`, so is ``pi`` at every moment, with the other sign.
    plastic : sequence of str
        What learns of ``up``, ``ip``, ``pi`` and ``down``.
    targets : (float, float)
        Potentials of the output that the readout ``said`` shows as 0 and 1.
    dt : Quantity
    cells : mapping of str to callable
        What makes the models of ``hidden``, ``inter`` and ``out``. An apical dendrite that keeps its inputs apart
        takes those of ``pi`` as ``lateral`` and those of ``down`` as ``feedback``.

    The inputs are ``sense`` and, from the teacher, ``teach`` (one channel: does it speak?) and ``target`` (potentials).
    """
    if len(sizes) < 3:
        raise NetworkError(
            f"a circuit is an input, hidden layers and an output; sizes={tuple(sizes)} needs three numbers or more"
        )
    layers = ["sense", *(f"hidden{k}" for k in range(1, len(sizes) - 1)), "out"]
    cells = populations(layers, sizes, cells, parameters or {}, prospective=prospective, activation=activation)
    usual, (low, high), outputs, projections = uniform(1.0, fan_in=False), targets, sizes[-1], []
    for k, weights in enumerate(in_turn(weight or usual, len(sizes) - 1, "weight"), 1):
        bounds = (-limits[layers[k] == "out"], limits[layers[k] == "out"]) if limits else None
        options = {"weight": weights, "bounds": bounds, "plastic": "up" in plastic}
        projections.append(Projection(layers[k - 1], layers[k], name=f"up{k}", **options))
    for k, back in enumerate(in_turn(down or usual, len(sizes) - 2, "down"), 1):
        projections += one_circuit(k, layers[k + 1], cells, back, lateral, plastic)
    projections += [
        Projection("teach", "out", weight=1.0, target="teach", plastic=False, name="teaching"),
        one_to_one("target", "out", outputs, target="u_target", name="wanted"),
        one_to_one("out", "said", outputs, output=f"(u_breve - {low})/({high} - {low})", name="saying"),
    ]
    teacher = {"teach": Input(1, "currents", teacher=True), "target": Input(outputs, "currents", teacher=True)}
    said = Population(outputs, graded_readout())
    return Network(dt=dt, sense=Input(sizes[0], "currents"), **teacher, **cells, said=said, projections=projections)


def populations(layers, sizes, models, parameters, **form):
    """The cells of a :func:`circuit`, by name, with those of the ``parameters`` that they have."""

    def made(size, model):
        return Population(size, model, {k: v for k, v in parameters.items() if k in model.parameters})

    cells = {}
    for k in range(1, len(layers) - 1):
        cells[layers[k]] = made(sizes[k], models["hidden"](**form))
        cells[f"inter{k}"] = made(sizes[k + 1], models["inter"](**form))
    return {**cells, "out": made(sizes[-1], models["out"](**form))}


def one_circuit(k, above, cells, down, lateral, plastic):
    """What joins ``hidden<k>``, its interneurons and the layer ``above``; see :func:`circuit`."""
    here, inter = f"hidden{k}", f"inter{k}"
    share = predicted_share(cells[inter].values, cells[above].values)
    cancelling = replace(down, times=-down.times) if followed(down) else same_as(f"down{k}", times=-1.0)
    ip, pi = lateral or same_as(f"up{k + 1}", times=share), lateral or cancelling
    beside, down_here = (
        ("lateral", "feedback") if "feedback" in cells[here].model.free_variables else ("v_api", "v_api")
    )
    return [
        Projection(here, inter, weight=ip, plastic="ip" in plastic, name=f"ip{k}"),
        Projection(inter, here, weight=pi, target=beside, plastic="pi" in plastic and not followed(pi), name=f"pi{k}"),
        Projection(
            above, here, weight=down, target=down_here, plastic="down" in plastic, name=f"down{k}", role="feedback"
        ),
        one_to_one(above, inter, cells[inter].size, target="u_above", output="u_breve", name=f"nudge{k}"),
    ]


def followed(weight):
    """Whether weights are those of another projection at every moment."""
    return isinstance(weight, SameAs) and weight.always


def predicted_share(inter, above):
    """What is left of a basal potential in the soma of the layer above, over the same for dendrite and soma of an
    interneuron.
    """
    return basal_share(above) / float(inter["g_d"] / (inter["g_l"] + inter["g_d"]))


def basal_share(cell):
    """What is left of a basal potential in the soma of a pyramidal cell or output, whose parameters are ``cell``."""
    return float(cell["g_b"] / (cell["g_l"] + cell["g_b"] + cell.get("g_a", 0 * cell["g_l"])))


def self_predicting(net, values):
    """``values`` with lateral weights with which interneurons do as the layer above does, and cancel what it sends
    down.

    ``W_pi = -W_down`` and ``W_ip = W_up g_b (g_l + g_d) / (g_d (g_l + g_b + g_a))``, with ``W_up`` and the second sum
    those of the layer above (``g_a = 0`` for the output): without a teacher apical potentials then rest at zero, for
    any input.

    Parameters
    ----------
    net : Network
        From :func:`circuit`.
    values : Values
    """
    weights = {}
    for p in net.projections.values():
        if p.name.startswith("down"):
            k = int(p.name.removeprefix("down"))
            share = predicted_share(values.parameters[f"inter{k}"], values.parameters[p.pre])
            weights |= {f"pi{k}": -values.weights[p.name], f"ip{k}": share * values.weights[f"up{k + 1}"]}
    return values.replace_weights(weights)


def of_kind(net, kind):
    """Names of the projections ``up1``, ``up2`` and so on, for the kind ``'up'``."""
    return tuple(name for name in net.projections if name.rstrip("0123456789") == kind)


def soft_relu(u):
    """The rates of potentials."""
    return np.log1p(np.exp(u))


def undisturbed(net, weights, sense, phi=soft_relu):
    """Potentials of the output that a circuit comes to without a teacher, apical dendrites at rest.

    ``sense`` is ``(..., channel)``; ``weights`` holds ``up1``, ``up2`` and so on, ``(pre, post)``; ``phi`` makes
    rates of potentials.
    """
    *hidden, out = [p for p in net.projections.values() if p.name.startswith("up")]
    for p in hidden:
        sense = phi(basal_share(net.nodes[p.post].values) * sense @ weights[p.name])
    return basal_share(net.nodes[out.post].values) * sense @ weights[out.name]


def as_teacher(net, weights=None, phi=soft_relu):
    """What a circuit makes of patterns, for :func:`~localplast.task.streams.taught_streams`.

    Its ``weights`` are given by name; default: those of a network like ``net`` that is drawn for each seed.
    """
    return lambda sense, seed: undisturbed(net, weights or net.draw(seed + 1000).weights, sense, phi)
