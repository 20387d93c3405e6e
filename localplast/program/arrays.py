"""What a step program computes with: spaces, and arrays that live on them.

A name tells nothing: whose an array is, how long it lives, whether every trial has its own and what it is there for are
data.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import sympy
from brian2.units.fundamentalunits import DIMENSIONLESS, Dimension

from localplast.equations.language import symbol
from localplast.network.convolution import Convolution

__all__ = [
    "ONE",
    "Array",
    "Dense",
    "Diagonal",
    "End",
    "Kernel",
    "Life",
    "Neurons",
    "One",
    "Sparse",
    "Synapses",
    "at",
    "sparse",
]

#: Share of the possible synapses below which those that there are cost less one by one, and the fewest possible ones.
FEW, SMALLEST = 0.2, 2**16


@dataclass(frozen=True)
class Dense:
    """Every neuron of one space to every neuron of another: weights ``(pre, post)``."""


@dataclass(frozen=True)
class Diagonal:
    """Every neuron to itself, or to its image in a space of the same size: weights ``(neuron,)``."""


@dataclass(frozen=True)
class Kernel:
    """A convolution: weights in the shape of its kernel."""

    convolution: Convolution


@dataclass(frozen=True, eq=False)
class Sparse:
    """Some synapses: weights ``(synapse,)``, those of one presynaptic neuron side by side.

    Attributes
    ----------
    pre, post : int array ``(synapse,)``
        The two neurons of each, in the order of the first, then of the second.
    """

    pre: np.ndarray
    post: np.ndarray


def sparse(mask):
    """The synapses of a mask ``(pre, post)`` one by one; None where a matrix costs no more."""
    few = mask.ndim == 2 and mask.size >= SMALLEST and np.count_nonzero(mask) < FEW * mask.size
    return Sparse(*np.nonzero(mask)) if few else None


@dataclass(frozen=True)
class Neurons:
    """A population, or the channels of an input."""

    name: str
    size: int


@dataclass(frozen=True)
class Synapses:
    """What connects two spaces of neurons.

    Attributes
    ----------
    name, pre, post : str
    form : Dense, Sparse, Diagonal or Kernel
    shares : str or None
        The other synapses whose weights these are at every moment.
    turned : bool
        Whether they read those backwards.
    times : float
        By how much they multiply them.
    """

    name: str
    pre: str
    post: str
    form: Dense | Sparse | Diagonal | Kernel = Dense()
    shares: str | None = None
    turned: bool = False
    times: float = 1.0


@dataclass(frozen=True)
class One:
    """Where numbers live that all share; no population can have its name."""

    name: str = "(one)"  # no name of a network is like this


#: The name of the space of what all share.
ONE = One().name


class Life(Enum):
    """How long the numbers of an array last, and who sets them."""

    #: Numbers of the network, which do not change.
    FIXED = "fixed"
    #: New numbers in every step, from outside.
    GIVEN = "given"
    #: Numbers that learning changes, between trials or within them.
    LEARNED = "learned"
    #: What is added up over steps and trials, until it is used.
    SUM = "sum"
    #: What a step leaves to the next; it starts anew with every trial.
    STATE = "state"
    #: What is computed and used within one step.
    STEP = "step"
    #: The values of all steps, kept for the way back.
    HISTORY = "history"
    #: What is shown to the outside: of every step, or summed up over a trial.
    SEEN = "seen"


@dataclass(frozen=True)
class Array:
    """Numbers, one for each member of a space.

    Attributes
    ----------
    name : str
        Owner and name, such as ``rec.v``.
    space : str
    life : Life
    unit : Dimension
    trial : bool
        Whether every trial has its own.
    start : float or str
        Of a state: a number, or the array (without trials) that it starts from.
    events : bool
        Whether most of it is zero at any time, so that it is kept as a list of those that are not.
    role : str
        What it is to its owner, for people and for passes: ``'state'``, ``'inlet'``, ``'parameter'``, ``'weight'``, ...
    """

    name: str
    space: str
    life: Life
    unit: Dimension = DIMENSIONLESS
    trial: bool = True
    start: float | str = 0.0
    events: bool = False
    role: str = ""


class End(sympy.Symbol):
    """An array of neurons as a synapse reads it: that of its neuron ``'pre'`` or ``'post'``."""

    def __new__(cls, array, end):
        self = super().__new__(cls, f"{array}@{end}", real=True)
        self.array, self.end = array, end
        return self

    def __getnewargs_ex__(self):
        return (self.array, self.end), {}


def at(name, end=None):
    """The symbol of the array called ``name``, of its own space; of synapses: that of the neuron at one ``end``."""
    return symbol(name) if end is None else End(name, end)
