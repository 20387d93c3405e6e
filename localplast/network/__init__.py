"""What networks are made of, as frozen data: populations and inputs, projections with weights and delays."""

from localplast.network.bounds import dale
from localplast.network.convolution import convolution, max_pooling, pooling
from localplast.network.delays import Delay, axonal, dendritic, synaptic
from localplast.network.network import Network
from localplast.network.nodes import Input, Population, Projection
from localplast.network.short_term import depression, facilitation
from localplast.network.values import Values
from localplast.network.weights import Random, normal, same_as, transposed, uniform

__all__ = [
    "Delay",
    "Input",
    "Network",
    "Population",
    "Projection",
    "Random",
    "Values",
    "axonal",
    "convolution",
    "dale",
    "dendritic",
    "depression",
    "facilitation",
    "max_pooling",
    "normal",
    "pooling",
    "same_as",
    "synaptic",
    "transposed",
    "uniform",
]
