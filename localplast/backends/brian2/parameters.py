"""Parameters of neurons that learn, as Brian2 text: what every neuron keeps, and the optimiser at the end of a
batch.
"""

from dataclasses import replace

from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.text import END_OF_TRIAL, UPDATE, averaged, gated, replace_words, updates_so_far
from localplast.equations.text import to_text
from localplast.equations.units import unit_of
from localplast.task.regulariser import of_trials

__all__ = ["Parameters", "number_of", "optimiser_dimensions"]


def number_of(model, parameter, what):
    """What neurons call ``what`` the optimiser keeps of a parameter: as a variable of their own only by accident."""
    name = f"{what}_{parameter}"
    return f"optimiser_{name}" if name in model.dimensions else name


def optimiser_dimensions(optimiser, own, gradient):
    """Dimensions of the names in the text of an optimiser, of what has the dimension ``own``."""
    rate = own if optimiser.normalised else own / gradient
    states = {name: gradient**power for name, power in optimiser.state.items()}
    return {"w": own, "g": gradient, "k": DIMENSIONLESS, "learning_rate": rate, **states}


class Parameters:
    """Of one :class:`~localplast.program.learn.Plan`; ``known`` gives the dimensions of all names of a population."""

    def __init__(self, net, block, plan, known):
        self.net, self.block, self.plan, self.known = net, block, plan, known

    def connect(self, name, group):
        """The regulariser of parameters at the end of each trial, and their optimiser at the end of each batch."""
        regulariser = self.plan.loss.regulariser
        ends, updates = [], []
        within = self.plan.rule.interval(self.net.dt)
        for parameter in self.plan.parameters[name]:
            if of_trials(self.plan.loss) and name in self.plan.signals:
                excess = f"{regulariser.strength!r}/_duration*(spike_count/_duration - {regulariser.target!r})"
                ends.append(f"gradient_{parameter} += {excess}*elig_sum_{parameter}")
            updates += self.update(name, parameter) if self.plan.optimiser else []
        if within and updates:
            code, updates = "\n".join(gated(updates, self.block, within)), []
            group.run_regularly(code, when="end", order=UPDATE, name=f"{name}_parameters")
        for event, code, order in (("trial_end", ends, END_OF_TRIAL), ("batch_end", updates, UPDATE)):
            if code:
                group.run_on_event(event, "\n".join(code), when="end", order=order)
        if self.plan.optimiser:
            for parameter in self.plan.parameters[name]:
                setattr(group, f"learning_rate_{parameter}_", self.plan.optimiser.rate(f"{name}.{parameter}"))

    def update(self, name, parameter):
        """The optimiser's statements for one parameter of every neuron, bounds included."""
        gradient, unit = f"gradient_{parameter}", unit_of(self.known(name)[f"gradient_{parameter}"])
        number = f"(updates_{parameter} + 1 + {updates_so_far(self.plan, self.net.dt)})"
        short = {"g": averaged(gradient, self.plan, self.net.dt), "k": number, "w": parameter}
        model, kept = self.net.nodes[name].model, (*self.plan.optimiser.state, "learning_rate")
        short |= {n: number_of(model, parameter, n) for n in kept}
        own, lines = unit_of(model.dimensions[parameter]) or "1", []
        optimiser = replace(self.plan.optimiser, decay=0.0)
        known = self.optimiser_dimensions(name, parameter)
        for target, expression in optimiser.program(projection=f"{name}.{parameter}"):
            text = replace_words(to_text(expression, known, known[target]), short)
            if target == "w" and not optimiser.frozen(f"{name}.{parameter}"):
                low, high = (min(max(x, -1e300), 1e300) for x in self.net.limits(f"{name}.{parameter}"))
                text = f"clip({text}, {low!r}*{own}, {high!r}*{own})"
            lines.append(f"{short[target]} = {text}")
        return [*lines, f"{gradient} = 0*{unit}" if unit else f"{gradient} = 0"]

    def optimiser_dimensions(self, name, parameter):
        """Dimensions of the names in the text of an optimiser."""
        own, gradient = self.net.nodes[name].model.dimensions[parameter], self.known(name)[f"gradient_{parameter}"]
        return optimiser_dimensions(self.plan.optimiser, own, gradient)

    def variables(self, name):
        """Dimensions of what an optimiser keeps per parameter, and of its shared constants."""
        kept, shared = {}, {}
        for parameter in self.plan.parameters[name] if self.plan.optimiser else ():
            known = self.optimiser_dimensions(name, parameter)
            model = self.net.nodes[name].model
            kept.update({number_of(model, parameter, n): known[n] for n in self.plan.optimiser.state})
            shared[f"learning_rate_{parameter}"] = known["learning_rate"]
            shared[f"updates_{parameter}"] = DIMENSIONLESS
        return kept, shared
