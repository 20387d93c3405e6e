"""Errors of this package: what kinds there are, and who shows them."""

import sys

import localplast as lp
from localplast.errors import DatasetError, LocalplastError, ModelError, NetworkError, RunawayError, UnsupportedError


def test_errors_can_be_caught_by_the_kind_of_trouble():
    for error, kind in ((ModelError, ValueError), (NetworkError, ValueError), (UnsupportedError, NotImplementedError),
                        (DatasetError, FileNotFoundError), (RunawayError, ArithmeticError)):  # fmt: skip
        assert issubclass(error, LocalplastError) and issubclass(error, kind)
    assert RunawayError("it ran away", record="kept").record == "kept"


def test_other_errors_are_left_to_brian2(monkeypatch):
    told = []

    def hook(*error):
        told.append(error[0])

    hook.__module__ = "brian2.utils.logger"
    monkeypatch.setattr(sys, "excepthook", hook)
    monkeypatch.setattr(sys, "__excepthook__", lambda *error: told.append("Python"))
    for error in (lp.NetworkError("wrong"), lp.RunawayError("wild"), ZeroDivisionError()):
        sys.excepthook(type(error), error, None)
    assert told == ["Python", "Python", ZeroDivisionError]
