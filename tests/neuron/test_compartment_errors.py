"""What cannot be a cell says so when it is made, and names compartment and channel."""

import pytest
from brian2 import ms, mV, nA, nS, pA, pF

from localplast import Compartment, active_coupling, cell, coupling, one_way_coupling
from localplast.errors import ModelError
from localplast.neuron.channels import Channel, ampa, gaba, nmda, plateau


def leaky(name="soma", C=50 * pF, g_leak=2.5 * nS, **options):
    return Compartment(name, C=C, g_leak=g_leak, E_leak=-70 * mV, **options)


BAD = {
    "a coupling to nothing": (
        lambda: cell("it", leaky(), couplings=[coupling("soma", "tuff", 4 * nS)]),
        "it: coupling of 'soma' and 'tuff': there is no compartment 'tuff'; there are soma",
    ),
    "a coupling to itself": (lambda: cell("it", leaky(), couplings=[coupling("soma", "soma", 4 * nS)]), "not coupled to itself"),
    "a channel in nothing": (
        lambda: cell("it", leaky(), channels={"tuff": [ampa(g=1 * nS, tau=2 * ms)]}),
        "it: channel 'ampa': there is no compartment 'tuff' to place it in; there are soma",
    ),
    "a conductance given as a current": (
        lambda: cell("it", leaky("tuft", channels=[nmda(g=1 * nA, tau=2 * ms)])),
        "it: compartment 'tuft', channel 'nmda': g = 1. nA has the wrong unit; it needs a conductance, such as 2*nS",
    ),
    "a coupling given as a current": (
        lambda: cell("it", leaky(), leaky("tuft"), couplings=[coupling("soma", "tuft", 4 * pA)]),
        "it: coupling of 'soma' and 'tuft': g_soma_tuft = 4. pA has the wrong unit; it needs a conductance",
    ),
    "an active coupling given as a conductance": (
        lambda: cell("it", leaky(), leaky("tuft"), couplings=[active_coupling("tuft", "soma", 4 * nS, by="f_ca")]),
        "I_tuft_soma = 4. nS has the wrong unit; it needs a current",
    ),
    "an active coupling by nothing": (
        lambda: cell("it", leaky(), leaky("tuft"), couplings=[active_coupling("tuft", "soma", 4 * pA, by="f_ca")]),
        "it: unknown variable 'f_ca_tuft'",
    ),
    "a coupling with no reverse": (
        lambda: coupling("soma", "tuft", 4 * nS, back=0 * nS),
        "coupling of 'soma' and 'tuft': 4. nS one way and 0. S back has no reverse; ... one_way_coupling('soma', "
        "'tuft', g)",
    ),
    "two couplings": (
        lambda: cell(
            "it", leaky(), leaky("tuft"), couplings=[coupling("soma", "tuft", 4 * nS), one_way_coupling("tuft", "soma", 1 * nS)]
        ),
        "coupling of 'soma' and 'tuft': there are two of them",
    ),
    "no coupling": (lambda: cell("it", leaky(), leaky("tuft"), couplings=[("soma", "tuft", 4 * nS)]), "is not a coupling; write"),
    "two compartments of one name": (lambda: cell("it", leaky(), leaky()), "it: two compartments are called 'soma'"),
    "two channels of one name": (
        lambda: cell("it", leaky(channels=[ampa(g=1 * nS, tau=2 * ms), ampa(g=1 * nS, tau=9 * ms)])),
        "compartment 'soma', channel 'ampa': ... _ampa_soma' is there already, ... give one of them another name",
    ),
    "a negative conductance": (
        lambda: cell("it", leaky(channels=[gaba(g=-1 * nS, tau=2 * ms)])),
        "compartment 'soma', channel 'gaba': the conductance g = -1. nS is negative; the reversal potential",
    ),
    "a negative leak": (
        lambda: cell("it", leaky(g_leak=-1 * nS)), "it: compartment 'soma': the conductance g_leak = -1. nS is negative"
    ),
    "a negative coupling": (
        lambda: cell("it", leaky(), leaky("tuft"), couplings=[coupling("soma", "tuft", -4 * nS)]),
        "coupling of 'soma' and 'tuft': the conductance g_soma_tuft = -4. nS is negative",
    ),
    "no capacitance": (lambda: cell("it", leaky(C=0 * pF)), "compartment 'soma': C = 0. F is not positive"),
    "an incomplete membrane": (
        lambda: cell("it", Compartment("soma", C=1 * pF)),
        "it: compartment 'soma': g_leak, E_leak not given; it needs C, g_leak and E_leak",
    ),
    "a negative time constant": (lambda: cell("it", leaky(channels=[ampa(g=1 * nS, tau=-2 * ms)])), "tau = -2. ms is not positive"),
    "a plateau that would renew itself": (
        lambda: plateau(g=50 * nS, E=-10 * mV, theta=-45 * mV, duration=20 * ms, tau_ref=20 * ms),
        "channel 'plateau': tau_ref = 20. ms is not longer than the plateau of 20. ms",
    ),
    "a parameter without unit": (
        lambda: cell("it", leaky(channels=[Channel("leak", "I = g*v : amp", {"g": 1 * nS})])),
        "channel 'leak': the parameter 'g' has no unit; add a line to the equations: 'g : siemens'",
    ),
    "text that is no equation": (
        lambda: cell("it", leaky(channels=[Channel("leak", "I == g")])),
        "it: compartment 'soma', channel 'leak': the equations do not parse",
    ),
    "own equations without membrane": (
        lambda: cell("it", Compartment("soma", equations="dv/dt = 0*volt/second : volt")),
        "it: compartment 'soma': its equations define ['v'], and not its membrane 'v_soma'",
    ),
    "own equations that take no channels": (
        lambda: cell(
            "it", Compartment("soma", equations="dv_soma/dt = 0*volt/second : volt", channels=[ampa(g=1 * nS, tau=2 * ms)])
        ),
        "compartment 'soma': its equations do not use 'inflow_soma', so that I_ampa_soma would have no effect",
    ),
    "both kinds of membrane": (lambda: cell("it", leaky(equations="v_soma : volt")), "it has equations of its own"),
    "a name that is none": (lambda: cell("it", leaky("a b")), "'a b' cannot name a compartment; use letters"),
    "nothing": (lambda: cell("it"), "it: it has no compartment"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_cell_says_so(case):
    make, message = BAD[case]
    with pytest.raises(ModelError) as error:
        make()
    assert all(part in str(error.value) for part in message.split(" ... ")), str(error.value)
