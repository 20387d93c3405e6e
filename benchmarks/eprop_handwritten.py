"""e-prop as Brian2 users write it by hand, for the C++ standalone mode: traces are equations of the synapses.

The same network, inputs, loss, feedback and optimiser as localplast's own model in ``eprop.py``: the weights after
learning agree to rounding. It stands for what a generated model has to keep up with.
"""

import brian2 as b2
import numpy as np
from brian2 import ms
from eprop_problem import ALPHA, LEARNING_RATE, TAU_REF, V_TH, WINDOW, adaptation

__all__ = ["build", "learn"]

NEURON = """
    dv/dt = -v/tau_mem : 1
    da/dt = -a/tau_adapt : 1
    psi = int(not_refractory)*0.3/v_th*clip(1 - abs(v - v_th - beta*a)/v_th, 0, 1) : 1
    beta : 1 (constant)
    L : 1
"""
READOUT = """
    dy/dt = -y/tau_out : 1
    error : 1
"""
ADAM = """
    g : 1
    m : 1
    s : 1
    k : 1 (shared)
"""
#: Onto hidden neurons: eligibility vector of v and a, eligibility, and its filter.
HIDDEN = (
    ADAM
    + """
    w : 1
    deps_v/dt = -eps_v/tau_mem : 1 (clock-driven)
    deps_a/dt = -eps_a/tau_adapt : 1 (clock-driven)
    dfiltered/dt = -filtered/tau_out : 1 (clock-driven)
    elig : 1
"""
)
OUT = (
    ADAM
    + """
    w : 1
    B : 1 (constant)
    dspikes/dt = -spikes/tau_out : 1 (clock-driven)
    L_pre = B*error_post : 1 (summed)
"""
)
#: Adam, once per trial; the first call comes before any trial, with no gradient.
UPDATE = """
    k += 1
    m = beta1*m + (1 - beta1)*g
    s = beta2*s + (1 - beta2)*g**2
    w = w - rate*sqrt(1 - beta2**clip(k, 1, 1e9))/(1 - beta1**clip(k, 1, 1e9))*m/(sqrt(s) + 1e-8)
    g = 0
"""


def build(numbers, directory):
    """Compile the program in ``directory`` (again, only what changed); returns the three Synapses.

    Parameters
    ----------
    numbers : eprop_problem.Numbers
    directory : path
    """
    trials, steps, channels = numbers.spikes.shape
    duration, beta = steps * ms, adaptation()
    b2.set_device("cpp_standalone", build_on_run=False)
    b2.defaultclock.dt = 1 * ms
    constants = dict(
        tau_mem=20 * ms,
        tau_adapt=2000 * ms,
        tau_out=20 * ms,
        v_th=V_TH,
        alpha=ALPHA,
        beta1=0.9,
        beta2=0.999,
        rate=LEARNING_RATE,
        steps=steps,
        target=b2.TimedArray(np.eye(2)[numbers.labels], dt=duration, name="target"),
        judged=b2.TimedArray(np.where(np.arange(steps) < steps - WINDOW, 0.0, 1 / WINDOW), dt=1 * ms, name="judged"),
    )
    options = {"namespace": constants, "method": "exact"}
    trial, step, channel = np.nonzero(numbers.spikes)
    cues = b2.SpikeGeneratorGroup(channels, channel, (trial * steps + step) * ms, name="cues")
    rec, out = neurons(beta, options)
    synapses = [onto_hidden("cues_rec", cues, rec, options), onto_hidden("rec_rec", rec, rec, options)]
    synapses.append(onto_readout("rec_out", rec, out, options))
    rec.run_regularly("v = 0; a = 0; lastspike = -1*second", dt=duration, when="start", name="rec_restart")
    out.run_regularly("y = 0", dt=duration, when="start", name="out_restart")
    for s in synapses:
        traces = "spikes = 0" if s.name == "rec_out" else "eps_v = 0; eps_a = 0; filtered = 0"
        s.run_regularly(UPDATE + traces, dt=duration, when="start", name=f"{s.name}_update")
        s.k = -1
        s.w = numbers.weights[s.name][mask(s.name, numbers.weights)]
    synapses[-1].B = numbers.feedback.ravel()
    network = b2.Network(cues, rec, out, *synapses)
    # the last update comes with the first step after the last trial
    network.run(trials * duration + 1 * ms, namespace={})
    b2.device.build(directory=str(directory), run=False, with_output=False)
    return synapses


def neurons(beta, options):
    """Hidden neurons and the readout with its error."""
    threshold, reset = "v > v_th + beta*a", "v -= v_th/alpha; a += 1"
    rec = b2.NeuronGroup(
        len(beta), NEURON, threshold=threshold, reset=reset, refractory=TAU_REF * ms, name="rec", **options
    )
    rec.beta = beta
    out = b2.NeuronGroup(2, READOUT, name="out", **options)
    error = "error = judged((t_in_timesteps % steps)*dt)*(y - target(t, i))"
    out.run_regularly(error, when="end", order=0, name="out_error")
    return rec, out


def onto_hidden(name, pre, post, options):
    """Plastic synapses onto hidden neurons. Eligibility looks at psi before the reset, the gradient at this step's
    error.
    """
    s = b2.Synapses(pre, post, HIDDEN, on_pre="v_post += w; eps_v += 1", name=name, **options)
    s.connect(condition="i != j" if pre is post else None)
    trace = "elig = psi_post*(eps_v - beta_post*eps_a); eps_a += elig; filtered += elig"
    s.run_regularly(trace, when="before_thresholds", name=f"{name}_trace")
    s.run_regularly("g += L_post*filtered", when="end", order=2, name=f"{name}_gradient")
    return s


def onto_readout(name, pre, post, options):
    """Plastic synapses onto the readout, which also carry its error back."""
    s = b2.Synapses(pre, post, OUT, on_pre="y_post += w; spikes += 1", name=name, **options)
    s.connect()
    s.summed_updaters["L_pre"].when, s.summed_updaters["L_pre"].order = "end", 1
    s.run_regularly("g += error_post*spikes", when="end", order=2, name=f"{name}_gradient")
    return s


def mask(name, weights):
    """Synapses that exist, in the order in which Brian2 makes them."""
    exists = np.ones(weights[name].shape, bool)
    if name == "rec_rec":
        np.fill_diagonal(exists, False)
    return exists


def learn(directory):
    """Run the program once, from its first weights."""
    b2.device.run(directory=str(directory), with_output=False, run_args=[])
