"""Neurons whose text is drawn at random: plain Brian2, both backends, and every way to a gradient give the same
numbers.

Resets and updates of several statements that read what the ones before them wrote, in the whole language: ``int``,
``%``, ``clip``, ``exprel``, ``sign``, ``abs``, conditions, subexpressions, and literals with units.
"""

import brian2 as b2
import numpy as np
import pytest
from brian2 import ms

import localplast as lp
from localplast.backends.torch import gradient as torch_backend
from localplast.models import leaky_readout
from localplast.neuron.surrogate import triangle
from localplast.rules import bptt, eprop

STEPS, NEURONS, TRIALS = 40, 3, 2
VARIABLES = ("v", "u", "a")
THRESHOLDS = ("v > 0.6", "v + 0.2*a > 0.6", "v > 0.5 + 0.1*tanh(u)", "0.6 <= v")
FORMS = (
    "({0} + {1})", "({0} - {1})", "0.5*{0}*{1}", "tanh({0})", "int({0} > {1})*{0}", "clip({0}, -0.8, 0.9)", "abs({0})",
    "exprel(0.3*{0})", "({0} % 0.7)", "sign({0})*{1}", "0.1*int(3*{0})", "0.2*({0} // 0.3)", "({0}*second)/(1000*ms)",
)  # fmt: skip
#: Statements that keep a variable within bounds, whatever they add.
STATEMENTS = ("{0} = tanh({1})", "{0} += 0.2*tanh({1})", "{0} -= 0.3*tanh({1})", "{0} *= 0.5*tanh({1})")


def expression(rng, names, depth=2):
    """Text that is drawn, with ``names`` and numbers at its ends."""
    if depth == 0 or rng.random() < 0.2:
        return f"({rng.uniform(-1, 1):.3f})" if rng.random() < 0.3 else str(rng.choice(names))
    return str(rng.choice(FORMS)).format(expression(rng, names, depth - 1), expression(rng, names, depth - 1))


def block(rng, count):
    """Statements that are drawn, ``count`` of them."""
    return "\n".join(
        str(rng.choice(STATEMENTS)).format(rng.choice(VARIABLES), expression(rng, (*VARIABLES, "s")))
        for _ in range(count)
    )


def drawn(rng):
    """The texts of a neuron, by the names that NeuronModel has for them."""
    return {
        "equations": "dv/dt = (-v + 0.5*u + 0.1*s)/tau : 1\ndu/dt = (-u + 0.3*v)/(20*ms) : 1\na : 1\n"
        f"s = {expression(rng, VARIABLES, 1)} : 1",
        "threshold": str(rng.choice(THRESHOLDS)),
        "reset": "v -= 0.6\n" + block(rng, rng.integers(0, 4)),
        "update": block(rng, rng.integers(0, 3)),
    }


def plain_brian2(text, weight, raster):
    """States ``(time, neuron)`` of a script for Brian2 alone."""
    b2.start_scope()
    clock = b2.Clock(dt=1 * ms)
    group = b2.NeuronGroup(
        NEURONS, text["equations"], threshold=text["threshold"], reset=text["reset"], method="euler", clock=clock,
        namespace={"tau": 10 * ms},
    )  # fmt: skip
    step, channel = np.nonzero(raster)
    cues = b2.SpikeGeneratorGroup(raster.shape[1], channel, step * ms, clock=clock)
    synapses = b2.Synapses(cues, group, "weight : 1", on_pre="v_post += weight", clock=clock)
    synapses.connect()
    synapses.weight = weight[synapses.i[:], synapses.j[:]]
    objects = [group, cues, synapses, b2.StateMonitor(group, VARIABLES, record=True, when="end", clock=clock)]
    if text["update"]:
        objects.append(group.run_regularly(text["update"], when="groups", order=1, clock=clock))
    b2.Network(*objects).run(STEPS * ms)
    return {name: getattr(objects[3], name).T for name in VARIABLES}


def compared(seed, script=plain_brian2):
    """Trajectories on both backends against a ``script``, and gradients against each other; how many spikes there
    were.
    """
    rng = np.random.default_rng(seed)
    text = drawn(rng)
    model = lp.NeuronModel("m", parameters={"tau": 10 * ms}, method="euler", surrogate=triangle(1.0), **text)
    net = lp.Network(
        dt=1 * ms, cues=lp.Input(4), it=lp.Population(NEURONS, model), out=lp.Population(2, leaky_readout()),
        projections=[lp.Projection("cues", "it", weight=lp.normal(0.8, mean=0.3)), lp.Projection("it", "out")],
    )  # fmt: skip
    raster, values = rng.random((TRIALS, STEPS, 4)) < 0.25, net.draw(0)
    trials = lp.Trials({"cues": raster}, rng.standard_normal((TRIALS, STEPS, 2)))
    expected = [script(text, values.weights["cues_it"], each) for each in raster]
    for backend in ("brian2", "torch"):
        found = lp.run(
            net, trials, backend=backend, values=values, record=[f"it.{n}" for n in VARIABLES] + ["it.raster"]
        )["it"]
        for name in VARIABLES:
            wanted = np.array([each[name] for each in expected])
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-9, err_msg=f"{backend}: {name} of {text}")
    same_gradients(net, trials, values, text)
    return int(found["spikes"].sum())


def same_gradients(net, trials, values, text):
    def gradient(rule, **options):
        return lp.gradient(net, trials, rule, values=values, **options)["cues_it"]["gradient"].values

    ways = {
        eprop(): ({}, {"form": "traces"}, {"backend": "brian2"}), eprop(reset=True): ({}, {"backend": "brian2"}),
        bptt(): ({}, {"form": "forward"}),
    }  # fmt: skip
    for rule, options in ways.items():
        first, *others = (gradient(rule, **each) for each in options)
        for other in others:
            np.testing.assert_allclose(
                other, first, rtol=0, atol=1e-8 * np.abs(first).max(), err_msg=f"{rule.name} of {text}"
            )
    with pytest.MonkeyPatch.context() as patch:  # the last first is that of BPTT by automatic differentiation
        patch.setattr(torch_backend, "WORTH_COMPILING", 0)
        np.testing.assert_allclose(
            gradient(bptt()), first, rtol=0, atol=1e-8 * np.abs(first).max(), err_msg=f"C of {text}"
        )


@pytest.mark.thorough
def test_drawn_neurons():
    assert all(compared(seed) > 4 for seed in (0, 3, 4, 5)), "silence would compare equal"


def test_a_statement_more_is_noticed():
    def another(text, *rest):
        return plain_brian2({**text, "reset": text["reset"] + "\nv += 1e-6"}, *rest)

    with pytest.raises(AssertionError, match="v of"):
        compared(0, another)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 100))
def test_many_drawn_neurons(seed):
    compared(seed)
