"""The Brian2 backend: gradients and learning online, trial after trial, as equations."""

import numpy as np

from localplast.backends.brian2_build import Block, longest_delay
from localplast.backends.brian2_run import session
from localplast.errors import UnsupportedError
from localplast.plan import plan
from localplast.task import Poisson

__all__ = ["block_for", "gradient"]


def block_for(net, trials):
    """The :class:`Block` that holds these trials; gaps are whole segments of inputs given as rates."""
    gap = longest_delay(net)
    for array in trials.inputs.values():
        if isinstance(array, Poisson):
            gap = -(-gap // array.segment) * array.segment
    return Block(len(trials), trials.steps, gap)


def check_local(rule):
    if not rule.local:
        raise UnsupportedError(f"{rule.name} differentiates through the whole trial; use backend='torch'")


def gradient(net, values, trials, rule, loss, *, seed=0, target="numpy"):
    """dloss/dweight as a local ``rule`` accumulates it while Brian2 runs; as the Torch backend's ``gradient``."""
    check_local(rule)
    learned = plan(net, rule, loss, batch=len(trials), seed=seed)
    running = session(target, net, values, block_for(net, trials), trials, plan=learned, seed=seed)
    try:
        results = running.run(trials)
        grads = {}
        for name in learned.synapses:
            matrix = np.zeros(values.masks[name].shape)
            matrix[values.masks[name]] = results.read(name, "gradient") / len(trials)
            grads[f"{name}.weight"] = matrix
        return grads, trial_metrics(net, learned, results, trials)
    finally:
        running.close()


def trial_metrics(net, learned, results, trials):
    """Loss, accuracy and spike counts of the block, as the Torch backend reports them."""
    loss = results.ledger(learned.readout, "loss").sum(-1)
    counts = {
        name: results.ledger(name, "spike_count") for name in learned.broadcast
    }
    regulariser = learned.loss.regulariser
    if regulariser:
        duration = trials.steps * float(net.dt)
        for count in counts.values():
            loss = loss + 0.5 * regulariser.strength * ((count / duration - regulariser.target) ** 2).sum(-1)
    accuracy = float("nan")
    if np.ndim(trials.target) == 1:
        accuracy = float((results.ledger(learned.readout, "score").argmax(-1) == trials.target).mean())
    return {"loss": float(loss.mean()), "accuracy": accuracy, "counts": counts}
