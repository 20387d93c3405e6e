"""Ctrl-C and its kin: what must be written whole is, and a request to stop becomes an exception."""

import contextlib
import signal
import threading

__all__ = ["deferred", "still_deaf", "terminable", "undisguised"]

REQUESTS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handled(handler, requests):
    """Let ``handler(number, frame)`` answer these signals; afterwards who answered before does.

    Only the main thread hears signals, and only it may say who answers.
    """
    alone = threading.current_thread() is threading.main_thread()
    before = {each: signal.getsignal(each) for each in requests if alone}
    known = {
        each: answer for each, answer in before.items() if answer is not None
    }  # None: set by C, not to be restored
    try:
        for each in known:
            signal.signal(each, handler)
        yield
    finally:
        for each, answer in known.items():
            signal.signal(each, answer)


@contextlib.contextmanager
def deferred():
    """What stands inside is done to its end; a request to stop is heard then."""
    came = []
    try:
        with handled(lambda number, frame: came.append(number), REQUESTS):
            yield
    finally:
        if came:
            signal.raise_signal(came[-1])


@contextlib.contextmanager
def undisguised():
    """Ctrl-C is heard by the main thread; Brian2 would take it for a wish to end whatever it runs, in whatever
    thread.
    """
    present = signal.getsignal(signal.SIGINT)
    with handled(getattr(present, "previous_handler", present), (signal.SIGINT,)):
        yield


def still_deaf():
    """Ignore Ctrl-C where this process did so before Brian2 was imported: a job in the background of a script.

    Brian2 answers it all the same, and hands it on to who answered before: there is nobody to be called.
    """
    ignored = getattr(signal.getsignal(signal.SIGINT), "previous_handler", None) is signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def terminable():
    """SIGTERM ends what stands inside as Ctrl-C does: with a KeyboardInterrupt, so that everybody can save.

    Gives a list, to which its number is appended then.
    """
    came = []

    def stop(number, frame):
        came.append(number)
        raise KeyboardInterrupt

    with handled(stop, (signal.SIGTERM,)):
        yield came
