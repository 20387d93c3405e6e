"""What a person sees while a run goes on: a bar with speed, loss and accuracy; silent where nobody watches."""

import contextlib
import sys

__all__ = ["progress"]


@contextlib.contextmanager
def progress(title, total, *, show=None):
    """Gives ``advance(n, **metrics)``.

    Parameters
    ----------
    total : int
        Number of updates or trials.
    show : bool, optional
        Default: where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda n, **metrics: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[metrics]}"), TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=total, speed="compiling", metrics="")

        def advance(n, **metrics):
            speed = bar.tasks[task].speed
            text = "  ".join(f"{k} {v:.3g}" for k, v in metrics.items() if v == v)
            bar.update(task, advance=n, metrics=text, speed=f"{speed:.1f}/s" if speed else "")

        yield advance
