"""Inputs for a model from a file: of JSON lines each a text or an object with `input`, of any other file each line."""

import json
from pathlib import Path

from soldiom_ray.errors import InputError, Problem


def read_inputs(path: Path) -> list[str]:
    """The inputs in their order. InputError for a file that cannot be read or holds none, and for every line of JSON
    that holds no text, by its number."""
    try:
        content = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise InputError(
            f"{str(path)!r} cannot be read: {why}.", remedy="name a file of inputs, a line each"
        ) from error
    lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{str(path)!r} holds no inputs.", remedy="write a line for each")
    if path.suffix not in (".jsonl", ".ndjson"):
        return [line.rstrip("\r") for _, line in lines]
    texts, problems = [], []
    for number, line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        text = value.get("input") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts.append(text)
        else:
            problems.append(Problem("", 'is neither a text in quotes nor {"input": "a text"}', number))
    if problems:
        raise InputError(f"{str(path)!r} cannot be used.", remedy="correct these lines", problems=problems[:20])
    return texts
