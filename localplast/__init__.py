"""localplast: biologically plausible local learning in continuous time.

A network is written once, in Brian2's equation language. Brian2 runs it forward and online; Torch runs the same network
batched and differentiable. Local rules are derived from the equations and compared with backpropagation through time.
"""

from brian2 import Hz as Hz
from brian2 import ms as ms
from brian2 import mV as mV
from brian2 import second as second

from localplast import loss as losses
from localplast import surrogate as surrogate
from localplast.compare import compare as compare
from localplast.errors import LocalplastError as LocalplastError
from localplast.errors import ModelError as ModelError
from localplast.errors import NetworkError as NetworkError
from localplast.errors import RunawayError as RunawayError
from localplast.errors import UnsupportedError as UnsupportedError
from localplast.network import Input as Input
from localplast.network import Network as Network
from localplast.network import Population as Population
from localplast.network import Projection as Projection
from localplast.network import axonal as axonal
from localplast.network import dendritic as dendritic
from localplast.network import normal as normal
from localplast.network import synaptic as synaptic
from localplast.network import uniform as uniform
from localplast.neuron import NeuronModel as NeuronModel
from localplast.optimise import adam as adam
from localplast.optimise import sgd as sgd
from localplast.record import open_record as open
from localplast.run import gradient as gradient
from localplast.run import run as run
from localplast.task import Poisson as Poisson
from localplast.task import Task as Task
from localplast.task import Trials as Trials

__version__ = "0.1.0"
