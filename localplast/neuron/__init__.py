"""What one neuron or dendrite does: its equations, how they are checked and integrated, and its surrogate gradient."""

from localplast.neuron.compartments import Compartment, active_coupling, cell, coupling, one_way_coupling
from localplast.neuron.mismatch import Mismatch
from localplast.neuron.model import NeuronModel

__all__ = ["Compartment", "Mismatch", "NeuronModel", "active_coupling", "cell", "coupling", "one_way_coupling"]
