"""A registered version as a folder that other programs read: its weights, verified, and what has to go with them."""

import errno
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.errors import InputError, StorageFullError, UnavailableError
from soldiom_ray.models.signing import verified_weights
from soldiom_ray.settings import Settings


def export_model(
    settings: Settings,
    artifacts: Artifacts,
    run: str,
    folder: Path,
    *,
    card: str,
    notices: list[str],
    materials: dict[str, Any],
) -> dict[str, int]:
    """Write a run's weights, `README.md` (the card), `NOTICE` (what its licences ask to be said, where they do) and
    `sbom.json` into a new folder, whole or not at all. Returns the bytes of each file by name.

    InputError for a folder that holds something; DamagedError for weights that are not what was signed;
    StorageFullError and UnavailableError where it cannot be written. What was encrypted at rest is in clear there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty.", remedy="name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name,
            verified_weights(settings, artifacts, run) as weights,
        ):
            draft = Path(name) / "model"
            draft.mkdir(mode=0o700)
            for path in (each for each in weights.rglob("*") if each.is_file()):
                target = draft / path.relative_to(weights)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            texts = {"README.md": card, "NOTICE": "\n".join(notices), "sbom.json": json.dumps(materials, indent=2)}
            for file, text in texts.items():
                if text:
                    (draft / file).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
            draft.replace(folder)
    except OSError as error:
        kind = StorageFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UnavailableError
        raise kind(
            f"The model cannot be written into {folder}: {error.strerror or type(error).__name__}.",
            remedy="it needs room for the weights, and the right to write there",
        ) from error
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
