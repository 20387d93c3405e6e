"""XOR by bursts: two hidden populations learn from the bursts that an output population sends back to their dendrites.

Events travel up through depressing synapses, bursts down through facilitating ones: onto the dendrites of the first
hidden population by excitation, of the second by inhibition, which is how they act on the output. In the last part of
an example a teacher drives the output's dendrites towards the wanted event rate, and only then does plasticity act:
more bursts than expected potentiate, fewer depress. Payeur et al. 2021, Nat Neurosci 24:1010, fig. 4, at a tenth of
its size: 50 neurons in a population and not 500, examples of 4 s and not 8 s, 400 of them and not 2000.
"""

from typing import Any

import numpy as np
from brian2 import Hz, amp, ms, pA, second

from localplast.learning.optimise import sgd
from localplast.models import burst_poisson, graded_readout
from localplast.network import Input, Network, Population, Projection, depression, facilitation
from localplast.rules import dendritic
from localplast.runs.run import run
from localplast.study.contenders import Contender
from localplast.study.protocol import Preset, Protocol
from localplast.task import Task, Trials
from localplast.task.loss import cross_entropy

__all__ = ["event_rates", "examples", "network", "protocol"]

DT, EXAMPLE, LESSON, JUDGED = 1 * ms, 4 * second, 800 * ms, 400 * ms
#: Somatic currents of an input that is 0 and one that is 1; event rates that a teacher wants.
OFF, ON = 400e-12, 750e-12
LOW, HIGH = 1.0, 10.0


def blocks(values, size, seed):
    """Weights that are alike within pairs of populations, each drawn within half of its mean: ``values``
    ``(from, to)``.
    """
    mean = np.kron(np.asarray(values, float), np.ones((size, size)))
    return mean * np.random.default_rng([seed, 5]).uniform(0.5, 1.5, mean.shape)


def even(values, size):
    """The same without the draw, and the synapses that there are."""
    weight = np.kron(np.asarray(values, float), np.ones((size, size)))
    return {"weight": weight, "mask": weight > 0, "plastic": False}


def network(size=50, seed=0):
    """Two inputs, two hidden populations and one output of ``size`` neurons; weights in units of the leak conductance.

    ``sources`` and ``hidden`` hold two populations each, one after the other; the output is ``top``. Before learning
    both hidden populations excite the output, which answers most to two inputs at once.
    """
    model = burst_poisson(tau_avg=800 * ms, e_min=0.5 * Hz, e_max=20 * Hz, gain=60 * pA / Hz)
    scale = 50 / size
    up: dict[str, Any] = {"short_term": depression(0.9, 50 * ms)}
    down = {"short_term": facilitation(0.01, 30 * ms, tau_rec=100 * ms, jump=0.3)}

    def driven(name, onto, target, weight):
        return Projection(name, onto, target=target, weight=weight, mask=weight > 0, plastic=False)

    def plastic(pre, post, values):
        return Projection(pre, post, weight=blocks(values, size, seed) * scale, bounds=(0.0, 1.0), **up)

    def inhibited(pre, post, values):
        return Projection(pre, post, target="g_inh", name=f"{pre}_{post}_inh", **even(values, size) | up)

    def by_population(first, second):
        return np.repeat([first, second], size) * 1e-12

    populations = {
        "sources": Population(2 * size, model),
        "hidden": Population(
            2 * size, model, initial={"I_s": by_population(400, 150) * amp, "I_d": by_population(150, 500) * amp}
        ),
        "top": Population(size, model, initial={"I_s": 420 * pA, "I_d": 400 * pA}),
    }
    return Network(
        dt=DT,
        **populations,
        out=Population(2, graded_readout()),
        bits=Input(2, "currents"),
        **{f"die_{name}": Input(p.size, "currents") for name, p in populations.items()},
        wanted=Input(1, "currents", teacher=True),
        lesson=Input(1, "currents", teacher=True),
        projections=[
            plastic("sources", "hidden", [[0.12, 0.1], [0.12, 0.1]]),
            inhibited("sources", "hidden", np.full((2, 2), 0.03 * scale)),
            plastic("hidden", "top", [[0.1], [0.5]]),
            inhibited("hidden", "top", [[0.03 * scale], [0.4 * scale]]),
            Projection("top", "hidden", target="g_exc_d", name="fed_back", **even([[1.5 * scale, 0]], size) | down),
            Projection("top", "hidden", target="g_inh_d", name="fed_back_inh", **even([[0, 4 * scale]], size) | down),
            driven("bits", "sources", "I_s", np.kron(np.eye(2), np.ones((1, size)))),
            driven("wanted", "top", "wanted", np.ones((1, size))),
            *(driven("lesson", name, "gate", np.ones((1, populations[name].size))) for name in ("hidden", "top")),
            *(driven(f"die_{name}", name, "die", np.eye(p.size)) for name, p in populations.items()),
            Projection(
                "top", "out", output="E_bar/Hz - 6", weight=np.tile([-1 / size, 1 / size], (size, 1)), plastic=False
            ),
        ],
    )


def examples(numbers, rng, size=50):
    """The examples ``numbers``, which count through 00, 10, 01 and 11.

    Returns
    -------
    Trials
        ``bits`` (ampere), ``wanted`` (hertz), ``lesson`` (0, then 1) and the dice. Target: int64 ``(trial,)``.
        Weight: the last 400 ms before the lesson.
    """
    first, second_ = np.asarray(numbers) % 2, np.asarray(numbers) // 2 % 2
    target, count, steps = first ^ second_, len(first), round(float(EXAMPLE / DT))
    begin = steps - round(float(LESSON / DT))
    taught = np.broadcast_to((np.arange(steps) >= begin)[:, None] * 1.0, (count, steps, 1))
    bits = np.where(np.stack([first, second_], 1), ON, OFF)
    inputs = {
        "bits": np.repeat(bits[:, None], steps, axis=1),
        "wanted": taught * np.where(target, HIGH, LOW)[:, None, None],
        "lesson": taught,
        **{
            f"die_{name}": rng.random((count, steps, n * size))
            for name, n in {"sources": 2, "hidden": 2, "top": 1}.items()
        },
    }
    judged = (np.arange(steps) >= begin - round(float(JUDGED / DT))) & (np.arange(steps) < begin)
    return Trials(inputs, target.astype(np.int64), judged / judged.sum())


def event_rates(net, trials, values, **options):
    """Event rate of the output population in the judged steps, without the teacher, in hertz ``(trial,)``; options:
    of ``run``.
    """
    shown = run(net, trials.without(net.teachers), values=values, record=["out.shown"], **options)["out"][
        "shown"
    ].values
    return shown[:, trials.weight > 0, 1].mean(1) + 6


def task(size):
    def training(update, batch, seed):
        return examples(np.arange(update * batch, (update + 1) * batch), np.random.default_rng([seed, 0, update]), size)

    def testing(n, seed):
        return examples(np.arange(n), np.random.default_rng([seed, 1]), size)

    return Task("burst-xor", training, testing)


def build(*, size, updates, slower=1.0, batch=1, test=16):
    rates = {"sources_hidden": 0.025, "hidden_top": 1.0}
    return Preset(
        network=network(size),
        task=task(size),
        loss=cross_entropy(),
        optimiser=sgd(0.02 * slower).with_rates(**rates),
        batch=batch,
        updates=updates,
        test=test,
        hidden="hidden",
        rules={"bursts": dendritic(), "bursts, hidden frozen": Contender(dendritic(), "brian2", ("sources_hidden",))},
    )


protocol = Protocol(
    name="burst-xor",
    summary="XOR: spiking populations send events up, and bursts, which say what was wrong, down to dendrites.",
    reference="Payeur et al. 2021, Nat Neurosci 24:1010, fig. 4",
    build=build,
    presets={
        # 50 neurons in a population, 400 examples.
        "quick": dict(size=50, updates=400),
        # Ten times as many examples of a tenth of the rate; the published network is ten times as large, too.
        "paper": dict(size=50, updates=4000, slower=0.1),
    },
    published={"fig. 4": "XOR learned by 5 populations of 500 neurons in 2000 examples of 8 s"},
    rule="dendritic",
)
