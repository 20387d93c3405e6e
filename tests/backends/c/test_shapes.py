"""Generated C on odd shapes, equal to the plain step; ``tests/sanitize.sh`` runs this file under sanitizers.

And what does not fit a kernel is refused before it is called.
"""

import numpy as np
import pytest
import torch

import localplast as lp
from localplast import ms
from localplast.backends.c import compile as kernel_build
from localplast.backends.c.arguments import pointers
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.errors import NetworkError
from localplast.models import gle, gle_output, leaky_readout, lif
from localplast.models.layers import layered
from localplast.rules import dendritic, eprop
from localplast.task.loss import mse

pytestmark = pytest.mark.skipif(kernel_build.compiler() is None, reason="no C compiler here")

LONGEST = 5
DELAYS = {
    "none": lambda pre, post: None,
    "shared": lambda pre, post: lp.axonal(LONGEST * ms),
    "axonal": lambda pre, post: lp.axonal(np.resize([0, LONGEST, 1], pre) * ms),
    "dendritic": lambda pre, post: lp.dendritic(np.resize([LONGEST, 0, 1], post) * ms),
    "synaptic": lambda pre, post: lp.synaptic(np.resize([LONGEST, 0, 2, 1], (pre, post)) * ms),
}
#: Steps, trials, threads; the last delay arrives in the last step, one step late, or in time.
RUNS = {
    "one step": (1, 3, 1), "one trial": (LONGEST + 1, 1, 1), "the last delay is late": (LONGEST, 2, 1), "nine of eight": (LONGEST + 2, 9, 1),
    "more threads than trials": (LONGEST + 3, 2, 5), "a block for each thread and one": (4, 17, 2),
}  # fmt: skip
#: Every delay with the runs that tell it apart, and all runs with one delay per synapse.
CASES = [
    (delay, run)
    for delay in DELAYS
    for run in RUNS
    if delay == "synaptic" or run in ("one step", "the last delay is late")
]


def network(size=3, channels=2, readouts=2, delay="none", last="none", **options):
    make = DELAYS[delay]
    rec = lp.Population(size, lif(), initial={"v": np.resize([2.0, 0.0], size)})  # some spike in the first step
    return lp.Network(
        dt=1 * ms, cues=lp.Input(channels), rec=rec, out=lp.Population(readouts, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.uniform(2.0, mean=4.0, fan_in=False), delay=make(channels, size), **options),
            lp.Projection("rec", "rec", weight=lp.normal(1.0), delay=make(size, size), autapses=True, **options),
            lp.Projection("rec", "out", delay=DELAYS[last](size, readouts)),
        ],
    )  # fmt: skip


def rasters(net, steps, trials):
    """Bool ``(time, trial, channel)``, everything at once in the last step."""
    given = np.random.default_rng(0).random((steps, trials, net.size("cues"))) < 0.5
    given[-1] = True
    return {"cues": torch.as_tensor(given)}


#: Of networks so small that nobody need spike: as exact as sums of numbers of size one.
ROUNDING = {"exact": 1e-12, "least": 1.0}


@pytest.fixture(scope="module")
def same_as_plain(bench):
    """Outputs, spikes and gradients of the fused kernel are those of the plain step."""
    return lambda net, steps, trials, threads=1: bench.agree(
        net, inputs=rasters(net, steps, trials), threads=threads, dead=None, **ROUNDING
    )


def spikes_in_the_last_step(net, steps, trials):
    values = net.draw(1)
    inputs = {k: x.double() for k, x in rasters(net, steps, trials).items()}
    return simulate(Twin(net, leaves(net, values), values.masks), inputs, ["rec.spikes"])["rec.spikes"][-1].sum()


@pytest.mark.parametrize(("delay", "run"), CASES)
def test_fused_kernel(delay, run, same_as_plain):
    net = network(delay=delay, last=delay)
    same_as_plain(net, *RUNS[run])
    assert delay != "none" or spikes_in_the_last_step(net, *RUNS[run][:2])


@pytest.mark.parametrize("size", [1, 8, 9])
def test_fused_kernel_at_the_borders_of_a_vector(size, same_as_plain):
    same_as_plain(network(size, channels=1, readouts=1), 4, 3)


@pytest.mark.parametrize("delay", ["none", "synaptic"])
def test_fused_kernel_without_a_synapse(delay, same_as_plain):
    same_as_plain(network(delay=delay, mask=0.0), 4, 3)


@pytest.fixture(scope="module")
def same_online(bench):
    """Outputs, spikes and gradients of learning online in C are those of the plain learner."""

    def same(net, steps, trials, threads=1):
        given = rasters(net, steps, trials)["cues"].numpy().transpose(1, 0, 2)
        target = np.random.default_rng(1).normal(size=(trials, steps, net.size("out")))
        shown = lp.Trials({"cues": given}, target)
        bench.same_gradients(net, eprop(), mse(), shown, threads=threads, alive=None, **ROUNDING)

    return same


@pytest.mark.parametrize(("delay", "run"), CASES)
def test_online_kernel(delay, run, same_online):
    same_online(network(delay=delay), *RUNS[run])


def test_online_kernel_of_single_neurons(same_online):
    same_online(network(1, 1, 1), 4, 2)
    same_online(network(mask=0.0), 4, 2)


def graded(size=3):
    return layered((2, size, 2), gle(), gle_output())


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", [1, 9])
def test_rates_that_learn(size, run, bench):
    net, rng = graded(size), np.random.default_rng(2)
    steps, trials, *threads = RUNS[run]
    shown = lp.Trials(
        {name: rng.normal(size=(trials, steps, node.size)) for name, node in net.inputs.items()},
        np.zeros((trials, steps, 2)),
    )
    options = {"threads": threads[0]} if threads else {}
    bench.same_gradients(net, dendritic(update="trial"), mse(), shown, alive=None, **options, **ROUNDING)


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (torch.zeros(3, 1), "real"), (torch.zeros(3, 3), "real"), (torch.zeros(3, 2, dtype=torch.float32), "real"),
        (torch.zeros(2, 3, dtype=torch.float64).T, "real"), (torch.zeros(3, 2, dtype=torch.float64), "int"),
        (torch.zeros(3, 2, dtype=torch.float64, device="meta"), "real"),
    ],
)  # fmt: skip
def test_an_array_of_another_size_or_type_never_gets_to_c(array, kind):
    with pytest.raises(NetworkError, match="^target has shape .* the compiled network reads"):
        pointers({"target": (kind, ("T", 2))}, {"target": array}, torch.float64, {"T": 3})


def test_what_fits_is_passed_and_what_is_absent_is_null():
    array = torch.zeros(3, 2, dtype=torch.float64)
    found = pointers(
        {"none": ("int", (1,)), "target": ("real", ("T", 2)), "own": None},
        {"target": array, "own": array},
        torch.float64,
        {"T": 3},
    )
    assert list(found) == [None, array.data_ptr(), array.data_ptr()]


def test_targets_and_inputs_of_another_width_are_refused_at_every_update():
    net, plain = network(), np.zeros((1, 6, 2))

    def trials(n_in=2, target=plain):
        return lp.Trials({"cues": np.zeros((1, 6, n_in), bool)}, target)

    for later in (trials(1), trials(3), trials(target=np.zeros((1, 6, 1))), trials(target=np.zeros((1, 6, 3)))):
        task = lp.Task(
            "t", lambda update, n, seed, later=later: trials() if update == 0 else later, lambda n, seed: trials()
        )
        with pytest.raises(NetworkError):
            lp.run(
                net,
                task,
                rule=eprop(update="step"),
                optimiser=lp.sgd(1e-3),
                updates=3,
                batch=1,
                show=False,
                backend="torch",
            )


@pytest.mark.parametrize("backend", ["torch", "brian2"])
@pytest.mark.parametrize("other", [network(4), network(2), network(channels=3), network(readouts=1)])
def test_values_of_another_network_are_refused_by_name(backend, other):
    trials = lp.Trials({"cues": np.ones((1, 3, 2), bool)})
    with pytest.raises(
        NetworkError,
        match=r"projection '\w+' is \(\d+, \d+\) here, and its weights in the values have shape \(\d+, \d+\)",
    ):
        lp.run(network(), trials, values=other.draw(0), backend=backend, record=["rec.v"])


def test_parameters_and_delays_of_another_network_are_refused():
    net = network(delay="axonal")
    values = net.draw(0)
    with pytest.raises(NetworkError, match="'cues_rec' .* its delays in the values have shape"):
        net.check_values(values.replace_weights({}, {"cues_rec.delay": np.zeros(3)}))
    with pytest.raises(NetworkError, match="'rec' has 3 neurons, and the values have tau_mem of shape"):
        net.check_values(values.replace_weights({}, {"rec.tau_mem": np.zeros(4)}))
