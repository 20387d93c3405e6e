"""Models with their numbers in the text, as Brian2 is mostly written: the same gradients as with parameters."""

import re
from dataclasses import replace

import numpy as np
import pytest
from brian2 import Quantity, ms
from brian2.units.fundamentalunits import get_dimensions

import localplast as lp
import localplast.models
from localplast.models import leaky_readout
from localplast.rules import eprop
from localplast.text import unit_symbol

SPIKING = ["alif", "biased_lif", "cuba_lif", "decolle_lif", "eprop_2020", "lif", "superspike_lif"]


def with_literals(model):
    """``model`` with its parameters as numbers and units in all of its text; the refractory period keeps its name."""
    kept = {model.refractory, *model.at_least_dt}
    words = {n: written(v) for n, v in model.parameters.items() if n not in kept}
    declared = [line for line in model.equations.splitlines() if line.split(":")[0].strip() not in words]
    pattern = re.compile(rf"\b({'|'.join(words)})\b") if words else re.compile("(?!)")

    def literal(text):
        return pattern.sub(lambda found: words[found[1]], text) if text else text

    surrogate = model.surrogate and replace(model.surrogate, expression=literal(model.surrogate.expression), parameters={})
    blocks = {name: literal(getattr(model, name)) for name in ("threshold", "reset", "adaptation", "update", "output")}
    return replace(
        model, equations=literal("\n".join(declared)), surrogate=surrogate, **blocks,
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
