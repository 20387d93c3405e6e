"""A readout without memory: what arrives in a step is its output in that step."""

from localplast.neuron import NeuronModel

__all__ = ["instant_readout"]


def instant_readout() -> NeuronModel:
    """The output is the weighted sum of the spikes of this very step: ``y[t] = sum_j w_j z_j[t]``.

    The update empties ``y``, so that at the end of a step it holds what arrived in that step. Losses judge it there; a
    graded projection from it would read it empty.

    The local readout of Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424, eq. 5, reached by fixed random weights.
    """
    return NeuronModel(
        name="instant_readout",
        equations="y : 1",
        update="y = 0",
        receives="y",
        output="y",
        reference="Kaiser, Mostafa & Neftci 2020, Front Neurosci 14:424",
    )
