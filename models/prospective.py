"""What prospective rate neurons share: their rates and slopes as text.

A prospective neuron sends what its potential is on the way to, ``u_breve = u + tau du/dt``: an algebraic expression,
never a difference of two times.
"""

from typing import Literal

from localplast.errors import ModelError

__all__ = ["ACTIVATIONS", "Activation", "rate_of", "slope_of"]

#: The names of :data:`ACTIVATIONS`.
Activation = Literal["logistic", "tanh", "hard_sigmoid", "softplus", "relu", "linear"]

#: By name: the rate at a potential ``{0}``, and its derivative there; at a kink the derivative is that of the flat
#: side.
ACTIVATIONS = {
    "logistic": ("1/(1 + exp(-({0})))", "1/((1 + exp(-({0})))*(1 + exp({0})))"),
    "tanh": ("tanh({0})", "1 - tanh({0})**2"),
    "hard_sigmoid": ("clip({0}, 0, 1)", "int({0} > 0)*int({0} < 1)"),
    "softplus": ("log(1 + exp({0}))", "1/(1 + exp(-({0})))"),
    "relu": ("({0})*int({0} > 0)", "int({0} > 0)"),
    "linear": ("{0}", "1"),
}


def rate_of(activation: Activation, potential: str) -> str:
    """The text of the rate at a ``potential``, itself text; ``activation`` is a name in :data:`ACTIVATIONS`."""
    return texts(activation)[0].format(potential)


def slope_of(activation: Activation, potential: str) -> str:
    """The text of the derivative of the rate at a ``potential``; see :func:`rate_of`."""
    return texts(activation)[1].format(potential)


def texts(activation: Activation) -> tuple[str, str]:
    if activation not in ACTIVATIONS:
        raise ModelError(f"no activation {activation!r}; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]
