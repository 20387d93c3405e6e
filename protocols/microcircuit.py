"""Bars in a dendritic microcircuit: errors live in apical dendrites, and learning goes on while patterns follow each
other.

Haider et al. 2021, NeurIPS, arXiv:2110.14549, section 4 and figure 3 (after Sacramento et al. 2018, NeurIPS,
arXiv:1810.11393): a square of 3 x 3 pixels shows a horizontal, a vertical or a diagonal bar. With prospective cells
(latent equilibrium) the circuit learns however short a pattern is shown; the original one needs several of its time
constants per pattern.
"""

from functools import partial

from localplast.analysis.answers import apical_potentials
from localplast.learning.optimise import adam, sgd
from localplast.models.circuit import STEP, TARGETS, circuit
from localplast.study.circuits import circuit_contenders
from localplast.study.protocol import Preset, Protocol
from localplast.task.loss import mse
from localplast.task.streams import bars_task

__all__ = ["protocol"]


def by_bptt(offline, converged, updates):
    """How BPTT learns at these rates, for :func:`~localplast.study.circuits.circuit_contenders`."""
    longer = {"optimiser": adam(converged).halved(updates), "updates": 4 * updates} if converged else None
    found = {"BPTT": {"optimiser": adam(offline)} if offline else None, "BPTT, converged": longer}
    return {name: course for name, course in found.items() if course}


def build(*, steps, pace, batch, updates, backend, offline=None, converged=None, hidden=30, test=8):
    """``pace`` times the published rates of 0.05, 0.01 (onto the output) and 0.02 (interneurons) per ms.

    ``offline``: rate of BPTT, where it is compared; ``converged``: where it makes four times the updates.
    """
    made = partial(circuit, (9, hidden, 3), plastic=("up", "ip"))
    return Preset(
        network=made(),
        task=bars_task("microcircuit", steps=steps, targets=TARGETS),
        loss=mse(),
        optimiser=sgd(pace * STEP).with_rates(up1=0.05, up2=0.01, ip1=0.02),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden1",
        rules=circuit_contenders(made, backend=backend, offline=by_bptt(offline, converged, updates)),
    )


protocol = Protocol(
    name="microcircuit",
    summary="Bars in a dendritic microcircuit: apical dendrites hold the error, with and without latent equilibrium.",
    reference="Haider et al. 2021, NeurIPS, arXiv:2110.14549; Sacramento et al. 2018, NeurIPS, arXiv:1810.11393",
    build=build,
    presets={
        # Bars of 1 ms, a fifth of a membrane's time constant; a presentation changes 6.75 times what it is published
        # to. BPTT's rates are tuned (``benchmarks/tune.py``).
        "quick": dict(steps=10, pace=67.5, batch=8, updates=60, backend="torch", offline=0.08, converged=0.06),
        # The published course: bars of 10 ms, one after the other, 1000 times all eight.
        "paper": dict(steps=100, pace=1.0, batch=1, updates=1000, backend="brian2"),
    },
    published={
        "fig. 3": "prospective cells learn at any presentation time, the original form only when it is long (no number)"
    },
    rule="dendritic",
    drawn=apical_potentials,
)
