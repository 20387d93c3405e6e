"""The leaky readout: an integrator that does not spike."""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel

__all__ = ["leaky_readout"]


def leaky_readout(*, tau_out: Quantity = 20 * ms) -> NeuronModel:
    """``dv/dt = -v/tau_out``; spikes add their weight to ``v``, which is the output.

    =========== ====================== =========
    parameter   meaning                unit
    =========== ====================== =========
    tau_out     readout time constant  second
    =========== ====================== =========

    Bellec et al. 2020, Nat Commun 11:3625, eq. 11 (there scaled by 1 - kappa: here that is a matter of the weights).
    """
    return NeuronModel(
        name="leaky_readout",
        equations="dv/dt = -v/tau_out : 1",
        parameters={"tau_out": tau_out},
        output="v",
        reference="Bellec et al. 2020, Nat Commun 11:3625",
    )
