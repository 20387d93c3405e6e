"""What is learned: trials, tasks that give them, losses, and datasets."""

from localplast.task.trials import Poisson, Task, Trials

__all__ = ["Poisson", "Task", "Trials"]
