"""What was not finite first, whatever the backend and the rule.

Once a number is found that is not finite (:mod:`localplast.program.finite`), the trials are run again in plain Torch,
step by step, with an eye on everything that a step computes. An overflow that a reset ends within its step is none.
"""

import contextlib

import numpy as np
import sympy

from localplast.equations.tape import Tape
from localplast.equations.text import to_text
from localplast.errors import RunawayError, UnsupportedError
from localplast.network.delays import unspread
from localplast.neuron.step import expanded, jacobian, lower
from localplast.program.finite import Unexplained

__all__ = ["explained", "first_not_finite"]


@contextlib.contextmanager
def explained(net, values, trials, *, seed=0, dtype="float64", recorder=None):
    """Let :class:`Unexplained` errors from within say what was not finite first."""
    try:
        yield
    except Unexplained as error:
        where = first_not_finite(net, values, trials, seed=seed, dtype=dtype) or error
        if recorder is not None:
            recorder.flush()
        message = f"{where}; look at the weights, the time step and the integration method"
        raise RunawayError(message, recorder and recorder.tree()) from None


def first_not_finite(net, values, trials, *, seed=0, dtype="float64"):
    """Where the first number that is not finite appears, as part of a sentence; None if nowhere."""
    given = {f"the weight of {n!r}": w for n, w in values.weights.items()}
    given |= {f"population {n!r}: {k}": x for n, found in values.parameters.items() for k, x in found.items()}
    given |= {f"input {n!r}": getattr(x, "rates", x) for n, x in trials.inputs.items()}
    given |= {} if trials.target is None else {"the target": np.asarray(trials.target)}
    for what, array in given.items():
        wrong = np.argwhere(~np.isfinite(np.asarray(array, float)))
        if len(wrong):
            place = ", ".join(map(str, wrong[0]))
            return f"{what} is {np.asarray(array)[tuple(wrong[0])]}{f' at ({place})' if place else ''}"
    spelling = net.spelling
    try:
        return spelling.told(Replay(spelling.net, spelling.values(values), trials, seed, dtype).first())
    except ImportError:  # Brian2 runs without Torch, and then says what it knows itself
        return None


class Replay:
    """Trials step by step in plain Torch."""

    def __init__(self, net, values, trials, seed, dtype):
        import torch

        from localplast.backends.torch.step import Twin, leaves  # where Torch is missing, Brian2 still runs

        self.net, self.trials, self.seed = net, trials, seed
        self.twin = Twin(net, leaves(net, values, dtype=getattr(torch, dtype)), values.masks, widths=unspread(net))
        self.slopes = {name: self.derivatives(name) for name in net.populations}

    def first(self):
        """As :func:`first_not_finite`."""
        import torch

        rasters = self.trials.rasters(np.random.default_rng(self.seed), float(self.net.dt))
        inputs = {k: torch.as_tensor(v).transpose(0, 1).to(self.twin.like) for k, v in rasters.items()}
        with torch.no_grad():
            self.twin.start(inputs)
            for t in range(self.trials.steps):
                before = self.twin.states()
                self.twin.advance(t)
                for name, state in self.twin.states().items():
                    if found := self.look(name, state, before[name]):
                        what, place, more = found
                        when = f"step {t} ({t * float(self.net.dt) * 1e3:g} ms)"
                        return f"population {name!r}: {what} at {when} of trial {place}{more}"
        return None

    def look(self, name, state, before):
        """``(what, trial, more)`` of the first number in one population after one step that is not finite, or None."""
        model = self.net.nodes[name].model
        for variable, value in state.items():
            if place := first_place(value):
                return told(variable, value, place, self.why(name, before, place))
        if model.surrogate and (place := first_place(psi := self.twin.read(f"{name}.psi"))):
            more = f", where the spike argument is {self.argument(name, before, place):g}"
            more += "; write it so that nothing overflows, as logistic() does"
            return told(f"psi, the surrogate {model.surrogate.expression},", psi, place, more)
        if model.output is not None and (place := first_place(output := self.twin.read(f"{name}.output"))):
            return told("the output", output, place)
        return self.look_at_slopes(name, before)

    def ready(self, name):
        """Whether neurons may spike, where that can change."""
        found = self.twin.interpreter.values.get(f"{name}.not_refractory")
        return {} if found is None else {"not_refractory": found}

    def constants(self, name):
        """Parameters of a population, and the time step."""
        known = self.twin.interpreter.numbers
        return {k: known[f"{name}.{k}"] for k in self.net.nodes[name].values} | {"dt": float(self.net.dt)}

    def argument(self, name, before, place):
        """The spike argument of one neuron, of the state after the update."""
        step = lower(self.net.nodes[name].model)
        noise = {key: self.twin.interpreter.values[f"{name}.{key}"] for key in step.noise}
        updated = Tape([*step.outputs], self.constants(name))({**before, **self.ready(name), **noise})
        state = {**before, **{key: updated[f"new_{key}"] for key in step.state}}
        found = Tape([("x", step.spike_argument)], self.constants(name))(state)["x"]
        return found.expand_as(next(iter(before.values())))[place].item()

    def derivatives(self, name):
        """A tape of the derivatives of a population's step, by ``'v with respect to u'``; None where it has none."""
        step = lower(self.net.nodes[name].model)
        try:
            found = jacobian(step)
        except UnsupportedError:
            return None
        entries = [(f"{row} with respect to {column}", e) for (row, column), e in found.entries.items()]
        constants = {**self.constants(name), **dict.fromkeys(step.noise, 0.0)}
        return Tape([*found.program, *entries], constants)

    def look_at_slopes(self, name, before):
        """The same, of the derivatives of the step."""
        if self.slopes[name] is None:
            return None
        like = next(iter(before.values()))
        for label, slope in self.slopes[name]({**before, **self.ready(name)}).items():
            slope = self.twin.interpreter.tensor(slope).expand_as(like)
            if " " in label and (place := first_place(slope)):
                return told(f"the derivative of {label}", slope, place)
        return None

    def why(self, name, before, place):
        """The divisor in the model's own equations that is zero, where there is one."""
        state = {k: v[place] for k, v in before.items()} | {"not_refractory": 1.0, "t": 0.0}
        constants = {k: at(v, place) for k, v in self.constants(name).items()}
        for equation, text, base in divisors(self.net.nodes[name].model):
            if float(Tape([("x", base)], constants)(state)["x"]) == 0:
                return (
                    f"; the equation of {equation} divides by {text}, which is 0 there: where x/(exp(x) - 1) is meant, "
                    "write 1/exprel(x), which is a number at 0 too"
                )
        return ""


def at(value, place):
    """A constant of one neuron."""
    return value[place[1]] if getattr(value, "ndim", 0) else value


def divisors(model):
    """What a model's equations divide by, as ``(equation, text, sympy expression)``."""
    for name, equation in model.parsed.items():
        if equation.expr is None:
            continue
        for power in sorted(expanded(model, equation.expr.code).atoms(sympy.Pow), key=str):
            if power.exp.could_extract_minus_sign() and power.base.free_symbols:
                yield name, to_text(power.base), power.base


def first_place(value):
    """``(trial, neuron)`` of the first number that is not finite, or None."""
    wrong = ~value.isfinite()
    return tuple(wrong.nonzero()[0].tolist()) if wrong.any() else None


def told(what, value, place, more=""):
    """What :meth:`Replay.look` finds."""
    trial, neuron = place
    return f"{what} of neuron {neuron} is {value[place].item()}", trial, more
