"""The C text of a step program and its adjoint: blocks of trials, all steps, then the same steps back.

One block runs ``S`` trials side by side. Forward, nothing is kept but, for the gradient, the state at the start of each
window of ``K`` steps. The gradient goes from the last window to the first: from its state it runs the steps of the
window again, keeping histories, and back. Memory grows with trials and steps by the saved states only. In every
function ``w`` is the workspace, ``p`` what Python hands over, ``t`` the step, ``slot`` its place in
the window, ``s`` the trial of the block, ``i`` the neuron.
"""

from localplast.backends.c.loops import LIVE
from localplast.backends.c.memory import Memory
from localplast.backends.c.source import Body, Source, checked_states
from localplast.program.arrays import Life, Neurons
from localplast.program.instructions import Send, reads
from localplast.program.passes import fuse, live

__all__ = ["BlockSource"]


class BlockSource(Source):
    """The C text of a program that keeps histories, and of its adjoint.

    Attributes
    ----------
    text : str
    """

    def __init__(self, forward, backward, *, block, double, bits, numbers):
        memory = Memory(forward, backward, block, 64 // (8 if double else 4), bits, numbers)
        super().__init__(memory, checked_states(forward))
        memory.arguments["saved"] = None
        arrays, seen = forward.arrays, [a.name for a in forward.of(Life.SEEN)]
        keep = live(forward.step, [a.name for a in forward.of(Life.HISTORY)])
        again = [n for s in keep for n in reads(s) if arrays[n].life is Life.STATE]  # what windows begin with
        again += [s.target for s in keep if isinstance(s, Send) and s.taps]  # the rings of these, too
        self.bodies = [
            Body("forward", live(forward.step, [*seen, *self.checked, *again])),
            Body("keep", keep),
            Body("back", backward.step, "w->T - 1 - t"),
        ]
        for body in self.bodies:
            self.write(body)
        (begin, begin_back), (end, end_back) = self.begin(forward.of(Life.STATE)), self.end()
        entries = {"begin": begin, "begin_back": begin_back, "end": end, "end_back": end_back}
        self.text = self.assembled(entries, BLOCKS, double=double, block=block)

    def write(self, body):
        """The functions of one direction of a step."""
        groups = fuse(body.step)
        texts = [*self.loads(body), *(self.statement(body, group, groups) for group in groups), *self.shows(body)]
        self.calls[body.name] = [f"{self.function(text, body)}(w, p, t, slot);" for text in texts]

    def end(self):
        """What is summed up over a trial, forward and back."""
        memory = self.memory
        shown = [f"{{\n{self.shown(n)}\n}}" for n in sorted(memory.totals) if memory.arrays[n].life is Life.SEEN]
        added = []
        for name, array in memory.arrays.items():
            if array.life is Life.SUM and isinstance(memory.spaces[array.space], Neurons):
                n, place = memory.padded(array.space), memory.values(name)
                into = memory.argument(f"sum_{memory.identifier(name)}", "real", (n,), ("sum", name))
                added.append(f"{LIVE} add_row({into}, {place} + s * {n}, {n});")
        return shown, added


#: What Python calls: bytes of workspace, and of the states of a block; trials ``first`` to ``last`` of ``B``, forward
#: or their adjoint. The states at the start of all windows but the first are saved by block.
BLOCKS = """
size_t space(long K, const long *rings)
{
    struct space w;
    return layout(&w, NULL, 1, K, 1, rings);
}

size_t states(const long *rings)
{
    struct space w;
    layout(&w, NULL, 1, 1, 1, rings);
    return w.states;
}

static void start(struct space *w, void **p)
{
    memset(w->base, 0, w->states);
    begin(w, p);
}

static void block(struct space *w, void **p, long first, long last)
{
    w->first = first; w->live = last - first < S ? last - first : S;
    memset(w->base, 0, w->zeros);
    start(w, p);
}

long forward(void **p, char *memory, long T, long K, long B, long first, long last)
{
    struct space w;
    long wrong = -1;
    unsigned old = flush();
    layout(&w, memory, T, 1, B, p[P_rings]);
    for (; first < last; first += S) {
        char *saved = p[P_saved] ? (char *)p[P_saved] + first / S * ((T - 1) / K) * w.states : NULL;
        block(&w, p, first, last);
        for (long t = 0; t < T; t++) {
            if (saved && t > 0 && t % K == 0) memcpy(saved + (t / K - 1) * w.states, w.base, w.states);
            forward_step(&w, p, t, 0);
        }
        end(&w, p);
        if (wrong < 0) wrong = diverged(&w);
    }
    unflush(old);
    return wrong;
}

long adjoint(void **p, char *memory, long T, long K, long B, long first, long last)
{
    struct space w;
    unsigned old = flush();
    layout(&w, memory, T, K, B, p[P_rings]);
    for (; first < last; first += S) {
        const char *saved = (char *)p[P_saved] + first / S * ((T - 1) / K) * w.states;
        block(&w, p, first, last);
        begin_back(&w, p);
        for (long b = (T - 1) / K; b >= 0; b--) {
            const long low = b * K;
            w.high = low + K < T ? K : T - low;
            if (b > 0) memcpy(w.base, saved + (b - 1) * w.states, w.states);
            else start(&w, p);
            for (long slot = 0; slot < w.high; slot++) keep_step(&w, p, low + slot, slot);
            for (long slot = w.high - 1; slot >= 0; slot--) back_step(&w, p, low + slot, slot);
        }
        end_back(&w, p);
    }
    unflush(old);
    return -1;
}
"""
