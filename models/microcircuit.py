"""The dendritic microcircuit: pyramidal cells whose apical dendrite holds the error, and interneurons that predict it
away.

Sacramento et al. 2018, NeurIPS, arXiv:1810.11393; with latent equilibrium (``prospective``), Haider et al. 2021,
NeurIPS, arXiv:2110.14549. Potentials are numbers without unit, measured from rest; conductances are rates
(conductance over capacitance).
"""

from brian2 import ms
from brian2.units.fundamentalunits import Quantity

from localplast.models.prospective import Activation, rate_of
from localplast.neuron import Mismatch, NeuronModel

__all__ = ["sacramento_interneuron", "sacramento_output", "sacramento_pyramidal"]

REFERENCE = "Sacramento et al. 2018, NeurIPS, arXiv:1810.11393; Haider et al. 2021, NeurIPS, arXiv:2110.14549"


def sacramento_pyramidal(
    *,
    prospective: bool = True,
    activation: Activation = "logistic",
    g_l: Quantity = 0.03 / ms,
    g_b: Quantity = 0.1 / ms,
    g_a: Quantity = 0.06 / ms,
) -> NeuronModel:
    """A hidden pyramidal cell: the basal dendrite predicts the soma, the apical one carries the error.

    ``du/dt = -g_l u + g_b (v_bas - u) + g_a (v_api - u)``; graded projections set ``v_bas`` and ``v_api``. What
    travels is the rate ``phi(u_breve)``: of the ``prospective`` potential ``u_breve = u + tau du/dt``, with
    ``tau = 1/(g_l + g_b + g_a)``, which does not lag behind the inputs (latent equilibrium), or of ``u`` itself (the
    original form).

    Weights onto ``v_bas`` learn from ``phi(u_breve) - phi(g_b v_bas/(g_l + g_b + g_a))``, the soma against what the
    basal dendrite alone would make of it; weights onto ``v_api`` from ``-v_api``, so that it comes to rest.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    g_l         leak                               1/second
    g_b         coupling to the basal dendrite     1/second
    g_a         coupling to the apical dendrite    1/second
    =========== ================================== ==========

    Other arguments
    ---------------
    prospective : bool
    activation : str
        ``phi``, one of :data:`~localplast.models.prospective.ACTIVATIONS`.

    Sacramento et al. 2018, eqs. 1-9; Haider et al. 2021, section 4 and the values of their code.
    """
    return NeuronModel(
        name="sacramento_pyramidal",
        equations=f"""
            du/dt = drive : 1
            drive = -g_l*u + g_b*(v_bas - u) + g_a*(v_api - u) : Hz
            v_bas : 1
            v_api : 1
            u_breve = {"u + drive/(g_l + g_b + g_a)" if prospective else "u"} : 1
            rate = {rate_of(activation, "u_breve")} : 1
            predicted = {rate_of(activation, "g_b*v_bas/(g_l + g_b + g_a)")} : 1
        """,
        parameters={"g_l": g_l, "g_b": g_b, "g_a": g_a},
        method="exponential_euler",
        output="rate",
        receives="v_bas",
        mismatch={"v_bas": Mismatch("rate - predicted"), "v_api": Mismatch("-v_api")},
        reference=REFERENCE,
    )


def sacramento_interneuron(
    *,
    prospective: bool = True,
    activation: Activation = "logistic",
    g_l: Quantity = 0.03 / ms,
    g_d: Quantity = 0.1 / ms,
    g_som: Quantity = 0.06 / ms,
) -> NeuronModel:
    """An interneuron: it learns to do as one pyramidal cell of the next layer does, whose potential nudges its soma.

    ``du/dt = -g_l u + g_d (v_den - u) + g_som (u_above - u)``; graded projections set ``v_den`` and, one to one and
    with ``output="u_breve"``, ``u_above``. Weights onto ``v_den`` learn from
    ``phi(u_breve) - phi(g_d v_den/(g_l + g_d))``.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    g_l         leak                               1/second
    g_d         coupling to the dendrite           1/second
    g_som       nudging by the next layer          1/second
    =========== ================================== ==========

    Other arguments, references: as :func:`sacramento_pyramidal`.
    """
    return NeuronModel(
        name="sacramento_interneuron",
        equations=f"""
            du/dt = drive : 1
            drive = -g_l*u + g_d*(v_den - u) + g_som*(u_above - u) : Hz
            v_den : 1
            u_above : 1
            u_breve = {"u + drive/(g_l + g_d + g_som)" if prospective else "u"} : 1
            rate = {rate_of(activation, "u_breve")} : 1
            predicted = {rate_of(activation, "g_d*v_den/(g_l + g_d)")} : 1
        """,
        parameters={"g_l": g_l, "g_d": g_d, "g_som": g_som},
        method="exponential_euler",
        output="rate",
        receives="v_den",
        mismatch={"v_den": Mismatch("rate - predicted")},
        reference=REFERENCE,
    )


def sacramento_output(
    *,
    prospective: bool = True,
    activation: Activation = "logistic",
    g_l: Quantity = 0.03 / ms,
    g_b: Quantity = 0.1 / ms,
    g_som: Quantity = 0.06 / ms,
) -> NeuronModel:
    """An output neuron: a teacher nudges its soma, where there is one, and nothing comes back to it.

    ``du/dt = -g_l u + g_b (v_bas - u) + g_som teach (u_target - u)``; ``teach`` is 1 where the teacher speaks and 0
    where it is silent. Weights onto ``v_bas`` learn from ``phi(u_breve) - phi(g_b v_bas/(g_l + g_b))``.

    =========== ================================== ==========
    parameter   meaning                            unit
    =========== ================================== ==========
    g_l         leak                               1/second
    g_b         coupling to the basal dendrite     1/second
    g_som       nudging by the teacher             1/second
    =========== ================================== ==========

    Other arguments, references: as :func:`sacramento_pyramidal`.
    """
    return NeuronModel(
        name="sacramento_output",
        equations=f"""
            du/dt = drive : 1
            drive = -g_l*u + g_b*(v_bas - u) + g_som*teach*(u_target - u) : Hz
            v_bas : 1
            teach : 1
            u_target : 1
            u_breve = {"u + drive/(g_l + g_b + g_som*teach)" if prospective else "u"} : 1
            rate = {rate_of(activation, "u_breve")} : 1
            predicted = {rate_of(activation, "g_b*v_bas/(g_l + g_b)")} : 1
        """,
        parameters={"g_l": g_l, "g_b": g_b, "g_som": g_som},
        method="exponential_euler",
        output="rate",
        receives="v_bas",
        mismatch={"v_bas": Mismatch("rate - predicted")},
        reference=REFERENCE,
    )
