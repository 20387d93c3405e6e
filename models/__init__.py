"""Neuron and dendrite models, one file each, equations first. Every public function here makes a NeuronModel."""

if __name__ != "localplast.models":  # a second copy of every class would compare unequal to the first
    raise ImportError("import localplast.models, not models")

from localplast.models.alif import alif as alif
from localplast.models.cuba_lif import cuba_lif as cuba_lif
from localplast.models.eprop_2020 import eprop_2020 as eprop_2020
from localplast.models.eprop_2020 import eprop_readout_2020 as eprop_readout_2020
from localplast.models.lif import lif as lif
from localplast.models.readout import leaky_readout as leaky_readout

__all__ = ["alif", "cuba_lif", "eprop_2020", "eprop_readout_2020", "leaky_readout", "lif"]
