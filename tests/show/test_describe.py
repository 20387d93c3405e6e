"""What rules say of themselves: the equations, where values are stored, the cost, and LaTeX that a typesetter
accepts.
"""

import functools
import re

import numpy as np
import pytest
from brian2 import ms
from matplotlib.mathtext import MathTextParser
from typer.testing import CliRunner

import localplast as lp
from localplast import cli, models, rules
from localplast.models import alif, cuba_lif, eprop_2020, instant_readout, leaky_readout, lif, superspike_lif
from localplast.network import Input, Network, Population, Projection, normal, synaptic
from localplast.program.learn import plan
from localplast.program.locality import storage
from localplast.show.describe import describe_model
from localplast.show.examples import SAMPLES, sample
from localplast.show.notation import escape, math_name

mse, cross_entropy = lp.losses.mse, lp.losses.cross_entropy


def recurrent(model, readout=None, delay=None):
    strength = normal(1 * lp.mV if model.name == "cuba_lif" else 1.0)
    links = [Projection("cues", "rec", weight=strength, delay=delay), Projection("rec", "out")]
    return Network(
        dt=1 * ms,
        cues=Input(4),
        rec=Population(5, model),
        out=Population(2, readout or leaky_readout()),
        projections=links,
    )


def spiking(model):
    """As the sample of SuperSpike, with another neuron."""
    eye = np.eye(5, dtype=bool)
    return Network(
        dt=1 * ms, cues=Input(4), out=Population(5, model), judge=Population(5, models.van_rossum_readout()),
        projections=[
            Projection("cues", "out", weight=normal(1 * lp.mV)), Projection("out", "judge", weight=1.0, mask=eye, plastic=False),
        ],
    )  # fmt: skip


#: what a synapse must keep beyond its weight and its gradient (notes on local rules, section 0.5)
MINIMUM = {
    "SuperSpike": (rules.superspike(), lambda: spiking(superspike_lif()), 2),
    "SuperSpike, cuba": (rules.superspike(), lambda: spiking(cuba_lif()), 2),
    "e-prop, LIF": (rules.eprop(), lambda: recurrent(lif()), 1),
    "e-prop, ALIF": (rules.eprop(), lambda: recurrent(alif()), 2),
    "e-prop, LIF, instantaneous readout": (rules.eprop(), lambda: recurrent(lif(), instant_readout()), 0),
    "e-prop, ALIF, instantaneous readout": (rules.eprop(), lambda: recurrent(alif(), instant_readout()), 1),
    "DECOLLE": (rules.decolle(), lambda: sample("local"), 0),
    "OTTT": (rules.ottt(), lambda: sample("deep"), 0),
    "SLTT": (rules.sltt(), lambda: sample("deep"), 0),
    "OSTL, LIF": (rules.ostl(), lambda: recurrent(lif()), 1),
    "OSTL, ALIF": (rules.ostl(), lambda: recurrent(alif()), 2),
    "ES-D-RTRL": (rules.es_d_rtrl(), lambda: recurrent(lif()), 0),
    "DFA": (rules.dfa(), lambda: sample("deep"), 0),
    "DRTP": (rules.drtp(), lambda: sample("deep"), 0),
    "eRBP": (rules.erbp(), lambda: sample("deep"), 0),
}


@pytest.mark.parametrize("name", MINIMUM)
def test_no_synapse_stores_more_than_it_must(name):
    rule, network, least = MINIMUM[name]
    found = described(rule, network())
    for projection, kept in found.storage.items():
        if network().projections[projection].post not in ("out", "judge") or name.startswith("SuperSpike"):
            assert len(kept.synapse) == least, (projection, kept)
            assert kept.sums == ("gradient",) and kept.optimiser == () and kept.feedback == ()


def described(rule, net, **options):
    """A description; with random feedback where the population next to the readout alone has a symmetric path."""
    try:
        return rule.describe(net, **options)
    except lp.UnsupportedError:
        return rules.feedback_alignment(rule).describe(net, **options)


#: where localplast stores more than that, and why
MORE = {
    "delays per synapse": (rules.eprop(), lambda: recurrent(lif(), delay=synaptic(np.zeros((4, 5)) * ms)), ("eps_v", "filtered_v")),
    "clamped while refractory": (rules.eprop(), lambda: recurrent(cuba_lif()), ("eps_v", "filtered_v")),
    "adaptation one step late": (
        rules.eprop(), lambda: recurrent(eprop_2020()), ("eps_a", "eps_adaptation_due", "filtered_v"),
    ),
    "an error that is late": (rules.ostl(), lambda: sample("deep"), ("eps_v", "elig")),
    "the reset is followed": (rules.eprop(reset=True), lambda: recurrent(lif()), ("eps_v", "filtered_v")),
}  # fmt: skip


@pytest.mark.parametrize("why", MORE)
def test_where_more_is_stored_it_says_what_for(why):
    rule, network, names = MORE[why]
    found = rule.describe(network())
    first = next(iter(found.storage))
    assert found.storage[first].synapse == names
    for name in names:
        assert re.search(rf"^ +{name}: .*(moved|late|readout)", str(found), flags=re.M), name


def test_neurons_store_what_synapses_share():
    kept = rules.eprop().describe(recurrent(lif())).storage["cues_rec"]
    assert kept.pre == ("eps_v",) and kept.post == () and "psi" in kept.working
    late = rules.ottt().describe(sample("deep")).storage["cues_a"]
    assert late.pre == ("eps_v",) and late.post == ("psi",)  # both of the past step
    silent = rules.sltt().describe(sample("deep")).storage["a_b"]
    assert silent.pre == () and silent.post == ()


def test_stored_is_what_outlives_a_step():
    """A trace that is counted is read before it is assigned; one that is not never is."""
    for name in rules.__all__:
        rule = getattr(rules, name)(rules.eprop()) if name == "feedback_alignment" else getattr(rules, name)()
        if not rule.local:
            continue
        net = recurrent(alif()) if rule.signal.hears_errors else sample("dendrites")
        made = plan(net, rule, mse())
        for projection, synapse in made.synapses.items():
            written, early = set(), set()
            for line, expression in synapse.program:
                early |= {s.name for s in expression.free_symbols} - written
                written.add(line)
            assert set(synapse.state) == (early & written) - set(synapse.sums), (name, projection)
            assert set(storage(made, net, projection).synapse) == set(synapse.state)


# --- as text ----------------------------------------------------------------------------------------------------------


def test_the_equations_of_eprop():
    text = str(rules.eprop(feedback="random").describe(sample(), cross_entropy(), optimiser=lp.adam(1e-3)))
    for line in (
        "elig = psi*(-beta*primed_a + "
        "eps_v)", "L_j = sum_k B_jk*error_k", "error_k = softmax_k*whole - target_k", "softmax_k = exp(y_k)/sum_l exp(y_l)", "whole = sum_l target_l",
        "gradient = L*filtered_v + "
        "gradient", "psi = 0.3*clip(1 - abs(x)/v_th, 0, 1)*int(not_refractory)", "m = 0.1*g + 0.9*m",
        "2 (eps_a, filtered_v) per synapse; besides it: gradient sum 1 (gradient), optimiser 2 (m, s)",
        "its presynaptic neuron (cues): eps_v", "third factor (learning signal): L", "lag: 0 steps",
    ):  # fmt: skip
        assert line in text, line
    assert "weight transport" not in text and "\nlocal\n" in text


@pytest.mark.parametrize(
    ("feedback", "words"),
    [
        ("symmetric", "w_jk: the forward weights of rec_out, transposed (weight transport)"),
        ("sign", "sign(w_jk): the signs of the forward weights of rec_out"),
        ("learned", "B_jk: random at first, then learned beside the weights of rec_out"),
        ("random", "B_jk: fixed (standard deviation"),
        ({"rec": np.ones((5, 2))}, "(given matrices)"),
    ],
)
def test_how_the_signal_travels(feedback, words):
    found = rules.eprop(feedback=feedback).describe(sample())
    assert words in str(found)
    assert ("not local in a strict sense" in str(found)) == (
        feedback in ("symmetric", "sign") if isinstance(feedback, str) else False
    )
    assert ("learned feedback 1 (B)" in str(found)) == (feedback == "learned" if isinstance(feedback, str) else False)


def test_parameters_that_learn():
    net = Network(
        dt=1 * ms, cues=Input(4), rec=Population(5, lif(), trainable={"tau_mem": (1 * ms, 100 * ms)}), out=Population(2, leaky_readout()),
        projections=[Projection("cues", "rec"), Projection("rec", "out")],
    )  # fmt: skip
    found = rules.eprop().describe(net)
    assert "parameters that learn: tau_mem; stored for them: 3 (" in str(found) and "gradient_tau_mem = " in str(found)
    assert found.storage["cues_rec"].post == ()
    typeset(found.latex())


def test_lags_and_what_is_passed_on():
    text = str(rules.ottt().describe(sample("deep")))
    assert "lag: 1 steps" in text and "L_j = sum_k w_jk*delta_v_k" in text and "delta_v = L*credit_v" in text


def test_rules_that_are_not_local():
    net = sample("deep")
    bptt, rtrl = rules.bptt().describe(net), rules.rtrl().describe(net)
    assert "the errors of all later steps" in str(bptt) and "22 numbers per step" in str(bptt)  # 5 v and z, twice; 2 v
    weights = 4 * 5 + 5 * 5 + 5 * 2
    assert f"22 x {weights} = {22 * weights} numbers" in str(rtrl) and "forward" in str(rtrl)
    assert bptt.audit is None and bptt.storage == {}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_sample_suits_some_rule(kind):
    rule = {"local": rules.decolle(), "spikes": rules.superspike(), "dendrites": rules.dendritic()}.get(
        kind, rules.eprop(feedback="random")
    )
    assert rule.describe(sample(kind)).audit.local


# --- as LaTeX ---------------------------------------------------------------------------------------------------------


def equations(latex):
    """Both sides of every equation of a LaTeX text."""
    for block in re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end\{align\*\}", latex, flags=re.S):
        for line in block.split(r" \\" + "\n"):
            yield from line.split(r" &\leftarrow ")


@functools.cache
def set_in_type(formula):
    """Raise unless it can be; rules and models share many formulae, and each takes long."""
    MathTextParser("agg").parse(f"${formula}$")


def typeset(latex):
    """Raise unless every formula can be set, braces match and no character of prose is left unescaped."""
    found = list(equations(latex))
    for formula in found:
        set_in_type(formula)
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert latex.count(r"\begin{align*}") == latex.count(r"\end{align*}")
    prose = re.sub(r"\\begin\{align\*\}.*?\\end\{align\*\}", "", latex, flags=re.S)
    assert not re.search(r"(?<!\\)[_%&#$^]", prose), re.search(r".*(?<!\\)[_%&#$^].*", prose)[0]
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", rules.__all__)
def test_latex_of_every_rule(name):
    rule = getattr(rules, name)(rules.eprop()) if name == "feedback_alignment" else getattr(rules, name)()
    others = (sample(), recurrent(cuba_lif()) if name != "es_d_rtrl" else recurrent(lif()))
    for net in (sample("dendrites"),) if name == "dendritic" else others:
        found = typeset(rule.describe(net, cross_entropy(), optimiser=lp.rmaxprop(1e-3, decay=0.9)).latex())
        assert len(found) > 3


@pytest.mark.sampled(18)
@pytest.mark.parametrize("name", models.__all__)
def test_latex_of_every_model(name):
    typeset(describe_model(getattr(models, name)()).latex())


def test_symbols():
    assert math_name("eps_a", "ij") == r"\varepsilon^{\mathrm{a}}_{ij}"
    assert math_name("tau_mem") == r"\tau_{\mathrm{mem}}" and math_name("dt") == r"\Delta t"
    assert math_name("psi", "j") == r"\psi_{j}" and math_name("late2_psi", "j") == r"\left[\psi_{j}\right]_{t-2}"
    assert escape("a_b & 5 %") == r"a\_b \& 5 \%"
    latex = rules.eprop().describe(sample()).latex()
    assert (
        r"e_{ij} &\leftarrow \psi_{j} \left(" in latex
        and r"g_{ij} &\leftarrow L_{j} \bar{e}^{\mathrm{v}}_{ij} + g_{ij}" in latex
    )


def test_notebooks():
    found = rules.eprop().describe(sample())
    assert found._repr_markdown_().startswith("### e-prop") and "$$\\begin{aligned}" in found._repr_markdown_()
    assert found._repr_latex_().count("$$") == 2 * found._repr_markdown_().count("\\begin{aligned}")
    assert repr(found) == str(found)


# --- at the command line ----------------------------------------------------------------------------------------------


def invoke(*words):
    done = CliRunner().invoke(cli.app, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_command_line():
    assert "per synapse ij" in invoke("describe", "e-prop")
    assert r"\begin{align*}" in invoke("describe", "alif", "--latex")
    assert invoke("describe", "yin-yang", "--rule", "ottt").startswith("yin-yang: OTTT")
    assert "weights of cues_out" in invoke("describe", "superspike", "--on", "spikes")
    assert "Broadcast (random)" in invoke("describe", "feedback_alignment")
    with pytest.raises(lp.LocalplastError, match="no model, rule or protocol 'nothing'"):
        invoke("describe", "nothing")
    with pytest.raises(lp.LocalplastError, match="recurrent, deep, local, dendrites, spikes"):
        invoke("describe", "eprop", "--on", "moon")
