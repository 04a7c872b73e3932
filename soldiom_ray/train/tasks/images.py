"""Image classification: a vision model names what a picture shows."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from soldiom_ray.artifacts import Artifacts, Report
from soldiom_ray.domains.schema import Train
from soldiom_ray.models.classification import ClassificationLoss
from soldiom_ray.models.loss import Objective
from soldiom_ray.models.task_models import TASK_MODELS
from soldiom_ray.records import Manifest
from soldiom_ray.train.blocks import Source
from soldiom_ray.train.data import StreamWriter, lengths_of, nothing_to_learn, sample_counter
from soldiom_ray.train.labels import configuration, label_ids, label_names, labelled, open_label_ids
from soldiom_ray.train.ragged import Ragged
from soldiom_ray.train.splits import TRAIN, VALIDATION
from soldiom_ray.train.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from soldiom_ray.train.blocks import Indices

TOKENS_VERSION = 1
UNKNOWN_POSITIONS = 197
"""Of a picture where the model's configuration names no patches: those of a ViT of 224 pixels and patches of 16."""


class ImageClassificationTask(Task):
    """A picture to its label."""

    models = TASK_MODELS["image_classification"]

    def tokenize(
        self, artifacts: Artifacts, dataset: Manifest, processor: Any, by: str, declared: Train, report: Report
    ) -> Manifest:
        """For each split `<split>.bin` holds the encoded pictures, `<split>.lengths.bin` their bytes,
        `<split>.labels.bin` the labels' ids. Pictures are decoded when they are read."""
        made_from = {"code": TOKENS_VERSION, "dataset": dataset.id, "task": declared.task}
        draft = artifacts.draft("tokens", made_from, parents=[dataset.id])
        if finished := draft.finished():
            return finished
        import numpy as np

        if not dataset.counts.get("pictures", 0):
            raise nothing_to_learn(dataset, "picture")
        names = label_names(artifacts, dataset, several=False)
        count_samples = sample_counter(dataset, report)
        for split in (TRAIN, VALIDATION):
            labels_of_pictures: list[list[str]] = []
            with StreamWriter(draft, split, 256) as streams:
                for row, labels in labelled(artifacts.rows(dataset, f"{split}/"), several=False):
                    if row.get("image"):
                        streams.add(np.frombuffer(row["image"], np.uint8))
                        labels_of_pictures.append(labels)
                        count_samples()
            draft.write(f"{split}.labels.bin", label_ids(labels_of_pictures, names, several=False).tobytes())
            if split == TRAIN and not labels_of_pictures:
                raise nothing_to_learn(dataset, "picture with a label")
        return draft.commit(details={"labels": names})

    @contextmanager
    def open(
        self, artifacts: Artifacts, tokens: Manifest, length: int, processor: Any
    ) -> Iterator[tuple[Source, Source]]:
        with artifacts.storage.local_folder(f"tokens/{tokens.id}") as folder:
            train, validation = (
                Pictures(
                    Ragged.open(folder, split, "uint8"),
                    open_label_ids(folder / f"{split}.labels.bin", tokens.details["labels"], several=False),
                    processor,
                )
                for split in (TRAIN, VALIDATION)
            )
            yield train, validation

    def varied(self, units: Source, declared: Train) -> Source:
        """Each picture a little turned, moved, scaled, lighter or darker every time, with `train.augment`."""
        return replace(units, varied=True) if declared.augment and isinstance(units, Pictures) else units

    def measure(self, model: Any, units: Source) -> Source:
        """A picture takes as many positions as the model has patches."""
        if not isinstance(units, Pictures):
            raise TypeError(f"pictures are read from Pictures, not {type(units).__name__}")
        config = model.config
        size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
        if isinstance(size, int) and isinstance(patch, int):
            return replace(units, width=(size // patch) ** 2 + 1)
        return units

    def objective(self, model: Any, tokens: Manifest, declared: Train) -> Objective:
        return ClassificationLoss(model, ("pixel_values",))

    def configure(self, tokens: Manifest) -> dict[str, Any]:
        return configuration(tokens.details["labels"], several=False)

    def cuts(self, artifacts: Artifacts, tokens: Manifest, length: int) -> dict[str, int]:
        """Pictures are scaled, never cut."""
        return {"samples": len(lengths_of(artifacts, tokens, TRAIN)), "cut_samples": 0, "cut_tokens": 0}

    def new_processor(self, declared: Train) -> Any:
        """What reads pictures for a model from scratch: scaled to its size, values around zero."""
        from transformers import ViTImageProcessorPil

        size = int((declared.architecture or {}).get("image_size", 224))
        return ViTImageProcessorPil(size={"height": size, "width": size})


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures; `labels` is [pictures] label ids; each picture takes `width` positions."""

    encoded: Ragged
    labels: "npt.NDArray[np.int64]"
    processor: Any
    width: int = UNKNOWN_POSITIONS
    varied: bool = False

    def __len__(self) -> int:
        return len(self.encoded)

    def positions(self, indices: "Indices") -> "Indices":
        """[len(indices)]: the same for every picture."""
        import numpy as np

        return np.full(len(indices), self.width, np.int64)

    def batch(self, indices: "Indices") -> tuple["npt.NDArray[Any]", ...]:
        """(pixel values [pictures, channels, height, width] float32, labels [pictures] int64)."""
        from PIL import Image

        pictures = [
            Image.open(io.BytesIO(self.encoded.row(index).tobytes())).convert("RGB") for index in indices.tolist()
        ]
        if self.varied:
            pictures = [_varied(picture) for picture in pictures]
        return self.processor(images=pictures, return_tensors="np")["pixel_values"], self.labels[indices]

    def label_count(self, indices: "Indices") -> int:
        """Every picture counts once."""
        return len(indices)


MOST_DEGREES, MOST_SHIFT, MOST_SCALE, MOST_LIGHT = 10.0, 0.08, 0.1, 0.2
"""Of a picture that is varied: turned, moved (share of its sides), scaled, changed in brightness and contrast. It is
never mirrored: in a picture of a body, or of writing, sides mean something."""


def _varied(picture: Any) -> Any:
    """The picture, a little changed. The numbers come from torch's generator, which each step seeds, so that a training
    that resumes sees what it would have seen."""
    import torch
    from PIL import Image, ImageEnhance

    turn, right, down, scale, brightness, contrast = (2 * torch.rand(6) - 1).tolist()
    angle, size = math.radians(MOST_DEGREES * turn), 1 + MOST_SCALE * scale
    cosine, sine = math.cos(angle) / size, math.sin(angle) / size
    middle_x, middle_y = picture.width / 2, picture.height / 2
    to_x, to_y = middle_x + MOST_SHIFT * right * picture.width, middle_y + MOST_SHIFT * down * picture.height
    inverse = (
        cosine, sine, middle_x - cosine * to_x - sine * to_y,
        -sine, cosine, middle_y + sine * to_x - cosine * to_y,
    )  # fmt: skip
    moved = picture.transform(picture.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    lighter = ImageEnhance.Brightness(moved).enhance(1 + MOST_LIGHT * brightness)
    return ImageEnhance.Contrast(lighter).enhance(1 + MOST_LIGHT * contrast)
