"""How a network runs, as data: where and with what numbers, and for how long it learns."""

from dataclasses import dataclass

from localplast.arguments import (
    check_backend,
    check_device,
    check_dtype,
    check_kind,
    check_path,
    check_schedule,
    check_seed,
    check_threads,
)
from localplast.network.values import Values
from localplast.runs.watch import check_watch

__all__ = ["Options", "Schedule", "checked_values"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where a network runs, with what numbers, and where that is kept; see :func:`localplast.run`."""

    backend: str = "brian2"
    target: str | None = None
    dtype: str = "float64"
    threads: int = 1
    device: str = "cpu"
    seed: int = 0
    path: object = None
    resume: bool = False
    show: bool | None = None

    @classmethod
    def checked(cls, *, backend, simulated, target=None, dtype="float64", threads=None, device="cpu", seed=0, **kept):
        """Options as a user gives them; raises where they cannot be, or say what nothing would listen to."""
        check_path(kept.get("path"), kept.get("resume", False))
        check_backend(backend, target)
        check_device(device, backend)
        check_seed(seed)
        dtype, threads = check_dtype(dtype, backend), check_threads(threads, backend, simulated)
        return cls(backend=backend, target=target, dtype=dtype, threads=threads, device=device, seed=seed, **kept)

    @property
    def provenance(self):
        """What a record says of where it comes from."""
        codegen = self.target if self.backend == "brian2" else "torch"
        return {"backend": self.backend, "codegen": codegen, "seed": self.seed}

    @property
    def numerics(self):
        """What changes the numbers that a run of learning ends with."""
        if self.backend == "brian2":
            return {"target": self.target}
        return {"dtype": self.dtype, "threads": self.threads, "device": self.device.partition(":")[0]}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """For how long a task is learned, and when it is tested.

    Attributes
    ----------
    updates, batch : int
        Updates, and trials of each.
    test : int
        Trials of a test; 0 for none.
    test_every : int, optional
        Updates from test to test; default: one test at the end.
    watch : tuple of Watch
        What happens when validation says so; each says how often it looks.
    """

    updates: int = 1
    batch: int = 1
    test: int = 0
    test_every: int | None = None
    watch: tuple = ()

    @classmethod
    def checked(cls, *, watch=(), **numbers):
        """What a user gives."""
        check_schedule(**numbers)
        looks = [each.scheduled(numbers["test"], numbers["test_every"]) for each in check_watch(watch)]
        return cls(watch=tuple(looks), **numbers)


def checked_values(net, values, seed):
    """The :class:`Values` that a user gives, or those that ``seed`` draws."""
    if values is None:
        return net.draw(seed)
    check_kind("values", values, Values)
    return values
