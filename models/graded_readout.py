"""A readout that shows what graded projections bring, as it is."""

from localplast.neuron import NeuronModel

__all__ = ["graded_readout"]


def graded_readout(unit: str = "1") -> NeuronModel:
    """The weighted sum of what arrives in this step, to be judged by a loss.

    With ``Projection("soma", "out", output="v_star", weight=np.eye(n), plastic=False)`` a loss looks at any variable
    of a network whose neurons project to each other.

    Parameters
    ----------
    unit : str
        Of what arrives, as in Brian2's equations: ``'volt'``.
    """
    return NeuronModel(
        name="graded_readout",
        equations=f"shown : {unit}",
        receives="shown",
        output="shown",
        reference="a sum, without dynamics",
    )
