"""A trained classifier as it is asked, the same in evaluation and when it is deployed: texts or pictures become the
probability of each label."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soldiom_ray.errors import InputError
from soldiom_ray.models.adapters import merged
from soldiom_ray.models.linear_head import LinearHead, body_vectors
from soldiom_ray.models.tokens import encode_texts, truncate
from soldiom_ray.records import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Numbers = npt.NDArray[np.float64]

CHARACTERS_PER_TOKEN = 16
"""Of a text that is longer than so many for each token that the model reads, only both ends are tokenized."""


HEAT_CELLS, HEAT_MARGIN = 7, 0.5
"""Parts of a picture that are hidden in turn, along each side, and how far one reaches into its neighbours."""
PICTURE_FORMATS, MAX_PIXELS = ("PNG", "JPEG"), 40_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model reads of one input: token ids [tokens], or pixel values [channels, height, width]. `size` is what it
    costs in positions; `truncated` says that the model does not see all of a text."""

    values: "npt.NDArray[Any]"
    size: int
    truncated: bool = False


class Calibration(Record):
    """What was fitted on the validation side. `temperature` divides the logits; a sample whose likeliest label has a
    probability of at most `threshold` is not answered."""

    temperature: float = 1.0
    threshold: float = 0.0


class Classifier:
    """A loaded model and its tokenizer or image processor. Inputs are texts, or pictures as encoded bytes where
    `reads_pictures`; a text is cut to `length` tokens, as in training. `logits` may be called from several threads,
    `read` from one at a time."""

    def __init__(self, model: Any, processor: Any, length: int) -> None:
        self.model, self.processor, self.length = model.eval(), processor, length
        self.head: LinearHead | None = getattr(model, "linear_head", None)
        config = model.config
        self.names: list[str] = [str(config.id2label[number]) for number in range(config.num_labels)]
        self.multi_label: bool = config.problem_type == "multi_label_classification"
        self.reads_pictures = not hasattr(processor, "pad_token_id")
        self._pad = int(getattr(processor, "pad_token_id", None) or 0)

    @classmethod
    def taking_over(cls, model: Any, processor: Any, length: int) -> "Classifier":
        """The fastest that computes with the model: its adapter is merged into it."""
        return cls(merged(model), processor, length)

    def read(self, inputs: Sequence[str | bytes]) -> list[Reading]:
        """What the model reads of each input. InputError for a picture that cannot be decoded."""
        if self.reads_pictures:
            return [self._read_picture(each) for each in inputs if isinstance(each, bytes)]
        return read_texts(self.processor, [each for each in inputs if isinstance(each, str)], self.length)

    def logits(self, readings: Sequence[Reading]) -> "Numbers":
        """[readings, labels]; those of about one length make the least padding."""
        import numpy as np
        import torch

        with torch.inference_mode():
            if self.reads_pictures:
                pixels = torch.from_numpy(np.stack([reading.values for reading in readings]))
                inputs = {"pixel_values": pixels.to(self.model.device, self.model.dtype)}
            else:
                inputs = {
                    name: tensor.to(self.model.device) for name, tensor in text_inputs(readings, self._pad).items()
                }
            if self.head is not None:
                vectors = body_vectors(self.model, inputs["input_ids"], inputs["attention_mask"], self.head.pooling)
                return self.head.logits([reading.values for reading in readings], vectors)
            logits: Numbers = self.model(**inputs).logits.double().cpu().numpy()
        return logits

    def decide(self, logits: "Numbers", calibration: Calibration) -> "tuple[dict[str, Any], Numbers]":
        """One input's answer from its logits [labels], with whether the classifier abstains, and each label's
        probability."""
        chances = probabilities(logits[None], multi_label=self.multi_label, temperature=calibration.temperature)[0]
        output = decision(self.names, [float(chance) for chance in chances], multi_label=self.multi_label)
        abstained = not self.multi_label and bool(chances.max() <= calibration.threshold)
        return output | {"abstained": abstained}, chances

    def heat_map(self, reading: Reading, place: int, temperature: float) -> list[list[float]]:
        """How much the log odds (natural logarithm) of the label at `place` fall where a part of a picture is hidden,
        in HEAT_CELLS rows and columns from the top left: what the decision rests on lies where the numbers are high
        (occlusion, Zeiler and Fergus 2014). Below 0, the part speaks against the label. Probabilities do not move
        for a picture that the model is sure of."""
        import numpy as np

        pixels, cells = reading.values, HEAT_CELLS
        height, width = pixels.shape[1:]
        gray = pixels.mean((1, 2), keepdims=True)
        hidden = []
        for row, column in np.ndindex(cells, cells):
            top, bottom = (round(height * (row + edge) / cells) for edge in (-HEAT_MARGIN, 1 + HEAT_MARGIN))
            left, right = (round(width * (column + edge) / cells) for edge in (-HEAT_MARGIN, 1 + HEAT_MARGIN))
            part = pixels.copy()
            part[:, max(0, top) : bottom, max(0, left) : right] = gray
            hidden.append(Reading(part, reading.size))
        logits = self.logits([reading, *hidden])
        odds = log_odds(logits, place, multi_label=self.multi_label, temperature=temperature)
        losses: list[list[float]] = (odds[0] - odds[1:]).reshape(cells, cells).round(4).tolist()
        return losses

    def _read_picture(self, encoded: bytes) -> Reading:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(encoded), formats=PICTURE_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise InputError(f"The picture has more than {MAX_PIXELS} pixels.", remedy="send it smaller")
                pixels = self.processor(images=[picture.convert("RGB")], return_tensors="np")["pixel_values"][0]
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError("The picture cannot be decoded.", remedy="send a PNG or JPEG file") from error
        return Reading(pixels, self._patches(pixels.shape[-1]))

    def _patches(self, width: int) -> int:
        """Positions of a picture of `width` pixels: its patches, or about as many in a model that has none."""
        patch = getattr(self.model.config, "patch_size", None)
        return (width // (patch if isinstance(patch, int) else 16)) ** 2 + 1


def read_texts(tokenizer: Any, texts: Sequence[str], length: int) -> list[Reading]:
    """The tokens of each text, cut to `length` as in training."""
    ends = [_ends_of(text, length) for text in texts]
    encoded = list(encode_texts(tokenizer, ends))
    short = [place for place, ids in enumerate(encoded) if ends[place] != texts[place] and len(ids) < 2 * length]
    for place, ids in zip(short, encode_texts(tokenizer, [texts[place] for place in short]), strict=True):
        encoded[place] = ids  # a text of few tokens for its characters: only the whole of it says where to cut
    cut = [truncate(ids, length, keep_last=True) for ids in encoded]
    return [Reading(ids, len(ids), len(ids) < len(whole)) for ids, whole in zip(cut, encoded, strict=True)]


def text_inputs(readings: Sequence[Reading], pad: int) -> "dict[str, torch.Tensor]":
    """ids and attention mask by the names of the model's arguments, both [readings, longest] in int64."""
    import torch

    rows = [torch.from_numpy(reading.values.astype("int64")) for reading in readings]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def probabilities(logits: "Numbers", *, multi_label: bool, temperature: float = 1.0) -> "Numbers":
    """[samples, labels] from logits of that shape, which `temperature` divides: of each label by itself where a sample
    may have several, else of one of them."""
    import numpy as np

    scaled = logits / temperature
    if multi_label:
        chances: Numbers = 1 / (1 + np.exp(-scaled))
        return chances
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: Numbers = powers / powers.sum(1, keepdims=True)
    return shares


def log_odds(logits: "Numbers", place: int, *, multi_label: bool, temperature: float = 1.0) -> "Numbers":
    """[samples]: ln(p / (1 - p)) of the label at `place`, with p as of `probabilities`, and finite where p rounds to 0
    or 1."""
    import numpy as np

    scaled = logits / temperature
    if multi_label:
        odds: Numbers = scaled[:, place]
        return odds
    others = np.delete(scaled, place, axis=1)
    most = others.max(1)
    against: Numbers = scaled[:, place] - most - np.log(np.exp(others - most[:, None]).sum(1))
    return against


def decision(names: Sequence[str], chances: Sequence[float], *, multi_label: bool) -> dict[str, Any]:
    """One sample's answer: `label`, the likeliest, and `scores`, each label's probability, the highest first. Where a
    sample may have several labels also `labels`, those that are likelier than not; `label` is None where none is."""
    order = sorted(range(len(names)), key=lambda place: -chances[place])
    answer: dict[str, Any] = {"label": names[order[0]]}
    if multi_label:
        labels = [names[place] for place in order if chances[place] > 0.5]
        answer = {"label": labels[0] if labels else None, "labels": labels}
    return answer | {"scores": {names[place]: round(float(chances[place]), 6) for place in order}}


def _ends_of(text: str, length: int) -> str:
    """The text, or of a very long one its beginning and its end: what the model reads lies there."""
    most = CHARACTERS_PER_TOKEN * length
    return text if len(text) <= 2 * most else text[:most] + text[-most:]
