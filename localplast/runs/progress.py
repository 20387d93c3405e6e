"""What a person sees while runs go on: on a terminal a bar each, with speed and accuracy; elsewhere a line now and
then.
"""

import contextlib
import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

__all__ = ["progress"]

logger = logging.getLogger(__name__)

#: Seconds between two lines, where there is no terminal.
EVERY = 10.0


class Bars:
    """One live display for all runs of the process: a terminal holds no more than one."""

    def __init__(self):
        self.lock, self.inside, self.display = threading.Lock(), 0, None

    def add(self, title, total, done):
        with self.lock:
            if self.inside == 0:
                self.display = make_display()
                self.display.start()
            self.inside += 1
            return self.display.add_task(title, total=total, completed=done, speed="compiling", metrics="")

    def update(self, task, n, metrics):
        with self.lock:
            speed = self.display.tasks[task].speed
            self.display.update(task, advance=n, metrics=told(metrics), speed=f"{speed:.1f}/s" if speed else "")

    def remove(self, task):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.display.stop()


@dataclass(eq=False)
class Going:
    """A run that goes on: how far it was when it began here, and is now."""

    title: str
    total: int
    first: int
    done: int
    say: object
    metrics: dict = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def __str__(self):
        elapsed = time.monotonic() - self.since
        left = (self.total - self.done) * elapsed / (self.done - self.first) if self.done > self.first else None
        ending = f"{clock(left)} left" if left is not None else "starting"
        parts = [f"{self.done}/{self.total}", told(self.metrics), ending]
        return f"{self.title}: {clock(elapsed)}  {'  '.join(filter(None, parts))}"


class Lines:
    """One line for all runs of the process, from a thread that ends with the last of them."""

    def __init__(self):
        self.lock, self.going, self.over = threading.Lock(), [], None

    def add(self, title, total, done, say):
        with self.lock:
            if not self.going:
                self.over = threading.Event()
                threading.Thread(target=self.tell, args=(self.over,), daemon=True).start()
            self.going.append(Going(title, total, done, done, say))
            return self.going[-1]

    def update(self, task, n, metrics):
        with self.lock:
            task.done, task.metrics = task.done + n, metrics

    def remove(self, task):
        with self.lock:
            self.going.remove(task)
            if not self.going:
                self.over.set()

    def tell(self, over):
        while not over.wait(EVERY):
            with self.lock:
                text, say = " | ".join(map(str, self.going)), self.going[0].say if self.going else None
            if text:
                say(text)


BARS, LINES = Bars(), Lines()


def told(metrics):
    """Those metrics that are numbers, in words."""
    return "  ".join(f"{k} {v:.3g}" for k, v in metrics.items() if v == v)


def clock(seconds):
    """``0:01:05``."""
    return str(timedelta(seconds=round(seconds)))


def make_display():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[metrics]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def to_stderr(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(title, total, *, done=0, show=None):
    """Gives ``advance(n, **metrics)``.

    Without a terminal, a line every ten seconds goes to the log (level INFO, which the command line shows).

    Parameters
    ----------
    total : int
        Number of updates or trials.
    done : int
        How many of them were there before.
    show : bool, optional
        True: a bar, or lines on standard error where that is no terminal; False: nothing. Default: a bar on a terminal,
        else lines in the log.
    """
    if show is False:
        yield lambda n, **metrics: None
        return
    view, more = (BARS, ()) if sys.stderr.isatty() else (LINES, (to_stderr if show else logger.info,))
    task = view.add(title, total, done, *more)
    try:
        yield lambda n, **metrics: view.update(task, n, metrics)
    finally:
        view.remove(task)
