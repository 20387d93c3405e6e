"""A learning protocol: a task with the network, loss, optimiser and schedule that go with it, and published numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from localplast.arguments import check_choice, check_schedule
from localplast.errors import LocalplastError
from localplast.learning.optimise import Optimiser, adam
from localplast.network.network import Network
from localplast.runs.watch import Watch, check_watch
from localplast.study.numbers import chosen, presets, said
from localplast.task.loss import Loss
from localplast.task.trials import Task

__all__ = ["Preset", "Protocol", "Published"]


#: How published numbers are known.
CERTAINTIES = ("paper", "code", "result files", "memory")


@dataclass(frozen=True)
class Published:
    """What authors say of their system.

    Parameters
    ----------
    text : str
        In words, for reports.
    mean, sd : float, optional
        The number that ours is held against, and by how much it scatters from run to run.
    unit : str
    certainty : str
        How it is known: ``'paper'``, ``'code'``, ``'result files'``, or ``'memory'``, which nothing may rest on.
    """

    text: str
    mean: float | None = None
    sd: float | None = None
    unit: str = "%"
    certainty: str = "paper"

    def __post_init__(self):
        check_choice("certainty", self.certainty, CERTAINTIES)

    def __str__(self):
        return self.text


@dataclass(frozen=True)
class Preset:
    """One size of a protocol.

    Parameters
    ----------
    network : Network
    task : Task
    loss : Loss
    batch : int
        Trials per update.
    updates : int
    test : int
        Number of test trials.
    hidden : str
        Name of the population whose incoming weights the alignment is reported for.
    learning_rate : float, optional
        Of Adam.
    optimiser : Optimiser, optional
        Where it is not Adam; give one of the two. The same for every contender that brings none of its own.
    feedback_std : float
        Standard deviation of random feedback, near that of the readout's weights.
    rules : dict of str to Rule or Contender, optional
        What ``localplast compare`` compares, by name. Default: e-prop with both kinds of feedback, BPTT and a control.
    references : dict of str to float
        Accuracies of agents that the results are held against, by what they do: lines in the figure, lines of the
        report.
    watch : Plateau, Stop or Best, or a sequence of such
        What runs of it do when validation says so; see :func:`localplast.run`.
    """

    network: Network
    task: Task
    loss: Loss
    batch: int
    updates: int
    test: int
    hidden: str
    learning_rate: float | None = None
    optimiser: Optimiser | None = None
    feedback_std: float = 1.0
    rules: dict = field(default_factory=dict)
    references: dict = field(default_factory=dict)
    watch: Watch | Sequence[Watch] = ()

    def __post_init__(self):
        of_adam = None if self.learning_rate is None else adam(self.learning_rate)
        optimiser = self.optimiser or of_adam
        if optimiser is None or of_adam not in (None, optimiser):  # both may be there after dataclasses.replace
            raise LocalplastError("a preset needs one of learning_rate= (of Adam) and optimiser=")
        object.__setattr__(self, "optimiser", optimiser)
        object.__setattr__(self, "watch", check_watch(self.watch))
        check_schedule(batch=self.batch, updates=self.updates, test=self.test)


@dataclass(frozen=True)
class Protocol:
    """A named protocol: ``build`` makes a :class:`Preset` of numbers, ``presets`` are such numbers.

    ``published`` says what authors report, by quantity; a text alone is a claim without a number. docs/published.md
    holds what was reached here against it.

    ``presets`` maps ``'quick'`` and ``'paper'`` to dicts of keyword arguments of ``build``, data and nothing else; here
    they are :class:`~localplast.study.numbers.Numbers`, and ``presets["quick"]()`` builds one.
    ``preset("quick", updates=500)`` builds one in which some numbers are others.

    ``rule`` names what ``localplast run`` trains it with unless told otherwise. ``drawn(net, trials, before, after)``
    gives a figure of what the network did before learning and does after it (two
    :class:`~localplast.network.network.Values`); ``told(net, trials, after)`` says in words what it has learned,
    where the loss does not. ``course(net, record)`` gives a figure of how it learned, from the record of
    :func:`localplast.run` with the weights that ``recorded`` asks for, such as ``{"rec_out.weight": {"every": 5}}``.
    ``overview(tree)`` gives a figure of what :func:`localplast.compare` returned.
    """

    name: str
    summary: str
    reference: str
    build: Callable[..., Preset]
    presets: dict[str, dict]
    published: dict[str, Published | str] = field(default_factory=dict)
    rule: str = "eprop"
    drawn: Callable | None = None
    told: Callable | None = None
    course: Callable | None = None
    recorded: dict = field(default_factory=dict)
    overview: Callable | None = None

    def __post_init__(self):
        object.__setattr__(self, "presets", presets(self.name, self.build, self.presets))
        told = {name: Published(found) if isinstance(found, str) else found for name, found in self.published.items()}
        object.__setattr__(self, "published", told)

    def preset(self, name="quick", /, **settings):
        """The :class:`Preset` of this name, with ``settings`` in place of some of its numbers.

        Its task carries them as ``meta["settings"]``, text that every record of it, and every comparison, repeats.

        Raises
        ------
        LocalplastError
            There is no such preset, no such number, or it is of another kind; the message lists what can be set.
        """
        numbers = chosen(self.name, self.presets, name).changed(settings)
        return self.built(numbers, said({key: numbers[key] for key in settings})) if settings else numbers()

    def built(self, numbers, settings):
        """The preset of some ``numbers``, in which those are set otherwise that the text ``settings`` tells."""
        with numbers.blamed():
            found = numbers.build(**numbers)
            found.task.training(0, 1, 0).check(found.network)
        return replace(found, task=replace(found.task, meta={**found.task.meta, "settings": settings}))
