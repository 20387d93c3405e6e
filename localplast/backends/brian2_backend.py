"""The Brian2 backend: gradients and learning online, trial after trial, as equations."""

import numpy as np

from localplast.backends.brian2_build import Block, longest_delay
from localplast.backends.brian2_run import session
from localplast.backends.brian2_signal import feedback_name
from localplast.errors import UnsupportedError
from localplast.plan import plan
from localplast.task import Poisson

__all__ = ["Brian2Learner", "block_for", "gradient"]


def block_for(net, trials):
    """The :class:`Block` that holds these trials; gaps are whole segments of inputs given as rates."""
    gap = longest_delay(net)
    for array in trials.inputs.values():
        if isinstance(array, Poisson):
            gap = -(-gap // array.segment) * array.segment
    return Block(len(trials), trials.steps, gap)


def check_local(rule):
    if not rule.local:
        forward = getattr(rule, "form", None) == "forward"
        why = "carries the derivatives of the whole network" if forward else "differentiates through the whole trial"
        raise UnsupportedError(f"{rule.name} {why}; use backend='torch'")


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


def trial_losses(net, learned, results, duration):
    """The loss of every trial ``(trial,)`` with its regulariser, and spike counts by learning population."""
    loss = sum(results.ledger(readout, "loss").sum(-1) for readout in learned.readouts)
    plastic = {p.post for p in net.plastic}
    counts = {name: results.ledger(name, "spike_count") for name in learned.signals if name in plastic}
    regulariser = learned.loss.regulariser
    if regulariser:
        for count in counts.values():
            loss = loss + 0.5 * regulariser.strength * ((count / duration - regulariser.target) ** 2).sum(-1)
    return loss, counts


def trial_metrics(net, learned, results, trials):
    """Loss, accuracy and spike counts of the block, as the Torch backend reports them."""
    loss, counts = trial_losses(net, learned, results, trials.steps * float(net.dt))
    accuracy = float("nan")
    if np.ndim(trials.target) == 1:
        accuracy = float((results.ledger(learned.readouts[-1], "score").argmax(-1) == trials.target).mean())
    return {"loss": float(loss.mean()), "accuracy": accuracy, "counts": counts}


class Brian2Learner:
    """A network that learns online in Brian2; the counterpart of the Torch backend's ``TorchLearner``.

    Other arguments
    ---------------
    updates_per_block : int
        Updates of one run of Brian2: every run costs some overhead, every trial of it memory for the inputs.
    target : str
        ``'numpy'``, ``'cython'`` or ``'cpp'``.
    """

    backend = "brian2"

    def __init__(self, net, values, rule, loss, optimiser, example, *, batch=1, seed=0, target="numpy", updates_per_block=1):
        check_local(rule)
        self.net, self.rule, self.loss, self.optimiser = net, rule, loss, optimiser
        self.batch, self.per_block, self.target = batch, updates_per_block, target
        self.plan = plan(net, rule, loss, optimiser, batch=batch, seed=seed)
        template = example[np.zeros(batch * updates_per_block, int)]
        self.block = block_for(net, template)
        self.masks = values.masks
        self.session = session(target, net, values, self.block, template, plan=self.plan, seed=seed)
        self.restart(values, seed)

    def restart(self, values, seed):
        """Begin again from other numbers: nothing is compiled, if the same synapses exist."""
        if any(not np.array_equal(m, self.masks[n]) for n, m in values.masks.items()):
            raise UnsupportedError("other synapses exist for this seed: build a new learner")
        values = self.net.clip(values, [n for n in self.plan.synapses if not self.optimiser.frozen(n)])
        self.values, self.seed, self.updates = values, seed, 0
        self.weights = dict(values.weights)
        self.state = {n: {k: np.zeros(int(self.masks[n].sum())) for k in self.optimiser.state} for n in self.plan.synapses}
        again = plan(self.net, self.rule, self.loss, seed=seed)
        self.fixed = {(feedback_name(*key), "B"): matrix.ravel() for key, matrix in again.fixed.items()}
        self.feedback = {name: matrix * self.masks[name] for name, matrix in again.learned.items()}

    def train(self, trials):
        """Learn from one block of trials (``updates_per_block`` batches); returns one dict of metrics per update."""
        variables = {(n, "w"): w[self.masks[n]] for n, w in self.weights.items()} | self.fixed
        variables |= {(n, "B"): b[self.masks[n]] for n, b in self.feedback.items()}
        for name, state in self.state.items():
            variables |= {(name, k): s for k, s in state.items()}
            variables[name, "updates"] = float(self.updates)
            variables[name, "learning_rate"] = self.optimiser.rate(name)
        results = self.session.run(trials, variables, seed=[self.seed, self.updates])
        self.feedback = {name: self.matrix(results, name, "B") for name in self.feedback}
        for name in self.plan.synapses:
            self.weights[name] = self.matrix(results, name, "w")
            self.state[name] = {k: results.read(name, k) for k in self.state[name]}
        within = self.rule.interval(self.net.dt)
        per_trial = self.rule.updates(trials.steps, self.net.dt) if within else 0
        self.updates += len(trials) * per_trial if within else len(trials) // self.batch
        return self.metrics(results, trials)

    def matrix(self, results, name, variable):
        """A variable of the synapses of one projection as ``(pre, post)``."""
        matrix = np.zeros(self.masks[name].shape)
        matrix[self.masks[name]] = results.read(name, variable)
        return matrix

    def metrics(self, results, trials):
        duration = trials.steps * float(self.net.dt)
        loss, counts = trial_losses(self.net, self.plan, results, duration)
        right = np.full(len(trials), np.nan)
        if np.ndim(trials.target) == 1:
            right = results.ledger(self.plan.readouts[-1], "score").argmax(-1) == trials.target
        rate = np.mean([c.mean(-1) for c in counts.values()], axis=0) / duration
        table = {"loss": loss, "accuracy": right.astype(float), "rate": rate}
        by_update = {k: v.reshape(-1, self.batch).mean(-1) for k, v in table.items()}
        return [{k: float(v[i]) for k, v in by_update.items()} for i in range(len(by_update["loss"]))]

    def numbers(self):
        """The present weights, by projection."""
        return {n: np.array(w, float) for n, w in self.weights.items()}

    def arrays(self):
        """Everything that a checkpoint must hold, by name: between blocks no spike is in flight and no trace is left."""
        kept = {f"weight.{n}": w for n, w in self.weights.items()}
        kept.update({f"{k}.{n}": s for n, state in self.state.items() for k, s in state.items()})
        kept.update({f"feedback.{n}": b for n, b in self.feedback.items()})
        return {**kept, "updates": np.array(self.updates)}

    def load(self, arrays):
        """Go on from what :meth:`arrays` gave."""
        self.weights = {n: arrays[f"weight.{n}"] for n in self.weights}
        self.state = {n: {k: arrays[f"{k}.{n}"] for k in state} for n, state in self.state.items()}
        self.feedback = {n: arrays[f"feedback.{n}"] for n in self.feedback}
        self.updates = int(arrays["updates"])

    def close(self):
        """Release the compiled program."""
        self.session.close()
