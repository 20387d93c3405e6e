"""The current-based leaky integrate-and-fire neuron: spikes add to a synaptic current, with volts."""

from brian2 import ms, mV
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import fast_sigmoid

__all__ = ["cuba_lif"]


def cuba_lif(
    *,
    tau_mem: Quantity = 10 * ms,
    tau_syn: Quantity = 5 * ms,
    v_rest: Quantity = -60 * mV,
    v_th: Quantity = -50 * mV,
    tau_ref: Quantity = 5 * ms,
    width: Quantity = 1 * mV,
) -> NeuronModel:
    """``tau_mem dv/dt = v_rest - v + I``, ``tau_syn dI/dt = -I``; above ``v_th`` the membrane is set to ``v_rest``.

    =========== ============================ =========
    parameter   meaning                      unit
    =========== ============================ =========
    tau_mem     membrane time constant       second
    tau_syn     synaptic time constant       second
    v_rest      resting and reset potential  volt
    v_th        threshold                    volt
    tau_ref     refractory period (clamped)  second
    width       width of the surrogate       volt
    =========== ============================ =========

    Zenke & Ganguli 2018, Neural Comput 30:1514, eqs. 1-2 and the surrogate of eq. 4.
    """
    return NeuronModel(
        name="cuba_lif",
        equations="""
            dv/dt = (v_rest - v + I)/tau_mem : volt (unless refractory)
            dI/dt = -I/tau_syn : volt
        """,
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
            "tau_ref": tau_ref,
            "width": width,
        },
        surrogate=fast_sigmoid("width"),
        reference="Zenke & Ganguli 2018, Neural Comput 30:1514",
    )
