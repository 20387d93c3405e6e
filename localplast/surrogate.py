"""Surrogate gradients, under their public name; they are defined in :mod:`localplast.neuron.surrogate`."""

from localplast.neuron.surrogate import *  # noqa: F403
from localplast.neuron.surrogate import __all__ as __all__
