"""A learning plan as Brian2 text: what neurons and synapses compute besides their dynamics.

Within the last slot of a step ('end') the order is: softmax, errors of the readouts, learning signals population by
population (:mod:`localplast.backends.brian2.signals`), synapses, end of the trial (an event), optimiser (an event).
"""

import functools
from collections import Counter
from dataclasses import replace

import brian2 as b2
import numpy as np
import sympy
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.parsing.expressions import parse_expression_dimensions
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.delays import divided
from localplast.backends.brian2.graded import is_late, output_name
from localplast.backends.brian2.loops import by_rows
from localplast.backends.brian2.parameters import Parameters, optimiser_dimensions
from localplast.backends.brian2.signals import Signals
from localplast.backends.brian2.text import (
    END_OF_TRIAL,
    LEARN,
    MONITOR,
    UPDATE,
    averaged,
    gated,
    replace_word,
    replace_words,
    updates_so_far,
)
from localplast.equations.language import symbol
from localplast.equations.text import fit, measured, to_text
from localplast.equations.units import unit_of
from localplast.errors import UnsupportedError
from localplast.network.check import weight_dimension
from localplast.network.nodes import Input
from localplast.neuron.check import with_spike
from localplast.neuron.namespace import namespace
from localplast.program.statements import between_steps

__all__ = ["Learning"]


def statements(program, dimensions, rename=lambda name: name):
    """A program as lines of Brian2 text, names replaced by ``rename``; ``dimensions`` are those of the names it does
    not make.
    """
    known, lines = dict(dimensions), []
    for name, expression in program:
        known[name] = known.get(name) or measured(sympy.sympify(expression), known)[1]
        names = {symbol(n): symbol(rename(n)) for n in known}
        lines.append(f"{rename(name)} = {to_text(fit(expression, known, known[name]).xreplace(names))}")
    return lines


class Learning:
    """The Brian2 side of a :class:`~localplast.program.learn.Plan`."""

    def __init__(self, net, values, block, plan, seed):
        self.shared = {name for name in plan.synapses if divided(net, net.projections[name], values, plan)}
        synapses = {name: between_steps(s) if name in self.shared else s for name, s in plan.synapses.items()}
        plan = replace(plan, synapses=synapses)
        self.net, self.values, self.block, self.plan, self.seed = net, values, block, plan, seed
        self.signals, self.interval = Signals(net, block, plan), plan.rule.interval(net.dt)
        self.parameters = Parameters(net, block, plan, lambda name: self.known[name])
        self.outgoing = {name: [] for name in net.nodes}
        self.incoming = {name: [] for name in net.nodes}
        for name in plan.synapses:
            p = net.projections[name]
            self.outgoing[p.pre].append(p)
            self.incoming[p.post].append(p)
        for name, projections in self.outgoing.items():
            check_traces(
                name, [f"{key}_{p.name}" for p in projections for key, _ in plan.synapses[p.name].eligibility.pre]
            )

    # --- variables of neurons -------------------------------------------------------------------------------------

    def variables(self, name):
        """Dimensions of what learning adds to the neurons of ``name``."""
        result = {}
        if not isinstance(self.net.nodes[name], Input):
            own = self.net.nodes[name].model.dimensions
            result = {
                n: d
                for n, d in self.known[name].items()
                if n not in own and not n.startswith("_") and n not in ("x", "dt")
            }
        for p in self.outgoing[name]:
            eligibility = self.plan.synapses[p.name].eligibility
            known = self.trace_dimensions(p)
            result |= {f"{key}_{p.name}": known[key] for key, _ in eligibility.pre}
            if self.gathers(p):
                result[f"arrived_{p.name}"] = DIMENSIONLESS
                result |= {f"fraction_{p.name}": DIMENSIONLESS} if p.name in self.shared else {}
        return result

    @functools.cached_property
    def known(self):
        """Dimensions of all names that neurons know while they learn, by population."""
        return {name: self.known_to(name) for name in self.net.populations}

    def known_to(self, name):
        """Dimensions of the names of a model, and of those in the programs of its neurons."""
        model, plan = self.net.nodes[name].model, self.plan.neurons[name]
        found = {**model.dimensions, "dt": second.dim, **self.signals.variables(name)}
        if model.spiking:
            found |= {"z": DIMENSIONLESS, "spike_count": DIMENSIONLESS}
        for key, expression in telling((*plan.before, *plan.after, *plan.before_reset, *plan.shift[::-1], *plan.end)):
            found[key] = measured(expression, found)[1]
        return found

    # --- code of neurons ------------------------------------------------------------------------------------------

    def delayed(self, p):
        return p.name in self.shared or bool(np.any(self.values.delays[p.name] > 0))

    def gathers(self, p):
        """Whether delayed spikes are gathered per presynaptic neuron, for all synapses of its axon at once."""
        return self.delayed(p) and self.plan.synapses[p.name].eligibility.arrives == "pre"

    def spike_name(self, name):
        return "r" if isinstance(self.net.nodes[name], Input) else "z"

    def carried_name(self, p):
        """The variable of the presynaptic neuron whose value in this step is what arrives, or will."""
        source = self.plan.synapses[p.name].eligibility.source
        if source:
            return source
        return self.spike_name(p.pre) if p.transmission == "event" else output_name(self.net, p)

    def before_update(self, name):
        """Statements before the integration: hoisted traces take in what arrived, coefficients are read."""
        code, restart = [], []
        for p in self.outgoing[name]:
            eligibility = self.plan.synapses[p.name].eligibility
            source = f"arrived_{p.name}" if self.gathers(p) else self.carried_name(p)
            rename = {key: f"{key}_{p.name}" for key in [*(key for key, _ in eligibility.pre), "fraction"]} | {
                "arrived": source
            }
            # the parameters of the postsynaptic model are not those of this population: put in their numbers
            numbers = {
                symbol(k): sympy.Float(float(v)) for k, v in self.values.parameters[p.post].items() if not v.ndim
            }
            program = [(key, expression.xreplace(numbers)) for key, expression in eligibility.pre]
            code += statements(program, self.trace_dimensions(p), lambda n, r=rename: r.get(n, n))
            restart += [rename[key] for key, _ in eligibility.pre]
            if eligibility.pre:
                restart.append(source)
            if self.gathers(p):
                code.append(f"{source} = 0")
        if not isinstance(self.net.nodes[name], Input):
            if self.net.nodes[name].model.spiking:
                restart += ["z", "spike_count"]
            if name in self.plan.readouts:
                restart += ["loss", "score"]
            plan = self.plan.neurons[name]
            restart += [*plan.past, *self.signals.past(name)]
            code += statements([*plan.shift, *plan.before], self.known[name])
        fresh = [f"_restart = 1 - {self.block.fresh}"] if restart else []
        return [*fresh, *[f"{n} = {n}*_restart" for n in dict.fromkeys(restart)], *code]

    def after_update(self, name, firing):
        """Statements after the integration: psi and its kin, and whether the neuron spikes."""
        if isinstance(self.net.nodes[name], Input):
            return []
        code = []
        for pair in self.plan.neurons[name].after:
            code += statements([pair], self.known[name])
            if pair[0] == "psi" and self.block.gap:
                code.append(f"psi = psi*int({self.block.active})")
        if firing:
            code += [f"z = {firing}", "spike_count += z"]
        return code

    def events(self, name):
        """Custom events of a population: the end of a trial, and of a batch."""
        learning = self.incoming[name] or self.plan.parameters.get(name) or name in self.plan.readouts
        counted = name in self.net.populations and self.net.nodes[name].model.spiking
        lengths = {"trial_end": "_period", "batch_end": "(_period*_batch)"}
        last = {event: f"t_in_timesteps % {length} == {length} - 1" for event, length in lengths.items()}
        return last if learning or counted else None

    # --- synapses -------------------------------------------------------------------------------------------------

    def synapse_lines(self, p):
        """Equations of what each synapse of ``p`` stores."""
        plan = self.plan.synapses[p.name]
        weight = weight_dimension(self.net, p)
        dimensions = self.synapse_dimensions(p)
        gradient = dimensions["gradient"]
        lines = {name: dimensions[name] for name in (*plan.state, *plan.sums)}
        optimiser = self.plan.optimiser
        if optimiser:
            lines.update({name: gradient**power for name, power in optimiser.state.items()})
        if self.counts_arrivals(p):
            lines["arrived"] = DIMENSIONLESS
        result = [SingleEquation(PARAMETER, n, d) for n, d in lines.items()]
        if optimiser:
            constants = {"learning_rate": self.optimiser_dimensions(p)["learning_rate"], "updates": DIMENSIONLESS}
            result += [SingleEquation(PARAMETER, n, d, flags=["shared", "constant"]) for n, d in constants.items()]
            if self.bounds(p):
                result += [SingleEquation(PARAMETER, n, weight, flags=["constant"]) for n in ("w_low", "w_high")]
        if plan.learned and not self.signals.carried(p):
            result.append(SingleEquation(PARAMETER, "B", weight))
        return result

    def synapse_dimensions(self, p):
        """Dimensions of what a synapse of ``p`` stores: a trace is something per weight, a gradient loss per weight."""
        weight, states = weight_dimension(self.net, p), self.net.nodes[p.post].model.dimensions
        dimensions = {
            f"{start}eps_{name}": dimension / weight for name, dimension in states.items() for start in ("", "drift_")
        }
        dimensions["past_arrived"] = DIMENSIONLESS
        dimensions |= {
            name: DIMENSIONLESS / weight for name in self.plan.synapses[p.name].state if name not in dimensions
        }
        signals, third = self.signals, self.plan.synapses[p.name].third
        if third not in ("error", "L"):
            return {**dimensions, "gradient": self.mismatch_dimension(p)}
        if third == "error":
            signal = signals.error_dimension(p.post) * signals.output_dimension(p.post)
        else:
            signal = signals.dimension
        return {**dimensions, "gradient": signal / weight, "gradient_delay": signal, "fading": signal / weight}

    def synapse_known(self, p):
        """Dimensions of all names that a synapse of ``p`` reads, as its program calls them."""
        plan, weight = self.plan.synapses[p.name], weight_dimension(self.net, p)
        own = {*plan.state, *plan.sums, *(name for name, _ in plan.program)}
        found = {n: d for n, d in self.known[p.post].items() if n not in own} | self.trace_dimensions(p)
        return found | {n: d for n, d in self.synapse_dimensions(p).items() if n in own} | {"w": weight}

    def trace_dimensions(self, p):
        """Dimensions of the traces of presynaptic neurons, and of what they and synapses take in."""
        pre, weight = self.net.nodes[p.pre], weight_dimension(self.net, p)
        source = self.plan.synapses[p.name].eligibility.source
        arrived = pre.model.dimensions[source] if source else self.net.nodes[p.post].model.dimensions[p.target] / weight
        given = {"arrived": arrived, "past_arrived": arrived, "fraction": DIMENSIONLESS, "dt": second.dim}
        known, traces = {**self.net.nodes[p.post].model.dimensions, **given}, {}
        for key, expression in telling(self.plan.synapses[p.name].eligibility.pre):
            traces[key] = known[key] = measured(expression, known)[1]
        return {**given, **traces}

    def mismatch_dimension(self, p):
        """Of the gradient of what a compartment gets wrong."""
        model, known = self.net.nodes[p.post].model, with_spike(namespace(self.net.nodes[p.post].model))
        found = model.mismatch[p.target]
        error = parse_expression_dimensions(found.error, known)
        if found.pre is not None:
            return error * self.net.nodes[p.pre].model.dimensions[found.pre]
        return error * parse_expression_dimensions(found.of or p.target, known) / weight_dimension(self.net, p)

    def counts_arrivals(self, p):
        """Whether every synapse notes the spikes that arrive at it."""
        return p.transmission == "event" and self.plan.synapses[p.name].eligibility.arrives == "synapse"

    def on_arrival(self, p):
        """What a synapse notes when a spike arrives, beyond delivering it."""
        return "\narrived += 1" if self.counts_arrivals(p) else ""

    def rename(self, p):
        """How the names of a synapse program are called inside Brian2's Synapses."""
        eligibility = self.plan.synapses[p.name].eligibility
        own = set(self.plan.synapses[p.name].state) | {n for n, _ in self.plan.synapses[p.name].program}
        hoisted = {key: f"{key}_{p.name}_pre" for key, _ in eligibility.pre}
        if eligibility.arrives == "pre":
            hoisted["arrived"] = f"arrived_{p.name}_pre" if self.gathers(p) else f"{self.carried_name(p)}_pre"
        elif p.transmission == "graded":
            hoisted["arrived"] = f"sent_late_{p.name}_pre" if is_late(self.net, p, self.values) else "signal_pre"
        keep = own | {"dt", "arrived", "fraction", "gradient", "elig_sum", "w", "learning_rate"}
        return lambda n: hoisted.get(n) or (n if n in keep else f"{n}_post")

    def pathways(self, p):
        """Event pathways: the end of a trial, and the optimiser."""
        ends = {"trial_over": "\n".join(self.trial_end(p))}
        events = {"deliver": "spike", "late": "spike"} if p.transmission == "event" else {}
        events["trial_over"] = "trial_end"
        if self.plan.optimiser and not self.interval:
            ends["optimise"] = "\n".join([*self.optimiser_code(p), self.cleared(p, "gradient")])
            events["optimise"] = "batch_end"
        ends = {k: v for k, v in ends.items() if v}
        there = {"deliver", *ends, *(["late"] if p.name in self.shared else [])}
        return {"on_post": ends, "on_event": {k: e for k, e in events.items() if k in there}}

    def trial_end(self, p):
        plan, code = self.plan.synapses[p.name], []
        if plan.regularised:
            regulariser = self.plan.loss.regulariser
            excess = f"{regulariser.strength!r}/_duration*(spike_count_post/_duration - {regulariser.target!r})"
            code.append(f"gradient += {excess}*elig_sum")
            if "gradient_delay" in plan.sums:
                code.append(f"gradient_delay += {excess}*w*drift_elig_sum")
        return code + [self.cleared(p, name) for name in plan.state]

    def cleared(self, p, name):
        """The statement that sets a synaptic variable to zero, in its unit."""
        dimension = self.synapse_dimensions(p)[name]
        return f"{name} = 0" if dimension is DIMENSIONLESS else f"{name} = 0*{unit_of(dimension)}"

    def optimiser_code(self, p):
        """The optimiser's statements; ``g`` is the gradient, averaged over the batch."""
        known = self.optimiser_dimensions(p)
        number = f"(updates + 1 + {updates_so_far(self.plan, self.net.dt)})"
        rename = {"g": averaged("gradient", self.plan, self.net.dt), "k": number}
        lines = []
        for name, expression in self.plan.optimiser.program(projection=p.name):
            plain = text = replace_words(to_text(expression, known, known[name]), rename)
            if name == "w" and self.bounds(p):
                text = f"clip({text}, w_low, w_high)"
            if text != name:  # a frozen weight
                lines.append(f"{name} = {text}")
                if name == "w" and self.plan.synapses[p.name].learned:
                    lines.append(f"B = {replace_word(plain, 'w', 'B')}")
        return lines

    def optimiser_dimensions(self, p):
        """Dimensions of the names in the text of an optimiser."""
        gradient = self.synapse_dimensions(p)["gradient"]
        return optimiser_dimensions(self.plan.optimiser, weight_dimension(self.net, p), gradient)

    def bounds(self, p):
        """Lowest and highest weights ``(pre, post)`` where updates are clipped to them, else None."""
        optimiser = self.plan.optimiser
        return self.net.bounds(p.name) if optimiser and not optimiser.frozen(p.name) else None

    def attach(self, built, p, synapses):
        """Per-step learning, the order of events, and constants."""
        plan = self.plan.synapses[p.name]
        code = statements(plan.program, self.synapse_known(p), self.rename(p))
        if self.counts_arrivals(p):
            code.append("arrived = 0")
        if self.plan.optimiser and self.interval:
            code += gated([*self.optimiser_code(p), self.cleared(p, "gradient")], self.block, self.interval)
        synapses.run_regularly(
            "\n".join(code), when="end", order=LEARN, name=f"{p.name}_learn", codeobj_class=by_rows()
        )
        for name, order in (("trial_over", END_OF_TRIAL), ("optimise", UPDATE)):
            pathway = getattr(synapses, name, None)
            if pathway is not None:
                pathway.when, pathway.order = "end", order
        if self.plan.synapses[p.name].learned:
            synapses.B_ = self.plan.learned[p.name][self.values.masks[p.name]]
        if self.plan.optimiser:
            synapses.learning_rate_ = self.plan.optimiser.rate(p.name)
        if self.bounds(p):
            largest = np.finfo(float).max  # in place of infinity, which -ffast-math rules out
            for name, bound in zip(("w_low", "w_high"), self.bounds(p), strict=True):
                setattr(synapses, f"{name}_", np.clip(bound, -largest, largest)[self.values.masks[p.name]])

    # --- connections that learning adds ---------------------------------------------------------------------------

    def connect(self, built):
        """Errors and signals, delayed arrivals of hoisted traces, and the ledger of each trial."""
        self.signals.connect(built)
        for name in self.plan.synapses:
            p = self.net.projections[name]
            if self.gathers(p):
                self.build_arrivals(built, p)
        for name in self.net.populations:
            group, plan = built.objects[name], self.plan.neurons[name]
            jumps = statements(plan.before_reset, self.known[name])
            if jumps:
                group.run_regularly("\n".join(jumps), when="before_resets", name=f"{name}_jumps")
            end = [line for pair in plan.end for line in self.ending(name, pair)]
            if name in self.plan.signals:
                self.signals.pass_on(group, name, end)
            elif end:  # a readout, whose own parameters hear its error
                group.run_regularly("\n".join(end), when="end", order=LEARN - 1, name=f"{name}_own")
            self.parameters.connect(name, group)
            self.keep_ledger(built, name, group)

    def ending(self, population, pair):
        """One statement at the end of a step; between two trials there is no mismatch to learn from."""
        lines, name = statements([pair], self.known[population]), pair[0]
        quiet = name in self.plan.neurons[population].mismatches and self.block.active
        return [*lines, f"{name} = {name}*int({self.block.active})"] if quiet else lines

    def keep_ledger(self, built, name, group):
        """What a population had summed up at the end of each trial."""
        if not self.events(name):
            return
        for event in ("trial_end", "batch_end"):
            group.set_event_schedule(event, when="end", order=LEARN)
        kept = ["loss", "score"] if name in self.plan.readouts else ["spike_count"]
        kept = [k for k in kept if k in group.variables]
        if kept:
            built.monitors[name, "ledger"] = b2.EventMonitor(
                group, "trial_end", variables=kept, when="end", order=MONITOR, name=f"{name}_ledger"
            )

    def build_arrivals(self, built, p):
        """Delayed copies of spikes for the hoisted traces: one synapse per presynaptic neuron."""
        group, steps = built.objects[p.pre], self.values.delays[p.name]
        lines = (
            [SingleEquation(PARAMETER, "flight", b2.second.dim, flags=["constant"])] if p.name in self.shared else []
        )
        synapses = b2.Synapses(
            group,
            group,
            Equations(lines),
            on_pre={"deliver": f"arrived_{p.name}_post += 1"},
            name=f"arrivals_{p.name}",
            clock=group.clock,
        )
        synapses.connect(i=np.arange(group.N), j=np.arange(group.N))
        if p.name not in self.shared:
            synapses.deliver.delay_ = np.broadcast_to(steps, (group.N,)) * float(self.net.dt)
        built.objects[f"arrivals_{p.name}"] = synapses


def check_traces(name, kept):
    """Raise where traces of two projections have one name: ``eps_v`` of ``a_b``, and ``eps_v_a`` of ``b``."""
    if twice := [key for key, count in Counter(kept).items() if count > 1]:
        raise UnsupportedError(
            f"{name!r}: in Brian2 traces of two of its projections would both be called {twice[0]!r}; give one of these "
            "another name=, or use backend='torch'"
        )


def telling(program):
    """``program`` in an order in which each line reads known names only, for its dimension: what is not known yet is
    zero.

    A name that reads its own past, or that of a later one, is a sum whose other terms have the same dimension.
    """
    waiting, lines = dict(program), []
    while waiting:
        before = len(waiting)
        for name, expression in list(waiting.items()):
            known = expression.subs(dict.fromkeys(map(symbol, waiting), 0))
            if expression == 0 or known != 0 and not known.has(sympy.nan, sympy.zoo):
                lines.append((name, known))
                del waiting[name]
        if len(waiting) == before:
            return [*lines, *((name, sympy.Integer(0)) for name in waiting)]
    return lines
