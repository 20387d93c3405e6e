"""Errors of the readouts and learning signals as Brian2 objects: what travels back to the neurons that learn."""

import brian2 as b2
import numpy as np
from brian2.equations.codestrings import Expression
from brian2.equations.equations import PARAMETER, Equations, SingleEquation
from brian2.units.allunits import second
from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.judged import Judged
from localplast.backends.brian2.reward import REWARD_VARIABLES, build_reward
from localplast.backends.brian2.text import ERROR, SIGNAL, SOFTMAX, gather, suffixed, tables
from localplast.equations.language import symbol
from localplast.equations.text import to_text
from localplast.equations.units import unit_of
from localplast.network.check import weight_dimension
from localplast.neuron.step import lower
from localplast.task.loss import Reward

__all__ = ["Signals", "feedback_name"]


def feedback_name(population, source):
    """What the Brian2 object of fixed feedback is called."""
    return f"feedback_{population}_from_{source}"


class Signals:
    """Of one :class:`~localplast.program.learn.Plan`: dimensions, equations and objects of errors and learning
    signals.
    """

    def __init__(self, net, block, plan):
        self.net, self.block, self.plan = net, block, plan
        self.order = {name: SIGNAL + 2 * number for number, name in enumerate(plan.signals)}
        self.terms = {(name, t.source): t for name, s in plan.signals.items() for t in s.terms}

    # --- dimensions -----------------------------------------------------------------------------------------------

    def output_dimension(self, readout):
        return self.net.nodes[readout].model.output_dimension

    def output_text(self, readout):
        """What a readout is judged by, in its variables."""
        model = self.net.nodes[readout].model
        return to_text(lower(model).output, {**model.dimensions, "dt": second.dim}, self.output_dimension(readout))

    def error_dimension(self, readout):
        return Judged(self.plan.loss, self.output_dimension(readout)).dimension / self.output_dimension(readout)

    @property
    def dimension(self):
        """Of ``L``: loss per spike, the same for all populations."""
        readout = self.plan.readouts[0]
        carrier = next(p for p in self.net.projections.values() if p.post == readout)
        return self.error_dimension(readout) * weight_dimension(self.net, carrier)

    def source_dimension(self, term):
        """Of what a term sends back."""
        if term.variable == "error":
            return self.error_dimension(term.source)
        if term.variable == "lure":
            return self.output_dimension(term.source)
        if term.variable == "L":
            return self.dimension
        model = self.net.nodes[term.source].model
        return self.dimension / model.dimensions[term.target]

    # --- variables and code of neurons ----------------------------------------------------------------------------

    def variables(self, name):
        """Dimensions of what signals add to the neurons of ``name``."""
        result = {}
        if name in self.plan.signals:
            result = {
                target: self.dimension
                for target in {"L", *(self.target(name, t) for t in self.plan.signals[name].terms)}
            }
        if name in self.plan.readouts:
            error, output = self.error_dimension(name), self.output_dimension(name)
            result |= {"error": error, "loss": error * output, "score": output, "teacher": output, "lure": output}
            if self.plan.loss.derived.coupled:
                result["normaliser"] = DIMENSIONLESS
        if isinstance(self.plan.loss, Reward):
            names = REWARD_VARIABLES.get({self.plan.loss.policy: "policy", self.plan.loss.value: "value"}.get(name), ())
            result |= dict.fromkeys(("td", *names), DIMENSIONLESS)
        return result

    def past(self, name):
        """What signals keep from step to step, zero at the start of a trial."""
        value = isinstance(self.plan.loss, Reward) and name == self.plan.loss.value
        return ["purse", "paid", "value_before"] if value else []

    def target(self, name, term):
        """The variable that a term sums into."""
        return "L" if len(self.plan.signals[name].terms) == 1 else f"L_from_{term.source}"

    def gathered(self, name):
        """The statement that adds up several terms."""
        terms = self.plan.signals[name].terms
        return [] if len(terms) == 1 else ["L = " + " + ".join(self.target(name, t) for t in terms)]

    # --- what projections carry back ------------------------------------------------------------------------------

    def carried(self, p):
        """The term that is summed over the synapses of ``p``, None if there is none."""
        term = self.terms.get((p.pre, p.post))
        return term if term is not None and term.path == p.name and term.form != "fixed" else None

    def carrier_lines(self, p):
        """Equations with which the synapses of ``p`` carry a signal back."""
        term = self.carried(p)
        if term is None:
            return []
        weight, lines, factor = weight_dimension(self.net, p), [], "w"
        if term.form == "sign":
            lines, factor = [SingleEquation(PARAMETER, "gain", weight, flags=["constant"])], "gain*sign(w)"
        if term.form == "learned":
            lines, factor = [SingleEquation(PARAMETER, "B", weight)], "B"
        scale = self.dimension / self.source_dimension(term) / weight
        unit = "" if scale is DIMENSIONLESS or scale.is_dimensionless else f"*({unit_of(scale)})"
        expression = Expression(f"{factor}*{term.variable}_post{unit}")
        name = f"{self.target(p.pre, term)}_pre"
        return [*lines, SingleEquation("subexpression", name, self.dimension, expr=expression, flags=["summed"])]

    def attach(self, p, synapses, mask):
        """Order and constants of what :meth:`carrier_lines` declared."""
        term = self.carried(p)
        if term is None:
            return
        for updater in synapses.summed_updaters.values():
            updater.when, updater.order = "end", self.order[p.pre]
        if term.matrix is not None:
            setattr(synapses, "gain_" if term.form == "sign" else "B_", term.matrix[mask])

    # --- objects --------------------------------------------------------------------------------------------------

    def connect(self, built):
        """Errors of the readouts, fixed feedback, and what populations pass on."""
        built.trial_table("step_weight")
        built.table("target", self.net.size(self.plan.readouts[0]))
        if isinstance(self.plan.loss, Reward):
            build_reward(self, built)
        else:
            if self.plan.loss.derived.error.has(symbol("whole")):  # a C++ program has no table that nothing reads
                built.table("target_sum")
            for readout in self.plan.readouts:
                self.build_readout(built, readout)
        for (name, _), term in self.terms.items():
            if term.form == "fixed":
                self.build_feedback(built, name, term)

    def build_readout(self, built, readout):
        loss, group = self.plan.loss, built.objects[readout]
        given = {n: built.tables[n] for n in ("step_weight", "target", "target_sum") if n in built.tables}
        found, now = tables(self.net.nodes[readout].model, **given)
        group.namespace.update(found)
        output, dimension = self.output_text(readout), self.output_dimension(readout)
        unit = f"*{unit_of(dimension)}" if unit_of(dimension) else ""
        code = [f"_weight = {now['step_weight']}", f"teacher = {now['target']}{unit}"]
        if loss.derived.coupled:
            self.build_softmax(built, readout, output)
        one = output if output.isidentifier() else f"({output})"
        code += Judged(loss, dimension).statements({"output": one, "_whole": now.get("target_sum", "")})
        code += [f"score += _weight*({output})", "lure = -_weight*teacher"]
        group.run_regularly("\n".join(code), when="end", order=ERROR, name=f"{readout}_error")

    def build_softmax(self, built, readout, output):
        """``normaliser_k = sum_j exp(y_j - y_k)``, so that ``softmax(y)_k = 1/normaliser_k`` without overflow."""
        model = self.net.nodes[readout].model
        pre, post = (suffixed(model, output, end) for end in ("_pre", "_post"))
        expression = f"exp({pre} - ({post}))"
        built.objects[f"softmax_{readout}"] = gather(
            built, f"softmax_{readout}", readout, readout, {"normaliser_post": (DIMENSIONLESS, expression)}, SOFTMAX
        )

    def build_feedback(self, built, name, term):
        ratio, target = self.dimension / self.source_dimension(term), self.target(name, term)
        expression = Expression(f"B*{term.variable}_pre")
        lines = [
            SingleEquation(PARAMETER, "B", ratio, flags=["constant"]),
            SingleEquation("subexpression", f"{target}_post", self.dimension, expr=expression, flags=["summed"]),
        ]
        source, group = built.objects[term.source], built.objects[name]
        key = feedback_name(name, term.source)
        synapses = b2.Synapses(source, group, Equations(lines), name=key, clock=group.clock)
        neurons, sources = np.indices(term.matrix.shape)
        synapses.connect(i=sources.ravel(), j=neurons.ravel())
        synapses.B_ = term.matrix.ravel()
        for updater in synapses.summed_updaters.values():
            updater.when, updater.order = "end", self.order[name]
        built.objects[key] = synapses

    def pass_on(self, group, name, statements):
        """Adds up the terms of ``name`` and runs what it sends further back."""
        code = [*self.gathered(name), *statements]
        if code:
            group.run_regularly("\n".join(code), when="end", order=self.order[name] + 1, name=f"{name}_signal")
