"""Watching a network learn: the record is that of a network that learns unseen, and its weights are what its states
say.
"""

import numpy as np
import pytest
import xarray as xr

import localplast as lp
from localplast.errors import NetworkError, UnsupportedError
from localplast.learning.optimise import sgd
from localplast.models import latent_equilibrium, latent_equilibrium_output
from localplast.models.layers import layered, stream
from localplast.rules import bptt, dendritic, eprop

RATE = 0.2
BIASES = {"parameters": {"hidden1": {"b": np.zeros(5)}}, "trainable": {"hidden1": {"b": (None, None)}}}


def network(**options):
    return layered((4, 5, 3), latent_equilibrium(), latent_equilibrium_output(), **options)


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(0)
    return stream(rng.random((2, 6, 4)), rng.random((2, 6, 3)), steps=7)


@pytest.fixture(scope="module")
def watched(trials):
    record = ["up2.weight", "out.delta", "hidden1.past", "hidden1.u", "sense.currents"]
    return lp.live(network(), trials, dendritic(), sgd(RATE), record=record)


def test_weights_are_the_sum_of_the_products_that_were_recorded(watched):
    rate, delta = 1 / (1 + np.exp(-watched["hidden1"]["past"].values)), watched["out"]["delta"].values
    moved = np.cumsum(RATE * np.einsum("nti,ntj->tij", rate, delta) / 2, axis=0)
    first = network().draw(0).weights["up2"]
    np.testing.assert_allclose(watched["up2"]["weight"], first + moved, rtol=0, atol=1e-14)
    late = np.cumsum(RATE * np.einsum("nti,ntj->tij", np.roll(rate, 1, axis=1), delta) / 2, axis=0)
    assert np.abs(watched["up2"]["weight"] - first - late).max() > 1e-4, "a rate of another step would not be noticed"


def test_it_learns_as_it_does_unseen(watched, trials):
    task = lp.Task("same", lambda update, batch, seed: trials, lambda n, seed: trials[:n])
    options = {"rule": dendritic(), "optimiser": sgd(RATE), "loss": lp.losses.mse(), "batch": 2, "updates": 1}
    unseen = lp.run(network(), task, backend="torch", **options)
    for name in ("up1", "up2"):
        kept = watched[name]["weight"]
        kept = kept.isel(update=-1) if "update" in kept.dims else kept
        np.testing.assert_allclose(kept, unseen[name]["weight"], rtol=0, atol=1e-12)
    assert network().values_from(watched).weights["up2"].shape == (5, 3)


def test_states_are_those_of_a_network_that_does_not_learn_where_it_does_not(trials):
    net, names = network(), ["hidden1.u", "hidden1.delta", "said.shown"]
    still, moving = (lp.live(net, trials, dendritic(), sgd(rate), record=names, every=3) for rate in (0.0, RATE))
    plain = lp.run(net, trials, backend="torch", record=names, every=3)
    for node, variable in (name.split(".") for name in names):
        xr.testing.assert_allclose(still[node][variable], plain[node][variable], rtol=0, atol=1e-12)
        assert still[node][variable].attrs == plain[node][variable].attrs
        assert np.abs(moving[node][variable] - plain[node][variable]).max() > 1e-6, (
            "weights that change would not be noticed"
        )


def test_a_parameter_that_learns_is_seen_before_it_changes(trials):
    net, optimiser = network(**BIASES), sgd(RATE).with_rates(**{"hidden1.b": 1.0})
    seen = lp.live(net, trials, dendritic(), optimiser, record=["hidden1.u_breve", "hidden1.I", "hidden1.delta"])[
        "hidden1"
    ]
    bias = (seen["u_breve"] - seen["I"] - seen["delta"]).values
    assert np.abs(bias[:, 0]).max() < 1e-12 < np.abs(bias[:, -1]).max()


def test_weights_are_kept_now_and_then_and_at_the_end(trials):
    found = lp.live(network(), trials, dendritic(), sgd(RATE), record={"up1.weight": {"every": 10}})
    assert found["up1"]["update"].values.tolist() == [10, 20, 30, 40, 42]


@pytest.mark.parametrize("rule", [bptt(), eprop(), dendritic(update="trial")], ids=lambda r: f"{r.name}-{r.update}")
def test_rules_that_learn_between_trials_are_refused(rule, trials):
    with pytest.raises(UnsupportedError, match=f"{rule.name} changes weights at the end of a trial.*use run"):
        lp.live(network(), trials, rule, sgd(RATE), record=["hidden1.u"])


def test_unknown_names_are_refused(trials):
    with pytest.raises(NetworkError, match="cannot record 'hidden1.v'"):
        lp.live(network(), trials, dendritic(), sgd(RATE), record=["hidden1.v"])
