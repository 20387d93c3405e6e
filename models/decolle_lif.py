"""The neuron of DECOLLE: a membrane that follows a synaptic current, and a trace of its own spikes that holds it
down.
"""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel
from localplast.neuron.surrogate import Surrogate, fast_sigmoid

__all__ = ["decolle_lif"]


def decolle_lif(
    *,
    tau_mem: Quantity = 1 / 0.03 * ms,
    tau_syn: Quantity = 12.5 * ms,
    tau_ref: Quantity = 1 / 0.35 * ms,
    pulse: Quantity = 1 * ms,
    recoil: float = 1.0,
    bias: float = 0.0,
    surrogate: Surrogate | None = None,
) -> NeuronModel:
    """``tau_mem dv/dt = -v + pulse/tau_syn*I``, ``tau_syn dI/dt = -I``, ``tau_ref dh/dt = -h``; threshold on
    ``v + bias + h``.

    At ``dt = pulse = 1 ms`` forward Euler is the published recursion, to rounding and without a shift of time::

        Q[t] = beta*Q[t-1] + (1 - beta)*S_in[t]             W Q = (1 - beta)*I after spikes have arrived
        P[t] = alpha*P[t-1] + (1 - alpha)*Q[t-1]            W P = v
        R[t] = alpha_r*R[t-1] - (1 - alpha_r)*recoil*S[t-1] R = h
        S[t] = W P[t] + bias + R[t] > 0

    with ``alpha = 1 - dt/tau_mem = 0.97``, ``beta = 1 - dt/tau_syn = 0.92``, ``alpha_r = 1 - dt/tau_ref = 0.65``.

    =========== ================================================== =========
    parameter   meaning                                            unit
    =========== ================================================== =========
    tau_mem     membrane time constant                             second
    tau_syn     synaptic time constant                             second
    tau_ref     time constant of the refractory trace ``h``        second
    pulse       length of a spike, below ``tau_ref``               second
    recoil      how much a spike holds the neuron down             1
    bias        constant added to the membrane                     1
    =========== ================================================== =========

    The surrogate is ``1/(1 + 10*abs(x))**2``. Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424, eqs. 1-3.
    """
    return NeuronModel(
        name="decolle_lif",
        equations="""
            dv/dt = (pulse/tau_syn*I - v)/tau_mem : 1
            dI/dt = -I/tau_syn : 1
            dh/dt = -h/tau_ref : 1
        """,
        method="euler",
        threshold="v + bias + h > 0",
        reset="h -= recoil*pulse/(tau_ref - pulse)",  # divided by alpha_r: the published jump comes after the decay
        receives="I",
        parameters={
            "tau_mem": tau_mem,
            "tau_syn": tau_syn,
            "tau_ref": tau_ref,
            "pulse": pulse,
            "recoil": recoil,
            "bias": bias,
        },
        surrogate=surrogate or fast_sigmoid("0.1", gamma=0.1),
        reference="Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424",
    )
