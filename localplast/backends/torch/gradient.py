"""The Torch backend: gradients and learning on batches of trials."""

import contextlib

import numpy as np
import torch

from localplast.backends.c.function import NetworkFunction, why_not
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.reward import rewarded, split
from localplast.backends.torch.rtrl import Influence
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.backends.torch.synapses import as_matrix
from localplast.errors import NetworkError, UnsupportedError
from localplast.learning.eligibility import Derived
from localplast.learning.filters import AsReadout, Immediate
from localplast.learning.signal import Broadcast, direct_path
from localplast.network.convolution import check_dense
from localplast.network.credit_graph import projection_edges
from localplast.neuron.step import lower
from localplast.program.finite import check_found, check_states
from localplast.program.learn import check_branching, check_trials, judged_readout, plan
from localplast.task.loss import Reward
from localplast.task.regulariser import of_trials

__all__ = ["batch_loss", "denormals_flushed", "gradient", "prepare", "side_by_side"]

#: Neurons times steps times trials: some hundred bytes each are kept by automatic differentiation.
WORTH_COMPILING = 1_000_000


@contextlib.contextmanager
def denormals_flushed():
    """Treat denormal numbers as zero while inside: decaying traces are several times faster, and change by < 1e-300.

    Torch cannot tell what was set before; outside, denormals are kept, which is Torch's default.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def prepare(net, trials, loss, *, rng, dtype, device="cpu"):
    """Trials as tensors, time first: inputs (spikes stay bool), target ``(time or 1, trial, readout)``, weight
    ``(time,)``.
    """
    check_trials(net, trials, loss)
    rasters = trials.rasters(rng, float(net.dt))
    inputs = {k: torch.as_tensor(v, device=device).transpose(0, 1) for k, v in rasters.items()}
    inputs = {k: v if v.dtype == torch.bool else v.to(dtype) for k, v in inputs.items()}
    dense = loss.dense_target(trials.target, trials.steps, net.size(judged_readout(net, loss)))
    target = torch.as_tensor(dense, device=device).transpose(0, 1).to(dtype)
    weight = np.ones(trials.steps) if trials.weight is None else np.asarray(trials.weight, float)
    return inputs, target, torch.as_tensor(weight, device=device).to(dtype)


def batch_loss(net, loss, outputs, target, weight, counts, duration, inputs, sums=None):
    """The loss of every trial, ``(trial,)``: the readouts' part and the regularised whole."""
    readout = readout_loss(net, loss, outputs, target, weight, inputs)
    total = readout
    if loss.branching:
        total = readout + sum(loss.branching.penalty(spikes) for spikes in sums.values())
    if not of_trials(loss):
        return readout, total
    regulariser = loss.regulariser
    for count in counts.values():
        excess = count / duration - regulariser.target
        total = total + 0.5 * regulariser.strength * (excess**2).sum(-1)
    return readout, total


def readout_loss(net, loss, outputs, target, weight, inputs):
    """What the readouts' outputs cost; with reward, minus the reward, whose gradient is that of actor and critic."""
    if isinstance(loss, Reward):
        errors, reward = rewarded(net, loss, outputs.detach(), target, weight, inputs[loss.dice])
        product = (errors * outputs).sum((0, 2))
        return product - product.detach() - reward
    counted = weight.nonzero()[:, 0]  # most steps of a task with a silent wait count for nothing
    target = target[counted] if len(target) > 1 else target
    outputs = outputs[counted].unflatten(-1, (-1, target.shape[-1]))  # (time, trial, readout, output)
    return (weight[counted, None] * loss.per_step(outputs, target.unsqueeze(-2)).sum(-1)).sum(0)


def score(net, loss, outputs, weight, labels):
    """Share of trials whose largest weighted mean output is the label; nan without labels, or a step that counts."""
    if labels is None or np.ndim(labels) != 1 or not weight.any():
        return float("nan")
    chosen = (weight[:, None, None] * split(net, outputs)[judged_readout(net, loss)]).sum(0).argmax(-1)
    return float((chosen.cpu() == torch.as_tensor(np.array(labels))).double().mean())


def adjoint_form(net, rule, seed, loss=None):
    """``(cut, feedback)`` whose automatic differentiation equals ``rule``; None where no cut does."""
    readouts, running = net.readouts, loss is not None and loss.regulariser is not None and not of_trials(loss)
    if running and not rule.local:
        raise UnsupportedError(f"{rule.name} regularises the rates of whole trials only; use rate() without window")
    if running:
        return None
    if not rule.local:
        check_surrogates(net, rule)
        return rule.cut, backward_matrices(net, rule.signal, readouts, seed)
    if not is_autograd(net, rule, loss):
        return None
    terms = [t for s in rule.signal.of(net, readouts, seed).values() for t in s.terms]
    return rule.cut, {t.path: t.matrix for t in terms if t.matrix is not None}


def is_autograd(net, rule, loss):
    """Whether automatic differentiation without the edges that ``rule`` names gives exactly its estimate."""
    eligibility, signal = rule.eligibility, rule.signal
    if any(p.short_term is not None for p in net.projections.values()):
        return False  # traces do not follow what synapses release
    if not isinstance(eligibility, Derived) or eligibility.free or not eligibility.wiped or signal.form == "sign":
        return False
    if rule.filter != (AsReadout() if eligibility.memory else Immediate()):
        return False  # the readout's own weights remember, where it is cut for all others
    if isinstance(signal, Broadcast):
        hidden = {p.post for p in net.plastic} - set(net.readouts)
        return signal.variable == "error" and all(direct_path(net, n, r) for n in hidden for r in heard(net, n))
    return signal.gated and not eligibility.memory and (loss is None or loss.regulariser is None)


def check_surrogates(net, rule):
    """Raise where weights would not learn, for want of a surrogate."""
    for p in net.plastic:
        model = net.nodes[p.post].model
        if model.spiking and lower(model).psi is None and "spike" not in rule.cut:
            raise UnsupportedError(
                f"population {p.post!r}: {model.name} spikes but has no surrogate, so projection {p.name!r} cannot "
                "learn; give the model surrogate=triangle() or another one of localplast.surrogate, or the projection "
                "plastic=False"
            )


def heard(net, population):
    """The readouts that a population projects to, or else all."""
    return [r for r in net.readouts if direct_path(net, population, r)] or net.readouts


def backward_matrices(net, signal, readouts, seed):
    """Matrices ``(pre, post)`` that stand in for weights in the backward pass, by projection."""
    if signal.feedback == "symmetric":
        return {}
    check_dense(
        net,
        f"{signal.feedback!r} feedback" if isinstance(signal.feedback, str) else "feedback by matrices",
        "use dendritic()",
    )
    if signal.feedback in ("sign", "learned"):
        raise UnsupportedError(
            f"automatic differentiation goes through fixed matrices, not {signal.feedback!r} feedback; use a layered "
            "local rule such as ottt(), or give matrices"
        )
    edges = projection_edges(net)
    paths = [p for p in net.projections.values() if p.pre in net.populations and "recurrent" not in edges[p.name]]
    paths = [p for p in paths if net.nodes[p.pre].model.spiking]
    if isinstance(signal.feedback, dict):
        known = {name for p in paths for name in (p.name, p.pre)}
        if unknown := set(signal.feedback) - known:
            raise NetworkError(
                f"feedback names {sorted(unknown)}; errors come back along {', '.join(p.name for p in paths)}"
            )
        paths = [p for p in paths if {p.name, p.pre} & set(signal.feedback)]
    return {p.name: signal.matrix(net, p.pre, p.post, p, seed) for p in paths}


def run_forward(net, tensors, masks, inputs, *, cut=(), feedback=None, sums=False, widths=None, seed=0):
    """Simulate trials; ``seed`` is that of noise, for ``widths`` see :class:`~localplast.backends.torch.step.Twin`.

    Returns
    -------
    outputs : tensor ``(time, trial, k)``
        Of all readouts, side by side.
    counts : dict of str to tensor ``(trial, neuron)``
        Spikes, by population.
    sums : dict of str to tensor ``(time, trial)``
        Spikes of whole populations; without ``sums`` none.
    """
    outputs = [f"{r}.output" for r in net.readouts]
    spiking = [k for k, p in net.populations.items() if p.model.spiking]
    twin = Twin(net, tensors, masks, cut=cut, feedback=feedback, widths=widths)
    traces = simulate(twin, inputs, [*outputs, *(f"{k}.spikes" for k in spiking)], seed)
    check_states(twin.last_states())
    counts = {k: traces[f"{k}.spikes"].sum(0) for k in spiking}
    together = {k: traces[f"{k}.spikes"].sum(-1) for k in spiking if sums}
    return torch.cat([traces[name] for name in outputs], -1), counts, together


def worth_compiling(net, trials, device):
    """Whether the history that automatic differentiation keeps is so large that the generated adjoint should run."""
    return (
        len(trials) * trials.steps * sum(p.size for p in net.populations.values()) > WORTH_COMPILING and device == "cpu"
    )


def run_kernel(net, tensors, masks, inputs, *, cut, feedback, sums=False, seed=0):
    """As :func:`run_forward`, by the generated kernel where it can: memory does not grow with the batch."""
    record = [f"{k}.sum" for k, p in net.populations.items() if p.model.spiking and sums]
    function = NetworkFunction(net, tensors, masks, cut=cut, feedback=feedback, record=record)
    if why_not(function, [n for n, x in tensors.items() if x.requires_grad]):
        return run_forward(net, tensors, masks, inputs, cut=cut, feedback=feedback, sums=sums, seed=seed)
    weights = {n: tensors[f"{n}.weight"] for n in net.projections}
    of_weights = {f"{n}.weight" for n in net.projections}
    others = {k: v for k, v in tensors.items() if v.requires_grad and k not in of_weights}
    return side_by_side(net, function(weights, inputs, others, seed=seed))


def side_by_side(net, results):
    """What the generated kernel returns, as :func:`run_forward` does."""
    spiking = [k for k, p in net.populations.items() if p.model.spiking]
    counts = {k: results[f"{k}.count"] for k in spiking}
    together = {k: results[f"{k}.sum"] for k in spiking if f"{k}.sum" in results}
    return torch.cat([results[f"{r}.output"] for r in net.readouts], -1), counts, together


def gradient(net, values, trials, rule, loss, *, seed=0, dtype=torch.float64, form=None, trainable=(), device="cpu"):
    """dloss/dparameter as ``rule`` estimates it, before any optimiser.

    Parameters
    ----------
    form : str, optional
        Of local rules: ``'traces'`` carries eligibility forward, ``'adjoint'`` differentiates with edges cut (the same
        numbers, state per neuron only), ``'forward'`` carries the derivative of the whole state forward, with the same
        edges cut. Default: that of the rule, else adjoint where it exists.
    trainable : sequence of str
        More than the plastic weights and what the network marks as trainable, such as ``'rec.tau_mem'`` (delays in
        steps).

    Returns
    -------
    dict of str to array
        ``cues_rec.weight`` and so on.
    info : dict
        ``loss`` (mean over trials), ``accuracy``, ``counts``.
    """
    names = list(dict.fromkeys([f"{p.name}.weight" for p in net.plastic] + [*net.trainable, *trainable]))
    rng = np.random.default_rng([seed, 3])
    with denormals_flushed():
        inputs, target, weight = prepare(net, trials, loss, rng=rng, dtype=dtype, device=device)
        duration = trials.steps * float(net.dt)
        adjoint = adjoint_form(net, rule, seed, loss)
        form = form or rule.form or ("adjoint" if adjoint else "traces")
        check_branching(loss, rule, form)
        if form in ("adjoint", "forward"):
            if adjoint is None:
                raise UnsupportedError(
                    f"no cut of the credit graph equals {rule.name} on this network; use form='traces'"
                )
            tensors = leaves(net, values, dtype=dtype, device=device, trainable=names)
            feedback = {k: torch.as_tensor(b, device=device).to(dtype) for k, b in adjoint[1].items()}
        if form == "adjoint":
            many = loss.branching is not None
            forward = run_kernel if worth_compiling(net, trials, device) else run_forward
            options = {"cut": adjoint[0], "feedback": feedback, "sums": many, "seed": [seed, 3]}
            outputs, counts, sums = forward(net, tensors, values.masks, inputs, **options)
            _, total = batch_loss(net, loss, outputs, target, weight, counts, duration, inputs, sums)
            found = torch.autograd.grad(total.mean(), [tensors[n] for n in names], allow_unused=True)
            grads = {n: torch.zeros_like(tensors[n]) if g is None else g for n, g in zip(names, found, strict=True)}
        elif form == "forward":
            influence = Influence(net, tensors, values.masks, loss, cut=adjoint[0], feedback=feedback)
            outputs, counts, grads = influence.run(inputs, target, weight)
            _, total = batch_loss(net, loss, outputs, target, weight, counts, duration, inputs)
        else:
            tensors = leaves(net, values, dtype=dtype, device=device)
            learner = OnlineLearner(
                net, plan(net, rule, loss, seed=seed, trainable=trainable, values=values), tensors, values.masks
            )
            outputs, counts = learner.run(inputs, target, weight, seed=[seed, 3])
            _, total = batch_loss(net, loss, outputs, target, weight, counts, duration, inputs)
            grads = {f"{n}.weight": as_matrix(g, values.masks[n]) for n, g in learner.gradients().items()}
            grads |= learner.other_gradients(tensors)
    grads = {n: g.detach().cpu().numpy() for n, g in grads.items()}
    check_found(rule, grads, float(total.detach().mean()))
    info = {
        "loss": float(total.detach().mean()),
        "accuracy": score(net, loss, outputs.detach(), weight, trials.target),
        "counts": {k: c.detach().cpu().numpy() for k, c in counts.items()},
    }
    return grads, info
