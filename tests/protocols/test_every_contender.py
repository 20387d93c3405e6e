"""What every contender of every protocol is, said by hand: its rule, what learns, and how its network differs."""

import re
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from localplast import protocols
from localplast.files import encode
from localplast.network.weights import SameAs
from localplast.study.protocol import Protocol
from localplast.study.report import contenders


@dataclass(frozen=True)
class Says:
    """What a contender is; names are a text with a space between two, ``up1-3`` is ``up1 up2 up3``.

    ``learns``: what the optimiser changes, by preset where that depends on the size. ``apart``: in what its network
    differs from the one that is compared, without numbers of layers. ``delayed``: projections with delays. ``back``:
    how errors come back where a projection ``down`` carries them. ``noise``: of apical dendrites.
    ``times``: so many times the updates of the preset; ``parts``: into how many of its own it divides each batch.
    """

    rule: str
    learns: object
    loss: str = ""
    apart: str = ""
    delayed: str = ""
    rates: str = ""
    errors: str = ""
    back: str = ""
    noise: float = 0.0
    own_optimiser: bool = False
    times: int = 1
    parts: int = 1


def usual(hidden, readout):
    """Four contenders that most protocols have."""
    whole = f"{hidden} {readout}"
    return {
        "BPTT": Says("bptt", whole),
        "e-prop, symmetric": Says("e-prop symmetric", whole),
        "e-prop, random": Says("e-prop random", whole),
        "BPTT, hidden frozen": Says("bptt", readout),
    }


def spikes(*learns):
    """SuperSpike with all its kinds of feedback, beside BPTT."""
    kinds = {f"SuperSpike, {kind}": f"SuperSpike {kind}" for kind in ("symmetric", "random", "uniform")}
    rules = {"BPTT": "bptt", "BPTT, reset cut": "bptt -reset", **kinds}
    return {name: Says(rule, *learns) for name, rule in rules.items()}


def generalised(learns, output, apart_back, apart_errors, *, times=1):
    """Generalised latent equilibrium: errors look ahead, but in one contender."""
    ahead = {"rates": "prospective", "errors": "prospective"}
    return {
        "GLE": Says("dendritic", learns, **ahead, back="transposed"),
        "GLE, random feedback": Says("dendritic", learns, **ahead, back="random", apart=apart_back),
        "instantaneous errors": Says(
            "dendritic", learns, rates="prospective", errors="instantaneous", back="transposed", apart=apart_errors,
        ),
        "BPTT": Says("bptt", learns, **ahead, back="transposed", own_optimiser=True, times=times),
        "GLE, hidden frozen": Says("dendritic", output, **ahead, back="transposed"),
    }  # fmt: skip


def circuit(*, bptt, tied=False):
    """Dendritic microcircuits: feedback is fixed, random or transposed at first, or always; other weights learn."""
    ahead, learns = {"rates": "prospective", "back": "random"}, "up1 up2 ip1"
    original = {"rates": "lagging", "back": "random", "apart": "hidden.model inter.model out.model"}
    symmetric = {"rates": "prospective", "back": "begins transposed", "apart": "down.weight"}
    if tied:
        symmetric |= {"back": "transposed", "apart": "down.weight pi.weight"}
    offline = Says("bptt", "up1 up2", **ahead, own_optimiser=True)
    return {
        **({"BPTT": offline, "BPTT, converged": replace(offline, times=4)} if bptt else {}),
        "dendritic": Says("dendritic", learns, **ahead),
        "dendritic, symmetric": Says("dendritic", learns, **symmetric),
        "dendritic, original": Says("dendritic", learns, **original),
        "dendritic, hidden frozen": Says("dendritic", "up2 ip1", **ahead),
    }


def aligning(layers, noise, *, still=""):
    """Phaseless alignment learning: noise where feedback learns by it, none where it does not.

    ``still``: what does not learn where feedback is fixed, either.
    """
    up, lateral, down = f"up1-{layers + 1}", f"ip1-{layers} pi1-{layers}", f"down1-{layers}"
    quiet = {"rates": "prospective", "back": "random", "apart": "hidden.parameters.sigma"}
    tied = "hidden.parameters.sigma down.weight down.plastic pi.weight pi.plastic"
    fixed = lateral.replace(still, "") if still else lateral
    return {
        "PAL": Says("dendritic", f"{up} {lateral} {down}", rates="prospective", back="random", noise=noise),
        "feedback alignment": Says("dendritic", f"{up} {fixed}", **quiet),
        "symmetric": Says("dendritic", f"{up} ip1-{layers}", **{**quiet, "back": "transposed", "apart": tied}),
        "hidden frozen": Says("dendritic", f"up{layers + 1} {fixed}", **quiet),
    }


def delay_lines(inputs):
    whole = f"{inputs}_rec rec_rec rec_out rec.tau_mem rec.v_th rec.bias out.tau_out out.bias"
    return {
        "DelayNet": Says("bptt", whole, delayed="rec_rec"),
        "without delays": Says("bptt", whole, apart="rec_rec.delay"),
    }, whole


def latent(learns, frozen, *, lagging="", learned="", longer=0, often=1):
    """Latent equilibrium; ``lagging``: what differs where rates lag behind, ``learned``: the feedback that learns.

    ``longer``: so many times the updates BPTT needs to converge; ``often``: how often it updates in each batch.
    """
    ahead = {"rates": "prospective", "back": "transposed"}
    late = {"rates": "lagging", "back": "transposed", "apart": lagging, "own_optimiser": bool(learned)}
    moving = {"rates": "prospective", "back": "random", "apart": "down.weight down.plastic", "own_optimiser": True}
    offline = Says("bptt", learns, **ahead, own_optimiser=True, times=often, parts=often)
    return {
        "BPTT": offline,
        **({"BPTT, converged": replace(offline, times=longer * often)} if longer else {}),
        "LE, symmetric": Says("dendritic", learns, **ahead),
        "LE, random": Says("dendritic", learns, rates="prospective", back="random", apart="down.weight"),
        **({"LE, learned": Says("dendritic", f"{learns} {learned}", **moving)} if learned else {}),
        "LE, hidden frozen": Says("dendritic", frozen, **ahead),
        **({"not prospective": Says("dendritic", learns, **late)} if lagging else {}),
    }


DELAYNET, PSMNIST = delay_lines("cues"), delay_lines("pixels")


def deep(layers, *, own_readouts=False):
    """What learns in so many layers in a row, with readouts of the last one or of each."""
    names = ["points", *(f"hidden{k}" for k in range(1, layers + 1))]
    read = names[1:] if own_readouts else []
    found = [f"{a}_{b}" for a, b in zip(names, names[1:], strict=False)] + [f"{name}_{name}_out" for name in read]
    return " ".join(found if own_readouts else [*found, f"{names[-1]}_out"])


ACROSS = {"quick": deep(5), "paper": deep(5), "nine": deep(9)}
APART = {"local": deep(5, own_readouts=True), "nine-local": deep(9, own_readouts=True)}
TWO_SIZES = {"quick": "events_hidden1 hidden1_hidden2", "paper": "events_hidden1 hidden1_hidden2 hidden2_hidden3"}
SLOW = "rec.model rec.parameters.beta cues_rec.weight rec_rec.weight rec_out.weight"
LAG_LINE = "up1 up2 hidden1.tau_m out.tau_m"
LAG_NET = {"rates": "prospective", "errors": "prospective", "back": "transposed"}
BLIND = {**LAG_NET, "errors": "instantaneous", "apart": "hidden.model out.model"}
LENET = "up1 up3 up5 up6 hidden1.b hidden3.b hidden5.b out.b"
CNN = [
    {"quick": "up1 up3 up5 hidden1.b hidden3.b out.b", "paper": LENET, "cifar10": LENET},
    {"quick": "up5 out.b", "paper": "up6 out.b", "cifar10": "up6 out.b"},
]
DELAYED = {"delayed": "cues_det"}
OTHER_TAU, SHOWN = "hidden.model out.model", {"rates": "prospective", "back": "transposed"}
CODED, NOISE = "up1-4 hidden1-3.b out.b", {"quick": 0.1, "paper": 0.01}
QUIET = {"rule": "dendritic", "learns": CODED, "rates": "prospective", "errors": "prospective"}
#: Every contender of every protocol.
SAID = {
    "burst-xor": {
        "bursts": Says("dendritic", "sources_hidden hidden_top"),
        "bursts, hidden frozen": Says("dendritic", "hidden_top"),
    },
    "decolle-mnist": {"BPTT": Says("bptt", TWO_SIZES), "DECOLLE": Says("DECOLLE symmetric", TWO_SIZES)},
    "decolle-nmnist": {
        "BPTT": Says("bptt", TWO_SIZES), "BPTT, converged": Says("bptt", TWO_SIZES, times=3),
        "DECOLLE": Says("DECOLLE symmetric", TWO_SIZES),
    },
    "deep": {
        "BPTT": Says("bptt", ACROSS | APART),
        "e-prop, random": Says("e-prop random", ACROSS),
        "DFA": Says("DFA random", ACROSS),
        "DECOLLE": Says("DECOLLE symmetric", APART),
    },
    "delaynet": {
        **DELAYNET[0],
        "without branching term": Says("bptt", DELAYNET[1], delayed="rec_rec", loss="cross_entropy"),
        "e-prop": Says("e-prop symmetric", DELAYNET[1], delayed="rec_rec", loss="cross_entropy"),
    },
    "elise": {"ELiSe": Says("dendritic", "among_visible others", delayed="among_visible others g_exc g_inh")},
    "evidence-accumulation": {
        **usual("cues_rec rec_rec", "rec_out"),
        "BPTT": Says("bptt", "cues_rec rec_rec rec_out", own_optimiser={"quick": True, "paper": False}),
        "BPTT, converged": Says("bptt", "cues_rec rec_rec rec_out", own_optimiser=True, times=3),
        "BPTT, hidden frozen": Says("bptt", "rec_out", own_optimiser={"quick": True, "paper": False}),
        "DelayNet": Says(
            "bptt", DELAYNET[1], loss="cross_entropy branching", delayed="rec_rec", own_optimiser=True,
            apart="rec.size rec.model rec.parameters.beta rec.parameters.bias rec.trainable out.model "
            "out.parameters.bias out.trainable cues_rec.weight rec_rec.weight rec_rec.delay rec_out.weight",
        ),
        "slow LIF": Says("bptt", "cues_rec rec_rec rec_out", apart=SLOW),
        "slow LIF, feedforward": Says("bptt", "cues_rec rec_out", apart=SLOW.replace("rec_rec.weight", "rec_rec")),
        "fast LIF": Says("bptt", "cues_rec rec_rec rec_out", apart=SLOW),
    },
    "fourier-synthesis": latent("up1 up2", "up2", lagging="hidden.model out.model", longer=3),
    "gle-lag-line": {
        "BPTT": Says("bptt", LAG_LINE, **LAG_NET, own_optimiser=True),
        "GLE": Says("dendritic", LAG_LINE, **LAG_NET),
        "instantaneous errors": Says("dendritic", LAG_LINE, **BLIND),
        "GLE, membranes frozen": Says("dendritic", "up1 up2", **LAG_NET),
    },
    "gle-lag-net": {
        "BPTT": Says("bptt", "up1", **LAG_NET, own_optimiser=True),
        "GLE": Says("dendritic", "up1", **LAG_NET),
        "GLE, random": Says("dendritic", "up1", **{**LAG_NET, "back": "random"}, apart="down.weight"),
        "instantaneous errors": Says("dendritic", "up1", **BLIND),
    },
    "gle-mackey-glass": generalised("up1-3 hidden1-2.b out.b", "up3 out.b", "down.weight", "hidden.model"),
    "gle-mnist1d": generalised(
        "up1-7 bias1-7", "up7 bias7", "down.weight", "hidden.model", times=2
    ),
    "latent-equilibrium": latent(
        "up1-3 hidden1-2.b out.b", "up3 out.b", lagging="hidden.model out.model", learned="down1-2", longer=2, often=8
    ),
    "latent-equilibrium-cnn": latent(*CNN, longer=2, often=8),
    "microcircuit": circuit(bptt=True),
    "microcircuit-teacher": circuit(bptt=False),
    "microcircuit-yin-yang": circuit(bptt=False, tied=True),
    "mnist": usual("pixels_hidden", "hidden_out"),
    "pal-alignment": aligning(3, 0.05),
    "pal-autoencoder": {
        "PAL": Says("dendritic", f"{CODED} down1-3", rates="prospective", errors="prospective", back="random", noise=NOISE),
        "feedback alignment": Says(**QUIET, back="random", apart="hidden.model out.model down.plastic"),
        "symmetric": Says(**QUIET, back="transposed", apart="hidden.model out.model down.weight down.plastic"),
    },
    "pal-teacher": aligning(1, {"quick": 0.05, "paper": 0.01}),
    "pal-yin-yang": {
        **aligning(1, {"quick": 0.1, "paper": 0.01}, still="pi1-1"),
        "large random features": Says(
            "dendritic", "up2 ip1", rates="prospective", back="random", apart="hidden.parameters.sigma up.weight",
        ),
    },
    "pattern-generation": usual("pattern_rec rec_rec", "rec_out"),
    "presentation-time": {
        **{f"{form}, shown {ratio} tau": Says("dendritic", "up1 up2", rates=form, back="transposed", apart=OTHER_TAU)
           for form in ("prospective", "lagging") for ratio in (0.03, 0.1, 0.3, 1, 3, 10, 20, 30, 50, 70, 100)},
        "prospective, shown 0.3 tau": Says("dendritic", "up1 up2", **SHOWN, apart={"quick": "", "paper": OTHER_TAU}),
        "prospective, shown 0.03 tau": Says("dendritic", "up1 up2", **SHOWN, apart=""),
    },
    "psmnist": {
        **PSMNIST[0],
        "without branching term": Says("bptt", PSMNIST[1], delayed="rec_rec", loss="cross_entropy"),
    },
    "superspike-oxford": spikes("pattern_hidden1 hidden1_out"),
    "superspike-single": {
        "BPTT": Says("bptt", "pattern_out", own_optimiser=True), "BPTT, reset cut": Says("bptt -reset", "pattern_out"),
        "SuperSpike": Says("SuperSpike symmetric", "pattern_out"),
    },
    "t-maze": usual("cues_rec rec_rec", "rec_policy rec_value"),
    "temporal-patterns": {
        "BPTT": Says("bptt", "cues_det det_out cues_det.delay", **DELAYED),
        "BPTT, reset cut": Says("bptt -reset", "cues_det det_out cues_det.delay", **DELAYED),
        "e-prop, symmetric": Says("e-prop symmetric", "cues_det det_out cues_det.delay", **DELAYED),
        "e-prop, random": Says("e-prop random", "cues_det det_out cues_det.delay", **DELAYED, own_optimiser=True),
        "BPTT, delays frozen": Says("bptt", "cues_det det_out", **DELAYED, own_optimiser=True),
        "e-prop, random, delays frozen": Says("e-prop random", "cues_det det_out", **DELAYED, own_optimiser=True),
        "BPTT, no delays": Says("bptt", "cues_det det_out", apart="cues_det.delay", own_optimiser=True),
    },
    "temporal-xor": spikes("pattern_hidden1 hidden1_out"),
    "urbanczik-senn": {
        "BPTT": Says("bptt", "pattern_cell", own_optimiser=True),
        "dendritic, spikes": Says("dendritic", "pattern_cell"),
        "dendritic, rates": Says("dendritic", "pattern_cell", apart="cell.model dice_cell"),
        "no learning": Says("dendritic", ""),
    },
    "yin-yang": {
        **usual("points_hidden", "hidden_out"),
        "e-prop, random": Says("e-prop random", "points_hidden hidden_out", own_optimiser=True),
        "BPTT, hidden frozen": Says("bptt", "hidden_out", own_optimiser=True),
        "BPTT, converged": Says("bptt", "points_hidden hidden_out", own_optimiser=True, times=2),
    },
}  # fmt: skip
#: Where local rules run in Torch; elsewhere Brian2 does.
IN_TORCH = {
    *("delaynet", "gle-lag-line", "gle-lag-net", "gle-mackey-glass", "gle-mnist1d", "latent-equilibrium"),
    *("latent-equilibrium-cnn", "pal-autoencoder", "presentation-time", "temporal-patterns"),
    *((name, "quick") for name in ("fourier-synthesis", "microcircuit", "microcircuit-yin-yang", "pal-yin-yang")),
}  # fmt: skip


LEARNED = [name for name in protocols.names() if isinstance(protocols.load(name), Protocol)]
CASES = [(name, size) for name in LEARNED for size in protocols.load(name).presets]


def spread(text):
    """``"up1-3 out"`` as ``["up1", "up2", "up3", "out"]``."""
    found = []
    for word in text.split():
        if several := re.fullmatch(r"(.*?)(\d+)-(\d+)(.*)", word):
            stem, first, last, rest = several.groups()
            found += [f"{stem}{k}{rest}" for k in range(int(first), int(last) + 1)]
        else:
            found.append(word)
    return found


def for_size(said, preset):
    """What is said of one preset."""
    each = {field.name: getattr(said, field.name) for field in fields(said)}
    return {what: value.get(preset) if isinstance(value, dict) else value for what, value in each.items()}


def parts(net):
    """Everything that two networks can differ in, by name."""
    found = {"dt": float(net.dt)}
    for name, p in net.populations.items():
        found |= {f"{name}.{what}": getattr(p, what) for what in ("size", "model", "initial", "trainable")}
        found |= {f"{name}.parameters.{key}": value for key, value in p.parameters.items()}
    for name, p in net.projections.items():
        found |= {name: True, **{f"{name}.{field.name}": getattr(p, field.name) for field in fields(p)}}
    return {name: encode(value) for name, value in found.items()}


def apart(net, other):
    """In what two networks differ, layers taken together; of a projection that one of them lacks its name."""
    if other is net:
        return set()
    one, two = parts(net), parts(other)
    names = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    names = {name for name in names if "." not in name or name.split(".")[0] not in names}
    return {re.sub(r"(\D)\d+\b(?=\.)", r"\1", name) for name in names}


def delayed(net):
    """Projections on which some spike travels for longer than nothing."""
    return {name for name, p in net.projections.items() if np.any(net.delay_steps(p, 0) > 0)}


def texts(net, pattern):
    """Whether the equations of its cells have a line like ``pattern``: all of them, none of them, or an error."""
    models = [p.model for name, p in net.populations.items() if re.match("hidden|inter", name)]
    found = {bool(re.search(pattern, model.equations)) for model in models}
    assert len(found) == 1, "some cells are of another kind"
    return found.pop()


def backwards(net):
    """How errors come back along the projections ``down``: all in one way, what pooling sends back aside."""
    kinds = set()
    for p in net.projections.values():
        if re.fullmatch(r"down\d+", p.name):
            number = int(p.name.removeprefix("down"))
            if isinstance(p.weight, SameAs):
                assert p.weight.projection == f"up{number + 1}" and p.weight.transposed
            pooled = not net.projections[f"up{number + 1}"].plastic
            kinds |= set() if pooled else {described(p.weight)}
    assert len(kinds) == 1, kinds
    return kinds.pop()


def described(weight):
    if not isinstance(weight, SameAs):
        return "random"
    return "begins " * (not weight.always) + "transposed" + (f" times {weight.times:g}" if weight.times != 1 else "")


def terms(loss):
    more = {"rate": loss.regulariser, "branching": loss.branching}
    return " ".join([loss.name, *(name for name, term in more.items() if term is not None)])


def rule_of(own):
    """The name of a rule, with its feedback if errors are sent back by it, and what is cut of BPTT."""
    if own.rule.name in ("bptt", "dendritic"):
        return " ".join([own.rule.name, *(f"-{edge}" for edge in sorted(own.rule.cut))])
    return f"{own.rule.name} {own.rule.feedback}"


@pytest.fixture(params=CASES, ids="-".join, scope="module")
def case(request, built):
    """Protocol, size, preset, and what is compared, completed."""
    name, size = request.param
    preset = built(name, size)
    whole = (preset.network, preset.optimiser, preset.loss, preset.updates, preset.batch)
    return name, size, preset, {label: own.completed(*whole) for label, own in contenders(preset).items()}


def said(case, what):
    """What is said of every contender of a case."""
    name, size, _, own = case
    return {label: for_size(SAID[name][label], size)[what] for label in own}


@pytest.mark.parametrize("name", LEARNED)
def test_every_contender_is_listed(name, built):
    assert set(SAID[name]) == {label for each, size in CASES if each == name for label in contenders(built(name, size))}


def test_rules_and_where_they_run(case):
    name, size, _, own = case
    assert {label: rule_of(c) for label, c in own.items()} == said(case, "rule")
    where = "torch" if {name, (name, size)} & IN_TORCH else "brian2"
    for label, c in own.items():
        assert c.backend == (where if c.rule.local else "torch"), label
    std = {c.rule.signal.std for c in own.values() if c.rule.local and c.rule.feedback == "random"}
    assert std <= {case[2].feedback_std}


def test_what_learns(case):
    """And nothing else: projections, delays and parameters that the rule may change but the contender freezes stay."""
    _, _, preset, own = case
    for label, c in own.items():
        may = [*(p.name for p in c.network.plastic), *c.network.trainable]
        learns = [name for name in may if not c.optimiser.frozen(name)]
        assert sorted(learns) == sorted(spread(said(case, "learns")[label])), label
        if not said(case, "own_optimiser")[label]:
            assert c.optimiser == preset.optimiser.with_rates(**dict.fromkeys(set(may) - set(learns), 0.0)), label
        else:
            still = dict.fromkeys(may, 0.0)
            assert c.optimiser.with_rates(**still) != preset.optimiser.with_rates(**still), label


def test_how_long_they_learn(case):
    _, _, preset, own = case
    assert {label: c.updates / preset.updates for label, c in own.items()} == said(case, "times")
    assert {label: preset.batch / c.batch for label, c in own.items()} == said(case, "parts")


def test_losses(case):
    _, _, preset, own = case
    for label, c in own.items():
        wanted = said(case, "loss")[label]
        assert (c.loss == preset.loss) == (not wanted), label
        if wanted:
            regularised = " rate" * (preset.loss.regulariser is not None and "DelayNet" not in label)
            assert terms(c.loss) == wanted.replace("cross_entropy", f"cross_entropy{regularised}"), label


def test_networks_differ_in_what_the_name_says_and_in_nothing_else(case):
    _, _, preset, own = case
    wanted = {label: set(names.split()) for label, names in said(case, "apart").items()}
    assert {label: apart(preset.network, c.network) for label, c in own.items()} == wanted


def test_delays(case):
    wanted = {label: set(names.split()) for label, names in said(case, "delayed").items()}
    assert {label: delayed(c.network) for label, c in case[3].items()} == wanted


def test_what_looks_ahead(case):
    """Rates are prospective unless the membrane is sent as it is; errors of GLE, if they have a memory of their own."""
    for label, c in case[3].items():
        if rates := said(case, "rates")[label]:
            assert texts(c.network, r"(?m)^\s*u_breve = u :") == (rates == "lagging"), label
        if errors := said(case, "errors")[label]:
            assert texts(c.network, r"(?m)^\s*dv/dt = \(nudge - v\)/tau_r") == (errors == "prospective"), label
            assert texts(c.network, r"(?m)^\s*delta = nudge :") == (errors == "instantaneous"), label


def test_how_errors_come_back(case):
    back = {label: wanted for label, wanted in said(case, "back").items() if wanted}
    for label, wanted in back.items():
        assert backwards(case[3][label].network) == wanted, label


def test_membranes_that_remember_or_do_not(built):
    """Slow LIF neurons forget within seconds, fast ones within a cue."""
    for size in ("quick", "paper"):
        own = contenders(built("evidence-accumulation", size))
        found = {name: float(own[name].network.nodes["rec"].values["tau_mem"]) for name in own if "LIF" in name}
        assert found == {"slow LIF": 2.0, "slow LIF, feedforward": 2.0, "fast LIF": 0.02}


def test_noise(case):
    for label, c in case[3].items():
        found = {float(p.values["sigma"]) for p in c.network.populations.values() if "sigma" in p.values}
        assert found <= {said(case, "noise")[label]}, label
