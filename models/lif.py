"""The leaky integrate-and-fire neuron with a soft reset."""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate, triangle

__all__ = ["lif"]


def lif(
    *, tau_mem: Quantity = 20 * ms, v_th: float = 1.0, tau_ref: Quantity = 0 * ms, surrogate: Surrogate | None = None
) -> NeuronModel:
    """``dv/dt = -v/tau_mem``; spikes add their weight to ``v``; where ``v > v_th`` the neuron spikes and ``v -= v_th``.

    =========== ====================== =========
    parameter   meaning                unit
    =========== ====================== =========
    tau_mem     membrane time constant second
    v_th        threshold              1
    tau_ref     refractory period      second
    =========== ====================== =========

    During the refractory period the membrane keeps integrating, and psi is zero
    (Bellec et al. 2020, Nat Commun 11:3625, methods, "LIF").
    """
    return NeuronModel(
        name="lif",
        equations="dv/dt = -v/tau_mem : 1",
        threshold="v > v_th",
        reset="v -= v_th",
        refractory="tau_ref",
        parameters={"tau_mem": tau_mem, "v_th": v_th, "tau_ref": tau_ref},
        surrogate=surrogate or triangle(),
        reference="Lapicque 1907; discrete form Bellec et al. 2020, Nat Commun 11:3625",
    )
