"""What differs from task to task: what a sample becomes, which model reads it, and which loss is minimised."""

from soldiom_ray.train.tasks.task import Task

__all__ = ["Task", "task_of"]


def task_of(name: str) -> Task:
    """The task by its name in a recipe."""
    from soldiom_ray.train.tasks.causal import CausalTask
    from soldiom_ray.train.tasks.classification import TextClassificationTask
    from soldiom_ray.train.tasks.images import ImageClassificationTask
    from soldiom_ray.train.tasks.preference import PreferenceTask
    from soldiom_ray.train.tasks.seq2seq import Seq2SeqTask

    tasks: dict[str, type[Task]] = {
        "causal_lm": CausalTask,
        "image_classification": ImageClassificationTask,
        "preference": PreferenceTask,
        "seq2seq_lm": Seq2SeqTask,
        "text_classification": TextClassificationTask,
    }
    return tasks[name]()
