"""Cues on two sides, a silent wait, a recall signal: the trials of everything that accumulates evidence.

Bellec et al. 2020, Nat Commun 11:3625, fig. 3 and methods "Evidence accumulation"; after Morcos & Harvey 2016, Nat
Neurosci 19:1672. Numbers as in the authors' published code, which waits for a fixed time.
"""

import numpy as np
from brian2.units.stdunits import ms
from scipy.stats import binom

from localplast.task.trials import Trials

__all__ = ["CUE", "GAP", "GROUP", "NOISE_RATE", "RECALL", "evidence_trials", "last_k_accuracy", "steps"]

#: Channels in each of the four groups: cues on the left, cues on the right, recall signal, noise.
GROUP = 10
#: Side of a cue that is none: a group whose rate is set afterwards.
UNSEEN = 2
#: Silence before every cue, its length, and the recall window at the end of a trial.
GAP, CUE, RECALL = 50 * ms, 100 * ms, 150 * ms
#: Rates, in hertz, and the probability of a right cue in trials of the left kind.
CUE_RATE, NOISE_RATE, MINORITY = 40.0, 10.0, 0.3
#: How many numbers are drawn at once: a trial of half a minute holds a million.
AT_ONCE = 4_000_000


def evidence_trials(rng, n, *, cues=7, fewest=None, duration=2250 * ms, silence=None, judged=RECALL, dt=1 * ms):
    """Draw ``n`` trials.

    Half of the trials (at random) favour the right: each of their cues is on the right with probability 0.7, else 0.3.
    The label is the side that has more cues, whatever the trial favoured.

    Parameters
    ----------
    rng : numpy Generator
    n : int

    Other arguments
    ---------------
    cues : int
        Odd, so that there are no ties. Cue k lasts from ``50 + 150*k`` to ``150 + 150*k`` ms.
    fewest : int, optional
        Every trial has an odd number of cues from this one to ``cues``, each as likely; with fewer cues it begins with
        a longer wait. Default: all have ``cues``.
    duration : Quantity
        Of the whole trial; its last 150 ms are the recall window.
    silence : (Quantity, Quantity), optional
        Shortest and longest time between the last cue and the recall window, drawn uniformly for every trial (500 and
        1500 ms in the paper's text). All trials of a batch end together, so that those with a shorter wait begin with
        a longer one, before the first cue. Default: all that ``duration`` leaves, and cues from the start, as in the
        authors' code.
    judged : Quantity
        The part of the trial, up to its end, in which the readout is judged.
    dt : Quantity

    Returns
    -------
    Trials
        Input ``cues``: bool ``(trial, time, 40)``. Target: int64 ``(trial,)``, 1 for right.
        Weight: ``1/steps`` where the readout is judged, by default in the recall window, 0 before.

    Raises
    ------
    ValueError
        An even number of cues, a fewest one that is even or not from 1 to ``cues``, a duration too short for the cues,
        the longest silence and the recall window, or a silence that is not a shortest and a longest time.
    """
    if cues % 2 == 0:
        raise ValueError(f"an even number of cues ({cues}) can tie; use an odd one")
    fewest = cues if fewest is None else fewest
    if fewest % 2 == 0 or not 1 <= fewest <= cues:
        raise ValueError(f"the fewest of {cues} cues are an odd number from 1 to {cues}, not {fewest}")
    needed = cues * (GAP + CUE) + RECALL
    if silence is not None and not 0 * ms <= silence[0] <= silence[1]:
        raise ValueError(
            f"the silence {silence} is drawn from the shortest to the longest; give for example (500*ms, 1500*ms)"
        )
    total, longest = steps(duration, dt), 0 * ms if silence is None else silence[1]
    if total < steps(needed + longest, dt):
        raise ValueError(f"{cues} cues and the recall window need {needed + longest}, not {duration}")
    favoured = np.where(rng.random(n) < 0.5, MINORITY, 1 - MINORITY)
    right = rng.random((n, cues)) < favoured[:, None]
    begin = np.zeros(n, int)
    if silence is not None:
        begin = total - steps(needed, dt) - rng.integers(*(steps(wait, dt) for wait in silence), n, endpoint=True)
    side = right.astype(int)
    if fewest < cues:
        unseen = 2 * rng.integers(0, (cues - fewest) // 2, n, endpoint=True)
        side[np.arange(cues) < unseen[:, None]] = UNSEEN
    weight = np.zeros(total)
    weight[-steps(judged, dt) :] = 1 / steps(judged, dt)
    more = (side == 1).sum(1) > (side == 0).sum(1)
    return Trials({"cues": cue_spikes(rng, side, begin, total, dt)}, more.astype(np.int64), weight)


def cue_spikes(rng, side, begin, total, dt):
    """Spikes ``(trial, time, 40)`` of trials that begin at step ``begin`` ``(trial,)``, drawn a few trials at a
    time.
    """
    spikes = np.empty((len(side), total, 4 * GROUP), bool)
    some = max(AT_ONCE // (total * 4 * GROUP), 1)
    for start in range(0, len(side), some):
        part = slice(start, start + some)
        probability = cue_rates(side[part], begin[part], total, dt) * float(dt)
        spikes[part] = rng.random(probability.shape, np.float32) < probability
    return spikes


def cue_rates(side, begin, total, dt):
    """Rates in hertz, ``(trial, time, 40)``, of trials whose cues are on a ``side`` ``(trial, cue)``: 0 is left, 1
    right.
    """
    rates = np.zeros((len(side), total, 4, GROUP), np.float32)
    trial = np.arange(len(side))[:, None]
    for cue in range(side.shape[1]):
        shown = np.arange(steps(cue * (GAP + CUE) + GAP, dt), steps((cue + 1) * (GAP + CUE), dt))
        rates[trial, begin[:, None] + shown, side[:, [cue]]] = CUE_RATE
    rates[:, :, UNSEEN] = 0
    rates[:, -steps(RECALL, dt) :, 2] = CUE_RATE
    rates[:, :, 3] = NOISE_RATE
    return rates.reshape(len(side), total, 4 * GROUP)


def last_k_accuracy(cues, k):
    """Accuracy of an agent that remembers the last ``k`` of so many ``cues`` perfectly, and tosses a coin if they tie.

    It knows what no network without memory of more can know: a line to hold results against.
    """
    if k < 1:
        raise ValueError(f"the agent must remember at least one cue, not {k}")
    if k >= cues:
        return 1.0
    seen, unseen = np.arange(k + 1), cues - k
    # the side that is favoured has most, given how many it has here
    more = binom.sf(cues // 2 - seen, unseen, 1 - MINORITY)
    agrees = np.where(2 * seen > k, more, np.where(2 * seen < k, 1 - more, 0.5))
    return float(binom.pmf(seen, k, 1 - MINORITY) @ agrees)


def steps(time, dt):
    return int(np.floor(float(time / dt) + 0.5))
