"""Models keep the names that they give: in descriptions and errors; inside, each is spelled in one way only."""

import dataclasses

import pytest
from brian2 import ms

import localplast as lp
from localplast import rules
from localplast.errors import LocalplastError, ModelError, NetworkError
from localplast.models import alif, leaky_readout, lif
from localplast.names import TAKEN, inner, is_taken, outer
from localplast.network import Input, Network, Population, Projection, normal
from localplast.neuron.surrogate import triangle
from localplast.program.learn import plan
from localplast.rules import dendritic, eprop
from localplast.show.describe import describe_model
from localplast.show.examples import SAMPLES, sample
from localplast.task.loss import mse, rate


@pytest.mark.parametrize("kind", SAMPLES)
def test_descriptions(kind, spelled):
    pair = spelled.both(sample(kind), start=1)
    rule = {"dendrites": dendritic(), "local": rules.decolle()}.get(kind, eprop(feedback="random"))
    plain, found = (str(rule.describe(net, optimiser=lp.adam(0.1))) for net in (pair.plain, pair.clashing))
    assert "own_" not in found.replace("own_v", "") or "own_v" in pair.new.values()
    assert "neuron." in found and "neuron." not in plain
    assert len(found.splitlines()) == len(plain.splitlines())
    tex = rule.describe(pair.clashing).latex()
    assert "own psi" not in tex and "own\\_L" not in tex


def test_a_model_is_described_in_its_own_names(spelled):
    model = spelled.model_renamed(alif(), {"v": "w", "a": "error", "tau_mem": "gradient"})
    found = describe_model(model)
    assert "d error / d error = exp(-dt/tau_adapt)" in str(found) and "d w / d w = exp(-dt/gradient)" in str(found)
    assert "own_" not in str(found) + found.latex() and r"\mathrm{error}" in found.latex()


def test_errors_speak_of_the_names_of_the_model(spelled):
    model = spelled.model_renamed(alif(), {"v": "w", "a": "L", "beta": "elig"})
    unstable = dataclasses.replace(model, equations=model.equations.replace("dw/dt = -w", "dw/dt = 3000*w"))
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, unstable), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec", weight=normal(3.0)), Projection("rec", "out")],
    )  # fmt: skip
    for run in (
        lambda: lp.run(net, spelled.trials_for(net)),
        lambda: lp.run(net, spelled.trials_for(net), backend="torch"),
        lambda: lp.gradient(net, spelled.trials_for(net), eprop()),
        lambda: spelled.learn(net, spelled.trials_for(net), eprop(), lp.sgd(0.1), backend="torch", test=0),
        lambda: spelled.learn(net, spelled.trials_for(net), eprop(), lp.sgd(0.1), backend="brian2", test=0),
    ):
        with pytest.raises(LocalplastError, match=r"\bw\b|population 'rec'") as caught:
            run()
        assert "own_" not in str(caught.value)


def test_what_a_rule_cannot_do_is_said_in_the_names_of_the_model(spelled):
    model = dataclasses.replace(
        spelled.model_renamed(lif(), {"v": "psi"}), equations="dpsi/dt = -psi/tau_mem : 1 (unless refractory)"
    )
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(3, model), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    for backend in ("torch", "brian2"):
        with pytest.raises(LocalplastError, match="'psi' of lif is clamped"):
            lp.gradient(
                net,
                spelled.trials_for(net),
                eprop(feedback="random"),
                backend=backend,
                loss=mse() + rate(5.0, 1.0, window=50 * ms),
            )
    with pytest.raises(LocalplastError, match="'psi' of lif is clamped"):
        eprop().describe(net)


@pytest.mark.parametrize(("variable", "match"), [("spikes", "'rec.spikes'.*itself"), ("time", "'rec.time'.*itself")])
def test_what_a_record_has_itself_is_not_recorded_under_its_name(variable, match, spelled):
    net = spelled.everywhere(variable)
    with pytest.raises(NetworkError, match=match.replace("rec", "a")):
        lp.run(net, spelled.trials_for(net), record=[f"a.{variable}"])
    assert lp.run(net, spelled.trials_for(net), record=["a.v", "a.raster"])["a"]["spikes"].any()
    if variable == "spikes":  # no spikes there
        assert lp.run(net, spelled.trials_for(net), record=["o.spikes"])["o"]["spikes"].dtype.kind == "f"


def test_the_width_of_a_surrogate_is_not_the_spike_argument():
    with pytest.raises(ModelError, match="the width of a surrogate is 'x', in which x is the spike argument"):
        triangle("x")


def test_spelling_is_one_to_one():
    names = [*TAKEN, "v", "own_v", "own_own_v", "my_own_v", "down_v", "eps_v", "_from_"]
    assert len(set(map(inner, names))) == len(names)
    assert [outer(inner(n)) for n in names] == names
    assert not is_taken("v") and not is_taken("down_v") and is_taken("my_own_v")


def test_shipped_models_are_spelled_as_they_are():
    for kind in SAMPLES:
        assert sample(kind).spelling.net is not None and not sample(kind).spelling.differs


def test_inside_nothing_is_spelled_again(spelled):
    inside = spelled.both(spelled.network("rich")).clashing.spelling.net
    assert inside.spelling.net is inside and not inside.spelling.differs


def test_a_plan_is_made_of_a_network_as_plans_spell_it(spelled):
    with pytest.raises(LocalplastError, match="a plan is made of net.spelling.net: own_"):
        plan(spelled.both(spelled.network("recurrent")).clashing, eprop(), mse())
