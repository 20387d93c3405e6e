"""Running Brian2: blocks of trials in one process (numpy, Cython) or in a C++ program that is compiled once.

A *session* holds the objects of one network and runs block after block: set variables, refill the inputs, run, read.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess

import brian2 as b2
import numpy as np
from brian2.core.names import Nameable
from brian2.core.tracking import InstanceTrackerSet
from brian2.devices.device import all_devices, get_device, reset_device, set_device

from localplast.arguments import check_backend
from localplast.backends.brian2.build import build
from localplast.backends.brian2.delays import flights
from localplast.backends.brian2.tables import contents, held_for
from localplast.backends.brian2.timing import CLOCK, Block
from localplast.backends.c.cache import folder, intact, keep, scratch, warn_once
from localplast.backends.c.compile import processor
from localplast.equations.slopes import FUNCTIONS
from localplast.errors import LocalplastError

__all__ = ["session"]


@contextlib.contextmanager
def codegen(target):
    """Set Brian2's code generation target, and restore it."""
    before = b2.prefs.codegen.target
    b2.prefs.codegen.target = target
    try:
        yield
    finally:
        b2.prefs.codegen.target = before


@contextlib.contextmanager
def own_names():
    """Name Brian2's objects as if there were no others: programs whose text is the same are compiled once."""
    kept = Nameable.__instancefollower__.instance_sets
    before, kept[Nameable] = kept[Nameable], InstanceTrackerSet()
    try:
        yield
    finally:
        kept[Nameable] = before


def session(target, net, values, block, trials, **options):
    """A :class:`Runtime` or :class:`Standalone` session, for trials of every number and length; see
    :func:`localplast.backends.brian2.build.build`.
    """
    check_backend("brian2", target)
    if target == "cpp":
        if shutil.which("g++") is None or shutil.which("make") is None:
            raise LocalplastError(
                "target 'cpp' needs g++ and make, which are not on the path; install them, or use target='numpy' "
                "(slower, needs no compiler)"
            )
        return Standalone(net, values, block, trials, **options)
    return Runtime(target, net, values, block, trials, **options)


def settings(built, block, trials, updates):
    """What is set before these trials are run, after so many updates: numbers of the clock, and tables, by name."""
    filled = contents(built, block, trials)
    numbers = {**block.numbers(float(built.net.dt)), "_batch": built.batch, "_updates": float(updates)}
    for name, (table, hold) in filled.items():
        built.tables[name].check(table)
        if hold is not None:
            numbers[held_for(name)] = hold
    return numbers, {name: table for name, (table, _) in filled.items()}


def integer_seed(seed):
    """One integer from a seed that may be a list: runs of one learner must not repeat their noise."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


class Results:
    """What a block left behind, as arrays ``(trial, ...)``; ``variables`` reads one variable of one object."""

    def __init__(self, block, read, events, states):
        self.block, self.read, self.events, self.states = block, read, events, states

    def spikes(self, node):
        """Events of ``node``: arrays trial, step in the trial, neuron."""
        step, neuron = self.events(node, "spikes")
        return step // self.block.period, step % self.block.period, neuron

    def raster(self, node, size):
        """Bool ``(trial, time, neuron)``."""
        trial, step, neuron = self.spikes(node)
        result = np.zeros((self.block.trials, self.block.steps, size), bool)
        result[trial, step, neuron] = True
        return result

    def state(self, node, variable):
        """``(trial, time, neuron)`` in SI units."""
        table = self.states(node, variable)
        table = table.reshape(self.block.trials, self.block.period, -1)
        return table[:, : self.block.steps]

    def ledger(self, node, variable):
        """``(trial, neuron)``: what the population had summed up at the end of each trial."""
        return self.read(("ledger", node), variable).reshape(self.block.trials, -1)


class Runtime:
    """Brian2 in this process."""

    def __init__(self, target, net, values, block, trials, **options):
        self.target, self.longest = target, block.longest
        if get_device() is not all_devices["runtime"]:
            raise LocalplastError("another Brian2 device is active; call brian2.set_device('runtime') first")
        self.seed = options.get("seed", 0)
        with codegen(target):  # making synapses is code too: Brian2's default would compile it with Cython
            self.built = build(net, values, block, trials, **options)
        self.network = b2.Network(*self.built.objects.values(), *self.built.monitors.values())

    def run(self, trials, variables=None, seed=None, updates=0):
        """Run one block, from time zero, after so many ``updates``; ``variables`` maps ``(object, variable)`` to SI
        values set before it.
        """
        block = Block.of(trials, self.longest)
        self.prepare(block, trials, updates)
        self.built.set(variables or {})
        for delay, flight, later in flights(self.built):
            delay.set_value(flight.get_value() + later)
        for monitor in self.built.monitors.values():
            monitor.resize(0)
            monitor.variables["N"].set_value(0)
        random = np.random.get_state()
        b2.seed(integer_seed(self.seed if seed is None else seed))
        try:
            with codegen(self.target):
                self.network.run(block.length * self.built.net.dt, namespace=FUNCTIONS)
        finally:
            b2.Network._globally_running = False  # else Brian2, after an exception, would not hear the next Ctrl-C
            b2.seed()
            np.random.set_state(random)  # last: Brian2 seeds the generator of numpy
        # on Ctrl-C Brian2 ends early, and says nothing
        if round(float(self.network.t / self.built.net.dt)) != block.length:
            raise KeyboardInterrupt
        return Results(block, self.read, self.events, self.states)

    def prepare(self, block, trials, updates):
        """Set clocks and tables for the coming run."""
        numbers, tables = settings(self.built, block, trials, updates)
        for name, number in numbers.items():
            self.built.clock.variables[name].set_value(number)
        for name, table in tables.items():
            self.built.tables[name].values = table
        for restart in self.built.restarts:
            restart.clock.dt = block.period * self.built.net.dt
        self.network.t_ = 0.0

    def read(self, owner, name):
        if isinstance(owner, tuple):
            return np.array(getattr(self.built.monitors[owner[1], owner[0]], f"{name}_"))
        return np.array(getattr(self.built.objects[owner], f"{name}_"))

    def events(self, node, kind):
        monitor = self.built.monitors[node, kind]
        return np.round(np.asarray(monitor.t_) / float(self.built.net.dt)).astype(int), np.array(monitor.i)

    def states(self, node, variable):
        return np.array(getattr(self.built.monitors[node, "state"], f"{variable}_")).T

    def interrupt(self):
        """Let the run in another thread end after this step, in a KeyboardInterrupt there."""
        self.network.stop()

    def close(self):
        """Nothing to release."""


class Standalone:
    """Brian2 as a C++ program, compiled once per network and kept in a cache; every block is one run of it."""

    def __init__(self, net, values, block, trials, **options):
        self.longest, self.running = block.longest, None
        self.directory = scratch()
        set_device("cpp_standalone", build_on_run=False)
        try:
            with own_names():
                self.generate(get_device(), net, values, block, trials, **options)
        finally:
            reset_device()
        compile_cached(self.directory)

    def generate(self, device, net, values, block, trials, **options):
        """Write the sources, and note what is kept where."""
        device.reinit()
        device.activate(build_on_run=False)
        self.built = build(net, values, block, trials, **options)
        owners = {**self.built.objects, **self.built.monitors}
        network = b2.Network(*owners.values(), name="localplast_network")
        reseed = (
            'for (auto& g : brian::_random_generators) g.seed((unsigned long)atol(std::getenv("LOCALPLAST_SEED")));'
        )
        device.insert_code("after_start", reseed)
        device.apply_run_args()  # before the queues of spikes are made, which read the delays
        device.insert_code("main", "\n".join(copied(device, *flight) for flight in flights(self.built)))
        device.insert_code("after_network_run", whole_run(device, network, self.built.clock))
        network.run(0 * net.dt, namespace=FUNCTIONS)  # the number of steps is no part of the program
        device.build(directory=str(self.directory), compile=False, run=False, with_output=False)
        self.files = {}
        for key, owner in owners.items():
            for name, variable in owner.variables.items():
                if variable in device.arrays:
                    self.files[key, name] = (device.get_array_filename(variable), variable.dtype)
        self.names = {key: value.name for key, value in self.built.objects.items()}
        device.reinit()

    def run(self, trials, variables=None, seed=0, updates=0):
        """Run one block; see :meth:`Runtime.run`."""
        block = Block.of(trials, self.longest)
        numbers, tables = settings(self.built, block, trials, updates)
        arguments = [f"{CLOCK}.{name}={number!r}" for name, number in numbers.items()]
        for (owner, name), value in (variables or {}).items():
            arguments.append(f"{self.names[owner]}.{name}={self.store(f'set_{owner}_{name}', value)}")
        for name, table in tables.items():
            table.tofile(self.directory / f"{name}.table")
        results = self.directory / "results"
        results.mkdir(exist_ok=True)
        environment = {**os.environ, "LOCALPLAST_SEED": str(integer_seed(seed))}
        self.execute(["./main", "--results_dir", f"{results}/", *arguments], environment)
        return Results(block, self.read, self.events, self.states)

    def execute(self, command, environment):
        """Run the program; it ends when this does, and a KeyboardInterrupt here when somebody ends it."""
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with subprocess.Popen(command, cwd=self.directory, env=environment, **pipes) as self.running:
            try:
                out, error = self.running.communicate()
            except BaseException:
                self.running.kill()
                raise
        if -self.running.returncode in (signal.SIGINT, signal.SIGTERM):
            raise KeyboardInterrupt
        if self.running.returncode or "Error" in error:
            raise LocalplastError(f"the compiled Brian2 program failed: {out[-2000:]}{error[-2000:]}")

    def interrupt(self):
        """Let the run in another thread end now, in a KeyboardInterrupt there."""
        if self.running is not None:
            self.running.terminate()

    def store(self, name, value):
        """Write an argument to a file (one number: give it as it is); returns what goes on the command line."""
        value = np.asarray(value, float)
        if value.ndim == 0:
            return repr(float(value))
        path = self.directory / f"{name}.dat"
        np.ascontiguousarray(value).tofile(path)
        return str(path)

    def load(self, key, name):
        file, dtype = self.files[key, name]
        return np.fromfile(self.directory / "results" / file, dtype)

    def read(self, owner, name):
        return self.load(owner[::-1] if isinstance(owner, tuple) else owner, name)

    def events(self, node, kind):
        step = np.round(self.load((node, kind), "t") / float(self.built.net.dt)).astype(int)
        return step, self.load((node, kind), "i")

    def states(self, node, variable):
        return self.load((node, "state"), variable)

    def close(self):
        """Delete the program's folder."""
        shutil.rmtree(self.directory, ignore_errors=True)


def copied(device, delay, flight, later):
    """C++ that sets delays from a variable of the synapses: the command line does not tell pathways apart."""
    delay, flight = (device.get_array_name(v, access_data=False) for v in (delay, flight))
    return f"for (size_t _s = 0; _s < {flight}.size(); _s++) {delay}[_s] = {flight}[_s] + {later!r};"


def whole_run(device, network, clock):
    """C++ that runs as many steps as the clock says."""
    length, dt = (device.get_array_name(clock.variables[name]) for name in ("_length", "dt"))
    return f"{network.name}.run({length}[0]*{dt}[0], NULL, 10.0);"


#: What every file of a Brian2 program includes.
HEADERS = (
    '"objects.h"',
    '"brianlib/common_math.h"',
    '"brianlib/stdint_compat.h"',
    "<algorithm>",
    "<climits>",
    "<cmath>",
    "<ctime>",
    "<fstream>",
    "<iostream>",
    "<map>",
    "<random>",
    "<string>",
    "<vector>",
)
PRECOMPILE = """
all.h.gch: all.h
\t$(CXX) -Wno-write-strings $(OPTIMISATIONS) -I. -x c++-header all.h -o all.h.gch

$(OBJS): all.h.gch
"""


def share_headers(directory):
    """Let the C++ project compile its headers once, not once per file: they are most of the work (2.4 times less)."""
    (directory / "all.h").write_text("".join(f"#include {name}\n" for name in HEADERS))
    makefile = directory / "makefile"
    makefile.write_text(makefile.read_text().replace("CXXFLAGS = -c ", "CXXFLAGS = -c -include all.h ") + PRECOMPILE)


def compile_cached(directory):
    """Compile the C++ project in ``directory``, or take the program from the cache where its sources were seen
    before.
    """
    said = subprocess.run(["g++", "--version"], capture_output=True, stdin=subprocess.DEVNULL).stdout
    digest = hashlib.sha256(processor().encode() + said)
    for path in sorted(p for p in directory.rglob("*") if p.suffix in (".cpp", ".h") or p.name == "makefile"):
        digest.update(path.relative_to(directory).as_posix().encode() + path.read_bytes())
    cached, program = folder("brian2") / digest.hexdigest()[:32], directory / "main"
    content = intact(cached)
    if content is None:
        share_headers(directory)
        done = subprocess.run(["make", "-j2", "DEPS="], cwd=directory, capture_output=True, text=True)
        if done.returncode:
            raise LocalplastError(f"compiling the Brian2 program failed; use target='numpy':\n{done.stderr[-2000:]}")
        content = program.read_bytes()
        try:
            keep(cached, content)
        except OSError as error:
            warn_once(f"the Brian2 program cannot be kept ({error}); it is made anew next time")
    program.write_bytes(content)
    program.chmod(0o700)
