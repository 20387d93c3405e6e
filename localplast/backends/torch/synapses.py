"""Few synapses in Torch: their weights as vectors, and what travels through them.

Wherever weights come in, both are welcome: matrices ``(pre, post)``, and vectors of the synapses of a mask, in its
order.
"""

import torch

from localplast.program.arrays import Sparse

__all__ = ["as_matrix", "as_vector", "joined", "joint", "laid", "masked", "neurons_of"]


def neurons_of(form, device):
    """The numbers of the two neurons of every synapse, ``(pre, post)``."""
    return torch.as_tensor(form.pre, device=device), torch.as_tensor(form.post, device=device)


def as_vector(weights, mask):
    """Weights of the synapses of a mask, ``(synapse,)``."""
    return weights[torch.as_tensor(mask, device=weights.device)] if weights.ndim == 2 else weights


def as_matrix(weights, mask):
    """The same ``(pre, post)``, zero where there is no synapse; kernels as they are."""
    if weights.ndim != 1:
        return weights
    there = torch.as_tensor(mask, device=weights.device)
    return weights.new_zeros(there.shape).masked_scatter(there, weights)


def laid(weights, form, mask):
    """Weights as a link of this form has them."""
    return as_vector(weights, mask) if isinstance(form, Sparse) else as_matrix(weights, mask)


def masked(weights, form, mask):
    """The same, zero where there is no synapse."""
    found = laid(weights, form, mask)
    return found if isinstance(form, Sparse) else found * torch.as_tensor(mask).to(found)


class Joined(torch.autograd.Function):
    """``(signal, weight, start, end, size) -> sum``: of every synapse a weighted signal, from its start to its end.

    Of steps that are kept for the way back it keeps the signals of neurons, none of synapses.
    """

    @staticmethod
    def forward(ctx, signal, weight, start, end, size):
        ctx.save_for_backward(signal, weight, start, end)
        return carried(signal, weight, start, end, size)

    @staticmethod
    def backward(ctx, grad):
        signal, weight, start, end = ctx.saved_tensors
        back = carried(grad, weight, end, start, signal.shape[-1])
        return back, joint(signal, grad, start, end), None, None, None


def joined(signal, weight, start, end, size):
    """``(trial, end)``: what arrives at ``size`` neurons of the signals ``(trial, start)``."""
    return Joined.apply(signal, weight, start, end, size)


def carried(signal, weight, start, end, size):
    # trials lie side by side: each synapse is one vector
    each = signal.T[start] * weight.unsqueeze(-1)
    return each.new_zeros(size, len(signal)).index_add(0, end, each).T


def joint(before, behind, start, end):
    """``(synapse,)``: the product of what both ends of a synapse say, summed over trials."""
    return (before[:, start] * behind[:, end]).sum(0)
