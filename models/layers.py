"""Networks of prospective neurons in layers, and the streams of patterns that they are shown."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.errors import NetworkError
from localplast.models.graded_readout import graded_readout
from localplast.network import Input, Network, Population, Projection, normal, transposed
from localplast.network.nodes import Weight
from localplast.neuron import NeuronModel
from localplast.task.streams import classes, stream

__all__ = ["classes", "layered", "one_to_one", "stream"]

FEEDBACK = ("symmetric", "random", "learned", "direct")


def layered(
    sizes: Sequence[int],
    hidden: NeuronModel | Sequence[NeuronModel],
    output: NeuronModel,
    *,
    feedback: Literal["symmetric", "random", "learned", "direct"] = "symmetric",
    weight: Weight | Sequence[Weight] | None = None,
    down: Weight | Sequence[Weight] | None = None,
    parameters: Mapping[str, Mapping] | None = None,
    trainable: Mapping[str, Mapping] | None = None,
    plastic: bool | Sequence[bool] = True,
    bias: Sequence[Weight] | None = None,
    when: Literal["arriving", "sent"] = "arriving",
    dt: Quantity = 0.1 * ms,
) -> Network:
    """Layers of rate neurons that send rates up and errors down, a teacher at the output, and a readout.

    The layers are ``sense``, ``hidden1``, ``hidden2``, ..., ``out``; with ``below``, ``hidden<l>`` and ``above``
    following each other, the projections are

    ============ ======================================= ====================================================
    projection   from, to                                weights
    ============ ======================================= ====================================================
    ``up<l>``    below to hidden<l> (or out)             learn
    ``down<l>``  above, its delta, to hidden<l>.feedback as ``feedback`` says
    ``teaching`` teach to out.teach                      1, fixed
    ``wanted``   target to out.target                    one to one, fixed
    ``saying``   out to said                             one to one, fixed
    ``summing``  out, exp(rate), to out.total, if any    1, fixed: the sum of a softmax
    ============ ======================================= ====================================================

    Parameters
    ----------
    sizes : sequence of int
        Channels of the input, neurons of the hidden layers, if any, and of the output.
    hidden : NeuronModel or sequence of NeuronModel
        Of all hidden layers, or of each; with the variable ``feedback``, and ``delta`` for the layer below.
    output : NeuronModel
        With the variables ``teach``, ``target`` and ``delta``.

    Other arguments
    ---------------
    feedback : str
        ``'symmetric'``: ``down<l>`` is the transpose of ``up<l+1>`` at every moment. ``'random'``: fixed.
        ``'learned'``: plastic. ``'direct'``: fixed, and from the output to every hidden layer, over those in between.
    weight : what :class:`~localplast.network.network.Projection` takes, or a sequence of such
        Weights of all ``up`` at first, or of each; default ``normal()``.
    down : the same, optional
        Those of ``down``, where they are not symmetric; ``(above, below)`` if an array.
    parameters, trainable : mapping of layer name to mapping
        As those of a :class:`~localplast.network.network.Population`: ``{"hidden1": {"tau": [5, 10]*ms}}``.
    plastic : bool or sequence of bool
        Whether ``up`` learns, or each.
    bias : sequence of weights, one for each layer, optional
        Of projections ``bias<l>`` from ``one``, an input that is always 1: biases that learn as weights do, at the same
        moment of a step. A parameter ``b`` moves the rate of the step in which it has learned.
    when : str
        Symmetric feedback: as :func:`~localplast.network.weights.transposed`.
    dt : Quantity

    The inputs are ``sense``, ``one`` where there is a ``bias``, and, from the teacher, ``teach`` (one channel: does it
    speak?) and ``target``.
    """
    layers, outputs = layer_names(sizes, feedback), sizes[-1]
    if when != "arriving" and feedback != "symmetric":
        raise NetworkError(f"when={when!r} is of symmetric feedback; {feedback} feedback has weights of its own")
    models = [*in_turn(hidden, len(sizes) - 2, "hidden"), output]
    cells = populations(layers[1:], sizes[1:], models, parameters=parameters or {}, trainable=trainable or {})
    given = {"one": Input(1, "currents")} if bias is not None else {}
    given |= {"teach": Input(1, "currents", teacher=True), "target": Input(outputs, "currents", teacher=True)}
    return Network(
        dt=dt,
        sense=Input(sizes[0], "currents"),
        **given,
        **cells,
        said=Population(outputs, graded_readout()),
        projections=[
            *forward(layers, normal() if weight is None else weight, plastic),
            *constant(layers[1:], bias, plastic),
            *backward(layers, feedback, normal() if down is None else down, when),
            *around(output, outputs),
        ],
    )


def populations(layers, sizes, models, **own):
    """The cells by layer; ``own`` are their parameters and what of it learns, by layer."""
    for what, named in own.items():
        if unknown := sorted({*named} - {*layers}):
            raise NetworkError(f"{what} of {unknown}: the layers are {', '.join(layers)}")
    return {
        name: Population(size, model, **{what: named.get(name, {}) for what, named in own.items()})
        for name, size, model in zip(layers, sizes, models, strict=True)
    }


def layer_names(sizes, feedback):
    if len(sizes) < 2:
        raise NetworkError(
            f"a network in layers has an input and an output; sizes={tuple(sizes)} needs two numbers or more"
        )
    if feedback not in FEEDBACK:
        raise NetworkError(f"no feedback {feedback!r}; there is {', '.join(FEEDBACK)}")
    return ["sense", *(f"hidden{k}" for k in range(1, len(sizes) - 1)), "out"]


def in_turn(given, count, what):
    """One for all, or one each: a list of so many."""
    each = list(given) if isinstance(given, (tuple, list)) else [given] * count
    if len(each) != count:
        raise NetworkError(f"{what} has {len(each)} entries for {count} layers; give one for all, or one for each")
    return each


def forward(layers, weight, plastic):
    """The projections from each layer to the next."""
    each = zip(
        layers,
        layers[1:],
        in_turn(weight, len(layers) - 1, "weight"),
        in_turn(plastic, len(layers) - 1, "plastic"),
        strict=False,
    )
    return [
        Projection(pre, post, weight=w, plastic=learns, name=f"up{k}")
        for k, (pre, post, w, learns) in enumerate(each, 1)
    ]


def constant(layers, bias, plastic):
    """The projections of biases, if any, that learn where the weights of their layer do."""
    if bias is None:
        return []
    each = zip(layers, in_turn(bias, len(layers), "bias"), in_turn(plastic, len(layers), "plastic"), strict=True)
    return [
        Projection("one", layer, weight=w, plastic=learns, name=f"bias{k}")
        for k, (layer, w, learns) in enumerate(each, 1)
    ]


def backward(layers, feedback, down, when):
    """The projections that carry errors to the hidden layers; see :func:`layered`."""
    hidden = layers[1:-1]
    symmetric = [transposed(f"up{k + 2}", when=when) for k in range(len(hidden))]
    drawn = symmetric if feedback == "symmetric" else in_turn(down, len(hidden), "down")
    return [
        Projection(
            "out" if feedback == "direct" else layers[k + 1],
            layer,
            weight=w,
            target="feedback",
            output="delta",
            plastic=feedback == "learned",
            name=f"down{k}",
            role="feedback",
        )
        for k, (layer, w) in enumerate(zip(hidden, drawn, strict=True), 1)
    ]


def around(output, size):
    """What joins the output, of ``size`` neurons, with the teacher, the readout and, for a softmax, with itself."""
    found = [
        Projection("teach", "out", weight=1.0, target="teach", plastic=False, name="teaching"),
        one_to_one("target", "out", size, target="target", name="wanted"),
        one_to_one("out", "said", size, name="saying"),
    ]
    if "total" in output.free_variables:
        options: dict[str, Any] = {
            "autapses": True,
            "plastic": False,
            "target": "total",
            "output": "exp(rate)",
            "name": "summing",
        }
        found.append(Projection("out", "out", weight=1.0, **options))
    return found


def one_to_one(pre: str, post: str, size: int, **options: Any) -> Projection:
    """Each neuron of ``pre`` reaches its partner in ``post`` with weight 1; fixed."""
    return Projection(pre, post, weight=np.eye(size), mask=np.eye(size, dtype=bool), plastic=False, **options)
