"""Delays between two steps in Brian2, and delays that learn.

Brian2 delays spikes by whole steps, and reads the delays when a run starts. A delay of d steps is two pathways of
every synapse: ``deliver`` takes floor(d) steps and carries the share ``1 - fraction`` of the weight, ``late`` takes
one step more and carries the share ``fraction``, which is the linear interpolation of the Torch backend. Delays that
learn are changed between two runs.
"""

import brian2 as b2
import numpy as np
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.units.allunits import second

from localplast.equations.tape import Tape
from localplast.errors import UnsupportedError
from localplast.network.delays import moving, per_synapse
from localplast.program.instructions import writes
from localplast.program.update import SHARE, K, between

__all__ = ["DelayLearner", "build_arrivals", "check_spread", "flights", "settings", "with_room"]

#: Steps that a spike takes on each pathway beyond ``flight``, the whole steps of its delay.
LATER = {"deliver": 0, "late": 1}


def settings(net, p, steps, mask, gathered=False):
    """What delays of ``steps`` mean to the Brian2 objects, as ``{(object, variable): SI numbers}``.

    ``gathered``: hoisted traces count arrivals per presynaptic neuron.
    """
    dt, whole = float(net.dt), np.floor(steps)
    found = {
        (p.name, "flight"): per_synapse(p, whole, mask) * dt,
        (p.name, "fraction"): per_synapse(p, steps - whole, mask),
    }
    if gathered:
        found[f"arrivals_{p.name}", "flight"] = np.broadcast_to(whole, net.size(p.pre)) * dt
        found[p.pre, f"fraction_{p.name}"] = np.broadcast_to(steps - whole, net.size(p.pre))
    return found


def build_arrivals(built, p, steps):
    """Delayed copies of spikes for traces of the sources of ``p``: one synapse per neuron; None: delays are set later
    (:func:`settings`).
    """
    group, name = built.objects[p.pre], f"arrivals_{p.name}"
    lines = [SingleEquation(PARAMETER, "flight", second.dim, flags=["constant"])] if steps is None else []
    on_pre = {"deliver": f"arrived_{p.name}_post += 1"}
    synapses = b2.Synapses(group, group, Equations(lines), on_pre=on_pre, name=name, clock=group.clock)
    synapses.connect(i=np.arange(group.N), j=np.arange(group.N))
    if steps is not None:
        synapses.deliver.delay_ = np.broadcast_to(steps, (group.N,)) * float(built.net.dt)
    built.objects[name] = synapses


def flights(built):
    """``(delay, flight, later)``, two Brian2 variables and s, where delays follow the ``flight`` of synapses."""
    for synapses in built.objects.values():
        for pathway in getattr(synapses, "_pathways", ()):
            if pathway.objname in LATER and "flight" in synapses.variables:
                yield (
                    pathway.variables["delay"],
                    synapses.variables["flight"],
                    LATER[pathway.objname] * float(built.net.dt),
                )


def with_room(net, values, optimiser):
    """``values`` with delays as long as they may become, and the step after: what the gap between two trials must
    hold.
    """
    return values.replace_weights({}, {n: np.array(np.floor(net.limits(n)[1]) + 1) for n in moving(net, optimiser)})


def check_spread(net, names):
    """Raise where one of these delays is spread by a kernel while it learns."""
    for name in names:
        kernel = net.projections[name.split(".")[0]].delay.kernel
        if kernel is not None:
            raise UnsupportedError(
                f"projection {name.split('.')[0]!r}: in Brian2 a delay that learns is shared by two steps, not spread "
                f"by a {kernel.kind}; use kernel=None, or backend='torch'"
            )


class DelayLearner:
    """The optimiser of the delays of ``net`` that learn, for what one run of Brian2 has summed up.

    Raises
    ------
    UnsupportedError
        A delay that is no synapse's or neuron's own, without an upper bound, or spread by a kernel.
    """

    def __init__(self, net, optimiser, values):
        self.net, self.values, self.names = net, values, moving(net, optimiser)
        check_spread(net, self.names)
        for name in self.names:
            self.check(name, net.projections[name.split(".")[0]].delay, values.other(name))
        self.follow(optimiser)

    def follow(self, optimiser):
        """Go on with this optimiser, whose statements are those of a step program."""
        program, numbers = between(self.net, self.values, optimiser)
        updates = {n: s for every in program.step for s in every.body for n in writes(s)}
        self.tapes = {n: Tape([*updates[n].lets, *updates[n].lines], {**numbers, SHARE: 1.0}) for n in self.names}

    def check(self, name, delay, steps):
        label = f"projection {name.split('.')[0]!r}"
        if not np.ndim(steps):
            raise UnsupportedError(
                f"{label}: its delay is one number for all synapses, so learning it is not local; give every neuron or "
                "synapse its own (an array), or use backend='torch'"
            )
        bounds = delay.trainable if isinstance(delay.trainable, (tuple, list)) else (None, None)
        if bounds[1] is None:
            raise UnsupportedError(
                f"{label}: in Brian2 a silent gap as long as the longest delay follows every trial, so a delay that "
                "learns needs an upper bound, such as trainable=(0*ms, 50*ms); or use backend='torch'"
            )

    def check_start(self, values):
        """Raise where delays do not start within the bounds that the gap was made for."""
        for name in self.names:
            steps, (low, high) = values.other(name), self.net.limits(name)
            if np.min(steps) < low or np.max(steps) > high:
                raise UnsupportedError(
                    f"projection {name.split('.')[0]!r}: its delays start from {np.min(steps):g} to {np.max(steps):g} "
                    f"steps, not within their bounds, {low:g} to {high:g} steps; change these in Delay(trainable=...)"
                )

    def step(self, name, steps, gradient, state, update):
        """``(delays, state)`` after update number ``update``, within the bounds of the delays."""
        kept = {key: f"{name}.optimiser.{key}" for key in state}
        given = {name: steps, f"{name}.gradient": gradient, K: update}
        new = self.tapes[name](given | {kept[key]: x for key, x in state.items()})
        return new[name], {key: new[there] for key, there in kept.items()}
