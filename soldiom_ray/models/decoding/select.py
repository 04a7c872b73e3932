"""The way to compute a model's passes: the fastest that gives its own numbers."""

import logging
from typing import Any

from soldiom_ray.models.decoding.forward import FlatModel, Forward, StepwiseModel, UnsupportedError
from soldiom_ray.models.decoding.llama import LlamaModel

log = logging.getLogger(__name__)


def forward_of(model: Any, sequences: int, *, take_over: bool = False) -> Forward:
    """A model's forward passes for so many answers at once. The model stays as it is, unless the caller has no other
    use for it and lets it `take_over` the weights."""
    if take_over:
        try:
            return LlamaModel(model, sequences)
        except UnsupportedError as error:
            log.info("layers stay transformers' own", extra={"data": {"reason": str(error)}})
    try:
        return FlatModel(model, sequences)
    except Exception as error:  # whatever modules raise that meet an attention they do not expect
        log.info("answers are read one by one", extra={"data": {"reason": f"{type(error).__name__}: {error}"[:300]}})
        return StepwiseModel(model, sequences)
