"""What a rule says of the weights: one gradient, labelled."""

from collections.abc import Iterable

import xarray as xr

from localplast.arguments import Backend, Dtype, Form, Target, check_form, check_kind, check_trainable
from localplast.learning.rule import Rule
from localplast.network.convolution import weight_dims
from localplast.network.delays import check_delays
from localplast.network.network import Network
from localplast.network.values import Values
from localplast.packages import need_torch
from localplast.program.learn import check_trials
from localplast.runs.guard import explained
from localplast.runs.options import Options, checked_values
from localplast.task.loss import Loss, default_loss
from localplast.task.trials import Trials

__all__ = ["gradient"]


def gradient(
    net: Network,
    trials: Trials,
    rule: Rule,
    *,
    loss: Loss | None = None,
    backend: Backend = "torch",
    seed: int = 0,
    values: Values | None = None,
    target: Target | None = None,
    trainable: str | Iterable[str] = (),
    form: Form | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
) -> xr.DataTree:
    """dloss/dparameter before any optimiser, for BPTT and for every local rule, named and shaped alike.

    Parameters
    ----------
    net : Network
    trials : Trials
        The loss is the mean over them.
    rule : Rule
        A teacher (``Input(teacher=True)``) is heard by rules that learn from it, and silent for others.

    Other arguments
    ---------------
    backend : str
        ``'torch'``, or ``'brian2'``: local rules only, accumulated step by step while Brian2 runs.
    values : Values, optional
        Default ``net.draw(seed)``.
    target : str, optional
        Of Brian2: ``'numpy'`` (the default), ``'cython'`` or ``'cpp'``.
    trainable, form, dtype, device
        See :func:`localplast.backends.torch.gradient.gradient`; Brian2 knows ``trainable`` only.

    Returns
    -------
    xarray.DataTree
        One node per projection with ``gradient`` ``(pre, post)`` (or the shape of a kernel, or of a delay), one per
        population for its trainable parameters; ``attrs`` hold the rule, the loss and the accuracy.
    """
    check_kind("net", net, Network)
    check_kind("trials", trials, Trials)
    check_kind("rule", rule, Rule)
    if loss is not None:
        check_kind("loss", loss, Loss)
    where = dict(backend=backend, target=target, dtype=dtype, device=device, seed=seed)
    options = Options.checked(simulated=True, **where)
    values = checked_values(net, values, seed)
    check_form(form, backend)
    trainable = check_trainable(net, trainable)
    trials = rule.shown(net, trials)
    loss = loss or default_loss(trials)
    check_trials(net, trials, loss)
    check_delays(net, values, trials.steps)
    spelling = net.spelling
    trainable, inside = tuple(map(spelling.name, trainable)), (spelling.net, spelling.values(values), trials)
    with spelling.errors(), explained(*inside, seed=seed, dtype=options.dtype):
        if backend == "brian2":
            grads, info = in_brian2(*inside, rule, loss, options, trainable=trainable)
        else:
            grads, info = in_torch(*inside, rule, loss, options, trainable=trainable, form=form)
    return labelled_gradients(net, spelling.named_back(grads), rule, info, options)


def in_brian2(net, values, trials, rule, loss, options, *, trainable):
    from localplast.backends.brian2.learner import gradient as found  # a backend loads when it is chosen

    target = options.target or "numpy"
    return found(net, values, trials, rule, loss, target=target, seed=options.seed, trainable=trainable)


def in_torch(net, values, trials, rule, loss, options, *, trainable, form):
    need_torch("a gradient with backend='torch'")
    import torch

    # a backend loads when it is chosen
    from localplast.backends.torch.gradient import gradient as found
    from localplast.backends.torch.learner import single_thread

    numbers = dict(dtype=getattr(torch, options.dtype), device=options.device, seed=options.seed)
    with single_thread:
        return found(net, values, trials, rule, loss, form=form, trainable=trainable, **numbers)


def labelled_gradients(net, grads, rule, info, options):
    """The tree that :func:`gradient` returns."""
    nodes = {}
    for name, array in grads.items():
        part, variable = name.split(".")
        of_weights = part in net.projections and variable == "weight"
        key = "gradient" if of_weights else f"gradient_{variable}"
        nodes.setdefault(f"/{part}", {})[key] = labelled(net, part, array)
    attrs = {"rule": rule.name, "backend": options.backend, "seed": options.seed}
    attrs |= {"loss": info["loss"], "accuracy": info["accuracy"]}
    datasets = {path: xr.Dataset(variables) for path, variables in nodes.items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **datasets})


def labelled(net, part, array):
    """An array with the dims that its shape means."""
    if part in net.projections and array.ndim >= 2:
        return (weight_dims(net, net.projections[part]), array)
    if part in net.projections and array.ndim == 1:
        return (("pre",) if net.projections[part].delay.kind == "axonal" else ("post",), array)
    return (("neuron",) * array.ndim, array)
