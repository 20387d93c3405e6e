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
from localplast.neuron.step import expanded, jacobian
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
        self.slopes = {name: slopes(neurons) for name, neurons in self.twin.neurons.items()}

    def first(self):
        """As :func:`first_not_finite`."""
        import torch

        rasters = self.trials.rasters(np.random.default_rng(self.seed), float(self.net.dt))
        inputs = {k: torch.as_tensor(v).transpose(0, 1).to(self.twin.like) for k, v in rasters.items()}
        with torch.no_grad():
            self.twin.start(inputs)
            for t in range(self.trials.steps):
                before = {name: dict(neurons.state) for name, neurons in self.twin.neurons.items()}
                self.twin.advance(t)
                for name, neurons in self.twin.neurons.items():
                    if found := self.look(name, neurons, before[name]):
                        what, place, more = found
                        when = f"step {t} ({t * float(self.net.dt) * 1e3:g} ms)"
                        return f"population {name!r}: {what} at {when} of trial {place}{more}"
        return None

    def look(self, name, neurons, before):
        """``(what, trial, more)`` of the first number in one population after one step that is not finite, or None."""
        for variable, value in neurons.state.items():
            if place := first_place(value):
                return told(variable, value, place, self.why(neurons, before, place))
        if neurons.psi is not None and (place := first_place(neurons.psi)):
            argument = neurons.argument_tape(neurons.before_reset)["x"][place].item()
            more = f", where the spike argument is {argument:g}; write it so that nothing overflows, as logistic() does"
            return told(f"psi, the surrogate {neurons.model.surrogate.expression},", neurons.psi, place, more)
        if neurons.output_tape and (place := first_place(output := neurons.output())):
            return told("the output", output, place)
        return self.look_at_slopes(name, neurons, before)

    def look_at_slopes(self, name, neurons, before):
        """The same, of the derivatives of the step."""
        if self.slopes[name] is None:
            return None
        like = next(iter(before.values()))
        ready = {} if neurons.since is None else {"not_refractory": neurons.ready}
        for label, slope in self.slopes[name]({**before, **ready}).items():
            slope = neurons.tensor(slope, like).expand_as(like)
            if " " in label and (place := first_place(slope)):
                return told(f"the derivative of {label}", slope, place)
        return None

    def why(self, neurons, before, place):
        """The divisor in the model's own equations that is zero, where there is one."""
        state = {k: v[place] for k, v in before.items()} | {"not_refractory": 1.0, "t": 0.0}
        constants = {k: at(v, place) for k, v in neurons.constants.items()}
        for name, text, base in divisors(neurons.model):
            if float(Tape([("x", base)], constants)(state)["x"]) == 0:
                return (
                    f"; the equation of {name} divides by {text}, which is 0 there: where x/(exp(x) - 1) is meant, "
                    "write 1/exprel(x), which is a number at 0 too"
                )
        return ""


def at(value, place):
    """A constant of one neuron."""
    return value[place[1]] if getattr(value, "ndim", 0) else value


def slopes(neurons):
    """A tape of the derivatives of a population's step, by ``'v with respect to u'``; None where it has none."""
    try:
        found = jacobian(neurons.step)
    except UnsupportedError:
        return None
    entries = [(f"{row} with respect to {column}", e) for (row, column), e in found.entries.items()]
    constants = {**neurons.constants, **dict.fromkeys(neurons.step.noise, 0.0)}
    return Tape([*found.program, *entries], constants)


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
