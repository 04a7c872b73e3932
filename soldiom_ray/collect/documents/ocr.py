"""Words on pictures, with the models that lie inside rapidocr's wheel: nothing is downloaded, nothing is written."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from soldiom_ray.collect.documents import progress

MAX_SIDE_PIXELS = 1600
"""Larger pictures are made smaller. Measured on text pages at 200 dpi (2,339 pixels high), one core: 5.3 s a page at
2,000 pixels, 4.7 s at 1,600, and the same 97 % of the words."""
MIN_SIDE_PIXELS = 16
"""Thinner pictures hold no line of text (the recogniser's lines are 48 high), and rapidocr fails on the thinnest."""
_MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The words of one picture in reading order, and how sure the model was: the mean over its lines, 0 to 1."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Box:
    """Where a piece of text stands, in pixels from the upper left."""

    left: float
    top: float
    right: float
    bottom: float
    text: str

    @property
    def height(self) -> float:
        return self.bottom - self.top


def read(pixels: Any) -> Reading:
    """The words of a picture: an array of rows, columns and the three bytes blue, green, red."""
    height, width = pixels.shape[:2]
    if min(height, width) * min(1.0, MAX_SIDE_PIXELS / max(height, width)) < MIN_SIDE_PIXELS:
        return Reading("", 0.0)
    found = _engine()(pixels)
    progress.beat()
    if found.boxes is None or not found.txts:
        return Reading("", 0.0)
    boxes = []
    for corners, text in zip(found.boxes, found.txts, strict=True):
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        if text.strip():
            boxes.append(Box(left, top, right, bottom, text.strip()))
    confidence = sum(found.scores) / len(found.scores)
    return Reading("\n".join(in_reading_order(boxes)), round(float(confidence), 3))


def in_reading_order(boxes: list[Box]) -> list[str]:
    """Lines from above to below, columns of running text one after the other (an XY-cut), a table row by row."""
    if len(boxes) < 2:
        return [box.text for box in boxes]
    columns = _cut(boxes, sideways=True)
    if len(columns) > 1:
        return [line for column in columns for line in in_reading_order(column)]
    bands = _cut(boxes, sideways=False)
    if len(bands) > 1:
        return [line for band in bands for line in in_reading_order(band)]
    return _lines(boxes)


@lru_cache(maxsize=1)
def _engine() -> Any:
    import logging

    import cv2
    import rapidocr

    logging.getLogger("RapidOCR").disabled = True  # it speaks on stderr of each model and each picture without words
    cv2.setNumThreads(1)
    models = Path(rapidocr.__file__).parent / "models"
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.max_side_len": MAX_SIDE_PIXELS,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,  # workers share the cores, one page each
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Rec.rec_batch_num": 1,  # lines of unequal length are not padded: 28 % faster than 6 at once on one core
            **{f"{step}.model_path": str(models / name) for step, name in _MODELS.items()},
        }
    )


def _cut(boxes: list[Box], sideways: bool) -> list[list[Box]]:
    """The boxes in groups with white space between them: columns (sideways) or bands, in reading order. Columns are
    cut only between running text, where lines are long; short cells side by side are a table's. Bands are cut at the
    widest gaps first, so that a heading leaves before the paragraphs of the columns below it do."""
    line = median(box.height for box in boxes)
    spans = [(box.left, box.right, box) if sideways else (box.top, box.bottom, box) for box in boxes]
    spans.sort(key=lambda span: span[:2])
    gaps, end = [], spans[0][1]
    for start, stop, _ in spans[1:]:
        gaps.append(start - end)
        end = max(end, stop)
    least = line if sideways else max(line * 0.7, max(gaps) * 0.8)
    groups = [[spans[0][2]]]
    for gap, (_, _, box) in zip(gaps, spans[1:], strict=True):
        if gap >= least:
            groups.append([])
        groups[-1].append(box)
    prose = all(len(group) > 2 and median(b.right - b.left for b in group) > 8 * line for group in groups)
    return groups if not sideways or prose else [boxes]


def _lines(boxes: list[Box]) -> list[str]:
    lines: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: box.top + box.bottom):
        last = lines[-1][0] if lines else None
        middle = (box.top + box.bottom) / 2
        if last is not None and last.top < middle < last.bottom:
            lines[-1].append(box)
        else:
            lines.append([box])
    return [" ".join(box.text for box in sorted(line, key=lambda box: box.left)) for line in lines]
