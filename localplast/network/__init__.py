"""What networks are made of, as frozen data: populations and inputs, projections with weights and delays."""

from localplast.network.bounds import dale
from localplast.network.convolution import convolution, pooling
from localplast.network.network import Network
from localplast.network.nodes import Delay, Input, Population, Projection, Random, Values, axonal, dendritic, normal, same_as, synaptic, transposed, uniform
from localplast.network.short_term import depression, facilitation

__all__ = ["Delay", "Input", "Network", "Population", "Projection", "Random", "Values", "axonal", "convolution", "dale", "dendritic", "depression", "facilitation", "normal", "pooling", "same_as", "synaptic", "transposed", "uniform"]
