"""Bars in a dendritic microcircuit: errors live in apical dendrites, and learning goes on while patterns follow each
other.

Haider et al. 2021, NeurIPS, arXiv:2110.14549, section 4 and figure 3 (after Sacramento et al. 2018, NeurIPS,
arXiv:1810.11393): a square of 3 x 3 pixels shows a horizontal, a vertical or a diagonal bar. With prospective cells
(latent equilibrium) the circuit learns however short a pattern is shown; the original one needs several of its time
constants per pattern.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from brian2 import ms

from localplast.errors import NetworkError
from localplast.learning.optimise import adam, sgd
from localplast.models import graded_readout, sacramento_interneuron, sacramento_output, sacramento_pyramidal
from localplast.models.layers import classes as layered_classes
from localplast.models.layers import in_turn, one_to_one
from localplast.network import Input, Network, Population, Projection, same_as, uniform
from localplast.neuron import NeuronModel
from localplast.rules import bptt, dendritic
from localplast.runs.run import run
from localplast.show.plot import COLOURS, style
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task
from localplast.task.loss import mse

__all__ = [
    "STEP",
    "TARGETS",
    "bars",
    "basal_share",
    "circuit",
    "classes",
    "contenders",
    "figure",
    "protocol",
    "self_predicting",
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
    ``up<l>``    below to hidden<l>.v_bas (or out)   within ±4 (±5 onto out)
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
    down : what :class:`~localplast.network.network.Projection` takes, or a sequence of such
        Weights of ``down``, or of each; default uniform within ±1.
    lateral : the same, optional
        Those of ``ip`` and ``pi``; default: the self-predicting state, see :func:`self_predicting`.
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
        limit = 5.0 if layers[k] == "out" else 4.0
        options = {"weight": weights, "bounds": (-limit, limit), "plastic": "up" in plastic}
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
    ip, pi = lateral or same_as(f"up{k + 1}", times=share), lateral or same_as(f"down{k}", times=-1.0)
    beside, down_here = (
        ("lateral", "feedback") if "feedback" in cells[here].model.free_variables else ("v_api", "v_api")
    )
    return [
        Projection(here, inter, weight=ip, plastic="ip" in plastic, name=f"ip{k}"),
        Projection(inter, here, weight=pi, target=beside, plastic="pi" in plastic, name=f"pi{k}"),
        Projection(above, here, weight=down, target=down_here, plastic="down" in plastic, name=f"down{k}"),
        one_to_one(above, inter, cells[inter].size, target="u_above", output="u_breve", name=f"nudge{k}"),
    ]


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


def bars():
    """The eight bars in a square of 3 x 3 pixels, ``(8, 9)``, and whether they lie, stand or slant: 0, 1, 2,
    ``(8,)``.
    """
    row, slant = np.eye(3), np.eye(3).ravel()
    lying, standing = np.repeat(row, 3, axis=1), np.tile(row, (1, 3))
    return np.concatenate([lying, standing, [slant, np.eye(3)[::-1].ravel()]]), np.repeat([0, 1, 2], [3, 3, 2])


#: Streams of bars; see :func:`localplast.models.layers.classes`.
classes = partial(layered_classes, outputs=3, targets=TARGETS)


def bars_task(*, steps, shown=100, targets=TARGETS):
    """Streams of all eight bars, in an order of its own for every trial, each for so many ``steps``; tests show one
    for ``shown``.

    ``targets`` are those of :func:`~localplast.models.layers.stream`. The bars that are tested are those that are
    learned: there are no others.
    """
    samples, labels = bars()

    def shuffled(order, steps):
        return classes(samples[order], labels[order], steps=steps, targets=targets)

    def training(update, batch, seed):
        rng = np.random.default_rng([seed, 0, update])
        return shuffled(rng.permuted(np.tile(np.arange(8), (batch, 1)), axis=1), steps)

    def testing(n, seed):
        order = np.random.default_rng([seed, 1]).permutation(8)
        return shuffled(np.resize(order, (n, 1)), shown)

    return Task("microcircuit", training, testing)


def contenders(made, *, backend, offline=None):
    """The circuit ``made(**options)``, what comes of it if one thing is another, and BPTT.

    ``offline``: how BPTT learns, by the name of a contender, as arguments of
    :class:`~localplast.study.compare.Contender`. Feedback is random, and in one contender begins as the transpose of
    the weights onto the output. BPTT changes ``up``; lateral weights, which are there to let dendrites rest and not
    to lower the loss, stay as they are.
    """
    net, symmetric = made(), same_as("up2", transposed=True)
    lateral = tuple(p.name for p in net.plastic if not p.name.startswith("up"))
    hidden = tuple(p.name for p in net.plastic if p.name.startswith("up") and p.post != "out")
    return {
        **{name: Contender(bptt(), "torch", lateral, **course) for name, course in (offline or {}).items()},
        "dendritic": Contender(dendritic(), backend),
        "dendritic, symmetric": Contender(dendritic(), backend, network=made(down=symmetric)),
        "dendritic, original": Contender(dendritic(), backend, network=made(prospective=False)),
        "dendritic, hidden frozen": Contender(dendritic(), backend, hidden),
    }


def figure(net, trials, before, after):
    """What the readout says of the first trial without a teacher, and apical potentials with one, before and after
    learning.

    ``before`` and ``after`` are :class:`~localplast.network.network.Values`.
    """
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, 2, figsize=(8, 4.6), sharex=True, sharey="row", constrained_layout=True)
    time = np.arange(1, trials.steps + 1) * float(net.dt / ms)
    for (title, values), (upper, lower) in zip(
        {"before learning": before, "after learning": after}.items(), axes.T, strict=True
    ):
        silent, taught = (
            run(net, shown, values=values, backend="torch", record=["said.shown", "hidden1.v_api"])
            for shown in (trials.without(net.teachers), trials)
        )
        upper.plot(time, silent["said"]["shown"].values[0], lw=1.4)
        lower.plot(time, taught["hidden1"]["v_api"].values[0], color=COLOURS[0], lw=0.8, alpha=0.7)
        style(upper, title, "", "output, teacher silent" if values is before else "")
        style(lower, "", "time (ms)", "apical potential, taught" if values is before else "")
    return drawn


def by_bptt(offline, converged, updates):
    """How BPTT learns at these rates, None where it does not; see :func:`contenders`."""
    longer = {"optimiser": adam(converged).halved(updates), "updates": 4 * updates} if converged else None
    found = {"BPTT": {"optimiser": adam(offline)} if offline else None, "BPTT, converged": longer}
    return {name: course for name, course in found.items() if course}


def build(*, steps, pace, batch, updates, backend, offline=None, converged=None, hidden=30, test=8):
    """``pace`` times the published rates of 0.05, 0.01 (onto the output) and 0.02 (interneurons) per ms.

    ``offline``: rate of BPTT, where it is compared; ``converged``: where it makes four times the updates.
    """
    made = partial(circuit, (9, hidden, 3), plastic=("up", "ip"))
    return Preset(
        network=made(),
        task=bars_task(steps=steps),
        loss=mse(),
        optimiser=sgd(pace * STEP).with_rates(up1=0.05, up2=0.01, ip1=0.02),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=contenders(made, backend=backend, offline=by_bptt(offline, converged, updates)),
    )


protocol = Protocol(
    name="microcircuit",
    summary="Bars in a dendritic microcircuit: apical dendrites hold the error, with and without latent equilibrium.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549; Sacramento et al. 2018, NeurIPS, arXiv:1810.11393",
    build=build,
    presets={
        # Bars of 1 ms, a fifth of a membrane's time constant; a presentation changes 6.75 times what it is published
        # to. BPTT's rates are tuned (``benchmarks/tune.py``).
        "quick": dict(steps=10, pace=67.5, batch=8, updates=60, backend="torch", offline=0.08, converged=0.06),
        # The published course: bars of 10 ms, one after the other, 1000 times all eight.
        "paper": dict(steps=100, pace=1.0, batch=1, updates=1000, backend="brian2"),
    },
    published={
        "fig. 3": "prospective cells learn at any presentation time, the original form only when it is long (no number)"
    },
    rule="dendritic",
    drawn=figure,
)
