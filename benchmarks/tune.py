"""Learning rates for the contenders of a protocol, tuned on validation trials: never on those that its tables test.

``python benchmarks/tune.py yin-yang --contender BPTT --factors 0.3 1 3 --halvings 0 4 --seeds 10 11``

Factors are those on a contender's own learning rate; halvings, how often it halves until the end of training, evenly.
Local rules learn on Torch, which finds the same numbers as Brian2, sooner. The best setting is that of the highest
accuracy, or where there is none of the lowest loss, as a mean over seeds. What was found stands in the protocol's own
file, as its rates. A task that tests the very patterns it learns has no trials to hold back: its rates are tuned on
these, with seeds that no table has.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

import localplast as lp
from localplast.errors import RunawayError
from localplast.protocols import load
from localplast.show.table import Column, Table
from localplast.study.contenders import evenly
from localplast.study.numbers import settings
from localplast.study.report import contenders


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("protocol")
    parser.add_argument("--preset", default="quick")
    parser.add_argument(
        "--set", action="append", default=[], help="NAME=VALUE: a number of the preset; may be repeated"
    )
    parser.add_argument("--contender", action="append", help="may be repeated; default: all")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--halvings", type=float, nargs="+", default=[0.0])
    parser.add_argument("--updates", type=int, help="default: the contender's own, or the preset's")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[10, 11], help="of weights and order; tables have 0 to 2"
    )
    parser.add_argument(
        "--test", type=int, help="validation trials; default: as many as the preset tests, or all there are"
    )
    parser.add_argument("--tests", type=int, default=1, help="how often along training: does the loss still fall?")
    return parser.parse_args()


def setting(contender, steps, factor, halvings):
    """The contender's optimiser with ``factor`` on its rate, which halves so often until the last of its updates."""
    optimiser, rule = contender.optimiser, contender.rule
    constants = {**optimiser.constants, "learning_rate": factor**optimiser.power * optimiser.constants["learning_rate"]}
    changes = contender.updates * (
        rule.updates(steps, contender.network.dt) if rule.interval(contender.network.dt) else 1
    )
    return replace(optimiser, constants=constants, halving=changes / halvings if halvings else float("inf"))


def tested(preset, options):
    """How many trials a setting is judged by: stored validation trials may be fewer than the preset tests."""
    return options.test or len((preset.task.validation or preset.task).testing(preset.test, 0))


def validated(preset, contender, optimiser, seed, options):
    """Accuracy and loss of validation trials after training; NaN for a run that did not stay finite."""
    try:
        fit = lp.run(
            contender.network,
            preset.task.validation or preset.task,
            rule=contender.rule,
            optimiser=optimiser,
            loss=contender.loss,
            seed=seed,
            backend="torch",
            batch=contender.batch,
            test=tested(preset, options),
            **evenly(contender.updates, options.tests),
        )
    except RunawayError:
        return {"test_accuracy": np.nan, "test_loss": np.nan}
    course = fit["metrics"].to_dataset()[["test_accuracy", "test_loss"]].dropna("update", how="all")
    said = "; ".join(f"{name} {np.array2string(course[name].values, precision=4)}" for name in course)
    named = f"{contender.rule.name}, {contender.updates} updates, {optimiser.label}, seed {seed}"
    print(f"{named}: {said}", file=sys.stderr, flush=True)
    return {name: float(course[name][-1]) for name in course}


def best(rows):
    """The row with the highest mean accuracy and, where there is none or that is the same, the lowest mean loss."""

    def key(row):
        accuracy, loss = (float(np.mean([run[name] for run in row])) for name in ("test_accuracy", "test_loss"))
        return (np.nan_to_num(accuracy), -np.nan_to_num(loss, nan=np.inf))

    return max(range(len(rows)), key=lambda number: key(rows[number]))


def table(protocol, options):
    """Every contender under every setting, the best of each marked."""
    preset = load(protocol).preset(options.preset, **settings(options.set))
    steps = preset.task.training(0, 1, 0).steps
    named = {}
    for name, contender in contenders(preset).items():
        if options.contender is None or name in options.contender:
            updates = options.updates or contender.updates or preset.updates
            whole = (preset.network, preset.optimiser, preset.loss, updates, preset.batch)
            named[name] = replace(contender, updates=updates).completed(*whole)
    rows = []
    for name, contender in named.items():
        tried = [setting(contender, steps, f, h) for f in options.factors for h in options.halvings]
        runs = [[validated(preset, contender, made, seed, options) for seed in options.seeds] for made in tried]
        chosen = best(runs)
        for number, (made, found) in enumerate(zip(tried, runs, strict=True)):
            rows.append((name, contender.updates, made.label, found, "*" if number == chosen else ""))
    shown = "validation trials" if preset.task.validation else "trials of what is learned"
    said = f" with {', '.join(options.set)}" if options.set else ""
    header = f"{protocol}, preset {options.preset}{said}, seeds {options.seeds}, {tested(preset, options)} {shown}"
    return Table(
        (header,),
        (
            Column("contender", [row[0] for row in rows]),
            Column("updates", [str(row[1]) for row in rows]),
            Column("optimiser", [row[2] for row in rows]),
            Column("validation accuracy (%)", [[100 * run["test_accuracy"] for run in row[3]] for row in rows], 1),
            Column("validation loss", [[run["test_loss"] for run in row[3]] for row in rows], 4),
            Column("best", [row[4] for row in rows]),
        ),
    )


if __name__ == "__main__":
    options = arguments()
    print(table(options.protocol, options).to_markdown())
