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
from localplast.backends.c.function import NetworkFunction
from localplast.backends.c.graded_call import GradedKernel, why_not_graded
from localplast.backends.c.online_call import OnlineKernel, why_not_online
from localplast.backends.torch.gradient import prepare
from localplast.backends.torch.step import Twin, leaves, simulate
from localplast.backends.torch.traces import OnlineLearner
from localplast.errors import NetworkError
from localplast.models import gle, gle_output, leaky_readout, lif
from localplast.models.layers import layered
from localplast.program.learn import plan
from localplast.rules import eprop
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


def same_as_plain(net, steps, trials, threads=1):
    """Outputs, spikes and gradients of the fused kernel are those of the plain step."""
    values = net.draw(1)
    tensors = leaves(net, values, trainable=[f"{name}.weight" for name in net.projections])
    weights, inputs = {name: tensors[f"{name}.weight"] for name in net.projections}, rasters(net, steps, trials)
    fused = NetworkFunction(net, tensors, values.masks, threads=threads)(weights, inputs)
    plain = simulate(
        Twin(net, tensors, values.masks), {k: x.double() for k, x in inputs.items()}, ["out.output", "rec.spikes"]
    )
    assert torch.equal(fused["rec.count"], plain["rec.spikes"].sum(0))
    for one, other in zip(*(slopes(y, weights) for y in (fused["out.output"], plain["out.output"])), strict=True):
        assert one.shape == other.shape and float((one - other).abs().max()) <= 1e-12 * max(
            float(other.abs().max()), 1.0
        )
    return float(plain["rec.spikes"][-1].detach().sum())


def slopes(output, weights):
    """The output and the gradient of a function of it."""
    if not output.requires_grad:  # nothing arrives in time
        return [output, *map(torch.zeros_like, weights.values())]
    found = torch.autograd.grad(((output + 1) ** 2).sum(), list(weights.values()), allow_unused=True)
    return [
        output.detach(),
        *(torch.zeros_like(w) if g is None else g for g, w in zip(found, weights.values(), strict=True)),
    ]


@pytest.mark.parametrize(("delay", "run"), CASES)
def test_fused_kernel(delay, run):
    spikes = same_as_plain(network(delay=delay, last=delay), *RUNS[run])
    assert spikes or delay != "none", "nobody spikes in the last step"


@pytest.mark.parametrize("size", [1, 8, 9])
def test_fused_kernel_at_the_borders_of_a_vector(size):
    same_as_plain(network(size, channels=1, readouts=1), 4, 3)


@pytest.mark.parametrize("delay", ["none", "synaptic"])
def test_fused_kernel_without_a_synapse(delay):
    same_as_plain(network(delay=delay, mask=0.0), 4, 3)


def same_online(net, steps, trials, threads=1):
    """Outputs, spikes and gradients of learning online in C are those of the plain learner."""
    values, rng = net.draw(1), np.random.default_rng(1)
    given = rasters(net, steps, trials)["cues"].numpy().transpose(1, 0, 2)
    shown = lp.Trials({"cues": given}, rng.normal(size=(trials, steps, net.size("out"))))
    tensors, learned = leaves(net, values), plan(net, eprop(), mse())
    assert why_not_online(net, learned) is None
    arguments = prepare(net, shown, mse(), rng=rng, dtype=torch.float64)
    oracle = OnlineLearner(net, learned, tensors, values.masks)
    outputs, counts = oracle.run(*arguments)
    kernel = OnlineKernel(net, learned, tensors, values.masks, threads=threads)
    found = kernel.gradients({n: tensors[f"{n}.weight"] for n in net.projections}, *arguments)
    assert torch.equal(found[1]["rec"], counts["rec"])
    for one, other in [(found[0], outputs), *((found[2][n], g) for n, g in oracle.gradients().items())]:
        assert float((one - other).abs().max()) <= 1e-12 * max(float(other.abs().max()), 1.0)


@pytest.mark.parametrize(("delay", "run"), CASES)
def test_online_kernel(delay, run):
    same_online(network(delay=delay), *RUNS[run])


def test_online_kernel_of_single_neurons():
    same_online(network(1, 1, 1), 4, 2)
    same_online(network(mask=0.0), 4, 2)


def graded(size=3):
    return layered((2, size, 2), gle(), gle_output())


def presented(net, steps, trials, threads=1):
    """Outputs of the graded kernel, and of the plain step."""
    values, rng = net.draw(1), np.random.default_rng(2)
    tensors = leaves(net, values)
    inputs = {name: torch.as_tensor(rng.normal(size=(steps, trials, node.size))) for name, node in net.inputs.items()}
    assert why_not_graded(net) is None
    weights = {n: tensors[f"{n}.weight"] for n in net.projections}
    kernel = GradedKernel(net, None, tensors, values.masks, threads=threads)
    plain = simulate(Twin(net, tensors, values.masks), inputs, [f"{n}.output" for n in net.readouts])
    return kernel.outputs(weights, inputs)[0], torch.cat([plain[f"{n}.output"] for n in net.readouts], -1)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", [1, 9])
def test_graded_kernel(size, run):
    found, wanted = presented(graded(size), *RUNS[run])
    assert float((found - wanted).abs().max()) <= 1e-12 * float(wanted.abs().max())


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
    with pytest.raises(NetworkError, match="^the target has shape .* the compiled network reads"):
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
