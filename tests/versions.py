"""Brian2's numbers, which must be the same under every Python, Brian2 and numpy, and refusals where Torch is missing.

python tests/versions.py > numbers.json   # in one environment
python tests/versions.py numbers.json     # in another: fails where a number differs by more than rounding
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from brian2 import ms, mV, nA

import localplast as lp
from localplast.models import alif, cuba_lif, latent_equilibrium, latent_equilibrium_output, leaky_readout, pyramidal
from localplast.models.layers import layered, stream
from localplast.packages import has_torch
from localplast.rules import bptt, dendritic, eprop
from localplast.study.scan import Drive, pulses, scan

TOLERANCE = 1e-12
RASTER = np.random.default_rng(0).random((3, 80, 10)) < 0.15
TRIALS = lp.Trials({"cues": RASTER}, np.array([0, 1, 1]))


def recurrent(model, strength=1.0):
    """A network with delays onto neurons and on every synapse."""
    rng = np.random.default_rng(1)
    late = {"rec": lp.dendritic(rng.integers(0, 5, 8) * ms), "own": lp.synaptic(rng.integers(0, 9, (8, 8)) * ms)}
    return lp.Network(
        dt=1 * ms, cues=lp.Input(10), rec=lp.Population(8, model), out=lp.Population(2, leaky_readout()),
        projections=[
            lp.Projection("cues", "rec", weight=lp.normal(strength, mean=strength / 3), delay=late["rec"]),
            lp.Projection("rec", "rec", weight=lp.normal(strength), delay=late["own"]),
            lp.Projection("rec", "out"),
        ],
    )  # fmt: skip


ALIF = recurrent(alif(v_th=0.6))
TASK = lp.Task("same", lambda update, batch, seed: TRIALS[:batch], lambda count, seed: TRIALS)


def seen(net, trials, *names):
    """What a forward run records: states, and where they end; and when who spiked."""
    node = names[0].split(".")[0]
    found = lp.run(net, trials, record=[*names, f"{node}.raster"], show=False)[node].to_dataset()
    assert found["spikes"].values.any(), "silence would compare equal"
    return {name: found[name.split(".")[1]].values for name in (*names, f"{node}.spikes")}


def learned(net, task, rule, rate, target):
    """Weights after two updates that are not tested: that needs no Torch."""
    fit = lp.run(net, task, rule=rule, optimiser=lp.adam(rate), updates=2, target=target, show=False)
    return {f"{name} {target}": fit[name]["weight"].values for name in net.projections if "weight" in fit[name]}


def numbers():
    """Arrays by name: forward runs, the online gradient of e-prop, and what is learned, in numpy and as C++."""
    found = seen(ALIF, TRIALS, "rec.v", "rec.a") | seen(recurrent(cuba_lif(), 12 * mV), TRIALS, "rec.v", "rec.I")
    drive = Drive({"I_soma": np.array([0.5, 2.0]) * nA}, pulses(5 * ms, 5 * ms, duration=30 * ms, dt=0.05 * ms))
    found |= seen(*scan(pyramidal(), 2, [drive], dt=0.05 * ms), "cells.v_soma", "cells.v_apical")
    gradient = lp.gradient(ALIF, TRIALS, eprop(), backend="brian2")
    found |= {f"gradient of {name}": gradient[name]["gradient"].values for name in ALIF.projections}
    rng, rates = np.random.default_rng(2), layered((4, 5, 3), latent_equilibrium(), latent_equilibrium_output())
    shown = stream(rng.random((1, 5, 4)), rng.random((1, 5, 3)), steps=7)
    stepwise = lp.Task("stream", lambda *_: shown, None)
    found |= learned(rates, stepwise, dendritic(), 0.01, "numpy")
    for target in ("numpy", "cpp"):
        found |= learned(ALIF, TASK, eprop(), 0.01, target)
    return {name: np.asarray(array, float).ravel().tolist() for name, array in found.items()}


def refused():
    """What needs Torch, by name: each must say so, in one sentence."""
    learning = dict(rule=eprop(), optimiser=lp.adam(0.01), updates=1)
    return {
        "a forward run": lambda: lp.run(ALIF, TRIALS, backend="torch"),
        "learning": lambda: lp.run(ALIF, TASK, backend="torch", **learning),
        "tests of what learns in Brian2": lambda: lp.run(ALIF, TASK, test=3, **learning),
        "a gradient": lambda: lp.gradient(ALIF, TRIALS, bptt()),
        "a comparison": lambda: lp.compare(ALIF, TASK, {"e-prop": eprop()}, optimiser=lp.adam(0.01)),
        "what is watched while it learns": lambda: lp.live,
        "retention": lambda: lp.retention,
    }


def check_refusals():
    for name, ask in refused().items():
        try:
            ask()
        except lp.UnsupportedError as error:
            assert "needs Torch, which is not installed" in str(error), (name, error)
        else:
            raise AssertionError(f"{name} does without Torch?")


def furthest(found, expected):
    """The largest difference of any number, over the largest number of its array; and the name of the array."""
    assert found.keys() == expected.keys()
    apart = {}
    for name, array in expected.items():
        assert len(found[name]) == len(array) and np.all(np.isfinite(array)), name
        apart[name] = np.abs(np.subtract(found[name], array)).max() / np.abs(array).max()
    name = max(apart, key=apart.get)
    return apart[name], name


def main(path=None):
    if not has_torch():
        check_refusals()
    found = numbers()
    if path is None:
        return print(json.dumps(found))
    apart, name = furthest(found, json.loads(Path(path).read_text()))
    packages = ", ".join(f"{package} {version(package)}" for package in ("brian2", "numpy", "sympy"))
    torch = "with Torch" if has_torch() else "without Torch"
    print(
        f"Python {platform.python_version()}, {packages}, {torch}: {len(found)} arrays, largest difference {apart:.1e} "
        f"({name})"
    )
    assert apart <= TOLERANCE, f"{name} differs by {apart:.1e}"


if __name__ == "__main__":
    main(*sys.argv[1:])
