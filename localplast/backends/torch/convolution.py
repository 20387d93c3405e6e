"""Convolutional projections in Torch: the product with a kernel, and what the kernel learns, summed over positions.

Shapes: signals ``(..., neuron)``, kernels ``(channel, image_channel, row, column)``.
"""

import torch

__all__ = ["convolved", "kernel_gradient"]


def convolved(signal, kernel, form):
    """What a ``signal`` ``(..., pre)`` makes through the ``kernel``, ``(..., post)``; ``form`` is the Convolution."""
    images, options = (
        signal.reshape(-1, *form.ends[0]),
        {"stride": form.stride, "padding": form.padding, "groups": form.groups},
    )
    if form.transposed:
        made = torch.nn.functional.conv_transpose2d(images, kernel, output_padding=form.left_over, **options)
    else:
        made = torch.nn.functional.conv2d(images, kernel, **options)
    return made.reshape(*signal.shape[:-1], -1)


def kernel_gradient(pre, post, form):
    """``sum pre * post`` over trials and over all pairs of neurons that share a weight, in the shape of the kernel.

    ``pre`` ``(trial, pre)`` is what arrives, ``post`` ``(trial, post)`` what it meets: of a dense projection,
    ``pre.T @ post``.
    """
    image, made = (post, pre) if form.transposed else (pre, post)
    return torch.nn.grad.conv2d_weight(
        image.reshape(-1, *form.image),
        form.shape,
        made.reshape(-1, *form.made),
        stride=form.stride,
        padding=form.padding,
        groups=form.groups,
    )
