"""The main job: a protocol compared under local rules and BPTT, as a table, a figure and a record."""

import platform
from pathlib import Path

import localplast
from localplast.comparison import Contender, compare, markdown
from localplast.optimise import adam
from localplast.plot import comparison
from localplast.record import open_record
from localplast.rules import bptt, eprop
from localplast.serialise import atomic_write
from localplast.show import trial

__all__ = ["contenders", "report"]


def contenders(preset):
    """The rules of the main job: e-prop with both kinds of feedback, BPTT, and the control with hidden weights frozen."""
    readouts = preset.network.readouts
    hidden = tuple(p.name for p in preset.network.plastic if p.post not in readouts)
    return {
        "BPTT": bptt(),
        "e-prop, symmetric": eprop(),
        "e-prop, random": eprop(feedback="random", feedback_std=preset.feedback_std),
        "BPTT, hidden frozen": Contender(bptt(), "torch", hidden),
    }


def report(protocol, built, *, preset, seeds, folder, target=None, updates, resume=False):
    """Run the comparison; write ``comparison.zarr``, ``comparison.png`` and ``table.md`` to ``folder``; return the text."""
    tree = compare(
        built.network, built.task, contenders(built), optimiser=adam(built.learning_rate), loss=built.loss, seeds=list(seeds),
        batch=built.batch, updates=updates, test=built.test, hidden=built.hidden, path=folder / "runs", resume=resume,
        target=target, workers=2,
    )
    tree.to_zarr(folder / "comparison.zarr", mode="w", consolidated=False)
    figure = comparison(tree, last_trial(built, folder, list(seeds)[0]))
    figure.savefig(folder / "comparison.png", dpi=150)
    published = "".join(f"\npublished, {what}: {number}" for what, number in protocol.published.items())
    text = (
        f"{protocol.name}, preset {preset}, seeds {list(seeds)}, {updates} updates of {built.batch} trials; mean ± sd over seeds\n"
        f"localplast {localplast.__version__}, Python {platform.python_version()}, {platform.machine()}\n\n"
        f"{markdown(tree)}\n{published}\n\nwritten: {folder}/comparison.zarr, comparison.png, table.md, runs/"
    )
    atomic_write(Path(folder) / "table.md", text.encode())
    return text


def last_trial(built, folder, seed):
    """One test trial of the network that e-prop trained."""
    record = open_record(folder / "runs" / f"e-prop,-symmetric-seed{seed}.zarr")
    weights = {name: record[name]["weight"].values for name in built.network.projections}
    values = built.network.draw(seed).replace_weights(weights)
    return trial(built.network, values, built.task.testing(1, seed), eprop(), built.loss, built.hidden, seed=seed)
