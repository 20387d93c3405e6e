"""Whatever a network file says, nothing of it runs: names are plain words, fields have types, text is bounded and
parsed.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

import localplast as lp
from localplast import ms
from localplast.backends.c.blocks import BlockSource
from localplast.backends.c.function import NetworkFunction
from localplast.backends.torch.interpreter import numbers
from localplast.backends.torch.step import leaves
from localplast.equations.bounded import check_bounded, check_written
from localplast.errors import LocalplastError, ModelError
from localplast.models import alif, leaky_readout, lif
from localplast.network.delays import kernel_widths
from localplast.neuron.surrogate import Surrogate

#: What each payload carries, so that it is found wherever it comes out.
MARK = "own_mark"
PAYLOADS = {
    "end of a comment": f"*/ int {MARK}; /*",
    "another line": f"v\nint {MARK}(void);",
    "directive": f'v\n#include "{MARK}"',
    "quote": f'v"); {MARK}("',
    "shell": f"v; $(touch {MARK}) `touch {MARK}` ${{{MARK}}}",
    "template": f"{{{{ {MARK} }}}} {{% {MARK} %}}",
    "call": f'__import__("{MARK}").run()',
    "look-alike": f"ｖ_{MARK}",
    "greek": f"\u03bd_{MARK}",
    "endless": MARK * 5000,
    "null": f"v\0{MARK}",
    "path": f"../../{MARK}",
    "tower": f"9**9**9**9*{MARK}",
    "keyword": "operator",
    "list": [MARK],
    "type": {"type": "Popen", "args": MARK},
}


def network():
    """A network in whose file every kind of part stands."""
    rec = alif(surrogate=Surrogate("0.3/width*exp(-abs(x)/width)", {"width": 1.0}))
    return lp.Network(
        dt=1 * ms,
        cues=lp.Input(3), rec=lp.Population(4, rec, {"tau_mem": 20 * ms}, {"v": 0.5}, trainable={"tau_mem": (5 * ms, 40 * ms)}),
        out=lp.Population(2, replace(leaky_readout(), reference="nobody")),
        projections=[
            lp.Projection("cues", "rec", delay=lp.axonal(np.array([1, 2, 3]) * ms), bounds=(-9.0, 9.0), mask=0.9, name="in_rec"),
            lp.Projection("rec", "out"), lp.Projection("rec", "rec", weight=lp.same_as("rec_two"), name="rec_one"),
            lp.Projection("rec", "rec", weight=lp.normal(0.1), name="rec_two"),
        ],
    )  # fmt: skip


#: Those that are tried where numbers stand.
ANYWHERE = ("call", "list")


def places(data, path=()):
    """Paths of all values in JSON data, and those of keys, which end in None."""
    if isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            if isinstance(key, str) and path and path[-1] == "map":
                yield (*path, key, None)
            yield from places(value, (*path, key))
    else:
        yield path


def text_in(data, path):
    """Whether text stands in a place, or a key."""
    for key in path:
        data = key if key is None or data is None else data[key]
    return data is None or isinstance(data, str)


def changed(data, path, payload):
    """A copy of the data with the payload in this place."""
    copy = json.loads(json.dumps(data))
    renamed, path = path[-1] is None, path[:-1] if path[-1] is None else path
    owner = copy
    for key in path[:-1]:
        owner = owner[key]
    if renamed:
        owner[payload if isinstance(payload, str) else str(payload)] = owner.pop(path[-1])
    else:
        owner[path[-1]] = payload
    return copy


def generated(net):
    """The C text made for a network."""
    values, learned = net.draw(), frozenset({"rec.tau_mem"})
    tensors = leaves(net, values)
    pair = NetworkFunction(net, tensors, values.masks).pair(learned, learned, kernel_widths(net))
    known = numbers(net, pair[0], tensors, values.masks)
    return BlockSource(*pair, block=1, double=True, bits=frozenset(), numbers=known).text


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "net.json"
    network().save(path)
    return json.loads(path.read_text())


def test_there_are_thirty_fields_to_write_into(written):
    fields = {tuple(k for k in place if not isinstance(k, int)) for place in places(written)}
    assert len(fields) > 60 and any(place[-1] is None for place in fields)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_field_of_a_network_file_reaches_generated_code(written, tmp_path, payload):
    """It is refused by name, or it stays a remark: what loads makes the same C text as before."""
    path, plain, loaded = tmp_path / "net.json", generated(network()), []
    for place in places(written):
        if payload not in ANYWHERE and not text_in(written, place):
            continue
        path.write_text(json.dumps(changed(written, place, PAYLOADS[payload])))
        try:
            net = lp.Network.load(path)
        except LocalplastError as error:
            assert len(str(error)) < 2000
            continue
        loaded.append(place)
        assert generated(net) == plain
    overwritten = ("rec", "model", "parameters", "map", "width")  # by the surrogate's
    remarks = [place for place in loaded if place[-1] in ("reference", "kind") or place[3:8] == overwritten]
    assert len(remarks) == len(loaded), [place for place in loaded if place not in remarks]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"map": {}}', '{"map": 3}', "[" * 100_000, '{"map": {"dt": 1e400}}', "1" * 10_000]
)
def test_a_file_that_is_no_network_says_so(tmp_path, text):
    path = tmp_path / "net.json"
    path.write_text(text)
    with pytest.raises(LocalplastError, match="net.json holds no"):
        lp.Network.load(path)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "*/",
        "q\nint x;",
        "ｖ",
        "\u03bd",
        "v\n",
        "class",
        "operator",
        "double",
        "linux",
        "v" * 65,
        "",
        3,
        "1v",
        "v-1",
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda name: replace(lif(), name=name),
        lambda name: replace(lif(), parameters={**lif().parameters, name: 1.0}),
        lambda name: replace(lif(), surrogate=Surrogate("1/v_th", {name: 1.0})),
        lambda name: lp.Network(dt=1 * ms, **{str(name): lp.Input(3)}),
        lambda name: lp.Network(
            dt=1 * ms,
            a=lp.Input(3),
            b=lp.Population(2, lif()),
            projections=[lp.Projection("a", "b", name=str(name) or " ")],
        ),
        lambda name: replace(lp.adam(1e-3), state={name: 1}),
        lambda name: replace(lp.sgd(1e-3), constants={"learning_rate": 1e-3, name: 1.0}),
        lambda name: replace(lp.sgd(1e-3), statements=((name, "w"), ("w", "w"))),
    ],
    ids=["model", "parameter", "surrogate", "population", "projection", "optimiser's state", "constant", "statement"],
)
def test_names_are_plain_words(make, name):
    with pytest.raises(LocalplastError, match="cannot name|is a function"):
        make(name)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9", "9**(9**9)", "(9**99)**99", "10**1000", "10**-1000", "1e400", "1e200*1e200", "9" * 400, "9**(1e9 + v - v)",
        "2**((v/v)*99*99*99)", "metre**1e9", "1/second**9**9", "exp(exp(exp(1000)))", "exp(exp(1e6))",
        "exp(exp(v - v + 1e6))", "(a + b + c + v)**100", "-" * 4000 + "1",
        "1" + "+1" * 400, "1" * 20_001, "v*ｖ", "v\0",
    ],
)  # fmt: skip
def test_text_is_bounded_before_anybody_computes_it(text):
    places = {
        "equations": f"dv/dt = -v/tau + {text} : 1", "threshold": f"v > {text}", "reset": f"v = {text}", "update": f"v = {text}",
        "output": text, "adaptation": f"v -= {text}", "surrogate": Surrogate(text),
    }  # fmt: skip
    plain = dict(
        name="m",
        equations="dv/dt = -v/tau : 1",
        parameters={"tau": 10 * ms},
        threshold="v > 1",
        reset="v = 0",
        output="v",
    )
    for what, written in places.items():
        with pytest.raises(ModelError, match=f"^m: the text of its {what} (has|holds|is) "):
            lp.NeuronModel(**{**plain, what: written})
    with pytest.raises(ModelError, match="^m: the text of its equations |^m: the equations do not parse"):
        lp.NeuronModel(**{**plain, "equations": f"dv/dt = -v/tau : 1\nx : {text}"})
    with pytest.raises(ValueError):
        check_bounded(text)


@pytest.mark.parametrize(
    "text",
    [
        "3**((T - 22*kelvin)/(10*kelvin))", "0.07*exp((-70*mV - v)/(20*mV))", "exp(-dt*exp(clip(v/D, -100, 20)))", "1e-12*farad",
        "2**-30", "(1 + v)**8",
        "exp(-exp(-(v - 20*mV)/(0.1*mV)))", "exp(I/pA)",
        "x = 3*v : 1 # \u03c4, eq. 9**9**9\ndv/dt = (v + 1)**3/ms : metre**2",
    ],
)  # fmt: skip
def test_what_people_write_is_within_bounds(text):
    check_written(text)
