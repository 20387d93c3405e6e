"""Neuron and readout in the discrete time of the first e-prop code: what a spike does, it does one step later."""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate, triangle

__all__ = ["eprop_2020", "eprop_readout_2020"]


def eprop_2020(
    *,
    tau_mem: Quantity = 20 * ms,
    tau_adapt: Quantity = 2000 * ms,
    beta: float = 0.0,
    v_th: float = 0.6,
    tau_ref: Quantity = 0 * ms,
    scaled_input: bool = False,
    surrogate: Surrogate | None = None,
) -> NeuronModel:
    """The (adaptive) LIF neuron of the published TensorFlow code and of NEST's ``*_bsshslm_2020`` models.

    With ``alpha = exp(-dt/tau_mem)``, ``rho = exp(-dt/tau_adapt)``, in this order in step t::

        v[t] = alpha*v[t-1] + zeta*I[t-1] - v_th*z[t-1]
        a[t] = rho*a[t-1] + z[t-1]
        z[t] = v[t] >= v_th + beta*a[t]      unless refractory

    ``I[t-1]`` is the weight of all spikes of step t-1: what reaches the neuron in step t must be sent one step earlier.

    =========== ================================= =========
    parameter   meaning                           unit
    =========== ================================= =========
    tau_mem     membrane time constant            second
    tau_adapt   adaptation time constant          second
    beta        adaptation strength, 0: LIF       1
    v_th        baseline threshold                1
    tau_ref     shortest interval between spikes  second
    =========== ================================= =========

    Other arguments
    ---------------
    scaled_input : bool
        ``zeta = 1 - alpha`` (NEST: ``regular_spike_arrival=False``) instead of 1.
    surrogate : Surrogate, optional
        Default ``0.3/v_th * max(0, 1 - abs(v - v_th - beta*a)/v_th)``.

    The reset and the adaptation wait in a latch each, so that they stay two edges of the credit graph.
    Bellec et al. 2020, Nat Commun 11:3625, eqs. 6-9 and methods.
    """
    zeta = "(1 - exp(-dt/tau_mem))*" if scaled_input else ""
    return NeuronModel(
        name="eprop_2020",
        equations="""
            v : 1
            a : 1
            I : 1
            reset_due : 1
            adaptation_due : 1
        """,
        update=f"""
            v = exp(-dt/tau_mem)*v + {zeta}I - v_th*reset_due
            a = exp(-dt/tau_adapt)*a + adaptation_due
            I = 0
            reset_due = 0
            adaptation_due = 0
        """,
        threshold="v >= v_th + beta*a",
        # adding to the emptied latch rather than setting it: the jump is then a constant, with nothing for traces to
        # look up
        reset="reset_due += 1",
        adaptation="adaptation_due += 1",
        refractory="tau_ref",
        receives="I",
        parameters={"tau_mem": tau_mem, "tau_adapt": tau_adapt, "beta": beta, "v_th": v_th, "tau_ref": tau_ref},
        surrogate=surrogate or triangle(),
        reference="Bellec et al. 2020, Nat Commun 11:3625; NEST eprop_iaf_adapt_bsshslm_2020",
    )


def eprop_readout_2020(*, tau_out: Quantity = 20 * ms) -> NeuronModel:
    """``y[t] = kappa*y[t-1] + (1 - kappa)*sum_j w_j z_j[t]``, with ``kappa = exp(-dt/tau_out)``.

    A leaky readout whose output is scaled, so that the weights and their gradients are those of the reference.

    =========== ====================== =========
    parameter   meaning                unit
    =========== ====================== =========
    tau_out     readout time constant  second
    =========== ====================== =========

    Bellec et al. 2020, Nat Commun 11:3625, eq. 11; NEST ``eprop_readout_bsshslm_2020``.
    """
    return NeuronModel(
        name="eprop_readout_2020",
        equations="dv/dt = -v/tau_out : 1",
        parameters={"tau_out": tau_out},
        output="(1 - exp(-dt/tau_out))*v",
        reference="Bellec et al. 2020, Nat Commun 11:3625",
    )
