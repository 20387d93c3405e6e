"""Who runs what: the loops over trials and neurons, and how threads share rows and wait for each other, as C text.

All that is printed of a network stands inside of these, and nothing else spells them. Where another set of texts runs
the trials of a block, or the neurons of a population, on threads of its own, statements need not know.
"""

__all__ = ["ALL_HERE", "EVERY", "INDEPENDENT", "LIVE", "NEURONS", "TRIALS", "each", "share"]

#: Over the trials side by side, and over those of them that are some: the last block may have fewer.
TRIALS, LIVE = "for (long s = 0; s < S; s++)", "for (long s = 0; s < w->live; s++)"
#: Before a loop whose turns do not read what others write.
INDEPENDENT = '_Pragma("GCC ivdep")'
#: What all threads of a team do before anyone goes on.
ALL_HERE = "meet(w->gate, w->team);"
#: Macros: over all neurons of all trials, and over the columns of a row.
NEURONS = f"#define NEURONS for (int s = 0; s < S; s++) {INDEPENDENT} for (int i = 0; i < N; i++)"
EVERY = f"#define EVERY {INDEPENDENT} for (long i = 0; i < N; i++)"


def each(count, name="i"):
    """C loop over so many neurons."""
    return f"for (long {name} = 0; {name} < {count}; {name}++)"


def share(rows):
    """C text of the first row of this thread's share, and of the first one after it."""
    return f"{rows} * w->me / w->team", f"{rows} * (w->me + 1) / w->team"
