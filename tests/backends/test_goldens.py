"""The text of generated programs, byte for byte: a change that is not meant for programs must leave every one as it is.

``python tests/backends/test_goldens.py`` writes their digests anew, where a change of them is meant.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from brian2 import ms

from localplast import protocols
from localplast.backends.c import call as torch_scans
from localplast.backends.c import online_call as torch_online
from localplast.equations.slopes import FUNCTIONS
from localplast.errors import LocalplastError
from localplast.rules import eprop
from localplast.runs.fit import Fit
from localplast.runs.options import Options, Schedule
from localplast.study.protocol import Protocol
from localplast.study.report import contenders

GOLDENS = Path(__file__).with_name("goldens.json")
#: Trials of a program, and no more of them in a batch: the text must not depend on how much is presented.
TRIALS = 2


class Written(Exception):
    """Raised with the C text of a kernel in place of its compilation."""


def stop(source):
    raise Written(source)


def learner(contender, preset, backend):
    c = contender.completed(preset.network, preset.optimiser, preset.loss)
    steps = preset.task.training(0, 1, 0).steps
    within = c.rule.interval(c.network.dt)  # weights change within a trial: one after the other in Brian2
    updates, batch = (c.rule.updates(steps, c.network.dt), 1) if within else (1, TRIALS)
    described = (c.network, preset.task, c.network.draw(0), c.rule, c.optimiser, c.loss)
    return Fit(*described, Schedule(batch=batch, updates=updates), Options(backend=backend, target="numpy")).learner


def c_text(contender, preset):
    """The kernel that learns, or presents trials where plain Torch learns; None where there is none."""
    try:
        learning, trials = learner(contender, preset, "torch"), preset.task.training(0, TRIALS, 0)
        if learning.forward.kernel is not None:
            plain = learning.online is not None and not isinstance(learning.online, torch_online.OnlineKernel)
            learning.evaluate(trials) if plain else learning.train(trials)
    except Written as written:
        return str(written)


def brian2_text(contender, preset):
    """Of every object of Brian2's: when it runs, its equations and its code; None where Brian2 does not learn by it."""
    try:
        learning = learner(contender, preset, "brian2")
    except LocalplastError:
        return None
    try:
        return "\n".join(described(o) for o in learning.session.network.sorted_objects)
    finally:
        learning.close()


def described(thing):
    if hasattr(thing, "update_abstract_code"):
        thing.update_abstract_code(run_namespace=FUNCTIONS)
    title = f"{type(thing).__name__} {thing.name}: {thing.when} {thing.order}"
    # in no order; and how Brian2 prints a unit depends on the units that were used before
    lines = sorted(
        f"{e.type} {e.varname} = {e.expr} : {e.dim!r} {e.flags}" for e in getattr(thing, "equations", {}).values()
    )
    return "\n".join([title, *lines, str(getattr(thing, "abstract_code", ""))])


def digest(text):
    return text and hashlib.sha256(text.encode()).hexdigest()[:16]


def digests(preset):
    """By contender, of the text in each language that it is run in."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (torch_scans, torch_online):
            patch.setattr(module, "build", stop)
        return {name: in_each_language(c, preset) for name, c in contenders(preset).items()}


def in_each_language(contender, preset):
    writers = {"c": c_text} | ({"brian2": brian2_text} if contender.rule.local else {})
    return {language: digest(text(contender, preset)) for language, text in writers.items()}


LEARNED = [name for name in protocols.names() if isinstance(protocols.load(name), Protocol)]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", LEARNED)
def test_programs_are_written_as_before(name, built):
    assert digests(built(name)) == json.loads(GOLDENS.read_text())[name]


def test_another_program_is_another_digest(built):
    rules = {"trace": eprop(feedback="random"), "filtered": eprop(feedback="random", kappa=5 * ms)}
    found = digests(replace(built("yin-yang"), rules=rules))
    assert all(found["trace"][language] != found["filtered"][language] for language in ("c", "brian2"))


if __name__ == "__main__":
    made = {name: digests(protocols.load(name).presets["quick"]()) for name in LEARNED}
    GOLDENS.write_text(json.dumps(made, indent=1) + "\n")
