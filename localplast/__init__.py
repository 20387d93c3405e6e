"""localplast: biologically plausible local learning in continuous time.

A network is written once, in Brian2's equation language. Brian2 runs it forward and online; Torch runs the same network
batched and differentiable. Local rules are derived from the equations and compared with backpropagation through time.
"""

import importlib

__version__ = "0.1.0"

#: Where each public name is defined. They are loaded on first use: a command line that only prints help stays quick.
_DEFINED_IN = {
    "brian2": ("Hz", "ms", "mV", "second"),
    "localplast.analysis.distance": ("distance",),
    "localplast.errors": (
        "DatasetError",
        "LocalplastError",
        "LocalplastWarning",
        "ModelError",
        "NetworkError",
        "RunawayError",
        "UnsupportedError",
    ),
    "localplast.learning.optimise": ("adam", "madgrad", "momentum", "rmaxprop", "rmsprop", "sgd"),
    "localplast.network": (
        "Input",
        "Network",
        "Population",
        "Projection",
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
    ),
    "localplast.neuron": (
        "Compartment",
        "Mismatch",
        "NeuronModel",
        "active_coupling",
        "cell",
        "coupling",
        "one_way_coupling",
    ),
    "localplast.runs.gradient": ("gradient",),
    "localplast.runs.live": ("live",),
    "localplast.runs.run": ("run",),
    "localplast.runs.watch": ("Best", "Plateau", "Stop"),
    "localplast.study.compare": ("compare",),
    "localplast.study.contenders": ("Contender",),
    "localplast.task": ("Poisson", "Task", "Trials"),
}
_HOME = {name: module for module, names in _DEFINED_IN.items() for name in names}
_MODULES = {
    "channels": "localplast.neuron.channels",
    "delay": "localplast.network.delays",
    "dynamics": "localplast.analysis.dynamics",
    "losses": "localplast.task.loss",
    "models": "localplast.models",
    "plot": "localplast.show.plot",
    "protocols": "localplast.protocols",
    "replay": "localplast.analysis.replay",
    "retention": "localplast.analysis.retention",
    "rules": "localplast.rules",
    "scaffold": "localplast.network.scaffold",
    "space": "localplast.network.space",
    "surrogate": "localplast.surrogate",
}

__all__ = sorted([*_HOME, *_MODULES, "open"])


#: What cannot even be loaded without Torch.
_ON_TORCH = ("live", "retention")


def __getattr__(name):
    if name in _ON_TORCH:
        importlib.import_module("localplast.packages").need_torch(f"localplast.{name}")
    if name in _HOME:
        found = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        found = importlib.import_module(_MODULES[name])
    elif name == "open":
        found = importlib.import_module("localplast.runs.record").open_record
    else:
        raise AttributeError(f"module 'localplast' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = found
    return found


def __dir__():
    return __all__
