"""The command line: ``localplast list | compare | run | describe | show``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Biologically plausible local learning: Brian2 online, Torch differentiable, compared.",
)

Preset = Annotated[str, typer.Option(help="quick (minutes on a laptop) or paper (the published size).")]
Seeds = Annotated[int, typer.Option(help="Number of seeds.")]
Out = Annotated[Path, typer.Option(help="Folder for records, table and figure.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with runs that were interrupted.")]


def main():
    """Entry point: errors made on purpose become one line, Ctrl-C becomes a word about resuming."""
    import sys

    from localplast.errors import LocalplastError

    try:
        app(standalone_mode=False)
    except LocalplastError as error:
        typer.secho(f"localplast: {error}", fg="red", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        typer.secho("stopped; what was learned is saved, go on with --resume", err=True)
        sys.exit(130)
    except Exception as error:  # click reports misuse by exceptions that know how to show themselves
        if not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(getattr(error, "exit_code", 2))


def load(protocol, preset):
    from localplast import protocols
    from localplast.errors import LocalplastError

    chosen = protocols.load(protocol)
    if preset not in chosen.presets:
        raise LocalplastError(f"{protocol} has the presets {', '.join(chosen.presets)}, not {preset!r}")
    return chosen, chosen.presets[preset]()


@app.command("list")
def list_():
    """What there is: models, rules, protocols."""
    from localplast import models, protocols, rules

    typer.echo("models:    " + ", ".join(models.__all__))
    typer.echo("rules:     " + ", ".join(rules.__all__))
    typer.echo("protocols:")
    for name in protocols.names():
        typer.echo(f"  {name:24s} {protocols.load(name).summary}")


@app.command()
def describe(name: Annotated[str, typer.Argument(help="A model or a rule.")]):
    """The equations of a model, or of a rule on a small recurrent network."""
    from localplast import models, rules
    from localplast.describe import describe_model, describe_rule
    from localplast.errors import LocalplastError

    if name in models.__all__:
        typer.echo(describe_model(getattr(models, name)()))
    elif name.replace("-", "") in rules.__all__:
        typer.echo(describe_rule(getattr(rules, name.replace("-", ""))()))
    else:
        raise LocalplastError(f"no model or rule {name!r}; see localplast list")


@app.command()
def compare(
    protocol: str,
    preset: Preset = "quick",
    seeds: Seeds = 3,
    out: Out = Path("results"),
    target: Annotated[str, typer.Option(help="Brian2 target: cpp, cython or numpy; default cpp where it can be.")] = "",
    updates: Annotated[int, typer.Option(help="Updates per run; default the preset's.")] = 0,
    resume: Resume = False,
    table: Annotated[list[Path], typer.Option(help="Also write the table here: .csv, .md or .tex; may be repeated.")] = [],  # noqa: B006
    figure: Annotated[Path | None, typer.Option(help="Also write the figure here: .png, .pdf or .svg.")] = None,
):
    """Train one network under local rules (Brian2, online) and BPTT (Torch), and say how far apart they are."""
    import matplotlib

    matplotlib.use("Agg")
    from localplast.report import check_figure_path, report
    from localplast.table import check_table_path

    chosen, built = load(protocol, preset)
    folder = out / f"{protocol}-{preset}"
    wanted = [check_table_path(path) for path in table] + ([check_figure_path(figure)] if figure else [])
    for path in (*wanted, folder / "any"):  # now, not after minutes of training
        path.parent.mkdir(parents=True, exist_ok=True)
    words = [protocol, "--preset", preset, "--seeds", seeds, *(["--target", target] if target else [])]
    words += ["--updates", updates] if updates else []
    text = report(
        chosen, built, preset=preset, seeds=range(seeds), folder=folder, target=target or None, updates=updates or built.updates,
        resume=resume, command=f"localplast compare {' '.join(map(str, words))}", tables=table, figure=figure,
    )
    typer.echo(text)


@app.command()
def run(
    protocol: str,
    rule: Annotated[str, typer.Option(help="bptt or eprop.")] = "eprop",
    feedback: Annotated[str, typer.Option(help="symmetric or random.")] = "symmetric",
    backend: Annotated[str, typer.Option(help="brian2 or torch; default brian2 for local rules.")] = "",
    preset: Preset = "quick",
    seed: int = 0,
    updates: Annotated[int, typer.Option(help="Default the preset's.")] = 0,
    out: Out = Path("results"),
    resume: Resume = False,
):
    """Train one network under one rule and write its record."""
    import localplast as lp
    from localplast import rules
    from localplast.errors import LocalplastError

    if rule not in rules.__all__:
        raise LocalplastError(f"no rule {rule!r}; there are {', '.join(rules.__all__)}")
    _, built = load(protocol, preset)
    made = getattr(rules, rule)(feedback=feedback, feedback_std=built.feedback_std)
    backend = backend or ("brian2" if made.local else "torch")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{protocol}-{preset}-{rule}-{feedback}-{backend}-seed{seed}.zarr"
    updates = updates or built.updates
    tree = lp.run(
        built.network, built.task, backend=backend, rule=made, optimiser=built.optimiser, loss=built.loss,
        batch=built.batch, updates=updates, test=built.test, test_every=max(updates // 5, 1), seed=seed, path=path,
        resume=resume, threads=2,
    )
    metrics = tree["metrics"].to_dataset()
    typer.echo("  ".join(f"{k} {float(v[-1]):.4g}" for k, v in metrics.data_vars.items()))
    typer.echo(f"record: {path}")


@app.command()
def show(record: Path):
    """What a record holds."""
    from localplast.record import open_record

    typer.echo(str(open_record(record)))
