"""The judge of spike trains: spikes filtered by a double exponential, so that half its square is the van Rossum
distance.
"""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.neuron import NeuronModel

__all__ = ["van_rossum_readout"]


def van_rossum_readout(*, tau_rise: Quantity = 5 * ms, tau_decay: Quantity = 10 * ms) -> NeuronModel:
    """``dx_rise/dt = -x_rise/tau_rise``, ``dy/dt = (x_rise - y)/tau_decay``; spikes land on ``x_rise``, ``y`` is the
    output.

    With spikes S arriving with weight 1 and target spikes S* with weight -1, the output is ``a*(S - S*)`` and

        ``a(t) = tau_rise/(tau_decay - tau_rise) * (exp(-t/tau_decay) - exp(-t/tau_rise))``

    so that ``mse()`` against zero, each step weighing ``dt``, is the van Rossum distance
    ``1/2 int (a*(S - S*))**2 dt``.

    =========== ======================================== =========
    parameter   meaning                                  unit
    =========== ======================================== =========
    tau_rise    time constant of the first filter        second
    tau_decay   time constant of the second filter       second
    =========== ======================================== =========

    The scale is that of the traces in the published code, without unit: ``tau_decay**2 * int a**2 dt`` is the number
    that the code divides its errors by, 8.33e-8 s**3 for 5 and 10 ms.
    van Rossum 2001, Neural Comput 13:751; Zenke & Ganguli 2018, Neural Comput 30:1514, eq. 5.
    """
    return NeuronModel(
        name="van_rossum_readout",
        equations="""
            dx_rise/dt = -x_rise/tau_rise : 1
            dy/dt = (x_rise - y)/tau_decay : 1
        """,
        parameters={"tau_rise": tau_rise, "tau_decay": tau_decay},
        receives="x_rise",
        output="y",
        reference="van Rossum 2001, Neural Comput 13:751; Zenke & Ganguli 2018, Neural Comput 30:1514",
    )
