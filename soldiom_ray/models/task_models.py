"""The classes of transformers and PEFT, and the architectures, of each task of a training."""

from dataclasses import dataclass

CAUSAL_CLASS = "AutoModelForCausalLM"
HEADS = ("classifier", "score", "classification_head")
"""Names that transformers gives to the layers over a pretrained body."""


@dataclass(frozen=True)
class TaskModel:
    """The models of a task. `auto_class` is the class of transformers that loads one from a folder, `peft_type` PEFT's
    name of the task (None where it has none). `architectures` are those that a recipe may begin from random weights,
    the first by default. `head` names the layers on top that are new to a pretrained model: adapters train them
    whole."""

    auto_class: str
    peft_type: str | None
    architectures: tuple[str, ...]
    head: tuple[str, ...] = ()

    @property
    def generates(self) -> bool:
        """Whether these are causal language models: what endpoints serve and what is scored token by token."""
        return self.auto_class == CAUSAL_CLASS


TASK_MODELS = {
    "causal_lm": TaskModel(CAUSAL_CLASS, "CAUSAL_LM", ("llama",)),
    "preference": TaskModel(CAUSAL_CLASS, "CAUSAL_LM", ("llama",)),
    "seq2seq_lm": TaskModel("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", ("t5",)),
    "text_classification": TaskModel("AutoModelForSequenceClassification", "SEQ_CLS", ("bert",), HEADS),
    "image_classification": TaskModel("AutoModelForImageClassification", None, ("vit", "convnext"), HEADS),
}
