"""When what a population sends shows at the other end, and whether it is what its eligibility is the slope of."""

from localplast.errors import UnsupportedError
from localplast.network.sent import sent_text
from localplast.neuron.step import expanded, lower, prospective

__all__ = ["acts_late", "check_sent", "sent_late", "steps_to_show"]


def acts_late(model, target):
    """Whether what lands on ``target`` shows one step later: a graded input that the output does not read itself."""
    return target in lower(model).inputs and target not in read_by_output(model)


def read_by_output(model):
    return {symbol.name for symbol in expanded(model, model.output).free_symbols}


def sent_late(model):
    """Whether what a neuron sends travels one step later: an output that depends on its graded inputs."""
    return not model.spiking and prospective(model, model.output)


def steps_to_show(net, population, readout, path=None):
    """Steps from what ``population`` does to what ``readout`` says of it; without a ``path`` as if by its inlet."""
    model = net.nodes[readout].model
    target = model.receives if path is None else path.target
    return int(acts_late(model, target)) + int(sent_late(net.nodes[population].model))


def check_sent(net, p):
    """Raise where ``p``, along which errors come back, carries something else than the spikes or the output of its
    source, which traces follow.
    """
    model = net.nodes[p.pre].model
    if p.transmission == "event" or (not model.spiking and sent_text(p, model) == model.output):
        return
    followed = "spikes" if model.spiking else f"output {model.output!r}"
    raise UnsupportedError(
        f"projection {p.name!r}: traces follow the {followed} of {p.pre!r}, and not {sent_text(p, model)!r}, which it "
        "sends; use bptt()"
    )
