"""Models with their numbers in the text, as Brian2 is mostly written: the same gradients as with parameters."""

import re
from dataclasses import replace

import numpy as np
import pytest
from brian2 import Quantity, ms
from brian2.units.fundamentalunits import get_dimensions

import localplast as lp
import localplast.models
from localplast.equations.text import unit_symbol
from localplast.models import instant_readout, leaky_readout
from localplast.models.layers import layered, stream
from localplast.rules import bptt, dendritic, eprop
from localplast.show.examples import sample
from localplast.task.loss import mse

SPIKING = ["alif", "biased_lif", "cuba_lif", "decolle_lif", "eprop_2020", "lif", "superspike_lif"]
READOUTS = ["biased_readout", "eprop_readout_2020", "leaky_readout", "van_rossum_readout"]
LAYERS = ["sacramento_pyramidal", "sacramento_output", "pal_output"]
BURSTING = ["burst_poisson", "naud_sprekeler"]
PROSPECTIVE = ["gle", "gle_output", "latent_equilibrium", "latent_equilibrium_output", "pal_gle", "pal_gle_output"]


def with_literals(model):
    """``model`` with its parameters as numbers and units in all of its text; the refractory period keeps its name."""
    kept = {model.refractory, *model.at_least_dt, *model.mismatch}
    words = {n: written(v) for n, v in model.parameters.items() if n not in kept}
    declared = [line for line in model.equations.splitlines() if line.split(":")[0].strip() not in words]
    pattern = re.compile(rf"\b({'|'.join(words)})\b") if words else re.compile("(?!)")

    def literal(text):
        return pattern.sub(lambda found: words[found[1]], text) if text else text

    surrogate = model.surrogate and replace(
        model.surrogate, expression=literal(model.surrogate.expression), parameters={}
    )
    blocks = {name: literal(getattr(model, name)) for name in ("threshold", "reset", "adaptation", "update", "output")}
    learns = model.mismatch.items()
    mismatch = {name: replace(each, error=literal(each.error), of=literal(each.of)) for name, each in learns}
    return replace(
        model, equations=literal("\n".join(declared)), surrogate=surrogate, mismatch=mismatch, **blocks,
        parameters={n: v for n, v in model.parameters.items() if n in kept},
    )  # fmt: skip


def written(value):
    return f"({float(value)!r}*({unit_symbol(get_dimensions(value))}))"


def around(model):
    rng, unit = np.random.default_rng(0), model.dimensions[model.receives]
    scale = float(model.parameters.get("v_th", 1.0)) or 1.0
    return lp.Network(
        dt=1 * ms, cues=lp.Input(4), it=lp.Population(3, model), out=lp.Population(1, leaky_readout()),
        projections=[
            lp.Projection("cues", "it", weight=Quantity(scale * rng.uniform(0.3, 1, (4, 3)), dim=unit)),
            lp.Projection("it", "it", weight=Quantity(scale * rng.normal(0, 0.3, (3, 3)), dim=unit)),
            lp.Projection("it", "out", weight=rng.normal(size=(3, 1))),
        ],
    )  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SPIKING)
def test_literals_learn_as_parameters_do(name):
    model = getattr(localplast.models, name)()
    rng = np.random.default_rng(1)
    trials = lp.Trials({"cues": rng.random((1, 40, 4)) < 0.5}, rng.normal(size=(1, 40, 1)))
    net = around(model)
    sibling = lp.Network(
        dt=net.dt, projections=[replace(p) for p in net.projections.values()],
        **{**net.nodes, "it": lp.Population(3, with_literals(model))},
    )  # fmt: skip
    expected = lp.gradient(net, trials, eprop())["cues_it"]["gradient"].values
    assert np.abs(expected).max() > 0
    for backend in ("torch", "brian2"):
        found = lp.gradient(sibling, trials, eprop(), backend=backend)["cues_it"]["gradient"].values
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def with_siblings(net, *names):
    """``net`` with literals in the models of these populations."""
    nodes = {name: replace(net.nodes[name], model=with_literals(net.nodes[name].model)) for name in names}
    return lp.Network(dt=net.dt, projections=[*net.projections.values()], **{**net.nodes, **nodes})


def assert_equal_gradients(net, sibling, trials, rule, backends=("torch", "brian2")):
    for backend in backends:
        expected, found = (lp.gradient(n, trials, rule, loss=mse(), backend=backend) for n in (net, sibling))
        for name in found.children:
            value = expected[name]["gradient"].values
            assert np.abs(value).max() > 0, name
            np.testing.assert_allclose(found[name]["gradient"], value, rtol=1e-9, atol=1e-12 * np.abs(value).max())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", READOUTS)
def test_so_do_errors_of_readouts_whose_memory_is_a_literal(name):
    """Traces are smoothed as the readout smooths."""
    net = around(localplast.models.lif())
    out = lp.Population(1, getattr(localplast.models, name)())
    onto = [replace(p, target=None) for p in net.projections.values()]
    net = lp.Network(dt=net.dt, projections=onto, **{**net.nodes, "out": out})
    rng = np.random.default_rng(1)
    trials = lp.Trials({"cues": rng.random((1, 40, 4)) < 0.5}, rng.normal(size=(1, 40, 1)))
    assert_equal_gradients(net, with_siblings(net, "out"), trials, eprop())


#: Neurons that learn from themselves, and dendrites that spike, with the size of weights that moves them.
DENDRITES = {
    "elise": 1e-9, "pal_pyramidal": 1.0, "plateau_cell": 1.0, "sacramento_interneuron": 1.0, "two_compartment": 1.0,
    "urbanczik_senn": 1e-9, "pyramidal": 1e-9,
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", DENDRITES)
def test_so_do_dendrites(name):
    model, rng = getattr(localplast.models, name)(), np.random.default_rng(0)
    said = {} if model.output else {"out": lp.Population(1, leaky_readout())}
    onward = [lp.Projection("it", "out", weight=1.0, plastic=False)] if said else []
    graded = model.receives in model.free_variables
    net = lp.Network(
        dt=0.1 * ms, cues=lp.Input(4, "currents" if graded else "spikes"), it=lp.Population(3, model), **said,
        projections=[lp.Projection("cues", "it", weight=DENDRITES[name] * rng.uniform(0.3, 1, (4, 3))), *onward],
    )  # fmt: skip
    shown = rng.random((1, 60, 4)) < 0.3
    shown = shown * rng.normal(size=shown.shape) if graded else shown
    trials = lp.Trials({"cues": shown}, rng.random((1, 60, net.size(net.readouts[0]))))
    local = bool(model.mismatch)
    rule, backends = (dendritic(update="trial"), ("torch", "brian2")) if local else (bptt(), ("torch",))
    assert_equal_gradients(net, with_siblings(net, "it"), trials, rule, backends)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", PROSPECTIVE[::2])
def test_so_do_prospective_neurons(name):
    hidden, output = (getattr(localplast.models, f"{name}{end}")() for end in ("", "_output"))
    net, rng = layered((3, 4, 2), hidden, output), np.random.default_rng(0)
    trials = stream(rng.random((1, 2, 3)), rng.random((1, 2, 2)), steps=20)
    names = [key for key, p in net.populations.items() if p.model in (hidden, output)]
    assert len(names) == 2
    assert_equal_gradients(net, with_siblings(net, *names), trials, dendritic(update="trial"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("output", LAYERS[1:])
def test_so_do_layers_of_pyramidal_cells(output):
    net, rng = sample("dendrites"), np.random.default_rng(0)
    top = lp.Population(2, getattr(localplast.models, output)())
    net = lp.Network(dt=net.dt, projections=[*net.projections.values()], **{**net.nodes, "top": top})
    inputs = {name: rng.normal(size=(1, 30, node.size)) for name, node in net.inputs.items()}
    trials = lp.Trials(inputs, rng.normal(size=(1, 30, 2)))
    assert_equal_gradients(net, with_siblings(net, "rec", "top"), trials, dendritic(update="trial"))


@pytest.mark.thorough
@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", BURSTING)
def test_so_do_cells_that_burst(name):
    """Two layers, made to spike alone and in bursts."""
    model, steps, into = getattr(localplast.models, name)(), [10, 30, 120], "I_s"
    quiet, fires = 0.0, 300e-9
    if name == "burst_poisson":
        into, quiet, fires = "die", 1.0, -1.0
    forced = np.where(np.isin(np.arange(150), steps), fires, quiet)
    cells, fixed = lp.Population(3, model), dict(weight=1.0, target=into, plastic=False)
    net = lp.Network(
        dt=0.5 * ms, force=lp.Input(1, "currents"), it=cells, top=cells, out=lp.Population(3, instant_readout()),
        projections=[
            *(lp.Projection("force", each, **fixed) for each in ("it", "top")), lp.Projection("it", "top", weight=0.01),
            lp.Projection("top", "out", weight=np.eye(3), plastic=False),
        ],
    )  # fmt: skip
    trials = lp.Trials({"force": forced[None, :, None]}, np.zeros((1, 150, 3)))
    assert_equal_gradients(net, with_siblings(net, "it", "top"), trials, dendritic(update="trial"))


def test_every_model_with_a_parameter_has_a_sibling():
    tried = {*SPIKING, *READOUTS, *DENDRITES, *LAYERS, *BURSTING, *PROSPECTIVE}
    made = {name: getattr(localplast.models, name)() for name in localplast.models.__all__}
    assert {name for name, model in made.items() if model.parameters} == tried
