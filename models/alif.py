"""The adaptive leaky integrate-and-fire neuron: its threshold rises with every spike and decays slowly."""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate, triangle

__all__ = ["alif"]


def alif(
    *,
    tau_mem: Quantity = 20 * ms,
    tau_adapt: Quantity = 200 * ms,
    beta: float = 0.1,
    v_th: float = 1.0,
    tau_ref: Quantity = 0 * ms,
    surrogate: Surrogate | None = None,
) -> NeuronModel:
    """A LIF neuron with the threshold ``v_th + beta*a``; each spike adds 1 to ``a``, which decays with ``tau_adapt``.

    =========== ========================== =========
    parameter   meaning                    unit
    =========== ========================== =========
    tau_mem     membrane time constant     second
    tau_adapt   adaptation time constant   second
    beta        adaptation strength        1
    v_th        baseline threshold         1
    tau_ref     refractory period          second
    =========== ========================== =========

    ``beta = 0`` (per neuron, if an array) makes it a LIF neuron. Bellec et al. 2020, Nat Commun 11:3625, eqs. 8-9.
    """
    return NeuronModel(
        name="alif",
        equations="""
            dv/dt = -v/tau_mem : 1
            da/dt = -a/tau_adapt : 1
        """,
        threshold="v > v_th + beta*a",
        reset="v -= v_th",
        adaptation="a += 1",
        refractory="tau_ref",
        parameters={"tau_mem": tau_mem, "tau_adapt": tau_adapt, "beta": beta, "v_th": v_th, "tau_ref": tau_ref},
        surrogate=surrogate or triangle(),
        reference="Bellec et al. 2020, Nat Commun 11:3625",
    )
