"""What a backend cannot do it refuses, and names the part and the way out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from brian2 import ms

from localplast.backends.brian2.learner import block_for
from localplast.backends.brian2.session import session
from localplast.backends.torch.step import Twin, leaves
from localplast.errors import LocalplastError, NetworkError, UnsupportedError
from localplast.models import graded_readout, lif
from localplast.network import Input, Network, Population, Projection, axonal
from localplast.neuron import NeuronModel
from localplast.task import Trials


def network(*projections, **nodes):
    nodes = {
        "cues": Input(3),
        "drive": Input(2, "currents"),
        "rec": Population(4, lif()),
        "echo": Population(2, graded_readout()),
        **nodes,
    }
    return Network(dt=1 * ms, projections=projections, **nodes)


def noisy():
    return NeuronModel(
        name="noisy",
        equations="dv/dt = -v/tau + tau**-0.5*xi : 1",
        parameters={"tau": 5 * ms},
        method="euler",
        output="v",
    )


def test_torch_refuses_uniform_noise():
    model = replace(noisy(), update="v = v + rand()")
    net = network(p=Population(2, model))
    values = net.draw(0)
    with pytest.raises(UnsupportedError, match="^population 'p': noisy draws rand.., .* use backend='brian2'$"):
        Twin(net, leaves(net, values), values.masks)


def test_an_unknown_trainable_name_is_refused():
    net = network(Projection("cues", "rec"))
    with pytest.raises(
        NetworkError, match=r"^cannot train \['rec.tau'\]; the network has cues_rec.weight, cues_rec.delay, "
    ):
        leaves(net, net.draw(0), trainable=["rec.tau", "rec.tau_mem"])
    assert leaves(net, net.draw(0), trainable=["rec.tau_mem"])["rec.tau_mem"].requires_grad


def start_brian2(net, target="numpy"):
    trials = Trials({"cues": np.zeros((1, 5, 3), bool), "drive": np.zeros((1, 5, 2))})
    return session(target, net, net.draw(0), block_for(net, trials), trials)


def test_brian2_refuses_graded_delays_between_two_steps():
    net = network(Projection("drive", "echo", delay=axonal(2.5 * ms, trainable=True)))
    with pytest.raises(
        UnsupportedError,
        match="^projection 'drive_echo': graded transmission with a delay between two steps needs backend='torch'$",
    ):
        start_brian2(net)


def test_brian2_refuses_spikes_onto_what_graded_projections_set():
    net = network(Projection("drive", "echo"), Projection("cues", "echo"))
    with pytest.raises(
        UnsupportedError,
        match="^projection 'cues_echo': in Brian2 spikes cannot add to 'shown' of 'echo', which graded .* or use backend='torch'$",
    ):
        start_brian2(net)
    values = net.draw(0)
    Twin(net, leaves(net, values), values.masks).start(
        {"cues": torch.zeros(5, 1, 3, dtype=torch.float64), "drive": torch.zeros(5, 1, 2, dtype=torch.float64)}
    )


def test_brian2_refuses_an_unknown_target():
    with pytest.raises(LocalplastError, match="^target is 'numpy' or 'cython' or 'cpp', not 'weave'$"):
        start_brian2(network(Projection("cues", "rec")), "weave")
