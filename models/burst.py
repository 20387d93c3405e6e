"""Pyramidal neurons whose bursts say something of their own: events travel up, bursts bring the error back down.

Both neurons here tell events from bursts by the same equations. Their soma drives events, their dendrite makes bursts
of them.
"""

from brian2 import Hz, ms, mV, nS, pA, pF, second
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import Mismatch, NeuronModel

__all__ = ["burst_poisson", "naud_sprekeler"]

#: What a neuron remembers of its own events and bursts. Averages are those of the steps before, so that what a burst or
#: an event is compared with does not know of it yet.
MEMORY = """
    event_trace : 1
    E_bar : Hz
    B_bar : Hz
    age : second
    solitary : 1
    event : 1
    burst : 1
    gate : 1
    p_bar = B_bar/(E_bar + 1e-9*Hz) : 1
    too_low = dt*clip(e_min - E_bar, 0*Hz, e_min) : 1
    too_high = event*clip(1 - e_max/(E_bar + 1e-9*Hz), 0, 1) : 1
"""
FORGET = """
    event_trace = exp(-dt/tau_trace)*event_trace + event
    E_bar = exp(-dt/tau_avg)*E_bar + event/tau_avg
    B_bar = exp(-dt/tau_avg)*B_bar + burst/tau_avg
    event = 0
    burst = 0
    age += dt
"""
#: An event ends a silence longer than ``isi_max``; the next spike, if it comes in time, makes a burst of it. Half a
#: step more: ages are sums of steps, and rounding must not tell intervals of exactly ``isi_max`` apart.
SORT = """
    event = int(age > isi_max + dt/2)
    burst = (1 - event)*solitary
    solitary = event
    age = 0*second
"""
SYNAPSES = """
    dg_exc/dt = -g_exc/tau_exc : 1
    dg_inh/dt = -g_inh/tau_inh : 1
    dg_exc_d/dt = -g_exc_d/tau_exc : 1
    dg_inh_d/dt = -g_inh_d/tau_inh : 1
    I_s : amp
    I_d : amp
"""
#: Published numbers of both cells.
CELL = {
    "E_L": -70 * mV,
    "E_e": 0 * mV,
    "E_i": -80 * mV,
    "tau_exc": 5 * ms,
    "tau_inh": 10 * ms,
    "tau_s": 16 * ms,
    "C_s": 370 * pF,
    "b": -200 * pA,
    "tau_ws": 100 * ms,
    "tau_d": 7 * ms,
    "C_d": 170 * pF,
    "a": -13 * nS,
    "tau_wd": 30 * ms,
    "D_d": 6 * mV,
    "isi_max": 16 * ms,
    "e_min": 2 * Hz,
    "e_max": 10 * Hz,
}
#: Averages start from this rate of events, of which this share are bursts; long ago was the last spike.
REST = {"v_s": -70 * mV, "v_d": -70 * mV, "E_bar": 5 * Hz, "B_bar": 1 * Hz, "age": 1 * second, "gate": 1.0}


def learns() -> dict[str, Mismatch]:
    """Weights onto the excitatory conductance of the soma learn from bursts; homeostasis keeps
    ``e_min < E_bar < e_max``.
    """
    return {"g_exc": Mismatch("gate*(burst - p_bar*event + too_low - too_high)", pre="event_trace")}


def naud_sprekeler(
    *, tau_trace: Quantity = 100 * ms, tau_avg: Quantity = 5 * second, **parameters: Quantity
) -> NeuronModel:
    """Soma and regenerative dendrite, each with adaptation, a moving threshold and back-propagating action potentials::

        dv_s/dt = (E_L - v_s)/tau_s + (g_s*f(v_d) + w_s + I_s)/C_s       f(v_d) = 1/(1 + exp((E_d - v_d)/D_d))
        dv_d/dt = (E_L - v_d)/tau_d + (g_d*f(v_d) + w_d + c_bap*bap + I_d)/C_d

    plus synaptic conductances ``g_exc``, ``g_inh`` (soma), ``g_exc_d``, ``g_inh_d`` (dendrite), in units of the leak.
    A spike is back in the dendrite, as a current ``c_bap``, for ``tau_bap``.

    =================== ===================================================== =============
    parameter           meaning                                               unit
    =================== ===================================================== =============
    E_L, E_e, E_i       resting and reversal potentials                       volt
    tau_s, tau_d        membrane time constants of soma and dendrite          second
    C_s, C_d            capacitances                                          farad
    g_s, g_d            regenerative current of the dendrite, at the soma     amp
                        and at itself
    E_d, D_d            where the dendrite becomes regenerative, and how      volt
                        steeply
    b, tau_ws           current after a spike, and how it fades               amp, second
    a, tau_wd           subthreshold adaptation of the dendrite               siemens, second
    c_bap, tau_bap      back-propagating action potential                     amp, second
    v_th                threshold at rest                                     volt
    rise_th, tau_th     rise of the threshold at a spike, and how it fades    volt, second
    tau_exc, tau_inh    synaptic time constants                               second
    isi_max             longest interval within a burst                       second
    tau_trace           memory of the event trace that synapses see           second
    tau_avg             of the averages ``E_bar`` and ``B_bar``               second
    e_min, e_max        range of event rates that homeostasis leaves alone    hertz
    =================== ===================================================== =============

    ``I_s`` and ``I_d`` are set by graded projections: noise and errors come from outside. Plastic weights land on
    ``g_exc``: ``dw = event_trace_j * (burst_i - p_bar_i*event_i)``, with ``p_bar = B_bar/E_bar``, where ``gate`` (1
    unless driven) is 1.

    Naud & Sprekeler 2018, PNAS 115:E6329; Payeur et al. 2021, Nat Neurosci 24:1010, eqs. 1 and 10-16.
    """
    return NeuronModel(
        name="naud_sprekeler",
        equations=f"""
            dv_s/dt = (E_L - v_s + g_exc*(E_e - v_s) + g_inh*(E_i - v_s))/tau_s + (g_s*f_d + w_s + I_s)/C_s : volt
            dv_d/dt = (E_L - v_d + g_exc_d*(E_e - v_d) + g_inh_d*(E_i - v_d))/tau_d \
                     + (g_d*f_d + w_d + c_bap*bap + I_d)/C_d : volt
            dw_s/dt = -w_s/tau_ws : amp
            dw_d/dt = (a*(v_d - E_L) - w_d)/tau_wd : amp
            dtheta/dt = -theta/tau_th : volt
            f_d = 1/(1 + exp((E_d - v_d)/D_d)) : 1
            bap = int(age < tau_bap - dt/2) : 1
            {SYNAPSES}
            {MEMORY}
        """,
        method="euler",
        update=FORGET,
        threshold="v_s > v_th + theta",
        reset="v_s = E_L",
        adaptation=f"""
            w_s += b
            theta += rise_th
            {SORT}
        """,
        receives="g_exc",
        initial=REST,
        parameters=CELL
        | {
            "g_s": 1300 * pA,
            "g_d": 1200 * pA,
            "E_d": -38 * mV,
            "c_bap": 2600 * pA,
            "tau_bap": 2 * ms,
            "v_th": -50 * mV,
            "rise_th": 2 * mV,
            "tau_th": 27 * ms,
            "tau_trace": tau_trace,
            "tau_avg": tau_avg,
        }
        | parameters,
        mismatch=learns(),
        reference="Naud & Sprekeler 2018, PNAS 115:E6329; Payeur et al. 2021, Nat Neurosci 24:1010",
    )


def burst_poisson(
    *, tau_trace: Quantity = 100 * ms, tau_avg: Quantity = 5 * second, **parameters: Quantity
) -> NeuronModel:
    """The same cell with chance in place of noise: the soma says how likely an event is, the dendrite how likely a
    burst::

        P(event) = 1 - exp(-dt*Hz*exp((v_s - v_th)/D_s))    where the last spike was longer ago than tau_ref
        P(burst | event) = 1/(1 + exp((E_d - v_d)/D_d))

    The second spike of a burst follows its event after ``delay``. ``die``, uniform from 0 to 1 and new in every step,
    comes from outside (an Input of kind ``'currents'``, one channel per neuron), so that both backends throw the
    same. One per step is enough: thrown in the step before, it decides on an event; in the step of the event, whether
    a burst follows. The second spike of a burst leaves the soma as it is, so that the rate of events hardly knows of
    the dendrite.

    Plasticity is best studied here: the dendrite leaves the rate of events alone, and the probability of a burst is
    known, not estimated. Parameters as those of :func:`naud_sprekeler`, and

    =================== ===================================================== =============
    v_th, D_s           where events come once a second, and how steeply      volt
    tau_ref             shortest interval from any spike to the next event    second
    delay               from an event to the second spike of its burst        second
    gain                dendritic current per hertz of missing events         amp*second
    =================== ===================================================== =============

    ``wanted`` is the event rate that a teacher asks for, 0 where there is none: the dendrite of a neuron that is
    taught gets the current ``gain*(wanted - E_bar)``.

    Payeur et al. 2021, Nat Neurosci 24:1010, methods; numbers as in the authors' code (EventBurstPoissonGroup, and
    BurstPoissonGroup for what follows a burst).
    """
    return NeuronModel(
        name="burst_poisson",
        equations=f"""
            dv_s/dt = (E_L - v_s + g_exc*(E_e - v_s) + g_inh*(E_i - v_s))/tau_s + (w_s + I_s)/C_s : volt
            dv_d/dt = (E_L - v_d + g_exc_d*(E_e - v_d) + g_inh_d*(E_i - v_d))/tau_d + (w_d + I_d + lesson)/C_d : volt
            dw_s/dt = -w_s/tau_ws : amp
            dw_d/dt = (a*(v_d - E_L) - w_d)/tau_wd : amp
            p_event = int(age > tau_ref - dt/2)*(1 - exp(-dt*Hz*exp(clip((v_s - v_th)/D_s, -100, 20)))) : 1
            p_burst = 1/(1 + exp((E_d - v_d)/D_d)) : 1
            lesson = int(wanted > 0*Hz)*gain*(wanted - E_bar) : amp
            wanted : Hz
            die : 1
            chance : 1
            due : 1
            lucky : 1
            {SYNAPSES}
            {MEMORY}
        """,
        method="exponential_euler",
        update=f"""
            {FORGET}
            chance = p_event
            due = lucky*int(abs(age - delay) < dt/2)
        """,
        threshold="chance + due > die",
        refractory="delay",
        adaptation=f"""
            {SORT}
            lucky = event*int(die < p_burst)
            v_s = event*E_L + (1 - event)*v_s
            w_s += event*b
        """,
        receives="g_exc",
        initial=REST | {"die": 1.0},  # no event before the first throw
        parameters=CELL
        | {
            "E_d": -57 * mV,
            "v_th": -52 * mV,
            "D_s": 2 * mV,
            "tau_ref": 20 * ms,
            "delay": 10 * ms,
            "gain": 50 * pA / Hz,
            "tau_trace": tau_trace,
            "tau_avg": tau_avg,
        }
        | parameters,
        mismatch=learns(),
        reference="Payeur et al. 2021, Nat Neurosci 24:1010",
    )
