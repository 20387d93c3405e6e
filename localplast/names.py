"""Names that end in generated code: plain words, which mean nothing to Python, C or C++.

Plans and backends have names of their own for what they keep beside a model's variables. A model may use the same ones:
inside, such a variable is spelled otherwise (:func:`inner`), and outside it is called what its model calls it
(:func:`outer`). How that is done to a whole network: :mod:`localplast.network.spelling`.
"""

import keyword
import re

from localplast.errors import NetworkError

__all__ = ["BRIAN2", "OWN", "check_name", "inner", "is_taken", "outer"]

#: Most characters of a name: generated names are longer by a prefix or two, and some become files.
LONGEST = 64
#: Words of C and C++, and what their headers define, that Python leaves free.
FOREIGN = frozenset(
    "alignas alignof and_eq asm auto bitand bitor bool case catch char compl const consteval constexpr constinit "
    "const_cast co_await co_return co_yield decltype default delete do double dynamic_cast enum explicit export "
    "extern false float friend goto inline int long mutable namespace new noexcept not_eq nullptr operator or_eq "
    "private protected public register reinterpret_cast requires restrict short signed sizeof static static_assert "
    "static_cast struct switch template this thread_local throw true typedef typeid typename typeof union unsigned "
    "using virtual void volatile wchar_t xor xor_eq NULL EOF INFINITY NAN HUGE_VAL RAND_MAX BUFSIZ errno stdin "
    "stdout stderr linux unix main fabs fmod fmin fmax pow erf hypot malloc free memcpy memset printf system".split()
)

#: What Brian2 calls its own variables, in every group and every synapse.
BRIAN2 = frozenset("i j t dt N xi lastspike not_refractory t_in_timesteps".split())
#: How a variable begins inside that is called as something that plans and backends have.
OWN = "own_"
#: What plans and backends call what they keep of neurons, synapses and trials. Where a name is made that is not covered
#: here or by :data:`BEGINNINGS`, tests/network/test_spelling.py says so.
TAKEN = frozenset(
    # of neurons: what learning computes; what readouts are told; what actor and critic keep
    "x psi z L activity spike_count error loss score teacher normaliser lure "
    "td purse income paid value_before beaten roll earned "
    # of synapses, which read names of their neurons beside their own
    "w B fraction arrived elig gradient filtered fading learning_rate updates "
    # what else is asked for by the name of a part: out.output, rec.spikes, rec_rec.weight
    "output spikes raster weight count sum".split()
)
#: How those begin that go on with the name of a variable, parameter, population or projection.
BEGINNINGS = (
    "eps_ last_eps_ primed_ faded_ filtered_ elig_ fading_ kept_ d_ drift_ past_ credit_ delta_ mismatch_ gradient_ "
    "initial_ new_ sent_ arrived_ fraction_ utilisation_ resources_ learning_rate_ updates_ optimiser_ opt_ "
    "back_".split()
)
LIKE_TAKEN = re.compile(rf"({'|'.join(BEGINNINGS)}|late\d+_|(.*_)?{OWN}).*|.*_from_.*")


def is_taken(name: str) -> bool:
    """Whether plans or backends have, or could have, something of this name themselves."""
    return name in TAKEN or LIKE_TAKEN.fullmatch(name) is not None


def inner(name: str) -> str:
    """How a variable or parameter of a model is spelled inside plans and backends; no two alike."""
    return OWN + name if is_taken(name) else name


def outer(name: str) -> str:
    """What a model calls what is spelled ``name`` inside."""
    return name.removeprefix(OWN)


def check_name(what, name, error=NetworkError, *, where=None):
    """Raise ``error`` unless ``name`` is an ASCII identifier, not too long, and no word of a language that code is in.

    ``what`` it names and ``where``, in the words of the message.
    """
    plain = (
        isinstance(name, str)
        and len(name) <= LONGEST + len(OWN) * name.startswith(OWN)
        and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    )
    if plain and not keyword.iskeyword(name) and name not in FOREIGN:
        return
    shown = repr(name) if len(repr(name)) <= LONGEST else repr(name)[:LONGEST] + "..."
    raise error(
        f"{f'{where}: ' if where else ''}{shown} cannot name {what}; use letters, digits and underscores (of ASCII, no "
        f"digit first, at most {LONGEST}), and no word of Python, C or C++"
    )
