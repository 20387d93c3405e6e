"""What kernels are handed: pointers, each to an array of the size and type that the C text counts on.

Every kernel declares its arguments once, as ``{slot: (type in C, shape)}``. The enum of its C text is made of these
slots, and every call is checked against these shapes: C itself would read on past the end, and learn from whatever
lies there.
"""

import ctypes
import math

import numpy as np
import torch

from localplast.errors import NetworkError

__all__ = ["check_inputs", "padded_row", "pointers", "share"]

TYPES = {
    "unsigned char": torch.bool,
    "unsigned": torch.int32,
    "int": torch.int32,
    "long": torch.int64,
    "long long": torch.int64,
}


def pointers(declared, arrays, real, sizes):
    """Pointers in the order of ``declared``, NULL where there is no array.

    Parameters
    ----------
    declared : dict of str to (str, shape), or to None
        A shape holds numbers, or names in ``sizes`` such as ``'T'``; None is memory that its owner has made itself.
    arrays : dict of str to tensor
        Others than those declared are left out.
    real : torch.dtype
    sizes : dict of str to int

    Raises
    ------
    NetworkError
        An array of another size, type or layout.
    """
    for slot, array in arrays.items():
        if declared.get(slot) is not None:
            check(slot, array, *declared[slot], real, sizes)
    found = [arrays[slot].data_ptr() if slot in arrays else None for slot in declared]
    return (ctypes.c_void_p * len(found))(*found)


def check(slot, array, kind, shape, real, sizes):
    shape = tuple(sizes.get(d, d) for d in shape)
    dtype = real if kind == "real" else TYPES[kind]
    plain = array.device.type == "cpu" and array.is_contiguous()
    if not plain or array.dtype != dtype or array.numel() != math.prod(shape):
        raise NetworkError(
            f"{slot} has shape {tuple(array.shape)} and type {array.dtype}"
            f"{'' if plain else ', in pieces'}; the compiled network reads {shape} of {dtype}"
        )


def check_inputs(net, inputs):
    """Raise a :class:`NetworkError` unless ``inputs`` are what the network takes: C would read past the end."""
    shapes = {k: tuple(x.shape) for k, x in inputs.items()}
    steps = next(iter(shapes.values()), ())[:2]
    expected = {k: (*steps, node.size) for k, node in net.inputs.items()}
    if shapes != expected or len(steps) != 2:
        raise NetworkError(f"inputs of shape {shapes}; the network takes (time, trial, channel) = {expected}")


def padded_row(values, size, padded):
    """One number per neuron, the last repeated up to ``padded``: padding then behaves as some real neuron does."""
    return np.pad(np.broadcast_to(np.asarray(values, float), (size,)), (0, padded - size), mode="edge")


def share(trials, block, threads):
    """Borders of the threads' parts: whole blocks."""
    blocks = -(-trials // block)
    return [min(trials, block * (blocks * number // threads)) for number in range(threads + 1)]
