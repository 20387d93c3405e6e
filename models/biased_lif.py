"""LIF neuron and leaky readout with a constant current of their own, as DelayNet has them."""

from brian2 import ms, second
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate, ramp

__all__ = ["biased_lif", "biased_readout"]

REFERENCE = "Balafrej et al. 2023, arXiv:2310.19067"


def biased_lif(
    *, tau_mem: Quantity = 45 * ms, v_th: float = 0.5, bias: Quantity = 0 / second, surrogate: Surrogate | None = None
) -> NeuronModel:
    """``dv/dt = bias - v/tau_mem``: :func:`~localplast.models.lif` without refractoriness, driven by a constant
    current.

    =========== ================================ =========
    parameter   meaning                          unit
    =========== ================================ =========
    tau_mem     membrane time constant           second
    v_th        threshold                        1
    bias        rise of the membrane by itself   1/second
    =========== ================================ =========

    The published step is ``v[t] = a v[t-1] + W z[t-d] + B``, spike where ``v > v_th``, ``v -= v_th``, with
    ``a = exp(-dt/tau_mem)``. Here spikes act before the decay. The same spikes come from weights ``W/a``, delays
    shorter by one step, and ``bias = B / (tau_mem (1 - a))``; input spikes act one step later than there.
    """
    return NeuronModel(
        name="biased_lif",
        equations="dv/dt = bias - v/tau_mem : 1",
        threshold="v > v_th",
        reset="v -= v_th",
        parameters={"tau_mem": tau_mem, "v_th": v_th, "bias": bias},
        surrogate=surrogate or ramp(),
        reference=REFERENCE,
    )


def biased_readout(*, tau_out: Quantity = 45 * ms, bias: Quantity = 0 / second) -> NeuronModel:
    """``dv/dt = bias - v/tau_out``; spikes add their weight to ``v``, which is the output.

    =========== ================================ =========
    parameter   meaning                          unit
    =========== ================================ =========
    tau_out     readout time constant            second
    bias        rise of the output by itself     1/second
    =========== ================================ =========

    The published ``o[t] = k o[t-1] + W z[t] + B`` needs ``bias = B / (tau_out (1 - k))`` and the weights as they are.
    """
    return NeuronModel(
        name="biased_readout",
        equations="dv/dt = bias - v/tau_out : 1",
        parameters={"tau_out": tau_out, "bias": bias},
        output="v",
        reference=REFERENCE,
    )
