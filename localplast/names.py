"""Names that end in generated code: plain words, which mean nothing to Python, C or C++."""

import keyword
import re

from localplast.errors import NetworkError

__all__ = ["check_name"]

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


def check_name(what, name, error=NetworkError, *, where=None):
    """Raise ``error`` unless ``name`` is an ASCII identifier, not too long, and no word of a language that code is in.

    ``what`` it names and ``where``, in the words of the message.
    """
    plain = isinstance(name, str) and len(name) <= LONGEST and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    if plain and not keyword.iskeyword(name) and name not in FOREIGN:
        return
    shown = repr(name) if len(repr(name)) <= LONGEST else repr(name)[:LONGEST] + "..."
    raise error(
        f"{f'{where}: ' if where else ''}{shown} cannot name {what}; use letters, digits and underscores (of ASCII, no "
        f"digit first, at most {LONGEST}), and no word of Python, C or C++"
    )
