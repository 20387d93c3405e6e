"""The Brian2 backend: gradients and learning online, trial after trial, as equations."""

import numpy as np

from localplast.backends.brian2.delays import DelayLearner, check_spread, settings, with_room
from localplast.backends.brian2.learning import feedback_name
from localplast.backends.brian2.names import number_of
from localplast.backends.brian2.session import session
from localplast.backends.brian2.timing import Block, longest_delay
from localplast.errors import LocalplastError, RunawayError, UnsupportedError
from localplast.learning.optimise import check_norm, check_rates
from localplast.network.delays import summed_over_shared
from localplast.neuron.step import lower
from localplast.packages import has_torch
from localplast.program.finite import check_found, check_states
from localplast.program.learn import check_trials, judged_readout, plan
from localplast.task.regulariser import of_trials

__all__ = ["Brian2Learner", "block_for", "gradient"]


def block_for(net, trials, values=None):
    """The :class:`~localplast.backends.brian2.timing.Block` that holds these trials."""
    delays = {n: net.delay_steps(p) for n, p in net.projections.items()} if values is None else values.delays
    return Block.of(trials, longest_delay(delays))


def check_local(rule):
    if not rule.local:
        why = (
            "carries the derivatives of the whole network"
            if rule.form == "forward"
            else "differentiates through the whole trial"
        )
        raise UnsupportedError(f"{rule.name} {why}; use backend='torch'")


def gradient(net, values, trials, rule, loss, *, seed=0, target="numpy", trainable=()):
    """dloss/dparameter as a local ``rule`` accumulates it while Brian2 runs; as the Torch backend's ``gradient``."""
    check_local(rule)
    check_spread(net, [f"{name}.delay" for name in net.learned_delays])
    check_trials(net, trials, loss)
    learned = plan(net, rule, loss, batch=len(trials), seed=seed, trainable=trainable, values=values)
    running = session(target, net, values, block_for(net, trials, values), trials, plan=learned, seed=seed)
    try:
        results = running.run(trials)
        grads = {}
        for name in learned.synapses:
            matrix = np.zeros(values.masks[name].shape)
            matrix[values.masks[name]] = results.read(name, "gradient") / len(trials)
            grads[f"{name}.weight"] = matrix
        grads |= other_gradients(net, values, learned, results, len(trials))
        info = trial_metrics(net, learned, results, trials)
        states = last_states(net, results)
    finally:
        running.close()
    if rule.signal.drives_neurons and not all(np.all(np.isfinite(g)) for g in grads.values()):
        if has_torch():
            # Torch says where it diverges, if there it does too; Brian2 learns without it
            from localplast.backends.torch.gradient import gradient as in_torch

            in_torch(net, values, trials, rule, loss, seed=seed, trainable=trainable)
        raise RunawayError(
            f"the gradient of {rule.name} is not finite in Brian2; look at the weights, the time step and the noise"
        )
    check_states(states)
    check_found(rule, grads, info["loss"])
    return grads, info


def last_states(net, results):
    """The state of all populations at the end of a block, in which what is not finite stays so from trial to trial."""
    variables = [(name, k) for name, p in net.populations.items() for k in lower(p.model).state]
    return {f"population {name!r}: {k}": results.read(name, k) for name, k in variables}


def other_gradients(net, values, learned, results, trials):
    """Gradients of parameters and delays, summed over what shares one number."""
    grads = {}
    for name, parameters in learned.parameters.items():
        for key in parameters:
            found = results.read(name, f"gradient_{key}") / trials
            grads[f"{name}.{key}"] = found if values.parameters[name][key].ndim else found.sum()
    for name, synapses in learned.synapses.items():
        if "gradient_delay" in synapses.sums:
            matrix = np.zeros(values.masks[name].shape)
            matrix[values.masks[name]] = results.read(name, "gradient_delay") / trials
            delay = net.projections[name].delay
            grads[f"{name}.delay"] = summed_over_shared(matrix, delay and delay.kind, values.delays[name].ndim)
    return grads


def check_trainable(net, optimiser, values):
    """Raise where Brian2 cannot change what the network marks as trainable."""
    check_rates(net, optimiser)
    for name in net.trainable:
        if name.split(".")[0] in net.populations and not np.ndim(values.other(name)):
            raise UnsupportedError(
                f"{name} is one number for the whole population, so learning it is not local; give every neuron its "
                "own (an array), or use backend='torch'"
            )


def trial_losses(net, learned, results, duration):
    """The loss of every trial ``(trial,)`` with its regulariser, and spike counts by population."""
    loss = sum(results.ledger(readout, "loss").sum(-1) for readout in learned.readouts)
    counts = {n: results.ledger(n, "spike_count") for n, p in net.populations.items() if p.model.spiking}
    regulariser = learned.loss.regulariser
    if of_trials(learned.loss):
        for count in counts.values():
            loss = loss + 0.5 * regulariser.strength * ((count / duration - regulariser.target) ** 2).sum(-1)
    return loss, counts


def judged(trials):
    """Whether there are labels, and steps in which a choice counts."""
    return np.ndim(trials.target) == 1 and (trials.weight is None or bool(np.any(trials.weight)))


def trial_metrics(net, learned, results, trials):
    """Loss, accuracy and spike counts of the block, as the Torch backend reports them."""
    loss, counts = trial_losses(net, learned, results, trials.steps * float(net.dt))
    accuracy = float("nan")
    if judged(trials):
        accuracy = float(
            (results.ledger(judged_readout(net, learned.loss), "score").argmax(-1) == trials.target).mean()
        )
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

    def __init__(
        self, net, values, rule, loss, optimiser, example, *, batch=1, seed=0, target="numpy", updates_per_block=1
    ):
        check_local(rule)
        self.net, self.rule, self.loss, self.optimiser = net, rule, loss, optimiser
        self.batch, self.per_block, self.target = batch, updates_per_block, target
        check_norm(rule, optimiser, "in Brian2 every synapse has its own gradient and no other")
        check_trainable(net, optimiser, values)
        self.delays = DelayLearner(net, optimiser, values)
        if self.delays.names and updates_per_block > 1:
            raise LocalplastError(
                f"{self.delays.names[0]} changes between two runs of Brian2; use updates_per_block=1, not "
                f"{updates_per_block}"
            )
        self.plan = plan(net, rule, loss, optimiser, batch=batch, seed=seed, values=values)
        check_trials(net, example, loss)
        block = block_for(net, example, with_room(net, values, optimiser))
        self.masks, self.built_delays = values.masks, values.delays
        self.session = session(target, net, values, block, example, plan=self.plan, seed=seed)
        self.restart(values, seed)

    def restart(self, values, seed):
        """Begin again from other numbers: nothing is compiled, if the same synapses exist."""
        if any(not np.array_equal(m, self.masks[n]) for n, m in values.masks.items()):
            raise UnsupportedError("other synapses exist for this seed: build a new learner")
        self.delays.check_start(values)
        fixed = {n: d for n, d in values.delays.items() if f"{n}.delay" not in self.delays.names}
        if any(not np.array_equal(d, self.built_delays[n]) for n, d in fixed.items()):
            raise UnsupportedError(
                "delays that do not learn differ from those this learner was built with: build a new learner"
            )
        values = self.net.clip(values, [n for n in self.plan.synapses if not self.optimiser.frozen(n)])
        self.values, self.seed, self.updates = values, seed, 0
        self.scale(1.0)
        self.weights = dict(values.weights)
        self.others = {name: np.array(values.other(name), float) for name in self.net.trainable}
        sizes = {n: int(self.masks[n].sum()) for n in self.plan.synapses} | {n: x.shape for n, x in self.others.items()}
        self.state = {n: {k: np.zeros(size) for k in self.optimiser.state} for n, size in sizes.items()}
        again = plan(self.net, self.rule, self.loss, seed=seed)
        self.fixed = {(feedback_name(*key), "B"): matrix.ravel() for key, matrix in again.fixed.items()}
        self.feedback = {name: matrix * self.masks[name] for name, matrix in again.learned.items()}

    def scale(self, factor):
        """Go on with so many times the optimiser's learning rates."""
        self.rates = self.optimiser if factor == 1 else self.optimiser.scaled(factor)
        self.delays.follow(self.rates)

    def train(self, trials):
        """Learn from one block of trials, a number of batches; returns one dict of metrics per update."""
        check_trials(self.net, trials, self.loss)
        self.check_block(trials)
        results = self.session.run(trials, self.present(), seed=[self.seed, self.updates], updates=self.updates)
        within = self.rule.interval(self.net.dt)
        per_trial = self.rule.updates(trials.steps, self.net.dt) if within else 0
        self.updates += len(trials) * per_trial if within else len(trials) // self.batch
        values = self.values.replace_weights(self.weights, self.others)
        self.take(results)
        metrics = self.metrics(results, trials)
        told = (*self.weights.values(), *self.others.values(), [m["loss"] for m in metrics])
        if self.rule.signal.drives_neurons and not all(np.all(np.isfinite(x)) for x in told):
            self.find_failure(values, trials)
        check_states(last_states(self.net, results))
        return metrics

    def check_block(self, trials):
        """Raise where these trials are no whole number of updates, or more than delays that learn can wait for."""
        updates, rest = divmod(len(trials), self.batch)
        if rest or (self.delays.names and updates > 1):
            wanted = (
                f"batches of {self.batch}" if not self.delays.names else f"{self.batch} for each move of the delays"
            )
            raise LocalplastError(f"update {self.updates + 1}: there are {len(trials)} trials; give {wanted}")

    def find_failure(self, values, trials):
        """Learn the same in Torch, which raises a :class:`~localplast.errors.RunawayError` that says where it fails."""
        if not has_torch():
            return
        from localplast.backends.torch.learner import TorchLearner  # Brian2 learns without Torch

        TorchLearner(self.net, values, self.rule, self.loss, self.rates, batch=self.batch, seed=self.seed).train(trials)

    @property
    def inside(self):
        """Names of what the optimiser changes within Brian2: weights, and parameters of neurons."""
        return [name for name in self.state if name in self.plan.synapses or name.split(".")[0] in self.net.populations]

    def present(self):
        """What the next run starts from, as ``{(object, variable): numbers}``."""
        variables = {(n, "w"): w[self.masks[n]] for n, w in self.weights.items() if n not in self.net.tied} | self.fixed
        variables |= {(n, "B"): b[self.masks[n]] for n, b in self.feedback.items()}
        for name in self.inside:
            numbers = {**self.state[name], "learning_rate": self.rates.rate(name)}
            variables |= {self.place(name, k): x for k, x in numbers.items()}
        variables |= {tuple(name.split(".")): x for name, x in self.others.items() if name in self.inside}
        for name in self.delays.names:
            variables |= self.delay_settings(name)
        return variables

    def take(self, results):
        """Keep what a run has learned, and let delays follow the gradient that it has summed up."""
        self.feedback = {name: self.matrix(results, name, "B") for name in self.feedback}
        for name in self.plan.synapses:
            self.weights[name] = self.matrix(results, name, "w")
        self.weights = self.net.tie(self.weights)
        for name in self.inside:
            self.state[name] = {k: results.read(*self.place(name, k)) for k in self.state[name]}
            if name in self.others:
                self.others[name] = results.read(*name.split("."))
        for name in self.delays.names:
            self.move(name, results)

    def delay_settings(self, name):
        """The present delays of one projection for the next run, which sums up their gradient anew."""
        owner = name.split(".")[0]
        p = self.net.projections[owner]
        gathered = self.plan.synapses[owner].eligibility.arrives == "pre"
        return {**settings(self.net, p, self.others[name], self.masks[owner], gathered), (owner, "gradient_delay"): 0.0}

    def move(self, name, results):
        """The optimiser's update of the delays of one projection."""
        owner, steps = name.split(".")[0], self.others[name]
        matrix = self.matrix(results, owner, "gradient_delay") / self.batch
        gradient = summed_over_shared(matrix, self.net.projections[owner].delay.kind, steps.ndim)
        self.others[name], self.state[name] = self.delays.step(name, steps, gradient, self.state[name], self.updates)

    def place(self, name, what):
        """The Brian2 object that holds a number of the optimiser of a projection or a parameter, and its name there."""
        owner, _, key = name.partition(".")
        return owner, number_of(self.net.nodes[owner].model, key, what) if key else what

    def matrix(self, results, name, variable):
        """A variable of the synapses of one projection as ``(pre, post)``."""
        matrix = np.zeros(self.masks[name].shape)
        matrix[self.masks[name]] = results.read(name, variable)
        return matrix

    def metrics(self, results, trials):
        duration = trials.steps * float(self.net.dt)
        loss, counts = trial_losses(self.net, self.plan, results, duration)
        right = np.full(len(trials), np.nan)
        if judged(trials):
            right = results.ledger(judged_readout(self.net, self.loss), "score").argmax(-1) == trials.target
        rate = sum((c.mean(-1) for c in counts.values()), np.zeros(len(trials))) / max(len(counts), 1) / duration
        table = {"loss": loss, "accuracy": right.astype(float), "rate": rate}
        by_update = {k: v.reshape(-1, self.batch).mean(-1) for k, v in table.items()}
        return [{k: float(v[i]) for k, v in by_update.items()} for i in range(len(by_update["loss"]))]

    def numbers(self):
        """The present weights, by projection."""
        return {n: np.array(w, float) for n, w in self.weights.items()}

    def parameters(self):
        """The present values of what else learns, by name: ``'rec.tau_mem'``, ``'rec_rec.delay'`` (in steps)."""
        return {n: np.array(x, float) for n, x in self.others.items()}

    def arrays(self):
        """Everything that a checkpoint must hold, by name: between blocks no spike is in flight and no trace is
        left.
        """
        kept = {f"weight.{n}": w for n, w in self.weights.items()}
        kept.update({f"{k}.{n}": s for n, state in self.state.items() for k, s in state.items()})
        kept.update({f"feedback.{n}": b for n, b in self.feedback.items()})
        kept.update({f"value.{n}": x for n, x in self.others.items()})
        return {**kept, "updates": np.array(self.updates)}

    def load(self, arrays):
        """Go on from what :meth:`arrays` gave."""
        self.weights = {n: arrays[f"weight.{n}"] for n in self.weights}
        self.state = {n: {k: arrays[f"{k}.{n}"] for k in state} for n, state in self.state.items()}
        self.feedback = {n: arrays[f"feedback.{n}"] for n in self.feedback}
        self.others = {n: arrays[f"value.{n}"] for n in self.others}
        self.updates = int(arrays["updates"])

    def interrupt(self):
        """Let the block that another thread runs end soon, in a KeyboardInterrupt there."""
        self.session.interrupt()

    def close(self):
        """Release the compiled program."""
        self.session.close()
