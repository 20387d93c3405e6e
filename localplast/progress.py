"""What a person sees while runs go on: a bar each, with speed, loss and accuracy; silent where nobody watches."""

import contextlib
import sys
import threading

__all__ = ["progress"]


class Bars:
    """One live display for all runs of the process: a terminal holds no more than one."""

    def __init__(self):
        self.lock, self.inside, self.display = threading.Lock(), 0, None

    def add(self, title, total):
        with self.lock:
            if self.inside == 0:
                self.display = make_display()
                self.display.start()
            self.inside += 1
            return self.display.add_task(title, total=total, speed="compiling", metrics="")

    def update(self, task, n, metrics):
        with self.lock:
            speed = self.display.tasks[task].speed
            text = "  ".join(f"{k} {v:.3g}" for k, v in metrics.items() if v == v)
            self.display.update(task, advance=n, metrics=text, speed=f"{speed:.1f}/s" if speed else "")

    def remove(self):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.display.stop()


BARS = Bars()


def make_display():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[metrics]}"), TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip


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
    task = BARS.add(title, total)
    try:
        yield lambda n, **metrics: BARS.update(task, n, metrics)
    finally:
        BARS.remove()
