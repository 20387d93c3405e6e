"""The C text that turns outputs into errors and sends them back: readouts judge, populations hear and pass it on."""

import sympy

from localplast.backends.c.expression import Writer, in_one_line
from localplast.backends.c.runtime import indent
from localplast.equations.language import symbol
from localplast.task.loss import Reward

__all__ = ["DOT", "judge", "listen", "matrix_slot", "say", "signal_fields"]

#: Rows are padded with zeros to whole vectors.
DOT = r"""
MULTIPLY_ADD real dot(const real *restrict a, const real *restrict b, long n)
{
    CONTRACT
    vec sum = {0};
    real total = 0;
    for (long j = 0; j < n; j += LANES) sum += *(const vec *)(a + j) * *(const vec *)(b + j);
    EACH(j, LANES) total += sum[j];
    return total;
}

static real dot_of_signs(const real *restrict a, const real *restrict size, const real *restrict b, long n)
{
    real total = 0;
    for (long j = 0; j < n; j++) total += size[j] * ((a[j] > 0) - (a[j] < 0)) * b[j];
    return total;
}
"""
#: The words of a loss, of output neuron ``i``.
WORDS = {
    "output": "y[i]",
    "target": "wanted[i]",
    "softmax": "M(exp)(y[i] - most) / sum",
    "log_softmax": "(y[i] - most - M(log)(sum))",
    "whole": "whole",
}
#: The same where the target is the choice that was drawn.
CHOICE = WORDS | {"target": "(i == chosen)"}
SOFTMAX = [
    "real most = y[0], sum = 0;",
    "for (long i = 1; i < K; i++) most = larger(most, y[i]);",
    "for (long i = 0; i < K; i++) sum += M(exp)(y[i] - most);",
]


def signal_fields(plan):
    """As :func:`localplast.backends.c.online_step.fields`."""
    for name, term in plan.terms:
        if term.form != "weight":
            shape = plan.population(name).size, plan.population(term.source).padded
            yield matrix_slot(plan, name, term), "real", shape, "given"
    if isinstance(plan.learned.loss, Reward):
        yield "purse", "real", (3,), "trial"  # earned, paid in the last step, the critic's last word


def matrix_slot(plan, name, term):
    """Where the feedback matrix of a term lies, the gains of its signs for ``'sign'``; rows are padded as the source
    is.
    """
    if term.form == "fixed":
        return f"feedback{plan.population(name).number}_{plan.population(term.source).number}"
    number = next(k.number for k in plan.body.links if k.name == term.path)
    return {"weight": "weight", "sign": "gain", "learned": "back"}[term.form] + str(number)


def place(plan, n):
    """C text of where the outputs of readout ``n`` begin, all readouts side by side."""
    sizes = [r.size for r in plan.readouts]
    return f"(real *)p[P_output] + (t * B + b) * {sum(sizes)} + {sum(sizes[: plan.readouts.index(n)])}"


def say(plan, n, declarations):
    """The output of one readout."""
    writer = Writer(n.constants, lambda v: f"x_{v}[i]")
    value = writer(n.step.output)
    return f"""
INLINE void say{n.number}(void **p, long t, long B, long b)
{{
{declarations}
    real *restrict y = {place(plan, n)};
    for (long i = 0; i < {n.size}; i++) {{
{indent(writer.lines)}
        y[i] = {value};
    }}
}}"""


def judge(plan):
    """Errors of all readouts."""
    if isinstance(plan.learned.loss, Reward):
        return judge_reward(plan)
    loss, parts = plan.learned.loss, []
    error = error_text(loss)
    for n in plan.readouts:
        lines = [
            f"enum {{ K = {n.size} }};",
            f"const real *restrict y = {place(plan, n)};",
            f"real *restrict error = p[P_q{n.number}_error];",
            *(line for reduction in loss.derived.reductions for line in reduced(reduction)),
            f"for (long i = 0; i < K; i++) error[i] = weight * ({error});",
        ]
        if "lure" in plan.shown(n):
            lines.append(f"for (long i = 0; i < K; i++) ((real *)p[P_q{n.number}_lure])[i] = -weight * wanted[i];")
        parts += ["{", *("    " + line for line in lines), "}"]
    return judging(plan, parts)


def error_text(loss):
    """The error of output neuron ``i`` in its :data:`WORDS`."""
    expression = loss.derived.expanded(loss.derived.error)
    numbers = {symbol(name): sympy.Float(value) for name, value in loss.constants.items()}
    return in_one_line(expression.subs(numbers), WORDS.get)


def reduced(reduction):
    """Lines that find what all outputs have in common."""
    if reduction.op == "softmax":
        return SOFTMAX
    each = in_one_line(reduction.expression, WORDS.get)
    return [f"real {reduction.name} = 0;", f"for (long i = 0; i < K; i++) {reduction.name} += {each};"]


def target_width(plan):
    """Columns of the target: of the readout that is judged; where there are several, all are judged by the same."""
    loss = plan.learned.loss
    return plan.population(loss.policy).size if isinstance(loss, Reward) else plan.readouts[0].size


def judging(plan, lines):
    return f"""
INLINE void judge(void **p, long t, long B, long b, long rows, long last)
{{
    const real *restrict wanted = (const real *)p[P_target] + ((t < rows ? t : rows - 1) * B + b) * {target_width(plan)};
    const real weight = ((const real *)p[P_step_weight])[t];
{indent(lines, 4)}
}}"""


def judge_reward(plan):
    """Choose, be paid, and let everybody know the temporal difference error of the step before."""
    loss, policy, value = (
        plan.learned.loss,
        plan.population(plan.learned.loss.policy),
        plan.population(plan.learned.loss.value),
    )
    dice = next(c for c in plan.body.channels if c.name == loss.dice)
    one = loss.derived.one_chosen
    lines = [
        f"enum {{ K = {policy.size} }};",
        f"const real *restrict y = {place(plan, policy)};",
        f"const real value = *({place(plan, value)});",
        f"const real *restrict dice = (const real *)p[P_data{dice.number}] + (t * B + b) * K;",
        f"real *restrict error = p[P_q{policy.number}_error], *restrict purse = p[P_purse];",
        "long chosen = 0;",
        "for (long i = 1; i < K; i++) if (y[i] + dice[i] > y[chosen] + dice[chosen]) chosen = i;",
        "purse[0] += weight * (2 * wanted[chosen] - 1);",
        f"const real td = purse[1] + R({loss.discount!r}) * value - purse[2];",
        f"purse[1] = t == last + {loss.steps(plan.dt)} ? purse[0] : 0;",
        "purse[2] = value;",
        *SOFTMAX,
        f"for (long i = 0; i < K; i++) error[i] = weight * ({in_one_line(one, CHOICE.get)});",
        f"*(real *)p[P_q{value.number}_error] = R({-loss.value_cost!r});",
    ]
    for n in plan.body.cells:
        if "td" in plan.shown(n):
            lines.append(f"for (long i = 0; i < {n.padded}; i++) ((real *)p[P_q{n.number}_td])[i] = td;")
    return judging(plan, lines)


def listen(plan, name, signal):
    """The learning signal of one population: a sum over those that send to it."""
    n, products = plan.population(name), []
    for term in signal.terms:
        source = plan.population(term.source)
        rows = [matrix_slot(plan, name, term)]
        if term.form == "sign":
            rows.insert(0, rows[0].replace("gain", "weight"))
        rows = ", ".join(f"(const real *)p[P_{slot}] + i * {source.padded}" for slot in rows)
        function = "dot_of_signs" if term.form == "sign" else "dot"
        products.append(f"{function}({rows}, p[P_q{source.number}_{term.variable}], {source.padded})")
    total = "\n            + ".join(products)
    return f"""
static void listen{n.number}(void **p)
{{
    real *restrict signal = p[P_q{n.number}_L];
    for (long i = 0; i < {n.size}; i++)
        signal[i] = {total};
}}"""
