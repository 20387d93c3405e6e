"""A model as plans and backends spell it: what they have a name for themselves is called otherwise in all its text."""

import dataclasses
import functools
import re
from dataclasses import replace

from localplast.equations.statements import parse_statement, split_statements
from localplast.names import inner, is_taken, outer

__all__ = ["by_inner", "spelled", "spelled_text", "told", "words_of"]

#: The texts of a model.
TEXTS = ("equations", "threshold", "reset", "adaptation", "update", "output")
#: A name, or that in the left side of a differential equation, ``dw/dt = ``.
NAME = re.compile(r"\bd(\w+)(?=\s*/\s*dt\s*=(?!=))|\b([A-Za-z]\w*)")


@functools.cache
def taken_by(model):
    """Names in a model that plans or backends may have too: of its variables, parameters, values within a block, and
    variables of others that it learns from.
    """
    blocks = "\n".join((model.update, model.reset, model.adaptation))
    assigned = {parse_statement(line)[0] for line in split_statements(blocks)}
    others = {found.pre for found in model.mismatch.values()} - {None}
    return frozenset(name for name in {*model.parsed.names, *model.parameters, *assigned, *others} if is_taken(name))


def spelled_text(model, text, besides=()):
    """A text in the names of ``model``, as it is spelled inside; names ``besides`` mean something else in it."""
    names = taken_by(model) - {*besides}
    if not text or not names:
        return text

    def inside(found):
        name = found[1] or found[2]
        return found[0].removesuffix(name) + (inner(name) if name in names else name)

    return NAME.sub(inside, text)


@functools.cache
def spelled(model):
    """``model`` as it is spelled inside."""
    spell = functools.partial(spelled_text, model)
    mismatch = {name: mismatch_spelled(found, spell) for name, found in model.mismatch.items()}
    dicts = {what: by_inner(getattr(model, what)) for what in ("parameters", "initial")}
    return replace(
        model,
        **{what: spell(getattr(model, what)) for what in TEXTS},
        **dicts,
        refractory=spell(model.refractory),
        receives=inner(model.receives),
        surrogate=surrogate_spelled(model),
        mismatch=by_inner(mismatch),
        at_least_dt=tuple(map(inner, model.at_least_dt)),
    )


def by_inner(values):
    """A mapping by variables or parameters, with their names inside."""
    return {inner(name): value for name, value in values.items()}


def surrogate_spelled(model):
    """The surrogate, in which ``x`` is the spike argument whatever else is called so."""
    found = model.surrogate
    if found is None:
        return None
    return replace(
        found, expression=spelled_text(model, found.expression, {"x"}), parameters=by_inner(found.parameters)
    )


def mismatch_spelled(found, spell):
    """A mismatch whose text is spelled by ``spell``; ``pre`` names a variable of another model."""
    return replace(found, error=spell(found.error), of=spell(found.of), pre=found.pre and inner(found.pre))


def words_of(model):
    """What is spelled otherwise inside, as it is spelled there."""
    return frozenset(map(inner, taken_by(model)))


def told(value, words, alone=""):
    """What was said inside, where ``words`` are spelled otherwise, as people say it: text, or anything made of it.

    So within longer names, too, such as ``eps_own_w``. ``alone`` comes before those that stand alone: in an equation of
    learning ``w`` would be the weight.
    """
    if isinstance(value, str):
        return told_text(value, words, alone) if words else value
    if isinstance(value, (tuple, list)):
        return type(value)(told(each, words, alone) for each in value)
    if isinstance(value, dict):
        return {told(key, words, alone): told(each, words, alone) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: told(getattr(value, f.name), words, alone) for f in dataclasses.fields(value)})
    return value


def told_text(text, words, alone):
    """:func:`told` of a text."""
    names = "|".join(sorted(words, key=len, reverse=True))
    text = re.sub(rf"\b({names})\b", lambda found: alone + outer(found[0]), text)
    return re.sub(rf"(?<![A-Za-z0-9])({names})(?![A-Za-z0-9])", lambda found: outer(found[0]), text)
