"""The command line: ``localplast list | compare | run | describe | show``."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
import typer.core

if TYPE_CHECKING:
    from localplast.learning.signal import FeedbackKind


class Stopped(Exception):
    """What to say to somebody who pressed Ctrl-C."""


class Commands(typer.core.TyperGroup):
    """The commands; Ctrl-C is answered by :func:`main`, where typer would end without a word."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except KeyboardInterrupt as stopped:
            resumes = context.invoked_subcommand in ("run", "compare")
            raise Stopped(str(stopped) or "stopped" + resumes * "; with --resume the same command goes on") from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Biologically plausible local learning: Brian2 online, Torch differentiable, compared.",
)

Preset = Annotated[str, typer.Option(help="quick (minutes on a laptop) or paper (the published size).")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds.")]
Updates = Annotated[int | None, typer.Option(min=1, help="Updates per run; default the preset's.")]
Out = Annotated[Path, typer.Option(help="Folder for records, table and figure.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A number of the preset that shall be another, such as updates=500 or dt=0.5*ms; may be repeated.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with runs that were interrupted.")]


def main():
    """Entry point: errors made on purpose become one line, and so does a request to stop, with what is saved."""
    import sys

    from localplast.errors import LocalplastError
    from localplast.interrupt import terminable

    say_once()
    try:
        with terminable() as asked:
            app(standalone_mode=False)
    except LocalplastError as error:
        typer.secho(f"localplast: {error}", fg="red", err=True)
        sys.exit(1)
    except (Stopped, KeyboardInterrupt, typer.Abort) as stopped:
        typer.secho(f"localplast: {str(stopped) or 'stopped'}", err=True)
        sys.exit(128 + (asked[-1] if asked else signal.SIGINT))
    except Exception as error:  # click reports misuse by exceptions that know how to show themselves
        if not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(getattr(error, "exit_code", 2))


def say_once():
    """Print every warning once, however many runs it holds for."""
    import logging

    said: dict[str, logging.LogRecord] = {}
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: said.setdefault(record.getMessage(), record) is record)
    logging.getLogger("localplast").addHandler(handler)
    logging.getLogger("localplast.runs.progress").setLevel(logging.INFO)


def load(protocol, preset, settings):
    """A protocol, and its preset as :class:`~localplast.study.protocol.Preset` with other ``settings``."""
    from localplast import protocols
    from localplast.errors import LocalplastError
    from localplast.study.protocol import Protocol

    chosen = protocols.load(protocol)
    if not isinstance(chosen, Protocol):
        raise LocalplastError(
            f"{protocol} is a phenomenon: measured, and nothing learns in it; use localplast run {protocol}"
        )
    return chosen, chosen.preset(preset, **settings)


def read_settings(texts, **options):
    """What ``--set`` sets, by name; raises where another of ``options`` gives the same."""
    from localplast.errors import LocalplastError
    from localplast.study.numbers import settings

    found = settings(texts)
    if twice := [name for name, given in options.items() if given and name in found]:
        raise LocalplastError(f"--{twice[0]} and --set {twice[0]}=... say the same; give one of them")
    return found


@app.command("list")
def list_():
    """What there is: models, rules, protocols, phenomena."""
    from localplast import models, protocols, rules
    from localplast.study.phenomenon import Phenomenon
    from localplast.study.protocol import Protocol

    typer.echo("models:    " + ", ".join(models.__all__))
    typer.echo("rules:     " + ", ".join(rules.__all__))
    every = {name: protocols.load(name) for name in protocols.names()}
    for title, kind in {"protocols, for run and compare": Protocol, "phenomena, for run": Phenomenon}.items():
        typer.echo(f"{title}:")
        for name, chosen in every.items():
            if isinstance(chosen, kind):
                typer.echo(f"  {name:24s} {chosen.summary}")


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="A model, a rule or a protocol.")],
    rule: Annotated[str, typer.Option(help="The rule that a protocol is described with; default its own.")] = "",
    on: Annotated[
        str, typer.Option(help="The small network that a rule is shown on: recurrent, deep, local or spikes.")
    ] = "recurrent",
    set_: Set = [],  # noqa: B006
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX (with amsmath) instead of text.")] = False,
):
    """Derived equations, where each value is stored, what it costs, and what each synapse reads."""
    from dataclasses import replace

    from localplast import models, protocols, rules
    from localplast.errors import LocalplastError
    from localplast.show.describe import describe_model
    from localplast.show.examples import SAMPLES, sample

    def made(word):
        word = word.replace("-", "")
        if word not in rules.__all__:
            raise LocalplastError(f"no rule {word!r}; there are {', '.join(rules.__all__)}")
        return rules.feedback_alignment(rules.eprop()) if word == "feedback_alignment" else getattr(rules, word)()

    settings = read_settings(set_)
    if settings and name not in protocols.names():
        raise LocalplastError(f"--set is for numbers of a protocol, and {name!r} is none; see localplast list")
    if on not in SAMPLES:
        raise LocalplastError(f"no network {on!r} to show a rule on; there are {', '.join(SAMPLES)}")
    if name in models.__all__:
        found = describe_model(getattr(models, name)())
    elif name in protocols.names():
        chosen, preset = load(name, "quick", settings)
        found = made(rule or chosen.rule).describe(preset.network, preset.loss, optimiser=preset.optimiser)
        found = replace(found, title=f"{name}: {found.title}")
    elif name.replace("-", "") in rules.__all__:
        found = made(name).describe(sample(on if made(name).signal.hears_errors else "dendrites"))
    else:
        raise LocalplastError(f"no model, rule or protocol {name!r}; see localplast list")
    typer.echo(found.latex() if latex else str(found))


@app.command()
def compare(
    protocol: str,
    preset: Preset = "quick",
    seeds: Seeds = 3,
    out: Out = Path("results"),
    target: Annotated[str, typer.Option(help="Brian2 target: cpp, cython or numpy; default cpp where it can be.")] = "",
    updates: Updates = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Trials per update; default the preset's.")] = None,
    set_: Set = [],  # noqa: B006
    backend: Annotated[str, typer.Option(help="Where local rules run: brian2 or torch; default brian2.")] = "",
    resume: Resume = False,
    table: Annotated[
        list[Path], typer.Option(help="Also write the table here: .csv, .md or .tex; may be repeated.")
    ] = [],  # noqa: B006
    figure: Annotated[Path | None, typer.Option(help="Also write the figure here: .png, .pdf or .svg.")] = None,
):
    """Train one network under local rules (Brian2, online) and BPTT (Torch), and say how far apart they are."""
    import shlex
    from dataclasses import replace

    import matplotlib

    matplotlib.use("Agg")
    from localplast.arguments import check_backend
    from localplast.show.table import check_table_path
    from localplast.study.numbers import title, written
    from localplast.study.report import check_figure_path, report

    check_backend(backend or "brian2", target or None)
    settings = read_settings(set_, updates=updates, batch=batch)
    chosen, built = load(protocol, preset, settings)
    folder = out / title(protocol, preset, settings)
    wanted = [check_table_path(path) for path in table] + ([check_figure_path(figure)] if figure else [])
    for path in (*wanted, folder / "any"):  # now, not after minutes of training
        path.parent.mkdir(parents=True, exist_ok=True)
    given = {"preset": preset, "seeds": seeds, "target": target, "updates": updates, "batch": batch, "backend": backend}
    words = [protocol, *(word for name, value in given.items() if value for word in (f"--{name}", value))]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={written(value)}")]
    built = replace(built, batch=batch or built.batch)
    text = report(
        chosen,
        built,
        preset=preset,
        seeds=range(seeds),
        folder=folder,
        backend=backend or None,
        target=target or None,
        updates=updates or built.updates,
        resume=resume,
        command=f"localplast compare {shlex.join(map(str, words))}",
        tables=table,
        figure=figure,
    )
    typer.echo(text)


@app.command()
def run(
    protocol: str,
    rule: Annotated[str, typer.Option(help="See localplast list; default the protocol's.")] = "",
    feedback: Annotated[
        str, typer.Option(help="symmetric, random, uniform, sign or learned; default the rule's.")
    ] = "",
    backend: Annotated[str, typer.Option(help="brian2 or torch; default brian2 for local rules on the CPU.")] = "",
    preset: Preset = "quick",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, trials, feedback and noise.")] = 0,
    updates: Updates = None,
    set_: Set = [],  # noqa: B006
    out: Out = Path("results"),
    resume: Resume = False,
    device: Annotated[str, typer.Option(help="Of torch: cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch: how many share a batch; default 2.")] = None,
    dtype: Annotated[str, typer.Option(help="Of torch: float64, or float32, which is faster.")] = "float64",
):
    """Train one network under one rule and write its record; or measure a phenomenon, and draw it too."""
    import localplast as lp
    from localplast import protocols, rules
    from localplast.study.numbers import title
    from localplast.study.phenomenon import Phenomenon

    check_where(backend, device, dtype)
    settings = read_settings(set_, updates=updates)
    chosen = protocols.load(protocol)
    if isinstance(chosen, Phenomenon):
        training = {"--rule": rule, "--feedback": feedback, "--seed": seed, "--updates": updates, "--resume": resume}
        training |= {"--device": device != "cpu", "--threads": threads, "--dtype": dtype != "float64"}
        unused = [option for option, given in training.items() if given]
        return measure(chosen, preset, settings, backend or "brian2", out, unused)
    check_rule(rule)
    chosen, built = load(protocol, preset, settings)
    rule = rule or chosen.rule
    made = getattr(rules, rule)()
    if feedback:
        made = rules.feedback_alignment(made, cast("FeedbackKind", feedback), std=built.feedback_std)
    side_by_side = built.batch > 1 and made.update != "trial"  # weights change within trials: Brian2 has no batch then
    backend = backend or ("brian2" if made.local and device == "cpu" and not side_by_side else "torch")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{title(protocol, preset, settings)}-{rule}-{feedback or 'default'}-{backend}-seed{seed}.zarr"
    updates = updates or built.updates
    tree = lp.run(
        built.network,
        built.task,
        backend=backend,
        rule=made,
        optimiser=built.optimiser,
        loss=built.loss,
        batch=built.batch,
        updates=updates,
        test=built.test,
        test_every=updates // next(tests for tests in range(min(updates, 5), 0, -1) if updates % tests == 0),
        watch=built.watch,
        record=chosen.recorded,
        seed=seed,
        path=path,
        resume=resume,
        threads=threads or (2 if backend == "torch" else None),
        device=device,
        dtype=dtype,
    )
    say(chosen, built, tree, seed, path)
    made = int(tree["metrics"]["update"][-1])
    if made < updates:
        typer.echo(f"ended after {made} of {updates} updates, {tree.attrs['watch']}")


def check_where(backend, device, dtype):
    """Raise unless this backend, or the one that is taken where none is given, runs there and counts so."""
    from localplast.arguments import check_backend, check_device, check_dtype

    check_backend(backend or "brian2")
    check_device(device, backend or "torch")
    check_dtype(dtype, backend or "torch")


def check_rule(word):
    """Raise unless there is a rule of this name, where one is given."""
    from localplast import rules
    from localplast.errors import LocalplastError

    alone = [name for name in rules.__all__ if name != "feedback_alignment"]  # which changes another: see --feedback
    if word and word not in alone:
        raise LocalplastError(f"no rule {word!r}; there are {', '.join(alone)}")


def say(chosen, built, tree, seed, path):
    """The last numbers of a run, where its record is, and what its protocol tells and draws."""
    metrics = tree["metrics"].to_dataset()
    typer.echo("  ".join(f"{k} {float(v[-1]):.4g}" for k, v in metrics.data_vars.items()))
    typer.echo(f"record: {path}")
    if chosen.told:
        typer.echo(chosen.told(built.network, built.task.testing(1, seed), built.network.values_from(tree)))
    draw_learned(chosen, built, tree, seed, path.with_suffix(".png"))


def draw_learned(protocol, built, tree, seed, path):
    """What the network did before learning and does after it, and how it learned, as far as the protocol draws them."""
    import matplotlib

    matplotlib.use("Agg")
    from localplast.study.report import write_figure

    net, figures = built.network, {}
    if protocol.drawn:
        figures[path] = protocol.drawn(net, built.task.testing(1, seed), net.draw(seed), net.values_from(tree))
    if protocol.course:
        figures[path.with_name(f"{path.stem}-course.png")] = protocol.course(net, tree)
    for where, figure in figures.items():
        write_figure(figure, where)
        typer.echo(f"figure: {where}")


def measure(phenomenon, preset, settings, backend, out, unused):
    """What ``run`` does with a phenomenon: measure, write the record, draw, report."""
    import matplotlib

    matplotlib.use("Agg")
    from localplast.errors import LocalplastError
    from localplast.study.numbers import title
    from localplast.study.phenomenon import write_record
    from localplast.study.report import write_figure

    if unused:
        raise LocalplastError(f"{phenomenon.name} is measured, nothing learns in it: leave out {', '.join(unused)}")
    out.mkdir(parents=True, exist_ok=True)
    found = phenomenon.measure(preset, settings=settings, backend=backend)
    path = out / f"{title(phenomenon.name, preset, settings)}-{backend}.zarr"
    write_record(found, path)
    write_figure(phenomenon.figure(found), path.with_suffix(".png"))
    typer.echo(phenomenon.report(found))
    typer.echo(f"record: {path}\nfigure: {path.with_suffix('.png')}")


@app.command()
def show(record: Path):
    """What a record holds."""
    from localplast.runs.record import open_record

    typer.echo(str(open_record(record)))
