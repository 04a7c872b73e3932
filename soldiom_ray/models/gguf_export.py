"""Writing a model as one GGUF file, which llama.cpp and what is built on it read: weights, configuration, tokenizer.

Architectures and names of tensors are those of the `gguf` package; matrices are Q8_0 (8 bits, a scale for each 32
weights) or Q4_1 (4 bits, a scale and an offset), embedding and output matrix always Q8_0, norms and biases float32.
How a tokenizer cuts a text before its merges stands in a GGUF file as a name only (`tokenizer.ggml.pre`): a tokenizer
that cuts in none of the ways that have a name here is refused, since llama.cpp would read other tokens than were
trained.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from soldiom_ray.errors import InputError
from soldiom_ray.models.gguf import WEIGHTS

REMEDY = (
    "`soldiom models export` it, and use llama.cpp's convert_hf_to_gguf.py, or convert_lora_to_gguf.py for an adapter"
)
BLOCK = 32
"""Weights of a row that share a scale."""
_MATRICES = {"gguf": gguf.GGMLQuantizationType.Q8_0, "gguf-q4": gguf.GGMLQuantizationType.Q4_1}
_FILE_TYPES = {"gguf": gguf.LlamaFileType.MOSTLY_Q8_0, "gguf-q4": gguf.LlamaFileType.MOSTLY_Q4_1}
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
"""llama.cpp's names of the ways to cut a text, and how a tokenizer.json says the same."""


def save_gguf(model: Any, tokenizer: Any, folder: Path, to: str) -> None:
    """Write `folder/model.gguf` in the format `to` ("gguf" or "gguf-q4"), and beside it the configuration and the
    tokenizer as transformers keeps them. InputError for a model or a tokenizer that the format cannot say whole."""
    config, path = model.config, folder / WEIGHTS
    check_exportable(model)
    for part in (config, model.generation_config, tokenizer):
        part.save_pretrained(folder)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[config.model_type]])
    _add_configuration(writer, config, to)
    _add_tokenizer(writer, tokenizer, config)
    _add_tensors(writer, model, _MATRICES[to])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _check_tokens(path, tokenizer)


def check_exportable(model: Any) -> None:
    """InputError for a model whose architecture this module cannot write as GGUF."""
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    special = ""
    if config.model_type in _ARCHITECTURES and rope != "default":
        special = f" with {rope} positions"
    elif config.model_type in _ARCHITECTURES and getattr(config, "sliding_window", None):
        special = " with a sliding window"
    if special or config.model_type not in _ARCHITECTURES:
        raise InputError(
            f"A {config.model_type}{special} cannot be written as GGUF here; plain {', '.join(_ARCHITECTURES)} can.",
            remedy=REMEDY,
        )


def _add_configuration(writer: gguf.GGUFWriter, config: Any, to: str) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type("model")
    writer.add_file_type(_FILE_TYPES[to])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, config: Any) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = content["model"].get("merges")
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {each["id"]: each["special"] for each in content["added_tokens"]}
    kinds = gguf.TokenType
    names, types = [], []
    for number in range(config.vocab_size):
        if number not in tokens:  # rows of the embedding that no token has
            names.append(f"[PAD{number}]")
            types.append(kinds.UNUSED)
        else:
            names.append(tokens[number])
            special = added.get(number)
            types.append(kinds.NORMAL if special is None else kinds.CONTROL if special else kinds.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(content))
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    begins = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(begins and begins[0] == tokenizer.bos_token_id))
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _cut(content: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which a tokenizer.json cuts a text before its merges."""
    before = content["pre_tokenizer"] or {}
    steps = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    if content["model"]["type"] == "BPE" and content["normalizer"] is None:
        for name, known in _CUTS.items():
            if steps == known:
                return name
    raise InputError(
        "How this model's tokenizer cuts texts has no name in GGUF files that is known here"
        f" ({content['model']['type']}, {', '.join(str(each.get('type')) for each in steps)}).",
        remedy=REMEDY,
    )


def _add_tensors(writer: gguf.GGUFWriter, model: Any, matrices: gguf.GGMLQuantizationType) -> None:
    config, kind = model.config, _ARCHITECTURES[model.config.model_type]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    ends = {id(embedding.weight), id(head.weight)}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.named_parameters():
        if tied and name == "lm_head.weight":
            continue
        exact = tensor.detach().float().cpu()
        projection = name.split(".")[-2]
        if kind == gguf.MODEL_ARCH.LLAMA and projection in heads:  # there, a head's two halves alternate
            exact = exact.view(heads[projection], 2, -1, *exact.shape[1:]).transpose(1, 2).reshape(exact.shape)
        values = exact.numpy()
        stored = gguf.GGMLQuantizationType.F32
        if values.ndim > 1:
            wide = gguf.GGMLQuantizationType.Q8_0 if id(tensor) in ends else matrices
            stored = wide if values.shape[1] % BLOCK == 0 else gguf.GGMLQuantizationType.F16
        data = (
            values.astype(np.float16)
            if stored == gguf.GGMLQuantizationType.F16
            else gguf.quants.quantize(np.ascontiguousarray(values), stored)
        )
        title = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if title is None:
            raise InputError(f"The tensor {name} has no name in GGUF files of a {config.model_type}.", remedy=REMEDY)
        writer.add_tensor(title, data, raw_dtype=stored)


CHECKED = (
    "It's 2026, and 1,234.5 tokens (or 12 345) weren't lost!\n\n\tdef f(x):\n        return x ** 2  # naïve\n",
    "Ünïcode: 你好, مرحبا بالعالم, 🙂🙂   three spaces,\ttabs and\r\nlines; 'll 've 're CAPS snake_case x1y2",
)


def _check_tokens(path: Path, tokenizer: Any) -> None:
    """Read the file's tokenizer back: InputError when it sees other tokens than the model was trained on."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="soldiom-") as alone:  # beside other files transformers would read those
        (Path(alone) / path.name).symlink_to(path.absolute())
        read: Any = AutoTokenizer.from_pretrained(alone, gguf_file=path.name, trust_remote_code=False)
    same = read.eos_token_id == tokenizer.eos_token_id and read.chat_template == tokenizer.chat_template
    if not same or any(read(text)["input_ids"] != tokenizer(text)["input_ids"] for text in CHECKED):
        raise InputError(
            "Read back from the GGUF file, this model's tokenizer is another: other tokens, end or chat template.",
            remedy=REMEDY,
        )
