"""A program that learns as Brian2 text: its statements, each in its slot, and the objects that run them.

Within the last slot of a step ('end') neurons and sums come in the order in which they wait for each other
(:mod:`localplast.backends.brian2.slots`), then synapses, the end of the trial (an event), the optimiser (an event).
"""

from collections import Counter

import brian2 as b2
import numpy as np
import sympy
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.delays import build_arrivals
from localplast.backends.brian2.loops import by_rows
from localplast.backends.brian2.names import called
from localplast.backends.brian2.slots import END, NEXT, RESET
from localplast.backends.brian2.slots import LEARN as BY_SYNAPSES
from localplast.backends.brian2.step import Step
from localplast.backends.brian2.text import (
    END_OF_TRIAL,
    LEARN,
    MONITOR,
    UPDATE,
    Line,
    gated,
    tables,
    updates_so_far,
    zero,
)
from localplast.backends.brian2.travel import read_by, written_by
from localplast.equations.language import symbol
from localplast.equations.units import unit_of
from localplast.errors import UnsupportedError
from localplast.network.delays import moving
from localplast.program.arrays import Life
from localplast.program.forward import forward
from localplast.program.online import online
from localplast.task.loss import Reward
from localplast.task.regulariser import of_trials

__all__ = ["Learning", "feedback_name"]

#: Tables of what is given in every step, by array: of what all share, and of a readout.
TABLES = {"(loss).weight": "step_weight", "(reward).due": "pay"}
OF_READOUTS = {"target": "target", "whole": "target_sum"}


def feedback_name(population, source):
    """What the Brian2 object of fixed feedback is called."""
    return f"feedback_{population}_from_{source}"


def recorded(net, plan):
    """What each trial is judged by at its end: losses and outputs of the readouts, spikes of all others."""
    counted = set(plan.signals) if of_trials(plan.loss) else set()
    counts = [f"{n}.count" for n, p in net.populations.items() if p.model.spiking and n not in counted]
    return [*(f"{n}.{key}" for n in plan.readouts for key in ("loss", "score")), *counts]


class Learning(Step):
    """The Brian2 side of a :class:`~localplast.program.learn.Plan`."""

    def __init__(self, net, values, block, plan, seed):
        self.plan, self.seed = plan, seed
        self.interval = plan.rule.interval(net.dt)
        self.home = plan.loss.value if isinstance(plan.loss, Reward) else None
        check_units(net, plan)
        learned = moving(net, plan.optimiser) if plan.optimiser else []
        if plan.optimiser:
            learned += [f"{n}.weight" for n in plan.synapses]
            learned += [f"{n}.{key}" for n, keys in plan.parameters.items() for key in keys]
        program, numbers = online(
            net,
            values,
            plan,
            record=recorded(net, plan),
            learned=learned,
            optimiser=plan.optimiser,
            masks={n: np.ones_like(mask) for n, mask in values.masks.items()},  # Brian2 has those that there are
            batches=True,
        )
        plain = forward(net, values, learned=learned, fixed=plan.rule.update == "trial")
        super().__init__(net, values, block, program, own=set(plain.arrays), home=self.home)
        self.numbers = numbers
        self.words["(update).share"] = sympy.Integer(1) if self.interval else 1 / symbol("_batch")
        for name in net.nodes:
            check_traces(name, [called(net, a) for a in self.of_group(name)])

    def given(self, text, maps):
        """Lines that look up what is given from outside, or read off the clock."""
        for name in sorted(set().union(*map(read_by, maps)) if maps else ()):
            a = self.arrays.get(name)
            if a is None or a.life is not Life.GIVEN or a.role in ("input", "duration", "share"):
                continue
            yield Line(called(self.net, a), self.given_text(text, a), local=True)

    def given_text(self, text, a):
        """What is given now, as text."""
        if a.role == "update":
            return f"1 + {updates_so_far(self.plan, self.net.dt)}"
        unit = unit_of(self.dimensions[a.name])
        return self.tables_of(text.space)[1][self.table_of(a)] + (f"*{unit}" if unit else "")

    def table_of(self, a):
        """The table that holds an array which is given."""
        if a.role == "dice":
            return f"signal_{self.plan.loss.dice}"
        return TABLES.get(a.name) or OF_READOUTS[a.name.rpartition(".")[2]]

    def given_to(self, space):
        """The tables that a group reads."""
        names = set().union(*(read_by(s) for *_, s in self.maps if s.space == space))
        found = [self.arrays[n] for n in sorted(names) if self.arrays.get(n) and self.arrays[n].life is Life.GIVEN]
        return dict.fromkeys(self.table_of(a) for a in found if a.role not in ("input", "duration"))

    def tables_of(self, space):
        """As :func:`~localplast.backends.brian2.text.tables`."""
        made = {n: self.built.tables[n] for n in self.given_to(space)}
        return tables(self.net.nodes[space].model, **made)

    # --- neurons ------------------------------------------------------------------------------------------------------

    def of_group(self, name):
        """The arrays that learning adds to the neurons of ``name``."""
        statements = [s for *_, s in (*self.maps, *self.gathers)] + self.all_ends()
        used = set().union(*(read_by(s) | written_by(s) for s in statements)) - self.lowered.own
        found = [a for n, a in self.arrays.items() if n in used and a.space == name and a.life is not Life.GIVEN]
        return [a for a in found if a.role != "bound" and not called(self.net, a).startswith("_")]

    def lines_of(self, name):
        """Equations of what learning adds to the neurons of ``name``."""
        found = {called(self.net, a): self.dimensions[a.name] for a in self.of_group(name)}
        found.pop("x", None)
        lines = [SingleEquation(PARAMETER, n, d) for n, d in found.items()]
        rates = [SingleEquation(PARAMETER, n, DIMENSIONLESS, flags=["shared", "constant"]) for n in self.rates(name)]
        return [*super().lines_of(name), *lines, *rates]

    def rates(self, name):
        """Constants of the optimiser of the parameters of ``name``."""
        keys = self.plan.parameters.get(name) if self.plan.optimiser else None
        return [f"learning_rate_{key}" for key in keys or ()]

    def begin(self, name):
        """What the last step left to do; what learning remembers is zero in a new trial."""
        left = self.at(name, NEXT)
        begun = {n for *_, s in self.maps if s.space == name for n in written_by(s)} - self.lowered.own
        begun = {n for n in begun if self.arrays[n].life in (Life.STATE, Life.SEEN)}
        begun |= {n for s in left for n in read_by(s) if self.is_of_step(n, name)}
        fresh = [called(self.net, self.arrays[n]) for n in self.arrays if n in begun]
        restart = [f"_restart = 1 - {self.block.fresh}", *(f"{n} = {n}*_restart" for n in fresh)] if fresh else []
        return [*restart, *map(str, self.printed(self.text(name), left))]

    def is_of_step(self, name, space):
        a = self.arrays[name]
        return a.space == space and (a.life is Life.STEP or a.role == "input")

    def learns(self, name, parameter):
        return bool(self.plan.optimiser) and parameter in self.plan.parameters[name]

    def events(self, name):
        """Custom events of a population: the end of a trial, and of a batch."""
        learning = any(self.net.projections[p].post == name for p in self.plan.synapses)
        learning = learning or self.plan.parameters.get(name) or name in self.plan.readouts
        counted = name in self.net.populations and self.net.nodes[name].model.spiking
        lengths = {"trial_end": "_period", "batch_end": "(_period*_batch)"}
        last = {event: f"t_in_timesteps % {length} == {length} - 1" for event, length in lengths.items()}
        return last if learning or counted else None

    # --- synapses -----------------------------------------------------------------------------------------------------

    def gathers_spikes(self, p):
        """Whether delayed spikes are gathered per presynaptic neuron, for all synapses of its axon at once."""
        a = self.arrays.get(f"{p.name}.arrived")
        return a is not None and a.life is Life.STATE and a.space == p.pre

    def synapse_lines(self, p):
        """Equations of what each synapse of ``p`` stores, and of what it carries back."""
        lines = super().synapse_lines(p)
        if p.name not in self.plan.synapses:
            return lines
        there = {line.varname for line in lines} | {"w", "fraction"}
        statements = [*self.at(p.name, BY_SYNAPSES), *self.ends_of(p.name, *self.lowered.ends)]
        used = {n for s in statements for n in read_by(s) | written_by(s)}
        found = [a for n, a in self.arrays.items() if n in used and a.space == p.name and a.life is not Life.STEP]
        lines += [self.parameter(a) for a in found if called(self.net, a) not in there and a.role != "bound"]
        if self.plan.optimiser:
            lines.append(SingleEquation(PARAMETER, "learning_rate", DIMENSIONLESS, flags=["shared", "constant"]))
        weight = self.dimensions[f"{p.name}.weight"]
        return lines + [SingleEquation(PARAMETER, n, weight, flags=["constant"]) for n in self.bounds(p)]

    def bounds(self, p):
        """The bounds that synapses of ``p`` keep one by one."""
        return [n for n in ("w_low", "w_high") if f"{p.name}.{n[2:]}" in self.numbers]

    def ends_of(self, space, *when):
        """Statements of one object at the end of trials, or of batches."""
        return [s for k in when for s in self.lowered.ends.get(k, ()) if s.space == space]

    def on_pre(self, p):
        a, found = self.arrays.get(f"{p.name}.arrived"), super().on_pre(p)
        counts = a is not None and a.life is Life.STATE and a.space == p.name
        return {**found, "deliver": found["deliver"] + "\narrived += 1" * counts}

    def pathways(self, p):
        """Event pathways: the end of a trial, and the optimiser."""
        if p.name not in self.plan.synapses:
            return {}
        ends = {"trial_over": [*self.code(p.name, "trial"), *self.cleared(p.name, Life.STATE)]}
        events = {"deliver": "spike", "late": "spike"} if p.transmission == "event" else {}
        events["trial_over"] = "trial_end"
        if self.plan.optimiser and not self.interval:
            ends["optimise"] = [*self.code(p.name, "batch"), *self.cleared(p.name, Life.SUM)]
            events["optimise"] = "batch_end"
        ends = {k: "\n".join(map(str, v)) for k, v in ends.items() if v}
        there = {"deliver", *ends, *(["late"] if self.divided(p.name) else [])}
        return {"on_post": ends, "on_event": {k: e for k, e in events.items() if k in there}}

    def code(self, name, when):
        """What synapses do at the end of a trial, or of a batch."""
        return self.printed(self.of_synapses(name), self.ends_of(name, when))

    def cleared(self, name, life):
        """Lines that set what synapses have of one life to zero; gradients of delays are taken between two runs."""
        statements = [*self.at(name, BY_SYNAPSES), *self.ends_of(name, *self.lowered.ends)]
        written = set().union(*map(written_by, statements))
        found = [a for n, a in self.arrays.items() if n in written and a.space == name and a.life is life]
        found = [(called(self.net, a), a) for a in found]
        return [zero(n, self.dimensions[a.name]) for n, a in found if n not in ("arrived", "gradient_delay")]

    def attach(self, p, synapses, mask):
        """Per-step learning, the order of events, and constants."""
        self.schedule(synapses)
        numbers = {name: x for name, x in self.matrices().items() if name[0] == p.name}
        for (_, name), x in numbers.items():
            setattr(synapses, f"{name}_", x[mask])
        if p.name not in self.plan.synapses:
            return
        code = self.printed(self.of_synapses(p.name), self.at(p.name, BY_SYNAPSES))
        if self.plan.optimiser and self.interval:
            updates = [*self.code(p.name, self.interval), *self.cleared(p.name, Life.SUM)]
            code += gated(updates, self.block, self.interval)
        synapses.run_regularly(
            "\n".join(map(str, code)), when="end", order=LEARN, name=f"{p.name}_learn", codeobj_class=by_rows()
        )
        for name, order in (("trial_over", END_OF_TRIAL), ("optimise", UPDATE)):
            pathway = getattr(synapses, name, None)
            if pathway is not None:
                pathway.when, pathway.order = "end", order
        if self.plan.optimiser:
            synapses.learning_rate_ = self.plan.optimiser.rate(p.name)
        for name in self.bounds(p):
            bound, largest = self.numbers[f"{p.name}.{name[2:]}"], np.finfo(float).max
            bound = np.broadcast_to(bound[:, None] if bound.ndim == 1 else bound, mask.shape)
            setattr(synapses, f"{name}_", np.clip(bound, -largest, largest)[mask])

    def matrices(self):
        """Numbers of feedback along projections, by projection and name."""
        terms = [t for signal in self.plan.signals.values() for t in signal.terms]
        found = {(t.path, "gain"): t.matrix for t in terms if t.form == "sign"}
        return found | {(name, "B"): matrix for name, matrix in self.plan.learned.items()}

    # --- objects that learning adds -----------------------------------------------------------------------------------

    def connect(self, built):
        """What is looked up, sums over neurons, delayed arrivals of traces, and what neurons do at the end."""
        self.built = built
        self.give_tables(built)
        for *_, s in self.gathers:
            if s.pre is not None:
                self.build_sum(built, s)
        for name in self.plan.synapses:
            p = self.net.projections[name]
            if self.gathers_spikes(p):
                build_arrivals(built, p, None if self.divided(name) else self.values.delays[name])
        for name in self.net.populations:
            group = built.objects[name]
            group.namespace.update(self.tables_of(name)[0])
            self.finish(name, group)
            self.learn_parameters(name, group)
            self.keep_ledger(built, name, group)

    def give_tables(self, built):
        """Tables of the target and of when it counts; others only where they are read, as a C++ program has it."""
        read = {n for name in self.net.populations for n in self.given_to(name)}
        built.trial_table("step_weight")
        built.table("target", self.net.size(self.plan.loss.policy if self.home else self.plan.readouts[0]))
        if "target_sum" in read:
            built.table("target_sum")
        if "pay" in read:
            built.trial_table("pay")
            built.pay_delay = self.plan.loss.steps(float(self.net.dt))

    def build_sum(self, built, s):
        """Synapses between all pairs of two groups, which sum into variables of the second."""
        groups, text = (built.objects[s.pre], built.objects[s.post]), self.text(s.link, s.pre, s.post)
        weights = [self.arrays[n] for n in read_by(s) if self.arrays[n].role == "feedback"]
        lines = [self.parameter(a, "constant") for a in weights]
        synapses = b2.Synapses(*groups, Equations([*lines, *self.summed(s, text)]), name=s.link, clock=built.clock)
        targets, sources = np.indices((groups[1].N, groups[0].N))
        synapses.connect(i=sources.ravel(), j=targets.ravel())
        if weights:
            synapses.B_ = self.plan.fixed[s.post, s.pre].ravel()
        self.schedule(synapses)
        built.objects[s.link] = synapses

    def finish(self, name, group):
        """What neurons do before resets, and at the end of a step."""
        jumps = self.printed(self.text(name), self.at(name, RESET))
        if jumps:
            group.run_regularly("\n".join(map(str, jumps)), when="before_resets", name=f"{name}_jumps")
        for level in sorted({k for w, k, s in self.maps if w == END and s.space == name}):
            code = self.printed(self.text(name), self.at(name, END, level=level))
            group.run_regularly("\n".join(map(str, code)), when="end", order=level, name=f"{name}_end{level}")

    def learn_parameters(self, name, group):
        """The regulariser of parameters at the end of each trial, and their optimiser at the end of each batch."""
        sums = [self.arrays[f"{name}.learn.gradient_{key}"] for key in self.plan.parameters[name]]
        cleared = [zero(called(self.net, a), self.dimensions[a.name]) for a in sums]
        for event, when, order in (("trial_end", "trial", END_OF_TRIAL), ("batch_end", "batch", UPDATE)):
            code = self.printed(self.text(name), self.ends_of(name, when))
            if code:
                code += cleared if when == "batch" else []
                group.run_on_event(event, "\n".join(map(str, code)), when="end", order=order)
        code = self.printed(self.text(name), self.ends_of(name, self.interval)) if self.interval else []
        if code:
            code = gated([*code, *cleared], self.block, self.interval)
            group.run_regularly("\n".join(map(str, code)), when="end", order=UPDATE, name=f"{name}_parameters")
        if self.plan.optimiser:
            for key in self.plan.parameters[name]:
                setattr(group, f"learning_rate_{key}_", self.plan.optimiser.rate(f"{name}.{key}"))

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


def check_units(net, plan):
    """Raise where actor and critic have units."""
    for readout in plan.readouts if isinstance(plan.loss, Reward) else ():
        if net.nodes[readout].model.output_dimension is not DIMENSIONLESS:
            raise UnsupportedError(f"readout {readout!r} has a unit; actor and critic need outputs without one")


def check_traces(name, kept):
    """Raise where traces of two projections have one name: ``eps_v`` of ``a_b``, and ``eps_v_a`` of ``b``."""
    if twice := [key for key, count in Counter(kept).items() if count > 1]:
        raise UnsupportedError(
            f"{name!r}: in Brian2 traces of two of its projections would both be called {twice[0]!r}; give one of these "
            "another name=, or use backend='torch'"
        )
