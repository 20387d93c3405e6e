"""Functions whose slope may be infinite, or 0/0 in its usual text, made safe for automatic differentiation.

A gradient that is zero stays zero, whatever it is multiplied by: what a condition, a reset or a saturated term has cut
off does not come back as 0 times infinity. The derivative of ``exprel`` is right at and near 0.
"""

import torch

from localplast.equations import divided_exp

__all__ = ["SLOPES", "sloped"]


def divided(*points):
    """``exp[x_0, ..., x_n]``, differentiable."""
    slopes = [lambda *x, i=i: divided(*x[:-1], x[i]) for i in range(len(points))]
    return sloped(lambda *x: divided_exp.value(torch, *x), slopes, *points)


def times_log(base, exponent, power):
    """d base**exponent / d exponent; 0 at 0, as the power itself."""
    return torch.where(power == 0, torch.zeros_like(power), power * torch.log(base))


#: Derivatives with respect to each argument, given the arguments and the value.
SLOPES = {
    "exp": [lambda x, y: y],
    "expm1": [lambda x, y: y + 1],
    "log": [lambda x, y: 1 / x],
    "log1p": [lambda x, y: 1 / (1 + x)],
    "log10": [lambda x, y: 1 / (x * 2.302585092994046)],
    "sqrt": [lambda x, y: 0.5 / y],
    "sinh": [lambda x, y: torch.cosh(x)],
    "cosh": [lambda x, y: torch.sinh(x)],
    "arcsin": [lambda x, y: 1 / torch.sqrt(1 - x * x)],
    "arccos": [lambda x, y: -1 / torch.sqrt(1 - x * x)],
    "power": [lambda x, n, y: n * x ** (n - 1), times_log],
    "exprel": [lambda x, y: divided_exp.value(torch, torch.zeros_like(x), x, x)],
}


class Sloped(torch.autograd.Function):
    """A function of its arguments, with given derivatives."""

    @staticmethod
    def forward(ctx, function, slopes, *arguments):
        found = function(*arguments)
        ctx.slopes = slopes
        ctx.save_for_backward(*arguments, found)
        return found

    @staticmethod
    def backward(ctx, grad):
        def back(slope):
            return torch.where(grad == 0, torch.zeros_like(grad), grad * slope(*ctx.saved_tensors))

        wanted = ctx.needs_input_grad[2:]
        return None, None, *(back(s) if want else None for s, want in zip(ctx.slopes, wanted, strict=True))


def sloped(function, slopes, *arguments):
    """``function(*arguments)``, differentiated by ``slopes``."""
    if not torch.is_grad_enabled() or not any(isinstance(a, torch.Tensor) and a.requires_grad for a in arguments):
        return function(*arguments)
    like = next(a for a in arguments if isinstance(a, torch.Tensor))
    tensors = torch.broadcast_tensors(*(torch.as_tensor(a, dtype=like.dtype, device=like.device) for a in arguments))
    return Sloped.apply(function, slopes, *tensors)
