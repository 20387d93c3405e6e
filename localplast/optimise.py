"""Optimisers as programs: from a gradient to a weight change, the same text on both backends.

The symbols are ``w`` (weight), ``g`` (gradient), ``k`` (number of this update, from 1), the optimiser's own state, and
its constants.
"""

from dataclasses import dataclass, field, replace

from localplast.calculus import symbol, to_sympy

__all__ = ["Optimiser", "adam", "sgd"]


@dataclass(frozen=True)
class Optimiser:
    """A weight update.

    Parameters
    ----------
    name : str
    statements : tuple of (str, str)
        Assignments, in order; the last one gives the new ``w``.
    constants : dict of str to float
    state : dict of str to int
        Numbers stored per synapse (zero at first), with the power of the gradient's unit that each carries.
    scales : dict of str to int
        Constants that carry a power of the gradient's unit.
    normalised : bool
        Whether the gradient's unit cancels, so that the learning rate is measured in the weight's unit.
    rates : dict of str to float
        Factors on the learning rate by projection; 0 freezes a projection.
    """

    name: str
    statements: tuple
    constants: dict
    state: dict = field(default_factory=dict)
    scales: dict = field(default_factory=dict)
    normalised: bool = False
    rates: dict = field(default_factory=dict)

    def program(self, unit=1):
        """The statements as ``(name, sympy expression)``, constants put in except ``learning_rate``.

        ``unit`` is the symbol of the gradient's unit, for text whose units are checked.
        """
        numbers = {symbol(n): v * unit ** self.scales.get(n, 0) for n, v in self.constants.items() if n != "learning_rate"}
        return tuple((name, to_sympy(text).subs(numbers)) for name, text in self.statements)

    def rate(self, projection):
        """The learning rate of one projection."""
        return self.constants["learning_rate"] * self.rates.get(projection, 1.0)

    def with_rates(self, **rates):
        """The same optimiser with factors on the learning rate of some projections; 0 freezes one."""
        return replace(self, rates={**self.rates, **rates})


def sgd(learning_rate):
    """``w <- w - learning_rate * g``."""
    return Optimiser("sgd", (("w", "w - learning_rate*g"),), {"learning_rate": float(learning_rate)})


def adam(learning_rate, *, beta1=0.9, beta2=0.999, epsilon=1e-8, epsilon_hat=False):
    """Adam (Kingma & Ba 2015, algorithm 1), as ``torch.optim.Adam``.

    Other arguments
    ---------------
    epsilon_hat : bool
        Add epsilon to ``sqrt(s)`` before the bias correction instead of after it (end of their section 2;
        TensorFlow and NEST do so).
    """
    corrected = "sqrt(s)/sqrt(1 - beta2**k)"
    if epsilon_hat:
        step = "learning_rate*sqrt(1 - beta2**k)/(1 - beta1**k)*m/(sqrt(s) + epsilon)"
    else:
        step = f"learning_rate/(1 - beta1**k)*m/({corrected} + epsilon)"
    return Optimiser(
        name="adam",
        statements=(
            ("m", "beta1*m + (1 - beta1)*g"),
            ("s", "beta2*s + (1 - beta2)*g**2"),
            ("w", f"w - {step}"),
        ),
        constants={
            "learning_rate": float(learning_rate), "beta1": beta1, "beta2": beta2, "epsilon": epsilon,
        },
        state={"m": 1, "s": 2},
        scales={"epsilon": 1},
        normalised=True,
    )
