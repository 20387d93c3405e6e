"""The generator of evidence accumulation: probabilities, timing to the step, labels; and the agent of short memory."""

import hashlib

import numpy as np
import pytest
from brian2 import ms, second

from localplast.task.evidence import evidence_trials, last_k_accuracy


def rasters(trials):
    """``(trial, time, group, channel)``"""
    return trials.inputs["cues"].reshape(len(trials), trials.steps, 4, 10)


@pytest.mark.parametrize("n, options, digest", [
    (5, {}, "764013663a4d5c54"),
    (64, {"cues": 3, "duration": 750 * ms}, "b508148b4f61e8b1"),
    (7, {"cues": 3, "duration": 1050 * ms, "dt": 5 * ms}, "ad355908321029e3"),
    (3, {"cues": 5, "duration": 1301 * ms}, "a1fef9edfd4f171d"),
])  # fmt: skip
def test_published_results_are_of_these_trials(n, options, digest):
    """The stream of random numbers is that of the generator whose results docs/results.md reports."""
    trials, found = evidence_trials(np.random.default_rng([0, 0, 4]), n, **options), hashlib.sha256()
    for array in (trials.inputs["cues"], trials.target, trials.weight):
        found.update(array.tobytes())
    assert found.hexdigest()[:16] == digest


def test_chunks_do_not_show(monkeypatch):
    whole = evidence_trials(np.random.default_rng(0), 9, cues=3, duration=753 * ms)
    monkeypatch.setattr("localplast.task.evidence.AT_ONCE", 100_000)  # three trials
    parts = evidence_trials(np.random.default_rng(0), 9, cues=3, duration=753 * ms)
    assert np.array_equal(parts.inputs["cues"], whole.inputs["cues"])


def test_waits_are_drawn_per_trial():
    """Cues end 500 to 1500 ms before the recall window, which ends every trial; before them there is noise alone."""
    trials = evidence_trials(
        np.random.default_rng(1), 400, cues=3, duration=2.2 * second, silence=(500 * ms, 1500 * ms)
    )
    raster = rasters(trials)
    cued = raster[:, :, :2].any((2, 3))
    first, last = cued.argmax(1), 2199 - cued[:, ::-1].argmax(1)
    silence = 2050 - 1 - last  # as far as the cue's last spike tells, which comes at most a few steps before its end
    assert silence.min() >= 500 and silence.max() <= 1500 + 15
    assert silence.mean() == pytest.approx(1000, abs=4 * 1000 / np.sqrt(12 * 400) + 5) and np.ptp(silence) > 950
    assert np.all((last - first >= 400 - 20) & (last - first < 400))
    assert np.array_equal(np.flatnonzero(raster[:, :, 2].any((0, 2))), np.arange(2050, 2200))
    assert raster[:, :500, 3].mean() == pytest.approx(0.01, rel=0.05)
    assert np.array_equal(np.flatnonzero(trials.weight), np.arange(2050, 2200))


@pytest.mark.parametrize("wait", [500 * ms, 1500 * ms])
def test_a_wait_to_the_step(wait):
    """Ever active over 400 trials: the cue windows to the step, and nowhere else."""
    trials = evidence_trials(np.random.default_rng(2), 400, cues=3, duration=2.2 * second, silence=(wait, wait))
    end = 2050 - round(float(wait) * 1e3)
    windows = np.concatenate([np.arange(end - 100, end) - 150 * k for k in (2, 1, 0)])
    assert np.array_equal(np.flatnonzero(rasters(trials)[:, :, :2].any((0, 2, 3))), windows)
    spikes = rasters(trials)[:, windows][:, :, :2]  # 40 Hz on one side of two
    assert spikes.mean() == pytest.approx(0.02, abs=5 * np.sqrt(0.02 * 0.98 / spikes.size))


def test_any_odd_number_of_cues_and_labels():
    for cues in (1, 9, 21):
        trials = evidence_trials(
            np.random.default_rng(cues), 300, cues=cues, duration=(cues * 150 + 150) * ms, dt=5 * ms
        )
        windows = rasters(trials)[:, : cues * 30].reshape(300, cues, 30, 4, 10)[:, :, 10:]
        right = windows[:, :, :, 1].sum((2, 3)) > windows[:, :, :, 0].sum((2, 3))
        assert np.array_equal(trials.target, right.sum(1) > cues / 2)
        assert trials.target.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(300))


def test_numbers_of_cues_are_drawn_per_trial():
    """Those that are there are the last ones, each odd number as often, and the label is their majority."""
    n = 600
    trials = evidence_trials(
        np.random.default_rng(3), n, cues=11, fewest=3, duration=2 * second, silence=(0 * ms, 0 * ms)
    )
    windows = rasters(trials)[:, 200:1850].reshape(n, 11, 150, 4, 10)
    left, right = (windows[:, :, 50:, group].sum((2, 3)) for group in (0, 1))
    there = left + right > 0
    counts = there.sum(1)
    assert not windows[:, :, :50, :2].any() and not rasters(trials)[:, :200, :2].any()
    assert set(counts) == {3, 5, 7, 9, 11} and np.all(there[:, 1:] >= there[:, :-1])
    assert all((counts == k).mean() == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(n)) for k in (3, 5, 7, 9, 11))
    assert np.array_equal(trials.target, (right > left).sum(1) > counts / 2)
    last = (right > left)[:, -3:].sum(1) > 1.5
    assert 0.7 < np.mean(last == trials.target) < 0.95  # those that all trials have do not tell
    assert not rasters(trials)[:, :1850, 2].any()


def test_half_a_minute_is_drawn_in_little_memory():
    """Beyond the raster itself, a byte per step and channel: a few trials of single precision at a time."""
    import tracemalloc

    tracemalloc.start()
    trials = evidence_trials(np.random.default_rng(0), 16, cues=7, duration=31.05 * second)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = trials.inputs["cues"].nbytes
    assert trials.steps == 31050 and size == 16 * 31050 * 40
    # two arrays of single precision for all trials would be twice as much
    assert peak - size < 80e6 < 4 * size + 4 * size


def test_judged_at_the_end():
    trials = evidence_trials(np.random.default_rng(0), 1, cues=3, duration=750 * ms, dt=5 * ms, judged=5 * ms)
    assert np.flatnonzero(trials.weight).tolist() == [149] and trials.weight.sum() == 1


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="3 cues and the recall window need 1.1.* not 1.05"):
        evidence_trials(np.random.default_rng(0), 1, cues=3, duration=1050 * ms, silence=(400 * ms, 500 * ms))
    with pytest.raises(ValueError, match="silence.*from the shortest to the longest"):
        evidence_trials(np.random.default_rng(0), 1, silence=(500 * ms, 400 * ms))
    for fewest in (0, 2, 9, -1):
        with pytest.raises(ValueError, match=f"fewest of 7 cues are an odd number from 1 to 7, not {fewest}"):
            evidence_trials(np.random.default_rng(0), 1, fewest=fewest)


def test_an_agent_that_remembers_the_last_cues():
    """All sequences one by one; and what was measured on 400,000 drawn trials, to a tenth of a per cent."""
    for cues, k in ((3, 1), (5, 2), (7, 3), (7, 4), (7, 6)):
        right = (np.arange(2**cues)[:, None] >> np.arange(cues)) & 1
        likely = [np.prod(np.where(right, p, 1 - p), 1) for p in (0.3, 0.7)]
        label, last = right.sum(1) > cues / 2, right[:, -k:].sum(1) / k
        correct = np.where(last == 0.5, 0.5, (last > 0.5) == label)
        assert last_k_accuracy(cues, k) == pytest.approx(0.5 * (likely[0] + likely[1]) @ correct, abs=1e-12)
    measured = {(7, 1): 72.7, (7, 3): 83.0, (7, 5): 90.7, (7, 7): 100, (3, 1): 79.1, (9, 7): 93.2, (11, 7): 90.9, (15, 7): 89.0,
                (21, 7): 88.0, (31, 7): 87.5}  # fmt: skip
    for key, accuracy in measured.items():
        assert last_k_accuracy(*key) == pytest.approx(accuracy / 100, abs=0.0012)
    assert last_k_accuracy(3, 5) == 1
    with pytest.raises(ValueError, match="at least one cue"):
        last_k_accuracy(7, 0)
