"""One trial seen from inside: membranes, thresholds and eligibility traces of a few neurons."""

import numpy as np
import torch
import xarray as xr

from localplast.backends.torch.gradient import prepare
from localplast.backends.torch.interpreter import Interpreter
from localplast.backends.torch.online import OnlineLearner
from localplast.backends.torch.step import leaves
from localplast.equations.units import unit_name
from localplast.learning.rule import Rule
from localplast.network.network import Network
from localplast.network.values import Values
from localplast.program.arrays import Array, Life, at
from localplast.program.instructions import Fire, Map
from localplast.program.learn import plan
from localplast.task.loss import Loss
from localplast.task.trials import Trials

__all__ = ["trial"]


def trial(
    net: Network,
    values: Values,
    trials: Trials,
    rule: Rule,
    loss: Loss,
    population: str,
    *,
    neurons: int = 3,
    seed: int = 0,
) -> xr.Dataset:
    """Run the first of ``trials`` under a local ``rule``, watching the neurons of ``population`` with most to learn.

    Returns
    -------
    xarray.Dataset
        ``v``, ``threshold`` and ``eligibility`` (of the synapse with the largest weight), dims (neuron, time); spikes
        of the whole population as the attributes ``spike_time`` (seconds) and ``spike_neuron``.
    """
    net, values = net.spelling.net, net.spelling.values(values)  # which has a v and a psi, whatever the model has
    inputs, target, weight = prepare(net, trials[:1], loss, rng=np.random.default_rng(seed), dtype=torch.float64)
    learner = OnlineLearner(net, plan(net, rule, loss, seed=seed), leaves(net, values), values.masks)
    size, early = net.size(population), at_threshold(learner, population, "v")
    projection = next(p.name for p in net.plastic if p.post == population)
    strongest = np.abs(values.weights[projection]).argmax(0)
    seen = {"v": [], "x": [], "eligibility": [], "z": []}

    def watch(learner, step):
        values = learner.engine.values
        seen["v"].append(values[early][0].clone())
        seen["x"].append(values[f"{population}.learn.x"][0].clone())
        seen["z"].append(values[f"{population}.z"][0].clone())
        seen["eligibility"].append(values[f"{projection}.learn.elig"][0, strongest, np.arange(size)].clone())

    learner.run(inputs, target, weight, on_step=watch)
    stacked = {k: torch.stack(v).numpy() for k, v in seen.items()}
    interest = np.abs(stacked["eligibility"]).sum(0) * (stacked["z"].sum(0) > 0)
    chosen = np.sort(np.argsort(-interest, kind="stable")[:neurons])
    step, neuron = np.nonzero(stacked["z"])
    units = {"units": unit_name(net.nodes[population].model.dimensions["v"])}
    dims = ("neuron", "time")
    return xr.Dataset(
        {
            "v": (dims, stacked["v"].T[chosen], units),
            "threshold": (dims, (stacked["v"] - stacked["x"]).T[chosen], units),
            "eligibility": (dims, stacked["eligibility"].T[chosen], {"units": "1/weight"}),
        },
        {"time": np.arange(trials.steps) * float(net.dt), "neuron": chosen},
        {"spike_time": step * float(net.dt), "spike_neuron": neuron},
    )


def at_threshold(learner, population, variable):
    """Let a learner note a ``variable`` when thresholds are compared, before anything arrives; returns its name."""
    early = Array(f"{population}.{variable}.early", population, Life.STEP, role="state")
    noted = Map(population, (), ((early.name, at(f"{population}.{variable}")),))
    step = list(learner.program.step)
    step.insert(next(k for k, s in enumerate(step) if isinstance(s, Fire) and s.space == population), noted)
    learner.engine = Interpreter(learner.program.with_step(step, [early]), learner.engine.numbers)
    return early.name
