"""What dendritic circuits are compared with: without one thing or another, with other feedback, and by BPTT."""

from brian2 import ms

from localplast.learning.optimise import momentum
from localplast.models.circuit import of_kind
from localplast.models.layers import in_turn
from localplast.network import same_as, transposed
from localplast.rules import bptt, dendritic
from localplast.study.contenders import Contender

__all__ = ["aligning_contenders", "alignment_learning", "circuit_contenders"]


def circuit_contenders(made, *, backend, offline=None, tied=False):
    """The circuit ``made(**options)``, what comes of it if one thing is another, and BPTT.

    ``offline``: how BPTT learns, by the name of a contender, as arguments of
    :class:`~localplast.study.compare.Contender`. Feedback is random, and in one contender begins as the transpose of
    the weights onto the output, or is it at every moment (``tied``). BPTT changes ``up``; lateral weights, which are
    there to let dendrites rest and not to lower the loss, stay as they are.
    """
    net, symmetric = made(), transposed("up2") if tied else same_as("up2", transposed=True)
    lateral = tuple(p.name for p in net.plastic if not p.name.startswith("up"))
    hidden = tuple(p.name for p in net.plastic if p.name.startswith("up") and p.post != "out")
    return {
        **{name: Contender(bptt(), "torch", lateral, **course) for name, course in (offline or {}).items()},
        "dendritic": Contender(dendritic(), backend),
        "dendritic, symmetric": Contender(dendritic(), backend, network=made(down=symmetric)),
        "dendritic, original": Contender(dendritic(), backend, network=made(prospective=False)),
        "dendritic, hidden frozen": Contender(dendritic(), backend, hidden),
    }


def alignment_learning(net, *, up, ip, pi, down, alpha, tau=100 * ms):
    """The optimiser of phaseless alignment learning.

    Parameters
    ----------
    net : Network
        From :func:`~localplast.models.pal_circuit.aligning`.

    Other arguments
    ---------------
    up, ip, pi, down : float or sequence of float
        Rates per millisecond of the projections of these names: one for all, or one for each.
    alpha : float
        What feedback weights lose of themselves in a millisecond, over their rate.
    tau : Quantity
        Changes of ``up`` are low-pass filtered with it: the noise is averaged away.
    """
    step, share, rates = float(net.dt / ms), float(net.dt / tau), {}
    for kind, rate in {"up": up, "ip": ip, "pi": pi, "down": down}.items():
        names = of_kind(net, kind)
        rates |= dict(zip(names, in_turn(rate, len(names), kind), strict=True))
    rates |= {name: share * rates[name] for name in of_kind(net, "up")}
    at_once = dict.fromkeys((name for name in rates if name not in of_kind(net, "up")), 0.0)
    optimiser = momentum(step, 1 - share).with_constant("beta", **at_once).with_rates(**rates)
    return optimiser.decayed(step * alpha, only=of_kind(net, "down"))


def aligning_contenders(made, *, backend):
    """The network ``made(**options)`` with feedback that aligns, stays random, or is the transpose at every moment, and
    with hidden weights that stay.
    """
    net = made()
    fixed = of_kind(net, "down")
    quiet, forward = made(sigma=0.0), tuple(name for name in of_kind(net, "up") if net.projections[name].post != "out")
    upwards = [transposed(f"up{k}") for k in range(2, len(fixed) + 2)]
    symmetric = made(sigma=0.0, down=upwards, plastic=("up", "ip", "pi"))
    return {
        "PAL": Contender(dendritic(), backend),
        "feedback alignment": Contender(dendritic(), backend, fixed, quiet),
        "symmetric": Contender(dendritic(), backend, network=symmetric),
        "hidden frozen": Contender(dendritic(), backend, (*forward, *fixed), quiet),
    }
