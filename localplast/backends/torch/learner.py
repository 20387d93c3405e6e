"""Learning in Torch: batch after batch, with any rule, and the optimiser that Brian2 runs too."""

import functools
import logging
import threading

import numpy as np
import torch

from localplast.backends.c.function import NetworkFunction, why_not
from localplast.backends.c.online_call import OnlineKernel, why_not_online
from localplast.backends.torch.gradient import (
    adjoint_form,
    batch_loss,
    denormals_flushed,
    prepare,
    run_forward,
    score,
    side_by_side,
)
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.optimise import Optimise
from localplast.backends.torch.step import leaves
from localplast.backends.torch.synapses import as_matrix, as_vector
from localplast.errors import UnsupportedError
from localplast.interrupt import deferred
from localplast.learning.filters import AsReadout
from localplast.learning.optimise import check_norm, check_rates
from localplast.network.delays import kernel_widths, moving, unspread
from localplast.program.finite import check_found
from localplast.program.forward import few
from localplast.program.learn import check_branching, plan

__all__ = ["Forward", "TorchLearner", "single_thread"]

logger = logging.getLogger(__name__)


class SingleThread:
    """One Torch thread while anybody is inside: the products of a time step are too small to share.

    Batches are split between threads instead. The setting is global to the process: of runs side by side the first one
    in changes it, the last one out restores it. Who is inside is known by the thread it runs in, and nothing is held by
    a run that Ctrl-C ends on the way in or out: the next one of its thread sets things right.
    """

    def __init__(self):
        self.lock, self.inside, self.before = threading.Lock(), set(), 1

    def __enter__(self):
        with deferred(), self.lock:
            if not self.inside:
                self.before = torch.get_num_threads()
                torch.set_num_threads(1)
            self.inside.add(threading.get_ident())

    def __exit__(self, *error):
        with deferred(), self.lock:
            self.inside.discard(threading.get_ident())
            if not self.inside:
                torch.set_num_threads(self.before)


single_thread = SingleThread()


class Forward:
    """A run of the network, differentiable if ``wanted``: the generated kernel where it can, else the plain step."""

    def __init__(self, net, tensors, masks, *, cut=(), feedback=None, sums=False, threads=1, device="cpu", wanted=True):
        self.net, self.tensors, self.masks, self.sums = net, tensors, masks, sums
        self.cut, self.feedback, self.threads, self.device, self.wanted = cut, feedback or {}, threads, device, wanted

    @functools.cached_property
    def kernel(self):
        """The generated kernel, or None; made when it is needed: who learns online needs it in tests only."""
        net, reason = self.net, elsewhere(self.device)
        if not reason:
            record = [f"{k}.sum" for k, p in net.populations.items() if p.model.spiking and self.sums]
            options = {"cut": self.cut, "feedback": self.feedback, "record": record, "threads": self.threads}
            function = NetworkFunction(net, self.tensors, self.masks, **options)
            moving = [*(f"{p.name}.weight" for p in net.plastic), *net.trainable] if self.wanted else ()
            reason = why_not(function, moving)
        if reason:
            logger.warning("the network runs in plain Torch, which is slower: %s", reason)
        return None if reason else function

    def __call__(self, weights, inputs, others=None, widths=None, seed=0):
        """As :func:`~localplast.backends.torch.gradient.run_forward`."""
        if self.kernel is not None:
            return side_by_side(self.net, self.kernel(weights, inputs, others, widths, seed))
        tensors = {**self.tensors, **{f"{k}.weight": w for k, w in weights.items()}, **(others or {})}
        options = {"cut": self.cut, "feedback": self.feedback, "sums": self.sums, "widths": widths, "seed": seed}
        return run_forward(self.net, tensors, self.masks, inputs, **options)


def elsewhere(device):
    """Why no generated kernel runs on this device; None on the CPU."""
    return None if device == "cpu" else f"generated kernels run on the CPU, not on {device}"


def check_filters(net, rule, optimiser):
    """Raise where traces are smoothed with a memory that would itself change."""
    for name in net.trainable:
        smoothed = (
            name.split(".")[0] in net.readouts
            and rule.filter == AsReadout()
            and len(net.populations) > len(net.readouts)
        )
        if smoothed and not optimiser.frozen(name):
            raise UnsupportedError(
                f"{rule.name} carries traces that are smoothed as the readout does, so {name} must stay; use bptt(), "
                "or a rule that automatic differentiation can compute, such as eprop()"
            )


class TorchLearner:
    """A network that learns in Torch.

    Parameters
    ----------
    net : Network
    values : Values
        Where it starts.
    rule : Rule
    loss : Loss
    optimiser : Optimiser

    Other arguments
    ---------------
    batch : int
        Trials per update.
    seed : int
        Of fixed feedback and of inputs given as rates.
    dtype : torch.dtype
    threads : int
        The batch is split between them.
    device : str
        Where tensors live, those of the optimiser included; on another one than ``'cpu'`` the plain step runs.
    """

    backend = "torch"

    def __init__(
        self, net, values, rule, loss, optimiser, *, batch=1, seed=0, dtype=torch.float64, threads=1, device="cpu"
    ):
        self.net, self.rule, self.loss, self.optimiser = net, rule, loss, optimiser
        self.batch, self.seed, self.dtype, self.threads, self.device = batch, seed, dtype, threads, device
        self.restart(values, seed)

    def restart(self, values, seed):
        """Begin again from other numbers."""
        net, self.seed, self.updates = self.net, seed, 0
        self.check()
        self.plastic = [p.name for p in net.plastic]
        moving = [n for n in self.plastic if not self.optimiser.frozen(n)]
        self.values = values = net.clip(values, moving)
        self.tensors = leaves(net, values, dtype=self.dtype, device=self.device)
        #: projections of few synapses: their weights, gradients and what the optimiser remembers are vectors of these
        self.few = {n for n, mask in values.masks.items() if few(net, n, mask)}
        self.weights = {n: self.laid(n, self.tensors[f"{n}.weight"]) for n in net.projections}
        self.tensors |= {f"{n}.weight": w for n, w in self.weights.items()}
        self.others = {n: self.tensors[n] for n in net.trainable}
        learning = {n: self.weights[n] for n in self.plastic} | self.others
        self.state = {n: {k: torch.zeros_like(x) for k in self.optimiser.state} for n, x in learning.items()}
        self.rates = self.optimiser
        self.give_credit()
        between = self.rule.update == "trial"
        self.optimise = Optimise(net, values, self.optimiser, self.tensors, self.feedback) if between else None

    def scale(self, factor):
        """Go on with so many times the optimiser's learning rates."""
        self.rates = self.optimiser.scaled(factor)
        program, numbers = (
            (self.online.program, self.online.numbers)
            if self.optimise is None
            else (self.optimise.program, self.optimise.engine.numbers)
        )
        rates = [a.name for a in program.arrays.values() if a.role == "rate"]
        numbers.update({name: self.rates.rate(name.removesuffix(".learning_rate")) for name in rates})

    def check(self):
        """Raise where the rule and the optimiser cannot train this network."""
        check_rates(self.net, self.optimiser)
        check_branching(self.loss, self.rule, self.rule.form or "adjoint")
        if self.rule.update != "trial":
            check_norm(self.rule, self.optimiser, "weights change within a trial, when the whole gradient is not known")
        if self.rule.form == "forward":
            raise UnsupportedError(
                f"{self.rule.name} is a reference for lp.gradient; train with bptt(), whose gradients are the same"
            )

    def give_credit(self):
        """What finds the gradient: the adjoint of a cut network where that is the rule, else traces carried forward."""
        net, values, seed = self.net, self.values, self.seed
        adjoint = adjoint_form(net, self.rule, seed, self.loss) if self.rule.update == "trial" else None
        learned = plan(net, self.rule, self.loss, seed=seed, values=values) if self.rule.local else None
        if adjoint is None and self.rule.local:
            check_filters(net, self.rule, self.optimiser)
        self.online = None if adjoint is not None else self.online_learner(learned)
        cut, feedback = adjoint or ((), {})
        feedback = {k: self.tensor(b) for k, b in feedback.items()}
        starts = learned.learned if learned else {}
        self.feedback = {k: self.laid(k, self.tensor(b)) * self.mask(k) for k, b in starts.items()}
        sums = self.loss.branching is not None
        self.forward = Forward(
            net,
            self.tensors,
            values.masks,
            cut=cut,
            feedback=feedback,
            sums=sums,
            threads=self.threads,
            device=self.device,
            wanted=self.online is None,
        )

    def tensor(self, array):
        """A copy of ``array`` among the numbers that learn: of their type, on their device."""
        return torch.tensor(np.asarray(array), dtype=self.dtype, device=self.device)

    def laid(self, name, x):
        """Numbers of synapses as they are kept here: those of few ones as a vector."""
        return as_vector(x, self.values.masks[name]) if name in self.few else x

    def online_learner(self, learned):
        """What carries traces forward: the generated kernel where it can, else the plain step."""
        arguments = self.net, learned, self.tensors, self.values.masks, self.rates
        kernel = OnlineKernel(*arguments, widths=self.widths(), threads=self.threads)
        reason = elsewhere(self.device) or why_not_online(kernel)
        if not reason:
            return kernel
        logger.warning("%s learns step by step in plain Torch, which is slower: %s", self.rule.name, reason)
        return OnlineLearner(*arguments, widths=self.widths())

    def widths(self):
        """Of the kernels of delays at this update, by projection: what does not learn is not spread."""
        learn = moving(self.net, self.optimiser)
        return {
            n: width if f"{n}.delay" in learn else 0.0 for n, width in kernel_widths(self.net, self.updates).items()
        }

    def prepare(self, trials):
        rng = np.random.default_rng([self.seed, 3, self.updates])
        return prepare(self.net, trials, self.loss, rng=rng, dtype=self.dtype, device=self.device)

    def train(self, trials):
        """Learn from whole batches of trials; returns one dict of metrics per update."""
        found = []
        with denormals_flushed(), single_thread:
            for start in range(0, len(trials), self.batch):
                found.append(self.update(trials[start : start + self.batch]))
        return found

    def update(self, trials):
        """One batch: present it, change the weights."""
        self.forward.feedback.update(self.feedback if self.online is None else {})
        inputs, target, weight = self.prepare(trials)
        duration, sums = trials.steps * float(self.net.dt), None
        if self.online is not None:
            outputs, counts, grads = self.learn_online(inputs, target, weight)
        else:
            leaf = {n: w.detach().requires_grad_(n in self.plastic) for n, w in self.weights.items()}
            more = {n: x.detach().requires_grad_() for n, x in self.others.items()}
            outputs, counts, sums = self.forward(leaf, inputs, more, self.widths(), seed=[self.seed, 3, self.updates])
        _, total = batch_loss(self.net, self.loss, outputs, target, weight, counts, duration, inputs, sums)
        if self.online is None:
            leaves_ = {n: leaf[n] for n in self.plastic} | more
            found = torch.autograd.grad(total.mean(), list(leaves_.values()), allow_unused=True, materialize_grads=True)
            grads = dict(zip(leaves_, found, strict=True))
        check_found(self.rule, {n: g.detach().cpu().numpy() for n, g in grads.items()}, float(total.detach().mean()))
        if grads:
            self.updates += 1
            found = self.optimise(self.learning, grads, share=self.optimiser.share(grads), update=self.updates)
            self.follow(lambda name, _: found[name])
        self.tie()
        outputs = outputs.detach()
        rates = [c.detach().mean() / duration for c in counts.values()]
        return {
            "loss": float(total.detach().mean()),
            "accuracy": score(self.net, self.loss, outputs, weight, trials.target),
            "rate": float(sum(rates) / max(len(rates), 1)),
        }

    @property
    def learning(self):
        """All that learns, by array of the program that changes it."""
        found = {f"{n}.weight": w for n, w in self.weights.items()} | self.others
        found |= {f"{n}.feedback": b for n, b in self.feedback.items()}
        return found | {f"{n}.optimiser.{k}": x for n, kept in self.state.items() for k, x in kept.items()}

    def follow(self, left):
        """Go on with what has changed; ``left(name, like)`` is what has become of an array."""
        self.feedback = {n: left(f"{n}.feedback", b) for n, b in self.feedback.items()}
        self.state = {n: {k: left(f"{n}.optimiser.{k}", x) for k, x in kept.items()} for n, kept in self.state.items()}
        for name in self.plastic:
            self.weights[name] = self.tensors[f"{name}.weight"] = left(f"{name}.weight", self.weights[name])
        for name, x in self.others.items():
            self.others[name] = self.tensors[name] = left(name, x)

    def tie(self):
        """Let weights that are another projection's follow it."""
        self.weights = self.net.tie(self.weights)
        self.tensors.update({f"{n}.weight": self.weights[n] for n in self.net.tied})

    def mask(self, name):
        """1 where there is a synapse, else 0: of few synapses there is nothing else."""
        return self.tensor(1.0 if name in self.few else self.values.masks[name])

    def learn_online(self, inputs, target, weight):
        """Traces carried forward; unless ``update='trial'`` the weights change along the way."""
        if self.online.widths != self.widths():
            self.online = self.online_learner(self.online.plan)
        online = self.online
        online.follow(self.learning)
        found = online.run(inputs, target, weight, updates=self.updates, seed=[self.seed, 3, self.updates])
        if self.rule.update == "trial":
            grads = {n: self.laid(n, g) for n, g in online.gradients().items()}
            return *found, grads | online.other_gradients(self.tensors)
        self.updates += self.rule.updates(len(weight), self.net.dt)
        self.follow(online.left)
        return *found, {}

    def evaluate(self, trials, part=0):
        """Loss, accuracy and spikes per neuron on trials, learning nothing; delays that learn are rounded to whole
        steps.

        Each ``part`` of a test has dice of its own, the same in every test.
        """
        dice = [self.seed, 4, part]
        inputs, target, weight = prepare(
            self.net, trials, self.loss, rng=np.random.default_rng(dice), dtype=self.dtype, device=self.device
        )
        with torch.no_grad(), denormals_flushed(), single_thread:
            outputs, counts, sums = self.forward(self.weights, inputs, self.rounded(), unspread(self.net), seed=dice)
            duration = trials.steps * float(self.net.dt)
            _, total = batch_loss(self.net, self.loss, outputs, target, weight, counts, duration, inputs, sums)
        spikes = [float(c.mean()) for c in counts.values()]
        return {
            "loss": float(total.mean()),
            "accuracy": score(self.net, self.loss, outputs, weight, trials.target),
            "spikes": sum(spikes) / len(spikes) if spikes else float("nan"),
        }

    def rounded(self):
        """What else learns, its delays rounded to whole steps (half up)."""
        delays = {f"{name}.delay" for name in self.net.learned_delays}
        return {n: torch.floor(x + 0.5) if n in delays else x for n, x in self.others.items()}

    def adopt(self, numbers, parameters=None):
        """Take over weights, by projection, and what else learns, by name."""
        for name, weight in numbers.items():
            self.weights[name] = self.tensors[f"{name}.weight"] = self.laid(name, self.tensor(weight))
        for name, value in (parameters or {}).items():
            self.others[name] = self.tensors[name] = self.tensor(value)

    def numbers(self):
        """The present weights, by projection."""
        return {n: self.matrix(n, w).astype(float) for n, w in self.weights.items()}

    def matrix(self, name, x):
        """Numbers of synapses, ``(pre, post)``."""
        return as_matrix(x.detach(), self.values.masks[name]).cpu().numpy()

    def parameters(self):
        """The present values of what else learns, by name: ``'rec.tau_mem'``, ``'rec_rec.delay'`` (in steps)."""
        return {n: x.detach().cpu().numpy().astype(float) for n, x in self.others.items()}

    def arrays(self):
        """Everything that a checkpoint must hold, by name."""
        kept = {f"weight.{n}": self.matrix(n, w) for n, w in self.weights.items()}
        kept.update({f"{k}.{n}": s.detach().cpu().numpy() for n, state in self.state.items() for k, s in state.items()})
        kept.update({f"feedback.{n}": self.matrix(n, b) for n, b in self.feedback.items()})
        kept.update({f"value.{n}": x.cpu().numpy() for n, x in self.others.items()})
        return {**kept, "updates": np.array(self.updates)}

    def load(self, arrays):
        """Go on from what :meth:`arrays` gave."""
        for name in self.weights:
            weight = self.laid(name, self.tensor(arrays[f"weight.{name}"]))
            self.weights[name] = self.tensors[f"{name}.weight"] = weight
        self.feedback = {n: self.laid(n, self.tensor(arrays[f"feedback.{n}"])) for n in self.feedback}
        self.adopt({}, {n: arrays[f"value.{n}"] for n in self.others})
        for name, state in self.state.items():
            self.state[name] = {k: self.laid(name, self.tensor(arrays[f"{k}.{name}"])) for k in state}
        self.updates = int(arrays["updates"])

    def interrupt(self):
        """Nothing to do: an update is short."""

    def close(self):
        """Nothing to release."""
