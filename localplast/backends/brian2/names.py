"""What the arrays of a program are called in Brian2: variables of a group, or of the synapses of a projection."""

from localplast.network.sent import sent_texts
from localplast.program.arrays import ONE

__all__ = ["called", "number_of"]

#: Of a projection, and of what is shown: names that are others in Brian2.
OF_SYNAPSES = {"weight": "w", "low": "w_low", "high": "w_high", "past": "past_arrived"}
OF_SYNAPSES |= {"u": "utilisation", "x": "resources"}
SHOWN = {"count.seen": "spike_count", "loss.seen": "loss", "score.seen": "score"}
#: Of what all share, and of what is given from outside.
SHARED = {
    "(reward).value": "value_before",
    "(loss).weight": "_weight",
    "(reward).due": "_due",
    "(trial).duration": "_duration",
    "(update).k": "_number",
    "(update).share": "_share",
}
GIVEN = {"target": "teacher", "whole": "_whole", "dice": "_dice"}


def number_of(model, parameter, what):
    """What neurons call ``what`` the optimiser keeps of a parameter: as a variable of their own only by accident."""
    name = f"{what}_{parameter}"
    return f"optimiser_{name}" if name in model.dimensions else name


def called(net, array):
    """The name of an array in the Brian2 object that holds it."""
    if array.name in SHARED:
        return SHARED[array.name]
    owner, _, key = array.name.partition(".")
    if array.role == "part":
        return key.replace(".from.", "_from_")
    if owner in net.nodes:
        return of_neurons(net, owner, key)
    if owner in net.projections:
        return of_projection(net, array, owner, key)
    return key  # of the reward


def of_neurons(net, owner, key):
    """The name of ``owner.key``, an array of a population or an input."""
    if key in SHOWN:
        return SHOWN[key]
    if key == "given":
        return "r"
    kind, _, rest = key.partition(".")
    if kind == "learn":
        return GIVEN.get(rest, rest)
    if kind == "sent":
        return f"sent_{list(sent_texts(net, owner).values())[int(rest)]}"
    if kind == "from":
        return "B"
    parameter, _, what = key.partition(".")
    return number_of(net.nodes[owner].model, parameter, what.removeprefix("optimiser.")) if what else key


def of_projection(net, array, owner, key):
    """The name of ``owner.key``, an array of synapses, or of their source."""
    if array.role in ("line", "kept"):
        return "signal" if array.role == "line" else f"sent_late_{owner}"
    if key == "feedback":
        return "gain" if array.life.name == "FIXED" else "B"
    key = OF_SYNAPSES.get(key, key)
    for start in ("learn.", "pre.", "optimiser."):
        key = key.removeprefix(start)
    if array.space in (owner, ONE) or key.startswith("w_"):
        return key
    return f"{key}_{owner}"
