"""What a coordinator and a site say to each other: tensors as safetensors with JSON beside them in the header."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, ValidationError

from soldiom_ray.domains.schema import Train
from soldiom_ray.errors import InputError
from soldiom_ray.federate.secure_messages import Secure
from soldiom_ray.records import Record

if TYPE_CHECKING:
    import numpy.typing as npt

    Tensors = Mapping[str, npt.NDArray[Any]]
    """Trainable parameters by name: float32, whole."""

MAX_BYTES = 2 << 30
"""The largest message that is read."""
MEDIA = "application/octet-stream"
MASKED = "masked"
"""The one tensor of a masked update: numbers modulo 2**64."""
Message = TypeVar("Message", bound=Record)


class RoundTask(Record):
    """What a site is asked to do in one round, beside the adapter that it begins with."""

    federation: str = Field(pattern=r"^run-[0-9a-f]{16}$")
    recipe: str = Field(max_length=100)
    round: int = Field(ge=1)
    rounds: int = Field(ge=1)
    """How many rounds learn; one more asks for the validation loss alone."""
    train: Train
    base: str = Field(max_length=64)
    """Hash of the base's configuration and weights: adapters of different bases cannot be joined."""
    labels: tuple[str, ...] = ()
    mu: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    secure: Secure | None = None
    """Set: the update leaves in a sum alone."""

    @property
    def learns(self) -> bool:
        """Whether the site trains, and not only tells the validation loss."""
        return self.round <= self.rounds


class SiteReport(Record):
    """What leaves a site beside its update, and all that its administrator reads before it does."""

    samples: int
    """Labels that count for the loss (of a classifier: texts), by which updates are weighed."""
    validation_samples: int = 0
    validation_loss: float | None = None
    """Per label, of the adapter that the round began with, on the site's validation side."""
    metrics: dict[str, float] = Field(default_factory=dict)
    prompt_format: str = "text"
    sequence_length: int = 0
    seconds: float = 0.0
    norm: float = 0.0
    """Of the update, over all tensors."""
    tensors: dict[str, tuple[tuple[int, ...], float]] = Field(default_factory=dict)
    """Name -> shape and norm."""
    size_bytes: int = 0


class SiteState(Record):
    """Where a site stands with a round."""

    state: str
    """unknown, training, pending (until its administrator decides), ready, refused, failed."""
    message: str = ""
    error: dict[str, Any] | None = None


class SiteInfo(Record):
    """What a site says of itself before a federation begins."""

    name: str
    dataset: str
    version: str


def pack(content: Record, tensors: "Tensors") -> bytes:
    """A message as bytes."""
    from safetensors.numpy import save

    return bytes(save(dict(tensors), {"message": content.model_dump_json()}))


def unpack(data: bytes, kind: type[Message], source: str) -> "tuple[Message, dict[str, npt.NDArray[Any]]]":
    """The content and the tensors of a message. InputError, which names the source, for anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        content = kind.model_validate_json(header["__metadata__"]["message"])
        return content, dict(load(data))
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"What {source} sent cannot be read ({type(error).__name__}).",
            remedy="have both run the same version of Soldiom",
        ) from error


def digest_of(data: bytes) -> str:
    """Names the content of a message."""
    return hashlib.sha256(data).hexdigest()
