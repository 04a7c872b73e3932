"""What differs from task to task: what a sample becomes, which model reads it, and what is learnt."""

from soldiom_ray.train.tasks.task import Task

__all__ = ["Task", "task_of"]


def task_of(name: str) -> Task:
    """The task by its name in a recipe."""
    from soldiom_ray.train.tasks.causal import CausalTask

    tasks: dict[str, type[Task]] = {"causal_lm": CausalTask}
    return tasks[name]()
