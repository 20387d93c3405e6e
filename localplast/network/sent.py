"""What leaves a neuron: the text that its projections read."""

__all__ = ["sent_text", "sent_texts"]


def sent_text(p, model):
    """The expression that a graded projection from a neuron of this ``model`` sends."""
    return model.output if p.output is None else p.output


def sent_texts(net, name):
    """What leaves a population by graded projections: each expression once, with the name of the first projection it
    takes.
    """
    found = {}
    for p in net.projections.values():
        if p.pre == name and p.transmission == "graded":
            found.setdefault(sent_text(p, net.nodes[name].model), p.name)
    return found
