"""Actor and critic over a whole trial: what the temporal difference errors add up to, as errors of the readouts."""

import torch

__all__ = ["pay_step", "rewarded", "split"]


def split(net, outputs):
    """Outputs side by side as a dict by readout."""
    parts = outputs.split([net.size(r) for r in net.readouts], -1)
    return dict(zip(net.readouts, parts, strict=True))


def pay_step(weight, delay):
    """The step in which the reward comes: ``delay`` steps after the last decision."""
    return int(weight.nonzero()[-1]) + delay


def rewarded(net, loss, outputs, target, weight, dice):
    """``(errors, reward)`` of trials.

    The eligibility of a step is multiplied with all temporal difference errors to come, each discounted:
    ``G(t) = sum_{s >= t} discount**(s - t) delta(s)`` (Bellec et al. 2020, Nat Commun 11:3625, eq. 5, seen forwards),
    so the errors are ``G weight (pi - chosen)`` of the policy and ``-G cost`` of the value.

    Parameters
    ----------
    outputs : tensor ``(time, trial, readout)``, side by side
    target : tensor ``(1, trial, choice)``, one where the choice is right
    weight : tensor ``(time,)``
    dice : tensor ``(time, trial, choice)``, Gumbel noise

    Returns
    -------
    errors : tensor ``(time, trial, readout)``
    reward : tensor ``(trial,)``
    """
    parts = split(net, outputs)
    y, value = parts[loss.policy], parts[loss.value][..., 0]
    chosen = torch.nn.functional.one_hot((y + dice).argmax(-1), y.shape[-1]).to(y)
    reward = (weight[:, None] * (2 * (chosen * target).sum(-1) - 1)).sum(0)
    paid = torch.zeros_like(value)
    paid[pay_step(weight, loss.steps(float(net.dt)))] = reward
    delta = paid[:-1] + loss.discount * value[1:] - value[:-1]
    total, ahead = torch.zeros_like(value), torch.zeros_like(value[0])
    for t in range(len(delta) - 1, -1, -1):
        ahead = total[t] = delta[t] + loss.discount * ahead
    errors = {
        loss.policy: (total * weight[:, None])[..., None] * loss.error(y, chosen),
        loss.value: -loss.value_cost * total[..., None],
    }
    return torch.cat([errors[r] for r in net.readouts], -1), reward
