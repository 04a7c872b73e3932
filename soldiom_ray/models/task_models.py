"""What each task of a training means to transformers and PEFT; training and planning both read it here."""

from dataclasses import dataclass

HEADS = ("classifier", "score", "classification_head")
"""Names that transformers gives to the layers over a pretrained body."""


@dataclass(frozen=True)
class Kind:
    """A task's models. `auto_class` is the class of transformers that loads one from a folder, `peft_type` PEFT's name
    of the task (None where it has none). `architectures` are those that a recipe may begin from nothing, the first by
    default. `head` names the layers on top that are new to a pretrained model: adapters train them whole."""

    auto_class: str
    peft_type: str | None
    architectures: tuple[str, ...]
    head: tuple[str, ...] = ()


KINDS = {
    "causal_lm": Kind("AutoModelForCausalLM", "CAUSAL_LM", ("llama",)),
    "preference": Kind("AutoModelForCausalLM", "CAUSAL_LM", ("llama",)),
    "seq2seq_lm": Kind("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", ("t5",)),
    "text_classification": Kind("AutoModelForSequenceClassification", "SEQ_CLS", ("bert",), HEADS),
    "image_classification": Kind("AutoModelForImageClassification", None, ("vit",), HEADS),
}
