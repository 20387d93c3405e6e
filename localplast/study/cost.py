"""What a rule costs: time per trial, numbers stored per synapse and per neuron, memory at the peak of an update."""

import ctypes
import os
import platform
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import xarray as xr

from localplast.program.learn import plan
from localplast.runs.identity import processor
from localplast.runs.learners import make_learner
from localplast.runs.options import Options
from localplast.task.trials import concatenate

__all__ = ["machine", "memory", "peak_memory", "seconds_per_trial", "state_bytes"]

#: How ``peak_memory`` was measured, for the attributes of a result.
HOW_MEMORY = (
    "peak resident memory while one update (torch) or one block of updates (brian2) runs, beyond what the process "
    "held before: traces, history, copies of the inputs; not the interpreter, its libraries, the weights or the "
    "trials themselves. With Brian2's C++ target it includes the whole compiled program. Torch runs a local rule as "
    "an adjoint with a history where the two are equal, not as traces. Linux only"
)
HOW_STATE = (
    "numbers that the rule keeps between time steps or updates, as double precision: traces, summed gradients and the "
    "optimiser's state; not the weights, delays and parameters themselves. NaN per neuron: automatic differentiation "
    "keeps a history, see peak_memory"
)
#: Seconds between two looks at the programs that a piece of work has started.
LOOK = 0.002


def machine():
    """The processor, how many cores this process may use, and the system, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}"


def twin(fit, seed, updates):
    """A Torch learner of the rule that ``fit`` trains, and batches for it."""
    batches = [fit.source.training(k, fit.batch, seed) for k in range(updates)]
    described = (fit.net, fit.values, fit.rule, fit.loss, fit.optimiser, batches[0])
    learner = make_learner(*described, Options(backend="torch", seed=seed), batch=fit.batch)
    return learner, batches


def seconds_per_trial(fit, seed, updates=5):
    """By backend: the whole run of ``fit`` where it trained, some updates in Torch where that was Brian2.

    The first update in Torch, which may compile, is not counted.
    """
    found = {fit.backend: fit.seconds / (fit.done * fit.batch)}
    if fit.backend == "brian2":
        learner, batches = twin(fit, seed, updates + 1)
        learner.train(batches[0])
        started = time.perf_counter()
        for trials in batches[1:]:
            learner.train(trials)
        found["torch"] = (time.perf_counter() - started) / (updates * fit.batch)
    return found


def memory(fit, values, seed):
    """Bytes at the peak of training by backend, as :data:`HOW_MEMORY` says; call it while nothing else runs."""
    learner, batches = twin(fit, seed, 2)
    learner.train(batches[0])  # compiles
    found = {"torch": peak_memory(lambda: learner.train(batches[1]))}
    if fit.backend == "brian2":
        fit.restart(values, seed)
        trials = concatenate([fit.task.training(k, fit.batch, seed) for k in range(fit.per_block)])
        found["brian2"] = peak_memory(lambda: fit.learner.train(trials))
    return found


def peak_memory(work):
    """Bytes of resident memory that ``work()`` needs at its peak, beyond what this process held before.

    The whole memory of programs that it starts counts too. NaN where the system does not tell (it must be Linux). Other
    threads of this process are counted as well: let them rest.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again, and nothing seems to be needed
        Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from here on
        before = status("self")["VmRSS"]
    except (OSError, AttributeError, KeyError):
        work()
        return np.nan
    children = Children()
    try:
        work()
    finally:
        started = children.stop()
    return float(status("self")["VmHWM"] - before + started)


def status(process):
    """Memory figures of a process, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Vm")}


class Children(threading.Thread):
    """Watches the programs that this process starts; :meth:`stop` returns the largest memory of any of them."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended, self.peak = threading.Event(), 0
        self.start()

    def run(self):
        while not self.ended.wait(LOOK):
            for task in Path("/proc/self/task").iterdir():
                self.look(task / "children")

    def look(self, children):
        try:
            for process in children.read_text().split():
                if os.readlink(f"/proc/{process}/exe") != os.readlink("/proc/self/exe"):  # before exec it shows our own
                    self.peak = max(self.peak, status(process).get("VmHWM", 0))
        except OSError:  # it has ended meanwhile
            return

    def stop(self):
        self.ended.set()
        self.join()
        return self.peak


def state_bytes(net, rules, loss, optimiser, *, number=8):
    """Bytes of state that each of ``rules`` keeps, by its own equations; a backend may keep more.

    Parameters
    ----------
    rules : dict of str to Rule

    Other arguments
    ---------------
    number : int
        Bytes of a number: 8 in double precision, 4 in single.

    Returns
    -------
    xarray.Dataset
        ``bytes_per_synapse`` (rule, projection), plastic projections; ``bytes_per_neuron`` (rule, node), traces that
        all synapses of a presynaptic neuron or input share, and what belongs to delays and parameters of a neuron,
        NaN where a rule is not local.
    """
    projections, nodes = [p.name for p in net.plastic], [*net.inputs, *net.populations]
    counts = [stored(net, rule, loss, optimiser) for rule in rules.values()]
    synapse = [[number * c[0].get(name, np.nan) for name in projections] for c in counts]
    neuron = [[number * c[1].get(name, np.nan) for name in nodes] for c in counts]
    attrs = {"units": "byte", "comment": HOW_STATE}
    return xr.Dataset(
        {
            "bytes_per_synapse": (("rule", "projection"), np.array(synapse, float), attrs),
            "bytes_per_neuron": (("rule", "node"), np.array(neuron, float), attrs),
        },
        {k: np.array(v, object) for k, v in (("rule", list(rules)), ("projection", projections), ("node", nodes))},
    )


def stored(net, rule, loss, optimiser):
    """How many numbers are stored per synapse, by projection, and per neuron, by population or input."""
    kept, others = len(optimiser.state), learned_beside_weights(net)
    if not rule.local:
        return {
            p.name: (1 + kept) * (1 + others[p.name]) for p in net.plastic
        }, {}  # the summed gradient, and the optimiser's own
    planned, neurons = (
        plan(net.spelling.net, rule, loss, net.spelling.optimiser(optimiser)),
        {name: kept * others[name] for name in (*net.inputs, *net.populations)},
    )
    for name, synapse in planned.synapses.items():
        neurons[net.projections[name].pre] += len(synapse.eligibility.pre)
    for name, neuron in planned.neurons.items():
        neurons[name] += len(neuron.past) + len(neuron.sums)
    synapses = {
        name: len(s.state)
        + len(s.sums)
        + s.learned
        + kept * (1 + s.learned + others[name])  # learned: B, its optimiser
        for name, s in planned.synapses.items()
    }
    return synapses, neurons


def learned_beside_weights(net):
    """How many delays and parameters of its own learn in every neuron of a node, every synapse of a projection: by
    their name.
    """
    parameters = [name for name, p in net.populations.items() for key in p.trainable if np.ndim(p.values[key])]
    delayed = [net.projections[name] for name in net.learned_delays]
    owners = [
        {"axonal": p.pre, "dendritic": p.post, "synaptic": p.name}[p.delay.kind]
        for p in delayed
        if net.delay_steps(p).ndim
    ]
    return Counter([*parameters, *owners])
