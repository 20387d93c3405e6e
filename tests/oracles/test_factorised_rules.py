"""S-TLLR and ES-D-RTRL against their published recursions, written out here in numpy for two layers.

The papers' neurons feel a spike in the step in which it arrives, localplast's in the next: ``x_i[t]`` of the papers,
which meets ``psi_j[t]``, is here what arrived at t-1, and it has decayed once (:func:`Written.fresh`, ``ALPHA``).
Apolinario & Roy 2025, TMLR, eqs. 10-11; Wang et al. 2026, Nat Commun 17:1745.
"""

import functools

import numpy as np
import pytest
from brian2 import ms, mV

from localplast.errors import LocalplastError, UnsupportedError
from localplast.models import cuba_lif, leaky_readout
from localplast.network import Input, Network, Population, Projection, normal, synaptic
from localplast.program.learn import plan
from localplast.rules import es_d_rtrl, ostl, ottt, s_tllr, sltt
from localplast.task import Trials
from localplast.task.loss import mse

ALPHA, RHO, KAPPA = np.exp(-1 / 20), np.exp(-1 / 60), np.exp(-1 / 15)
BETA = {"low": np.array([0, 0, 0, 0.8, 1.2, 0.6, 1.5]), "top": np.array([0, 0, 0.5, 1.0, 0.7])}
START = {"low": np.linspace(0.3, 1.6, 7), "top": np.linspace(0.3, 1.6, 5)}


class Written:
    """The stack of ``conftest``: cues -> low -> top -> out, and low -> low where there is a loop."""

    def __init__(self, net, values, given):
        self.w, self.weight = values.weights, np.asarray(given.weight)
        self.delay = int(values.delays.get("low_top", 0))
        self.psi, self.spikes = {n: [] for n in START}, {n: [] for n in START}
        self.cues = np.asarray(given.inputs["cues"], float).swapaxes(0, 1)  # (time, trial, channel)
        outputs = self.run()
        self.error = self.weight[:, None, None] * (outputs - given.target.swapaxes(0, 1)) / outputs.shape[1]

    def run(self):
        v = {n: np.tile(start, (self.cues.shape[1], 1)) for n, start in START.items()}
        a, silent = ({n: np.zeros_like(v[n]) for n in START} for _ in range(2))
        y, outputs = 0.0, []
        for t, cues in enumerate(self.cues):
            for n in START:
                v[n], a[n] = ALPHA * v[n], RHO * a[n]
                x, ready = v[n] - 1 - BETA[n] * a[n], silent[n] <= 0
                self.psi[n].append(0.3 * np.maximum(0, 1 - np.abs(x)) * ready)
                self.spikes[n].append((x > 0) * ready * 1.0)
                silent[n] = np.where(self.spikes[n][t], 2.0, silent[n]) - 1  # two refractory steps
            low, top = (self.spikes[n][t] for n in START)
            v["low"] += cues @ self.w["cues_low"] + (low @ self.w["low_low"] if "low_low" in self.w else 0)
            if t >= self.delay:
                v["top"] += self.spikes["low"][t - self.delay] @ self.w["low_top"]
            y = KAPPA * y + top @ self.w["top_out"]
            outputs.append(y)
            for n in START:
                v[n], a[n] = v[n] - self.spikes[n][t], a[n] + self.spikes[n][t]
        return np.array(outputs)

    def fresh(self, name, lead=0):
        """What a projection delivered one step ago (``lead`` steps later), ``(time, trial, pre)``."""
        raster = self.cues if name == "cues_low" else np.array(self.spikes["low"])
        steps = 1 - lead + (self.delay if name == "low_top" else 0)
        return np.concatenate([np.zeros_like(raster[:steps]), raster[: len(raster) - steps]])

    def signals(self, direct=None):
        """``L`` of both layers, ``(time, trial, neuron)``; ``direct`` holds feedback by layer."""
        if direct:
            return {n: self.error @ direct[n].T for n in START}
        top = self.error @ self.w["top_out"].T
        passed = (top * np.array(self.psi["top"]) * ALPHA) @ self.w["low_top"].T
        late = 1 + self.delay  # a spike of low meets the threshold of top so many steps later
        return {"top": top, "low": np.concatenate([passed[late:], np.zeros_like(passed[:late])])}

    def gradients(self, eligibility, direct=None):
        """``sum_t L_j elig_ij`` of all projections between spikes; ``eligibility(layer, x)`` gives
        ``(time, trial, pre, post)``.
        """
        signal, found = self.signals(direct), {}
        for name in sorted(self.w.keys() - {"top_out"}):
            layer = name.split("_")[1]
            found[name] = np.einsum("tbj,tbij->ij", signal[layer], eligibility(self, layer, name))
        if "low_low" in found:
            np.fill_diagonal(found["low_low"], 0)
        return found


def two_traces(written, layer, name, *, lam_pre=0.75, lam_post=0.2, a_pre=1.0, a_post=-1.0, early=False, lead=0):
    """``early``: the trace of psi takes in the psi of the same step; ``lead``: x that many steps early. Both are
    wrong.
    """
    pre, post, found = 0.0, np.zeros_like(written.psi[layer][0]), []
    for psi, x in zip(written.psi[layer], written.fresh(name, lead), strict=True):
        pre = lam_pre * pre + x
        later = lam_post * post + psi
        found.append(ALPHA * (a_pre * outer(pre, psi) + a_post * outer(x, later if early else post)))
        post = later
    return np.array(found)


def factorised(written, layer, name, *, decay=0.9, reset=1.0, adaptation=1.0, smoothed=True):
    """State (v, a) of ALIF neurons: D is two by two. The other values of the arguments are wrong on purpose."""
    beta, eps_x, eps_v, eps_a, moved, found = BETA[layer], 0.0, 0.0, 0.0, 0.0, []
    for psi, x in zip(written.psi[layer], written.fresh(name), strict=True):
        eps_x = decay * eps_x + x
        passed_v, passed_a = ALPHA * (eps_v - reset * moved), RHO * (eps_a + adaptation * moved)
        eps_v, eps_a = decay * passed_v + (1 - decay if smoothed else 1) * ALPHA, decay * passed_a
        moved = psi * (eps_v - beta * eps_a)
        found.append(outer(eps_x, moved))
    return np.array(found)


def outer(pre, post):
    return pre[..., :, None] * post[..., None, :]


@pytest.fixture
def case(layered):
    """``(net, values, trials)`` of a stack that spikes as it should."""

    def make(**options):
        net, given = layered.stack(**options), layered.trials()
        layered.Stack(net, net.draw(3), given).alive()
        return net, net.draw(3), given

    return make


OPTIONS = {"plain": {}, "delay": {"delay": 2}, "loop": {"loop": True}}
SHD = {"lam_pre": 1.0, "lam_post": 0.5, "a_post": 1.0}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("rule", "eligibility"), [
    (s_tllr(), two_traces), (s_tllr(**SHD), functools.partial(two_traces, **SHD)),
    (es_d_rtrl(), factorised), (es_d_rtrl(decay=0.5, reset=False), functools.partial(factorised, decay=0.5, reset=0.0)),
], ids=["S-TLLR", "S-TLLR of SHD", "ES-D-RTRL", "ES-D-RTRL, reset cut"])  # fmt: skip
def test_equals_the_written_recursion(rule, eligibility, options, case, layered):
    net, values, given = case(**options)
    layered.equal(net, values, given, rule, Written(net, values, given).gradients(eligibility))


def test_straight_from_the_readout(case, layered):
    net, values, given = case()
    rng = np.random.default_rng(9)
    direct = {n: rng.standard_normal((len(start), 3)) for n, start in START.items()}
    expected = Written(net, values, given).gradients(two_traces, direct)
    layered.equal(net, values, given, s_tllr(feedback=direct, direct=True), expected)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("rule", "wrong", "size"), [
    (s_tllr(), functools.partial(two_traces, early=True), 0.1),
    (s_tllr(), functools.partial(two_traces, lead=1), 0.1),
    (s_tllr(), functools.partial(two_traces, lam_pre=0.2, lam_post=0.75), 0.1),
    (s_tllr(), functools.partial(two_traces, a_post=0.0), 0.1),
    (es_d_rtrl(), functools.partial(factorised, reset=0.0), 0.01),
    (es_d_rtrl(), functools.partial(factorised, adaptation=0.0), 0.01),
    (es_d_rtrl(), functools.partial(factorised, smoothed=False), 0.1),
], ids=["psi of this step", "spikes a step early", "traces exchanged", "causal term only", "reset", "adaptation", "weight of D_f"])  # fmt: skip
def test_a_wrong_recursion_shows(rule, wrong, size, case, layered):
    net, values, given = case()
    other = Written(net, values, given).gradients(wrong)
    for where, _, grads in layered.estimates(net, values, given, rule):
        for name in ("cues_low", "low_top"):
            assert layered.error(grads[name], other[name]) > size, (where, name)


@pytest.mark.parametrize(("one", "other"), [
    (s_tllr(a_post=0, lam_pre=20 * ms), ottt()),
    (s_tllr(a_post=0, lam_pre=float(ALPHA), lam_post=0.9), ottt()),
    (s_tllr(a_post=0, lam_pre=0.0), sltt()),
    (es_d_rtrl(decay=0.0), sltt()),
], ids=["OTTT", "OTTT, factor", "SLTT", "SLTT from ES-D-RTRL"])  # fmt: skip
@pytest.mark.sampled(2)
def test_special_cases(one, other, case, layered):
    """Where one trace is left and it is the membrane's, or nothing is remembered."""
    net, values, given = case(delay=2)
    pairs = zip(*(layered.estimates(net, values, given, rule) for rule in (one, other)), strict=True)
    for (where, tolerance, found), (_, _, expected) in pairs:
        for name in ("cues_low", "low_top"):
            assert layered.error(found[name], expected[name]) < tolerance, (where, name)


@pytest.mark.thorough
def test_other_decays_are_other_rules(case, layered):
    net, values, given = case()
    (_, _, exact), _ = layered.estimates(net, values, given, ottt())
    for rule in (s_tllr(a_post=0, lam_pre=19 * ms), s_tllr(lam_pre=20 * ms), es_d_rtrl(decay=0.1)):
        (_, _, found), _ = layered.estimates(net, values, given, rule)
        assert layered.error(found["cues_low"], exact["cues_low"]) > 0.01, rule


@pytest.mark.parametrize("rule", [s_tllr(), es_d_rtrl()], ids=["S-TLLR", "ES-D-RTRL"])
def test_nothing_is_kept_per_synapse(rule, case):
    net, *_ = case()
    assert all(s.state == () for s in plan(net, rule, mse()).synapses.values())
    assert plan(net, ostl(), mse()).synapses["cues_low"].state  # which they approximate


def volts(delay=None):
    return Network(
        dt=1 * ms, cues=Input(6), hid=Population(5, cuba_lif(tau_ref=2 * ms)), out=Population(2, leaky_readout(tau_out=15 * ms)),
        projections=[
            Projection("cues", "hid", weight=normal(25 * mV, mean=25 * mV), delay=delay), Projection("hid", "out", weight=normal(1.0))
        ],
    )  # fmt: skip


@pytest.mark.parametrize("rule", [s_tllr(), es_d_rtrl(reset=False)], ids=["S-TLLR", "ES-D-RTRL"])
def test_with_units_and_two_states(rule, layered):
    net = volts()
    rng, values = np.random.default_rng(5), net.draw(1)
    given = Trials({"cues": rng.random((2, 50, 6)) < 0.4}, rng.standard_normal((2, 50, 2)))
    (_, _, torch), (_, tolerance, brian2) = layered.estimates(net, values, given, rule)
    assert np.abs(torch["cues_hid"]).max() > 1e-3
    assert layered.error(brian2["cues_hid"], torch["cues_hid"]) < tolerance


def test_what_they_refuse():
    with pytest.raises(UnsupportedError, match=r"'hid'.*cuba_lif.*reset=False"):
        plan(volts(), es_d_rtrl(), mse())
    for rule in (s_tllr(), es_d_rtrl(reset=False)):
        with pytest.raises(UnsupportedError, match="'cues_hid'.*axonal"):
            plan(volts(synaptic(np.arange(30).reshape(6, 5) % 3 * ms)), rule, mse())
    with pytest.raises(LocalplastError, match="lam_post.*1.5"):
        s_tllr(lam_post=1.5)
    with pytest.raises(LocalplastError, match="decay.*-0.1"):
        es_d_rtrl(decay=-0.1)
