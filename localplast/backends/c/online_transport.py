"""The C text that carries spikes across a projection while weights may change: they act with the weight of arrival.

Spikes of as many steps as the longest delay are kept, in rings. What arrives is also noted for the traces, per
presynaptic neuron or, where every synapse has its delay, per synapse.
"""

from localplast.backends.c.layout import Channels
from localplast.backends.c.runtime import indent

__all__ = ["ring", "send"]


def ring(plan, owner):
    """C text of the length of a ring, kept in ``rings`` by node, then by link."""
    return f"((const long *)p[P_rings])[{[*plan.body.nodes, *plan.body.links].index(owner)}]"


def send(plan, k):
    """Slot 3: what one projection brings at step t, with the weights of this step."""
    plastic = k.name in plan.learned.synapses
    if plan.whole(k):
        body = send_each(plan, k)
    elif k.kind == "axonal":
        body = send_late(plan, k)
    else:
        body = "if (t < delay[0]) return;\n" + deliver(plan, k, k.pre, f"(t - delay[0]) % {ring(plan, k.pre)}")
    clear = f"real *restrict arrived = p[P_arrived{k.number}];\n    memset(arrived, 0, {k.pre.size} * sizeof(real));"
    return f"""
/* {k.name} */
INLINE void send{k.number}(void **p, long t)
{{
    enum {{ N = {k.post.padded} }};
    const real *restrict weight = p[P_weight{k.number}];
    const int *restrict delay = p[P_delay{k.number}];
    real *restrict box = p[P_in{k.post.number}_{k.target}_{k.transmission}];
    {clear if plastic and not plan.whole(k) else ""}
{indent(body.splitlines(), 4)}
}}"""


def deliver(plan, k, owner, slot, names=("list", "value", "number")):
    """C text: add the rows of the neurons listed in one slot, and note that they arrived."""
    sized, number = isinstance(k.pre, Channels), owner.number
    add = "add_scaled(box, weight + h * N, x, N);" if sized else "add_row(box, weight + h * N, N);"
    note = f" arrived[h] += {'x' if sized else 'R(1.0)'};" if k.name in plan.learned.synapses else ""
    size = f"const real x = ((const real *)p[P_{names[1]}{number}])[slot * {k.pre.size} + e]; " if sized else ""
    return f"""const long slot = {slot};
const unsigned *list = (const unsigned *)p[P_{names[0]}{number}] + slot * {k.pre.size};
for (long e = 0; e < ((const long *)p[P_{names[2]}{number}])[slot]; e++) {{
    const long h = list[e]; {size}{add}{note}
}}"""


def send_late(plan, k):
    """Every presynaptic neuron has its delay: spikes wait in the list of the step in which they arrive."""
    sized = isinstance(k.pre, Channels)
    amount = f"amount[at * {k.pre.size} + due[at]] = ((real *)p[P_value{k.pre.number}])[now * {k.pre.size} + e]; "
    return f"""unsigned *late = p[P_late{k.number}];
long *due = p[P_due{k.number}];
real *amount = p[P_amount{k.number}];
const long now = t % {ring(plan, k.pre)}, ring = {ring(plan, k)};
for (long e = 0; e < ((const long *)p[P_number{k.pre.number}])[now]; e++) {{
    const long h = ((const unsigned *)p[P_list{k.pre.number}])[now * {k.pre.size} + e], at = (t + delay[h]) % ring;
    {amount if sized else ""}late[at * {k.pre.size} + due[at]++] = h;
}}
{deliver(plan, k, k, "t % ring", ("late", "amount", "due"))}
due[slot] = 0;"""


def send_each(plan, k):
    """Every synapse has its delay: look up what its presynaptic neuron emitted so long ago."""
    sized, at = isinstance(k.pre, Channels), "i" if k.kind == "dendritic" else f"h * {k.post.size} + i"
    value = f"((const real *)p[P_value{k.pre.number}])[now * {k.pre.size} + e]" if sized else "R(1.0)"
    return f"""const long now = t % {ring(plan, k.pre)}, ring = {ring(plan, k)}, here = t % ring;
real *past = p[P_past{k.number}];
long *age = p[P_age{k.number}];
for (long h = 0; h < {k.pre.size}; h++) {{ past[h * ring + here] = 0; age[h]++; }}
for (long e = 0; e < ((const long *)p[P_number{k.pre.number}])[now]; e++) {{
    const long h = ((const unsigned *)p[P_list{k.pre.number}])[now * {k.pre.size} + e];
    past[h * ring + here] = {value}; age[h] = 0;
}}
for (long h = 0; h < {k.pre.size}; h++) {{
    if (age[h] > ring) continue; /* nothing in flight, and its row is empty already */
    real *restrict arrived = (real *)p[P_arrived{k.number}] + h * N;
    for (long i = 0; i < {k.post.size}; i++) {{
        const long slot = here - delay[{at}];
        arrived[i] = past[h * ring + (slot < 0 ? slot + ring : slot)];
        box[i] += weight[h * N + i] * arrived[i];
    }}
}}"""
