"""The text of one file, as the source `files` reads it, parts after one another.

`python -m soldiom_ray.collect.file_text PATH` prints {"text": ...} or {"error": ...}, for whoever may not import this.
"""

import json
import sys
from pathlib import Path

from soldiom_ray.collect.documents.sandbox import Sandbox
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.errors import InputError, SoldiomError


def text_of_file(path: Path) -> str:
    """The text. InputError for a file that cannot be read or holds none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.", remedy="name a readable file") from error
    try:
        with Sandbox() as sandbox:
            parts = sandbox.parse(path.name, data)
    except SkippedError as skipped:
        raise InputError(
            f"{str(path)!r} gives no text: {skipped.reason} ({skipped.detail}).", remedy="give it as text"
        ) from skipped
    return "\n\n".join(part.text.strip() for part in parts)


def main() -> int:
    """See the module."""
    try:
        answer: dict[str, object] = {"text": text_of_file(Path(sys.argv[1]))}
    except SoldiomError as error:
        answer = {"error": error.to_dict()}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
