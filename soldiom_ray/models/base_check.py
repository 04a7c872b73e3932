"""Whether a base model can be trained as declared, seen from its descriptions and its files' headers: no weights are
read and no library of models is loaded.

`python -m soldiom_ray.models.base_check` reads {"train": ...} as JSON and prints {} or {"error": ...}, for whoever may
not import this."""

import json
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError, SoldiomError
from soldiom_ray.models.architectures import known_model_types
from soldiom_ray.models.linear_head import FILE as LINEAR_HEAD
from soldiom_ray.models.load import load_tokenizer, model_folder
from soldiom_ray.models.padding import padding_token
from soldiom_ray.models.positions import positions_of
from soldiom_ray.models.template_check import check_template
from soldiom_ray.models.weight_files import tensor_shapes
from soldiom_ray.settings import Settings, load_settings

MIN_POSITIONS = 8
WORD_TABLES = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embed_in.weight",
    "tok_embeddings.weight",
)  # fmt: skip
"""How architectures name the table of word embeddings, [vocabulary, width]."""
POSITION_TABLES = ("embeddings.position_embeddings.weight", "wpe.weight")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)


def check_base(folder: Path, declared: Train) -> list[str]:
    """What will be set or lowered for this base, in sentences; InputError for a base that cannot be trained so.
    `folder` holds its descriptions, and its weights where they are here already."""
    name = declared.base_model
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise InputError(f"config.json of the model {name!r} is no JSON object.", remedy="download the model again")
    if (folder / LINEAR_HEAD).is_file():
        raise InputError(
            f"The model {name!r} has a head that was fitted (`head: linear`), from which a training cannot go on; its"
            " body is that of its base.",
            remedy="train on its base instead",
        )
    _check_architecture(config, name)
    _check_not_quantized(folder, config, name)
    if declared.task == "image_classification":
        return []
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    shapes = tensor_shapes(folder, name)
    words = _rows(shapes, WORD_TABLES) or text.get("vocab_size")
    _check_tables(text, shapes, name)
    check_template(folder, name)
    notes = [_check_positions(text, declared)]
    if words:
        _check_tokenizer(folder, int(words), name)
        notes.append(padding_token(folder, text, int(words))[1])
    return [note for note in notes if note]


def check_named_base(settings: Settings, artifacts: Artifacts | None, declared: Train) -> list[str]:
    """`check_base` of a base by its name; nothing for a model from random weights."""
    if declared.architecture is not None:
        return []
    with ExitStack() as stack:
        return check_base(stack.enter_context(model_folder(settings, artifacts, declared.base_model)), declared)


def _check_architecture(config: Mapping[str, Any], name: str) -> None:
    model_type = config.get("model_type")
    if not model_type:
        raise InputError(
            f"config.json of the model {name!r} names no model_type, so nothing says which class reads its weights.",
            remedy="add `model_type` to it, or choose a model in Hugging Face's form",
        )
    if model_type not in known_model_types():
        raise InputError(
            f"The model {name!r} has model_type {str(model_type)!r}, which the installed transformers does not know.",
            remedy="choose a model of an architecture that transformers knows",
        )


def _check_not_quantized(folder: Path, config: Mapping[str, Any], name: str) -> None:
    quantization = config.get("quantization_config")
    if not quantization:
        return
    stated = quantization if isinstance(quantization, dict) else {}
    how = str(stated.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in stated else "an unnamed method"))
    original = _original_model(folder)
    raise InputError(
        f"The weights of the model {name!r} are quantized ({how}); a training needs them whole.",
        remedy=f"train on the unquantized original{f' {original!r}' if original else ''}, with `method: lora` and"
        " `quantization: nf4` where a GPU is to hold it in 4 bits; or on a GGUF file of it, whose weights are unpacked",
    )


def _original_model(folder: Path) -> str:
    """The model that a quantized one was made from, as its card names it; "" where it does not."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    match = re.search(r"^base_model:\s*(?:\n\s*-\s*)?[\"']?([\w.-]+/[\w.-]+)", text, re.MULTILINE)
    return match[1] if match else ""


def _check_tables(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """A table smaller than the configuration says would be replaced by random numbers where a new head is trained."""
    for key, tables in (("vocab_size", WORD_TABLES), ("max_position_embeddings", POSITION_TABLES)):
        stated, rows = config.get(key), _rows(shapes, tables)
        if stated and rows and rows < int(stated):
            raise InputError(
                f"config.json of the model {name!r} says {key} {stated}, and its weights have {rows} rows for it.",
                remedy=f"set {key} to {rows} in config.json if the weights are the right ones",
            )


def _check_positions(config: Mapping[str, Any], declared: Train) -> str:
    positions = positions_of(config)
    virtual = declared.virtual_tokens if declared.method == "prompt" else 0
    if positions is None:
        return ""
    if positions - virtual < MIN_POSITIONS:
        raise InputError(
            f"The model {declared.base_model!r} has {positions} positions, of which train.virtual_tokens {virtual}"
            f" leave {max(0, positions - virtual)} for text."
            if virtual
            else f"The model {declared.base_model!r} has only {positions} positions.",
            remedy=f"use virtual_tokens of at most {positions // 2}" if virtual else "choose another model",
        )
    if declared.sequence_length > positions - virtual:
        return (
            f"sequence_length {declared.sequence_length} is lowered to {positions - virtual}: the model has"
            f" {positions} positions{f', {virtual} of which the tuned prompt takes' if virtual else ''}"
        )
    return ""


def _check_tokenizer(folder: Path, words: int, name: str) -> None:
    """InputError when the tokenizer is missing or damaged, or has ids that the embedding has no row for."""
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise InputError(
            f"The model {name!r} has no tokenizer.",
            remedy="copy tokenizer.json and tokenizer_config.json of the model that it was made from into its folder",
        )
    tokens = _tokens(folder, name)
    beyond = sorted((number, token) for token, number in tokens.items() if number >= words)
    if beyond:
        raise InputError(
            f"The tokenizer of the model {name!r} has {len(tokens):,} tokens, its embedding {words:,} rows: there is"
            f" none for {beyond[0][1][:40]!r} (id {beyond[0][0]})"
            f"{f' and {len(beyond) - 1} more' if beyond[1:] else ''}.",
            remedy="enlarge the model (`model.resize_token_embeddings(len(tokenizer))`, save both), or restore the"
            " tokenizer that it was trained with",
        )


def _tokens(folder: Path, name: str) -> dict[str, int]:
    """Token -> id, those that tokenizer_config.json adds included."""
    if not (folder / "tokenizer.json").is_file():
        vocabulary: dict[str, int] = load_tokenizer(folder).get_vocab()
        return vocabulary
    from tokenizers import Tokenizer

    try:
        tokens = dict(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True))
    except Exception as error:  # the library raises plain exceptions
        raise InputError(
            f"tokenizer.json of the model {name!r} is damaged: {str(error).splitlines()[0][:200]}",
            remedy="download it again, or copy it from the model that this one was made from",
        ) from error
    if not tokens:
        raise InputError(
            f"tokenizer.json of the model {name!r} holds no tokens.",
            remedy="download it again, or copy it from the model that this one was made from",
        )
    path = folder / "tokenizer_config.json"
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder") if path.is_file() else None
    for number, token in (added or {}).items():
        tokens.setdefault(str(token["content"] if isinstance(token, dict) else token), int(number))
    return tokens


def _rows(shapes: Mapping[str, tuple[int, ...]], tables: tuple[str, ...]) -> int | None:
    """Rows of the first of these tables; None where the weights are not here or name it otherwise."""
    return next((shape[0] for key, shape in shapes.items() if key.endswith(tables) and len(shape) == 2), None)


def main() -> int:
    """See the module."""
    request = json.load(sys.stdin)
    try:
        check_named_base(load_settings(), None, Train.model_validate(request["train"]))
    except SoldiomError as error:
        json.dump({"error": error.to_dict()}, sys.stdout)
        return error.exit_code
    json.dump({}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
