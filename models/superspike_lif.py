"""The neuron of the published SuperSpike code: forward Euler for the membrane, exact decay for its current."""

from brian2 import ms, mV
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate

__all__ = ["superspike_lif"]


def superspike_lif(
    *,
    tau_mem: Quantity = 10 * ms,
    tau_syn: Quantity = 5 * ms,
    v_rest: Quantity = -60 * mV,
    v_th: Quantity = -50 * mV,
    v_floor: Quantity = -80 * mV,
    tau_ref: Quantity = 5 * ms,
    width: Quantity = 1 * mV,
) -> NeuronModel:
    """``tau_mem dv/dt = v_rest - v + I``, ``tau_syn dI/dt = -I``; a spike resets ``v`` to ``v_rest`` and holds it
    there.

    In step t, before spikes are added to the current::

        v[t] = v[t-1] + dt/tau_mem*(v_rest - v[t-1] + I[t-1])      unless refractory
        I[t] = exp(-dt/tau_syn)*I[t-1]

    =========== ================================================ =========
    parameter   meaning                                          unit
    =========== ================================================ =========
    tau_mem     membrane time constant                           second
    tau_syn     synaptic time constant                           second
    v_rest      resting and reset potential                      volt
    v_th        threshold                                        volt
    v_floor     potential below which the surrogate is zero      volt
    tau_ref     refractory period, in which ``v`` is clamped     second
    width       of the surrogate: 1/beta                         volt
    =========== ================================================ =========

    The surrogate is ``beta/(1 + beta*abs(v - v_th))**2``, beta being 1/width. Spikes land on the current, which is not
    clamped.
    Zenke & Ganguli 2018, Neural Comput 30:1514, eqs. 1-4; numbers and integration as in the authors' code (Auryn).
    """
    return NeuronModel(
        name="superspike_lif",
        equations="""
            dv/dt = (v_rest - v + I)/tau_mem : volt (unless refractory)
            I : volt
        """,
        update="I = exp(-dt/tau_syn)*I",
        method="euler",
        threshold="v > v_th",
        reset="v = v_rest",
        refractory="tau_ref",
        receives="I",
        initial={"v": v_rest},
        parameters={
            "tau_mem": tau_mem,
            "tau_syn": tau_syn,
            "v_rest": v_rest,
            "v_th": v_th,
            "v_floor": v_floor,
            "tau_ref": tau_ref,
            "width": width,
        },
        surrogate=Surrogate("1/width/(1 + abs(x)/width)**2*int(x > v_floor - v_th)"),
        reference="Zenke & Ganguli 2018, Neural Comput 30:1514",
    )
