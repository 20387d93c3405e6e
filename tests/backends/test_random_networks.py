"""Random networks of random neurons, with delays of every kind: the same trajectories on both backends."""

import brian2 as b2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.network import Delay, Input, Network, Population, Projection
from localplast.neuron import NeuronModel
from localplast.task import Trials

LONGEST = 20  # steps of a delay
UNITS = {"1": 1.0, "volt": 1e-2, "amp": 1e-9, "siemens": 1e-8}
BOUNDED = (  # |f| <= 1, so that no choice of coefficients runs away
    "tanh({x})", "sin({x})", "cos({x})", "clip({x}, -0.5, 0.5)", "exp(-({x})**2)", "1/(1 + exp(-{x}))",
    "abs({x})/(1 + abs({x}))", "int({x} > 0.3)",
)  # fmt: skip


class Writer:
    """Writes a random neuron: names, units and numbers are kept together, so that the text always has the right
    units.
    """

    def __init__(self, draw, rng, most):
        self.draw, self.rng, self.parameters = draw, rng, {}
        count = draw(st.integers(1, most))
        self.names = ["v", "u", "s", "q"][:count]
        self.units = {name: draw(st.sampled_from(sorted(UNITS))) for name in self.names}

    def quantity(self, value, *units):
        """``value`` with the unit of the first variable over those of the others; the value is in typical sizes."""
        over, *under = [
            Quantity(UNITS[u], dim=b2.get_dimensions(b2.Unit(1) if u == "1" else getattr(b2, u))) for u in units
        ]
        for unit in under:
            over = over / unit
        return value * over

    def parameter(self, name, value, *units):
        self.parameters[name] = self.quantity(value, *units) if units else value
        return name

    def scaled(self, name):
        """``name`` without unit."""
        return f"{name}/{self.parameter(f'{name}_size', 1.0, self.units[name])}"

    def coupling(self, name, others, functions):
        """A term of the equation of ``name``, linear or bounded, of size 0.3 at most."""
        other, size = self.draw(st.sampled_from(others)), self.rng.uniform(-0.3, 0.3)
        text = self.draw(st.sampled_from(["{x}", *functions]))
        key = f"c_{name}_{other}"
        if text == "{x}" and other != name:
            return f"{self.parameter(key, size, self.units[name], self.units[other])}*{other}"
        text = functions[0] if text == "{x}" and functions else text
        if text == "{x}":
            return "0*" + name  # exact integration of one variable: nothing to couple to
        return f"{self.parameter(key + '_f', size, self.units[name])}*({text.format(x=self.scaled(other))})"

    def equation(self, name, method, flagged):
        """``d name/dt``: a leak, couplings to other variables, and what projections deliver to the first of them."""
        number = self.names.index(name)
        others = (
            self.names[:number]
            if method == "exact"
            else [n for n in self.names if n != name or method != "exponential_euler"]
        )
        functions = () if method == "exact" else BOUNDED
        terms = [f"-{name}"]
        if others:
            terms += [self.coupling(name, others, functions) for _ in range(self.draw(st.integers(0, 2)))]
        if name == "v":
            terms.append("drive + current")
        # all different: exact needs it
        tau = self.parameter(f"tau_{name}", (7 + 6 * number + 5 * self.rng.random()) * ms)
        return f"d{name}/dt = ({' + '.join(terms)})/{tau} : {self.units[name]}{flagged}"


#: How many variables a method takes before its symbolic update becomes too long to be quick.
MOST = {"exact": 3, "exponential_euler": 4, "euler": 4, "rk2": 3, "rk4": 2, "heun": 4}


@st.composite
def neurons(draw):
    """A random neuron whose subthreshold dynamics are stable by construction.

    Spikes arrive at ``current`` and at variables that are not clamped, graded values at ``drive``.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    method = draw(st.sampled_from(sorted(MOST)))
    write = Writer(draw, rng, MOST[method])
    refractory = draw(st.sampled_from([None, 0.0, 1.0, 3.5, 7.0]))
    flags = {n: " (unless refractory)" if refractory is not None and draw(st.booleans()) else "" for n in write.names}
    lines = [write.equation(name, method, flags[name]) for name in write.names]
    last, v_unit = write.names[-1], write.units["v"]
    lines.append(f"dcurrent/dt = -current/{write.parameter('tau_current', 4 * ms)} : {v_unit}")
    lines.append(f"drive : {v_unit}")
    if refractory is not None:
        write.parameter("tau_ref", refractory * ms)
    theta = write.parameter("theta", 1.0, v_unit)
    threshold = draw(st.sampled_from([f"v > {theta}", f"v >= {theta}", f"{theta} < v"]))
    if last != "v" and draw(st.booleans()):
        threshold = f"v > {theta} + {write.parameter('rise', 0.2, v_unit, write.units[last])}*{last}"
    reset = draw(st.sampled_from([f"v -= {theta}", f"v = {write.parameter('v_reset', -0.3, v_unit)}", "v *= 0.1"]))
    adaptation = ""
    if last != "v":
        adaptation = draw(
            st.sampled_from(["", f"{last} += {write.parameter('jump', 0.5, write.units[last])}", f"{last} *= 0.5"])
        )
    update = ""
    if draw(st.booleans()):
        update = (
            f"{last} = 0.9*{last} + 0.05*{write.parameter('pull', 1.0, write.units[last])}*tanh({write.scaled(last)})"
        )
    return NeuronModel(
        name="random", equations="\n".join(lines), threshold=threshold, reset=reset, adaptation=adaptation, update=update,
        refractory="tau_ref" if refractory is not None else None, method=method, parameters=write.parameters,
        initial={"v": write.quantity(0.2, v_unit)}, output=draw(st.sampled_from(["v", f"tanh({write.scaled('v')})"])),
        receives="current",
    )  # fmt: skip


@st.composite
def delays(draw, pre, post, dt):
    """No delay, or one of the three kinds, of 0 to 20 steps, all off a whole number of them by the same part of a
    step.
    """
    kind = draw(st.sampled_from([None, "axonal", "dendritic", "synaptic"]))
    if kind is None:
        return None
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = {"axonal": (pre,), "dendritic": (post,), "synaptic": (pre, post)}[kind]
    shape = () if kind != "synaptic" and draw(st.booleans()) else shape
    steps = rng.integers(0, draw(st.integers(1, LONGEST)) + 1, shape) + rng.uniform(-0.4, 0.4)
    return Delay(kind, np.clip(steps, 0, LONGEST) * dt)


@st.composite
def networks(draw):
    """Two random populations, driven by spikes and currents, connected by events and graded values; and its trials."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dt = draw(st.sampled_from([1.0, 0.5])) * ms
    sizes = {"cues": 6, "a": 4, "b": 3}
    models = {"a": draw(neurons()), "b": draw(neurons())}
    projections = []

    def event(pre, post, target, mean, spread, name):
        unit = Quantity(UNITS[unit_of(models[post], target)], dim=models[post].dimensions[target])
        weight = (mean + spread * rng.standard_normal((sizes[pre], sizes[post]))) * unit
        delay = draw(delays(sizes[pre], sizes[post], dt))
        projections.append(
            Projection(pre, post, weight=weight, delay=delay, target=target, mask=0.8, transmission="event", name=name)
        )

    def graded(pre, post, name):
        target = models[post].dimensions["drive"]
        size = UNITS[unit_of(models[post], "v")] / (1 if pre == "drive" else output_size(models[pre]))
        dim = target if pre == "drive" else target / output_dimension(models[pre])
        weight = Quantity(size * 0.1 * rng.standard_normal((2 if pre == "drive" else sizes[pre], sizes[post])), dim=dim)
        delay = draw(delays(len(weight), sizes[post], dt))
        projections.append(
            Projection(pre, post, weight=weight, delay=delay, target="drive", transmission="graded", name=name)
        )

    for post in ("a", "b"):
        event("cues", post, "current", 0.8, 0.4, f"cues_{post}")
    links = draw(st.lists(st.sampled_from(["a_a", "a_b", "b_a", "b_b"]), unique=True, min_size=1))
    for number, link in enumerate(links):
        pre, post = link.split("_")
        target = draw(st.sampled_from([n for n in models[post].odes if not clamped(models[post], n)]))
        event(pre, post, target, 0.0, 0.2, f"event{number}")
    for number, link in enumerate(
        draw(st.lists(st.sampled_from(["a_a", "a_b", "b_a", "drive_a", "drive_b"]), unique=True))
    ):
        graded(*link.split("_"), f"graded{number}")
    thresholds = models["a"].parameters["theta"] * (1 + 0.1 * rng.random(4))
    parameters = {"theta": thresholds} if draw(st.booleans()) else {}
    net = Network(
        dt=dt, cues=Input(6), drive=Input(2, "currents"), a=Population(4, models["a"], parameters),
        b=Population(3, models["b"]), projections=projections,
    )  # fmt: skip
    drive = np.cumsum(rng.standard_normal((2, 150, 2)), axis=1) / 5
    return net, Trials({"cues": rng.random((2, 150, 6)) < 80 * float(dt), "drive": drive})


def unit_of(model, name):
    """The unit of a variable as it is written in the equations."""
    return (
        next(line for line in model.equations.splitlines() if line.startswith((f"d{name}/", f"{name} :")))
        .split(":")[1]
        .split()[0]
    )


def clamped(model, name):
    return "unless refractory" in model.parsed[name].flags


def output_size(model):
    return UNITS[unit_of(model, "v")] if model.output == "v" else 1.0


def output_dimension(model):
    return model.dimensions["v"] if model.output == "v" else b2.get_dimensions(1)


def check_random(case, twins, tally):
    """Compare one random network; those that hang on a rounding error or are silent are drawn again, and counted."""
    net, trials = case
    margin = []
    other = twins.torch(net, trials, margin=margin)
    if margin[0] < 1e-9:
        tally["within rounding of a threshold"] = tally.get("within rounding of a threshold", 0) + 1
        hypothesis.event("resampled: within rounding of a threshold")
        hypothesis.assume(False)
    rates = [other[f"{name}.spikes"].mean() / float(net.dt) for name in net.populations]
    if not all(0.5 <= rate <= 400 for rate in rates):
        tally["silent or racing"] = tally.get("silent or racing", 0) + 1
        hypothesis.event("resampled: silent or racing")
        hypothesis.assume(False)
    one = twins.brian2(net, trials)
    twins.compare(one, other)
    tally["compared"] = tally.get("compared", 0) + 1


SETTINGS = {  # nothing is shrunk: each network takes a second, and the first that fails says enough
    "deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(hypothesis.HealthCheck),
    "phases": [hypothesis.Phase.generate],
}  # fmt: skip


def random_networks(examples, twins):
    """Run ``examples`` comparisons and say how many networks were drawn for them."""
    tally = {}

    @hypothesis.settings(max_examples=examples, **SETTINGS)
    @hypothesis.given(networks())
    def run(case):
        check_random(case, twins, tally)

    run()
    print(f"random networks: {tally}")
    assert tally["compared"] >= examples


@pytest.mark.parametrize(
    "number", [4, pytest.param(12, marks=pytest.mark.thorough), pytest.param(200, marks=pytest.mark.slow)]
)
def test_random_networks_are_the_same_on_both_backends(number, twins):
    random_networks(number, twins)
