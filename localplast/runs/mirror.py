"""Weight mirrors: feedback that learns from noise, in a phase of its own, and then serves a rule as fixed matrices.

.. math::  B \\leftarrow B + learning\\_rate \\, <xi_i r_j> - decay \\, B

In the mirror phase one layer emits zero-mean noise ``xi``, the next responds with ``r``, and the synapse that carries
feedback from j to i correlates the two (Akrout et al. 2019, NeurIPS 32, eqs. 7-9). For a linear response
``<xi r^T> = sigma^2 W``, so that ``B -> learning_rate*sigma^2/decay * W``: the forward weights are mirrored, nothing
carries them across.

The phase is an ordinary run: noise drives the responding neurons through copies of the forward synapses, and
``<xi r>`` is what :func:`localplast.gradient` finds for synapses of weight zero onto a readout of the responses that
has no target.
"""

from dataclasses import replace

import numpy as np
from brian2 import Hz, ms

from localplast.errors import LocalplastError, UnsupportedError
from localplast.learning.rule import Rule
from localplast.models import leaky_readout
from localplast.network.convolution import form_of
from localplast.network.credit_graph import projection_edges
from localplast.network.delays import axonal
from localplast.network.network import Network
from localplast.network.nodes import Input, Population, Projection
from localplast.network.weights import Random
from localplast.runs.gradient import gradient
from localplast.task.loss import mse
from localplast.task.trials import Trials

__all__ = ["mirror", "mirror_network", "noise"]

NOISE = ("noise_on", "noise_off")
#: The weights onto a readout learn alike in every local rule: from its error and what has reached it.
CORRELATION = Rule("weight mirror", True, reference="Akrout et al. 2019, NeurIPS 32")


def mirror(
    net,
    paths=None,
    *,
    values=None,
    start=None,
    presentations=50,
    trials=4,
    steps=500,
    learning_rate=1.0,
    decay=0.1,
    rate=50 * Hz,
    gain=1.0,
    tau=5 * ms,
    emit=None,
    backend="torch",
    seed=0,
    **options,
):
    """Feedback matrices ``(pre, post)`` by projection, learned in a mirror phase; use them as ``eprop(feedback=...)``.

    Parameters
    ----------
    net : Network
    paths : sequence of str, optional
        The projections to mirror; default all that carry errors back: from spiking neurons, and not part of a cycle.

    Other arguments
    ---------------
    values : Values, optional
        The forward weights; default ``net.draw(seed)``.
    start : dict of str to array ``(pre, post)``, optional
        Feedback to go on from; default zero.
    presentations, trials, steps : int
        How often B changes, and how much noise (trials of so many steps) is presented for each change.
    learning_rate, decay : float
        Where they lead is in proportion to ``learning_rate/decay``, after about ``1/decay`` presentations.
    rate : Quantity
        Of positive, and of negative, noise spikes of each neuron.
    gain : float
        Size of a noise spike; make it large enough for the responding neurons to fire.
    tau : Quantity
        Time over which spikes of noise and responses are correlated; graded responses are taken as they are.
    emit : callable, optional
        ``emit(rng, shape)`` gives positive and negative spikes ``(trial, time, pre)``, in place of :func:`noise`.
    backend, options : as for :func:`localplast.gradient`
    """
    values = values or net.draw(seed)
    paths = carriers(net) if paths is None else [checked(net, path) for path in paths]
    return {
        path: phase(
            mirror_network(net, path, values, gain=gain, tau=tau),
            values.parameters[net.projections[path].post],
            values.masks[path],
            (start or {}).get(path),
            presentations=presentations,
            shape=(trials, steps),
            learning_rate=learning_rate,
            decay=decay,
            emit=emit or (lambda rng, shape: noise(rng, shape, float(rate * net.dt))),
            backend=backend,
            seed=[seed, number],
            options=options,
        )
        for number, path in enumerate(paths)
    }


def carriers(net):
    """Projections that carry errors back."""
    edges = projection_edges(net)
    spiking = {k for k, p in net.populations.items() if p.model.spiking}
    return [
        k
        for k, p in net.projections.items()
        if p.pre in spiking and p.transmission == "event" and "recurrent" not in edges[k]
    ]


def checked(net, path):
    """``path``, if it is one that a mirror can stand for."""
    if path not in net.projections:
        raise LocalplastError(
            f"there is no projection {path!r} to mirror; the network has {', '.join(net.projections)}"
        )
    if net.projections[path].transmission != "event":
        raise UnsupportedError(
            f"projection {path!r} is graded: a mirror correlates spikes of noise, so it mirrors event projections"
        )
    if form_of(net.projections, net.projections[path]):
        raise UnsupportedError(
            f"projection {path!r} is a convolution: a mirror learns every synapse by itself; give dense weights"
        )
    return path


def mirror_network(net, path, values, *, gain=1.0, tau=5 * ms):
    """The network of the mirror phase of one projection.

    Positive and negative noise spikes reach a copy of the postsynaptic population through the forward weights and
    delays. Its spikes, low-passed by a leaky readout, are the response, which noise spikes reach as well: with weight
    zero, one step later than the copy, for that is when they begin to act there. A population without threshold is
    its own response, and what is correlated with it is noise as it has reached its output.
    """
    p = net.projections[checked(net, path)]
    copied = net.nodes[p.post]
    spiking, delay = copied.model.spiking, p.delay and replace(p.delay, trainable=False)
    weight, size = gain * values.weights[path], copied.size
    nodes = dict.fromkeys(NOISE, Input(net.size(p.pre))) | {
        "copy": Population(size, copied.model, copied.parameters, copied.initial)
    }
    links = [
        Projection(name, "copy", weight=sign * weight, delay=delay, target=p.target, plastic=not spiking)
        for name, sign in zip(NOISE, (1, -1), strict=True)
    ]
    if spiking:
        nodes["response"] = Population(size, leaky_readout(tau_out=tau))
        links.append(Projection("copy", "response", weight=np.eye(size), plastic=False))
        links += [Projection(name, "response", weight=0.0, delay=later(net, p)) for name in NOISE]
    return Network(dt=net.dt, projections=links, **nodes)


def later(net, p):
    """The delay of ``p`` and one step more."""
    if p.delay is not None and isinstance(p.delay.value, Random):
        raise UnsupportedError(
            f"projection {p.name!r}: a mirror needs to know its delays; give times that are not drawn"
        )
    steps = (net.delay_steps(p) + 1) * net.dt
    return axonal(steps) if p.delay is None else replace(p.delay, value=steps, trainable=False)


def noise(rng, shape, probability):
    """Positive and negative spikes, ``shape`` each, independent and equally probable in every step: their mean is
    zero.
    """
    return rng.random(shape) < probability, rng.random(shape) < probability


def phase(net, numbers, mask, start, *, presentations, shape, learning_rate, decay, emit, backend, seed, options):
    """The mirror phase of one projection; returns ``(pre, post)``. ``numbers`` are the parameters of the copied
    neurons.
    """
    readout, pre = net.readouts[0], net.size(NOISE[0])
    feedback = np.zeros(mask.shape) if start is None else np.array(start, float)
    values = net.draw(0)
    values = replace(values, parameters={**values.parameters, "copy": numbers})
    target, weight = np.zeros((*shape, net.size(readout))), np.full(shape[1], 1 / shape[1])  # a mean over time
    for number in range(presentations):
        spikes = emit(np.random.default_rng([*seed, number]), (*shape, pre))
        given = Trials(dict(zip(NOISE, spikes, strict=True)), target, weight)
        found = gradient(net, given, CORRELATION, loss=mse(), backend=backend, values=values, **options)
        positive, negative = (found[f"{name}_{readout}"]["gradient"].values for name in NOISE)
        feedback = feedback + learning_rate * (positive - negative) - decay * feedback
    return feedback * mask
