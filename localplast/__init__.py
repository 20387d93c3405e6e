"""localplast: biologically plausible local learning in continuous time.

A network is written once, in Brian2's equation language. Brian2 runs it forward and online; Torch runs the same network
batched and differentiable. Local rules are derived from the equations and compared with backpropagation through time.
"""

import importlib

__version__ = "0.1.0"

#: Where each public name is defined. They are loaded on first use: a command line that only prints help stays quick.
_DEFINED_IN = {
    "brian2": ("Hz", "ms", "mV", "second"),
    "localplast.comparison": ("Contender", "compare"),
    "localplast.compartments": ("Compartment", "active_coupling", "cell", "coupling", "one_way_coupling"),
    "localplast.measure": ("distance",),
    "localplast.errors": (
        "DatasetError", "LocalplastError", "LocalplastWarning", "ModelError", "NetworkError", "RunawayError", "UnsupportedError",
    ),
    "localplast.network": (
        "Input", "Network", "Population", "Projection", "axonal", "convolution", "dale", "dendritic", "normal", "pooling", "same_as",
        "synaptic", "transposed", "uniform",
    ),
    "localplast.neuron": ("Mismatch", "NeuronModel"),
    "localplast.short_term": ("depression", "facilitation"),
    "localplast.optimise": ("adam", "madgrad", "momentum", "rmaxprop", "rmsprop", "sgd"),
    "localplast.live": ("live",),
    "localplast.verbs": ("gradient", "run"),
    "localplast.task": ("Poisson", "Task", "Trials"),
}  # fmt: skip
_HOME = {name: module for module, names in _DEFINED_IN.items() for name in names}
_MODULES = (
    "channels", "delay", "dynamics", "models", "plot", "protocols", "replay", "retention", "rules", "scaffold", "space", "surrogate",
)  # fmt: skip

__all__ = sorted([*_HOME, *_MODULES, "losses", "open"])


#: What cannot even be loaded without Torch.
_ON_TORCH = ("live", "retention")


def __getattr__(name):
    if name in _ON_TORCH:
        importlib.import_module("localplast.packages").need_torch(f"localplast.{name}")
    if name in _HOME:
        found = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        return importlib.import_module(f"localplast.{name}")
    elif name == "losses":
        found = importlib.import_module("localplast.loss")
    elif name == "open":
        found = importlib.import_module("localplast.record").open_record
    else:
        raise AttributeError(f"module 'localplast' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = found
    return found


def __dir__():
    return __all__
