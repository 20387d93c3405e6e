"""Trials are presented, and what was asked for is recorded."""

import contextlib
from dataclasses import replace

import numpy as np

from localplast.network.delays import check_delays, unspread
from localplast.packages import need_torch
from localplast.program.finite import check_states
from localplast.program.learn import check_trials
from localplast.runs.guard import explained
from localplast.runs.learners import BLOCK_NUMBERS
from localplast.runs.lock import only_writer, writing
from localplast.runs.progress import progress
from localplast.runs.record import Recorder

__all__ = ["keep", "seen", "simulate", "traced"]


def chunks(trials, numbers):
    """``trials`` in parts whose inputs hold at most ``numbers`` numbers."""
    per_trial = sum(int(np.prod(v.shape[1:])) for v in trials.inputs.values())
    size = max(1, numbers // max(per_trial, 1))
    return [trials[start : start + size] for start in range(0, len(trials), size)]


def simulate(net, trials, values, request, options):
    """Present trials, record what was asked for."""
    check_trials(net, trials)
    check_delays(net, values, trials.steps)
    options, spelling = replace(options, target=options.target or "numpy"), net.spelling
    with spelling.errors(), only_writer(options.path), writing(options.path, "start anew at another path"):
        inside = spelling.net, spelling.values(values), request, options
        parts = chunks(trials, BLOCK_NUMBERS)
        player = (brian2_player if options.backend == "brian2" else torch_player)(*inside, parts[0])
        recorder = Recorder(net, request, path=options.path, provenance=options.provenance)
        with progress(options.backend, len(trials), show=options.show) as advance, recorder, player as play:
            for number, part in enumerate(parts):
                play(part, recorder, number)
                recorder.flush()
                advance(len(part))
            for name in request.weights:
                recorder.set_weights(name, values.weights[name])
    return recorder.tree()


def keep(recorder, request, arrays, spikes, shape):
    """Hand the arrays of some trials to the recorder: ``arrays(node, variable)`` and ``spikes(node)`` give them."""
    for entry in request.entries:
        if entry.variable == "spikes":
            recorder.add_spikes(entry.node, *spikes(entry.node), shape=shape)
        elif entry.variable != "weight":
            recorder.add(entry.node, entry.variable, entry.select(arrays(entry.node, entry.variable)))


@contextlib.contextmanager
def brian2_player(net, values, request, options, example):
    """``play(trials, recorder, number)``: some trials like the ``example`` are run, and handed to the recorder."""
    # a backend loads when it is chosen
    from localplast.backends.brian2.learner import block_for, last_states
    from localplast.backends.brian2.session import session

    wanted, seed = [(e.node, e.variable) for e in request.entries if e.variable != "weight"], options.seed
    block = block_for(net, example, values)
    running = session(options.target, net, values, block, example, request=wanted, seed=seed)

    def play(trials, recorder, number):
        results = running.run(trials, seed=[seed, number])

        def arrays(node, variable):
            return results.raster(node, net.size(node)) if variable == "raster" else results.state(node, variable)

        keep(recorder, request, arrays, results.spikes, (len(trials), trials.steps))
        with explained(net, values, trials, seed=seed, recorder=recorder):
            check_states(last_states(net, results))

    with contextlib.closing(running):
        yield play


@contextlib.contextmanager
def torch_player(net, values, request, options, _):
    """As :func:`brian2_player`, in plain Torch."""
    need_torch("backend='torch'")
    import torch

    # a backend loads when it is chosen
    from localplast.backends.torch.gradient import denormals_flushed
    from localplast.backends.torch.learner import single_thread
    from localplast.backends.torch.step import Twin, leaves
    from localplast.backends.torch.step import simulate as simulate_twin

    seed, dtype = options.seed, options.dtype
    tensors = leaves(net, values, dtype=getattr(torch, dtype), device=options.device)
    twin = Twin(net, tensors, values.masks, widths=unspread(net))
    names = traced(net, request)

    def play(trials, recorder, number):
        rasters = trials.rasters(np.random.default_rng([seed, 4, number]), float(net.dt))
        inputs = {k: torch.as_tensor(v).transpose(0, 1).to(twin.like) for k, v in rasters.items()}
        with torch.no_grad(), denormals_flushed(), single_thread:
            traces = simulate_twin(twin, inputs, names, seed=[seed, number])
        arrays, spikes = seen(rasters, traces)
        keep(recorder, request, arrays, spikes, (len(trials), trials.steps))
        with explained(net, values, trials, seed=seed, dtype=dtype, recorder=recorder):
            check_states(twin.last_states())

    yield play


def traced(net, request):
    """What a Torch twin must be asked for in every step, of the states and spikes that are to be recorded: names."""
    wanted = {
        (e.node, "spikes" if e.variable == "raster" else e.variable) for e in request.entries if e.variable != "weight"
    }
    return [f"{node}.{variable}" for node, variable in sorted(wanted) if node in net.populations]


def seen(rasters, traces):
    """The ``arrays`` and ``spikes`` of :func:`keep`, from inputs ``(trial, time, neuron)`` and tensors
    ``(time, trial, neuron)``.
    """
    traces = {name: trace.transpose(0, 1).cpu().numpy() for name, trace in traces.items()}

    def arrays(node, variable):
        if node in rasters:
            return rasters[node]
        return traces[f"{node}.spikes"] > 0 if variable == "raster" else traces[f"{node}.{variable}"]

    def spikes(node):
        return np.nonzero(rasters[node] if node in rasters else traces[f"{node}.spikes"])

    return arrays, spikes
