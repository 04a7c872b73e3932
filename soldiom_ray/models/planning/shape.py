"""A model as its configuration describes it, built where tensors have no storage: sizes, and the peak of a step."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.models.adapters import with_adapter
from soldiom_ray.models.making import MAKING
from soldiom_ray.models.padding import with_padding
from soldiom_ray.models.positions import positions_of
from soldiom_ray.models.task_models import TASK_MODELS

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
"""How configurations name the number of layers."""
SHALLOW = (1, 2)
"""A deeper model's step is run with so many layers, and the rest follows: each further layer adds the same."""
LABELS = 2


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters. `quantizable`: of the linear layers that 4 bits may hold; `block`: of the largest layer
    of the stack; `root`: outside of the stack."""

    parameters: int
    trainable: int
    quantizable: int
    block: int
    root: int
    layers: int
    attention_width: int
    """Of all layers together: what each position is multiplied by for each position that it looks at."""


@dataclass(frozen=True)
class Shape:
    """A model and how it is trained. `config` is transformers' configuration, labels included; `device` "cpu" or
    "cuda"."""

    config: Any
    declared: Train
    bfloat16: bool
    device: str

    @property
    def length(self) -> int:
        """Positions of the longest sequence: as declared, within what the model can take."""
        if self.declared.task == "image_classification":
            return int((self.config.image_size // self.config.patch_size) ** 2 + 1)
        limit = int(positions_of(self.config) or self.declared.sequence_length)
        virtual = self.declared.virtual_tokens if self.declared.method == "prompt" else 0
        return max(1, min(self.declared.sequence_length, limit - virtual))

    @property
    def unit(self) -> int:
        """Positions of one sample at full length: of a pair both sequences count."""
        return self.length * (2 if self.declared.task in ("preference", "seq2seq_lm") else 1)

    @property
    def virtual_positions(self) -> int:
        """Those of a tuned prompt, which a sample takes besides."""
        rows = 2 if self.declared.task == "preference" else 1
        return self.declared.virtual_tokens * rows if self.declared.method == "prompt" else 0

    @property
    def vocabulary_size(self) -> int:
        """Size of the vocabulary."""
        return int(getattr(self.config, "vocab_size", 0) or -1)

    def sizes(self) -> Sizes:
        """Numbers of parameters, counted on the whole model."""
        from torch import nn

        model = _meta_model(self, self.config)
        parameters = _count(model)
        lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
        stack = max(lists, key=_count, default=None)
        blocks = [_count(block) for block in stack] if stack is not None else [parameters]
        stacked = sum(_count(part) for part in lists if len(part) == len(blocks))
        return Sizes(
            parameters=parameters,
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            quantizable=_quantizable(model),
            block=max(blocks),
            root=max(0, parameters - stacked),
            layers=len(blocks),
            attention_width=len(blocks) * int(getattr(self.config, "hidden_size", 0) or 0),
        )

    def peak(self, units: int, *, activation_checkpointing: bool, accumulates: bool = True) -> Any:
        """The `trace.Peak` of a step over `units` full-length samples at once."""
        from soldiom_ray.models.planning.trace import extrapolate, largest, step_moments

        def traced(config: Any) -> Any:
            model = _meta_model(self, config)  # on the meta device: adapters swap tensors, which fake ones do not allow
            return step_moments(
                lambda: _training_step(self, model, units, activation_checkpointing),
                vocabulary_size=self.vocabulary_size,
                bfloat16=self.bfloat16,
                accumulates=accumulates,
            )

        depths = {name: int(getattr(self.config, name, 0) or 0) for name in DEPTHS}
        depths = {name: depth for name, depth in depths.items() if depth}
        deepest = max(depths.values(), default=0)
        if deepest <= SHALLOW[1] or getattr(self.config, "depths", None):  # stages differ: none stands for another
            return largest(traced(self.config))
        few, more = (traced(_with_depth(self.config, depths, layers)) for layers in SHALLOW)
        return extrapolate(few, more, (deepest - SHALLOW[0]) / (SHALLOW[1] - SHALLOW[0]))


def shape_of(
    folder: Path | None,
    declared: Train,
    *,
    processor: Any = None,
    configuration: dict[str, Any] | None = None,
    bfloat16: bool = True,
    device: str = "cpu",
) -> Shape:
    """The shape of a folder's model (its config.json is enough), or of the declared `architecture` when `folder` is
    None. `configuration` is what the task's data asks of the configuration (its labels). InputError for a model that
    does not fit the task.

    A training that fits a linear head is planned as one with an adapter: its body is only read, so it needs less."""
    import transformers

    if declared.head == "linear":
        declared = declared.model_copy(update={"head": "network", "method": "lora"})
    auto_class, overrides = TASK_MODELS[declared.task].auto_class, dict(configuration or {})
    if folder is None:
        import torch

        from soldiom_ray.models.from_scratch import from_scratch

        with torch.device("meta"):
            config = from_scratch(processor or _PlannedProcessor(declared), declared, **overrides).config
    else:
        try:
            overrides = with_padding(json.loads((folder / "config.json").read_text(encoding="utf-8")), overrides)
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **overrides)
            supported = type(config) in getattr(transformers, auto_class)._model_mapping
        except (ValueError, OSError, KeyError) as error:
            raise _unsupported(declared, folder) from error
        if not supported:
            raise _unsupported(declared, folder)
    return Shape(config, declared, bfloat16, device)


def with_declared(shape: Shape, **changes: Any) -> Shape:
    """The same model with another training: `changes` of its declaration."""
    return replace(shape, declared=shape.declared.model_copy(update=changes))


class _PlannedProcessor:
    """Stands in for a tokenizer or image processor that is not made yet."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __init__(self, declared: Train) -> None:
        self.vocabulary_size = declared.vocabulary_size
        self.size = {"height": int((declared.architecture or {}).get("image_size", 224))}

    def __len__(self) -> int:
        return self.vocabulary_size


def _training_step(
    shape: Shape, model: Any, units: int, activation_checkpointing: bool
) -> tuple[Any, Any, Any, AbstractContextManager[None]]:
    """(model, objective, batch, the context in which the model reads the batch) as the training would have them."""
    from soldiom_ray.models.layers import causal_blocks

    _allocate_on_cpu(model)
    if activation_checkpointing:
        enable_activation_checkpointing(model, preserve_rng_state=False)
    packed = shape.declared.task == "causal_lm" and shape.device == "cpu"
    reading = causal_blocks(model) if packed else nullcontext()
    return model, _objective(shape.declared, model), _batch(shape, units), reading


def enable_activation_checkpointing(model: Any, **options: Any) -> None:
    """Have the model store only what enters each layer and compute the rest again in the backward pass. Below an
    adapter the frozen embeddings' output must require gradients, or nothing in the layers would."""
    if getattr(model, "peft_config", None):
        model.enable_input_require_grads()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False, **options})


def _objective(declared: Train, model: Any) -> Callable[..., Any]:
    from soldiom_ray.models.classification import ClassificationLoss
    from soldiom_ray.models.loss import CausalLoss
    from soldiom_ray.models.preference import PreferenceLoss
    from soldiom_ray.models.sequence_pairs import PairLoss

    if declared.task == "causal_lm":
        return CausalLoss(model)
    if declared.task == "preference":
        return PreferenceLoss(model, declared.beta)
    if declared.task == "seq2seq_lm":
        return PairLoss(model)
    names = ("pixel_values",) if declared.task == "image_classification" else ("input_ids", "attention_mask")
    return ClassificationLoss(model, names, multi_label=declared.multi_label)


def _batch(shape: Shape, units: int) -> tuple[Any, ...]:
    """Tensors of `units` samples at full length, as the task's source gives them."""
    import torch

    def ids(rows: int) -> Any:
        return torch.ones(rows, shape.length, dtype=torch.int64)

    task = shape.declared.task
    if task == "causal_lm":
        return ids(units), ids(units)
    if task == "preference":
        return ids(2 * units), ids(2 * units), torch.zeros(2 * units)
    if task == "seq2seq_lm":
        return ids(units), ids(units), ids(units)
    labels = torch.zeros(units, dtype=torch.int64)
    if shape.declared.multi_label:
        labels = torch.zeros(units, int(shape.config.num_labels), dtype=torch.int64)
    if task == "text_classification":
        return ids(units), ids(units), labels
    size = shape.config.image_size
    return torch.zeros(units, shape.config.num_channels, size, size), labels


def _meta_model(shape: Shape, config: Any) -> Any:
    """The model on torch's meta device with the adapter that its method trains: frozen weights in the dtype that they
    are loaded in, trained ones in float32."""
    from copy import deepcopy

    import torch
    import transformers

    config = deepcopy(config)  # which this changes; what is found out about a model is kept by its configuration
    frozen = shape.declared.method != "full" and shape.bfloat16
    auto: Any = getattr(transformers, TASK_MODELS[shape.declared.task].auto_class)
    with MAKING, torch.device("meta"):
        model = auto.from_config(config, dtype=torch.bfloat16 if frozen else torch.float32)
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        task = TASK_MODELS[shape.declared.task]
        model = with_adapter(model, shape.declared, peft_type=task.peft_type, head=task.head)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.train()


def _allocate_on_cpu(model: Any) -> None:
    """Replace a model's meta tensors by ones on the CPU, which take no memory under a FakeTensorMode."""
    import torch

    replacements: dict[int, Any] = {}  # tied weights stay tied
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in replacements:
                    plain = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_weight = isinstance(tensor, torch.nn.Parameter)
                    replacements[id(tensor)] = torch.nn.Parameter(plain, tensor.requires_grad) if is_weight else plain
                tensors[name] = replacements[id(tensor)]


def _with_depth(config: Any, depths: dict[str, int], layers: int) -> Any:
    from copy import deepcopy

    shallow = deepcopy(config)
    for name, depth in depths.items():
        setattr(shallow, name, min(depth, layers))
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = list(shallow.layer_types)[:layers]
    return shallow


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _quantizable(model: Any) -> int:
    from torch import nn

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
    return sum(
        part.weight.numel()
        for name, part in plain.named_modules()
        if isinstance(part, nn.Linear) and part is not head and "lora_" not in name
    )


def _unsupported(declared: Train, folder: Path) -> InputError:
    model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    return InputError(
        f"The model {declared.base_model!r} (model_type {model_type!r}) is no model we know for the task"
        f" {declared.task}.",
        remedy="choose another base model",
    )
