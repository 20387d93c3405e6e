"""The numbers of a preset: data by name, which can be set otherwise, in Python or as text on the command line."""

import contextlib
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import numpy as np
from brian2.core.namespace import DEFAULT_UNITS
from brian2.units.fundamentalunits import Quantity, get_dimensions

from localplast.arguments import is_real
from localplast.equations.expressions import quantity
from localplast.equations.units import unit_text
from localplast.errors import DatasetError, DiskError, LocalplastError, RunawayError

__all__ = ["Numbers", "chosen", "presets", "said", "settings", "title", "written"]

WORDS = {"true": True, "false": False, "none": None}
#: What people call data of a type; ``bool`` stands before ``int``, which it also is.
CALLED = {bool: "true or false", str: "a text", int: "a whole number", float: "a number", type(None): "none"}
#: What goes wrong whatever the numbers are, or in the course of a simulation.
NOT_TO_BLAME = (DatasetError, DiskError, RunawayError)
#: What every preset calls the time step: in none nothing happens.
STEP = "dt"
#: Letters of a value in a list of what can be set.
SHOWN = 40


@dataclass(frozen=True, eq=False)
class Numbers(Mapping):
    """The numbers of a preset, by name; called, they build it.

    Parameters
    ----------
    owner : str
        Whose they are, for messages.
    build : callable
        Takes them as keywords.
    data : dict of str to data
        Numbers, quantities, texts, truth values, None, and tuples and arrays of these.
    examples : dict of str to list of data
        Of everything that can be set, what the presets of the owner say: other values are of the same kinds, and
        negative, or without any entry, only where one of these is.
    preset : str
        Its name.
    changes : dict of str to data
        What was set otherwise.
    """

    owner: str
    build: Callable
    data: dict
    examples: dict
    preset: str
    changes: dict = field(default_factory=dict)

    def __getitem__(self, name):
        return self.data[name]

    def __iter__(self):
        return iter(self.data)

    def __len__(self):
        return len(self.data)

    def __call__(self):
        with self.blamed():
            return self.build(**self.data)

    @contextlib.contextmanager
    def blamed(self):
        """While something is made of these numbers: where it cannot be, those are to blame that were set otherwise."""
        try:
            yield
        except LocalplastError as error:
            if self.changes and not isinstance(error, NOT_TO_BLAME):
                error.args = (f"{self.where} with {said(self.changes)}: {error}",)
            raise
        except Exception as error:  # of numpy or Brian2: whatever a number leads to that is too large or too small
            if not self.changes:
                raise
            raise LocalplastError(
                f"{self.where} cannot be built with {said(self.changes)}: {error}; {self.listed}"
            ) from error

    def changed(self, other):
        """These with ``other`` values for some names.

        Raises
        ------
        LocalplastError
            There is no such name, or its value is of another kind.
        """
        if unknown := [name for name in other if name not in self.examples]:
            raise LocalplastError(f"{self.owner} has no {unknown[0]!r} to set; {self.listed}")
        changes = {name: self.fitting(name, value) for name, value in other.items()}
        return replace(self, data=self.data | changes, changes=self.changes | changes)

    def fitting(self, name, value):
        """``value`` as one for ``name``."""
        examples = self.examples[name]
        kinds = " or ".join(dict.fromkeys(called(example) for example in examples))
        try:
            found = alike(value, examples)
        except ValueError:
            raise LocalplastError(f"{self.where}: {name} is {kinds}; given {value!r:.80}; {self.listed}") from None
        if least(found) < 0 <= min(map(least, examples)) or (name == STEP and not least(found)):
            bound = "above 0" if name == STEP else "0 or more"
            raise LocalplastError(f"{self.where}: {name} is {kinds}, {bound}; given {written(value):.80}")
        if is_empty(found) and not any(map(is_empty, examples)):
            raise LocalplastError(f"{self.where}: {name} is {kinds}, one or more of them; given none")
        return found

    @property
    def where(self):
        return f"{self.owner}, preset {self.preset}"

    @property
    def listed(self):
        """What can be set, in words, with the values that this preset has."""
        values = {name: self.data.get(name, examples[-1]) for name, examples in self.examples.items()}
        return f"can be set: {said(values, SHOWN)}"


def presets(owner, build, given):
    """The presets of ``owner`` as :class:`Numbers`; ``given`` holds the data of each by its name."""
    for name, values in given.items():
        if not isinstance(values, Mapping):
            raise LocalplastError(f"{owner}: preset {name!r} is a dict of numbers for build=; given {values!r:.80}")
        for key, value in values.items():
            called(value, f"{owner}: {key} of preset {name!r}")
    examples = {}
    for parameter in inspect.signature(build).parameters.values():
        found = [values[parameter.name] for values in given.values() if parameter.name in values]
        found += [parameter.default] if is_data(parameter.default) else []
        examples |= {parameter.name: found} if found else {}
    return {name: Numbers(owner, build, dict(values), examples, name) for name, values in given.items()}


def chosen(owner, numbers, name):
    """The preset of this name; raises where there is none."""
    if name not in numbers:
        raise LocalplastError(f"{owner} has the presets {', '.join(numbers)}, not {name!r}")
    return numbers[name]


def least(value):
    """The smallest number in data, 0 where there is none."""
    if isinstance(value, tuple):
        return min(map(least, value), default=0)
    if isinstance(value, np.ndarray):
        return np.min(np.asarray(value), initial=np.inf) if value.size else 0
    return value if isinstance(value, (int, float)) else 0


def is_empty(value):
    """Whether ``value`` is several of which there is none."""
    return isinstance(value, (tuple, np.ndarray)) and not np.size(np.asarray(value, dtype=object))


def is_data(value):
    return isinstance(value, (*CALLED, tuple, np.ndarray))


def called(value, where=""):
    """What kind of data ``value`` is, in words; raises where it is none."""
    if not is_data(value):
        raise LocalplastError(f"{where} is {value!r:.80}: give numbers, quantities and texts, and build= makes of them")
    if isinstance(value, tuple):
        return f"several values, each {' or '.join(dict.fromkeys(called(each, where) for each in value)) or 'data'}"
    if isinstance(value, np.ndarray):  # a quantity is one, too
        unit = unit_text(get_dimensions(value))
        return f"a quantity in {unit}" if value.ndim == 0 else f"several numbers in {unit}"
    return CALLED[kind_of(value)]


def kind_of(value):
    """The type of plain data that ``value`` is of, None for other things."""
    return next((kind for kind in CALLED if isinstance(value, kind)), None)


def alike(value, examples):
    """``value`` as data of a kind that one of ``examples`` is of; a ValueError where it is of none."""
    for example in examples:
        try:
            return as_kind(value, example)
        except ValueError:
            continue
    raise ValueError


def as_kind(value, example):
    """``value`` as data of the kind of ``example``."""
    if isinstance(example, tuple) or (isinstance(example, np.ndarray) and example.ndim):
        return several(value, example)
    if isinstance(example, Quantity):
        return one_quantity(value, example)
    plain = value.item() if isinstance(value, np.generic) else value
    plain = float(plain) if (kind_of(plain), kind_of(example)) == (int, float) else plain
    if kind_of(plain) is not kind_of(example) or (isinstance(plain, float) and not math.isfinite(plain)):
        raise ValueError
    return plain


def one_quantity(value, example):
    """``value``, if it is one finite number in the unit of ``example``."""
    if not is_real(value) or np.ndim(value) or get_dimensions(value) is not example.dim or not np.isfinite(value):
        raise ValueError
    return value


def several(value, example):
    """``value`` as a tuple of the same kind, or as an array in the same unit."""
    if not isinstance(value, (tuple, list, np.ndarray)) or not np.ndim(value):
        raise ValueError
    if isinstance(example, tuple):
        return tuple(alike(each, example) for each in value)
    return Quantity([float(one_quantity(each, example)) for each in value], dim=example.dim)


def title(name, preset, settings):
    """What results are called: protocol, preset, and what is set otherwise; a long value by a digest of it."""
    words = {key: quote(written(value), safe=",+") for key, value in settings.items()}
    short = {key: w if len(w) <= SHOWN else hashlib.sha256(w.encode()).hexdigest()[:12] for key, w in words.items()}
    return "-".join([name, preset, *(f"{key}={word}" for key, word in short.items())])


def settings(texts):
    """What ``NAME=VALUE`` texts set, as data by name; values are read, never evaluated."""
    found = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise LocalplastError(f"--set takes NAME=VALUE, such as updates=500 or dt=0.5*ms; given {text!r:.80}")
        if name in found:
            raise LocalplastError(f"--set gives {name} twice: {written(found[name])} and {value}")
        found[name] = read(value)
    return found


def read(text):
    """The data that a text says, such as ``500``, ``0.1``, ``20*ms``, ``true``, ``none`` or ``100,50``; else itself."""
    if "," in text or text[0] in "([":
        return tuple(read(part.strip()) for part in text.strip("()[]").split(",") if part.strip())
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for number in (int, float, quantity):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def said(values, most=None):
    """Data by name as one text, ``dt=0.5*ms, updates=500``; of each not more than so many letters."""
    words = {name: written(value) for name, value in values.items()}
    return ", ".join(f"{k}={w if most is None or len(w) <= most else f'{w[:most]}...'}" for k, w in words.items())


def written(value):
    """Data as text that :func:`read` reads."""
    if isinstance(value, Quantity) and value.ndim == 0:
        unit = value.get_best_unit()
        name = str(unit) if str(unit) in DEFAULT_UNITS else repr(unit).replace(" ", "")
        return f"{float(value / unit):.12g}*{name}"
    if isinstance(value, (tuple, np.ndarray)):
        return ",".join(written(each) for each in value) + "," * (len(value) == 1) or "()"
    return next((word for word, meant in WORDS.items() if value is meant), str(value))
