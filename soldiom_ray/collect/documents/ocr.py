"""Words on pictures, with the models that lie inside rapidocr's wheel: nothing is downloaded, nothing is written."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from soldiom_ray.collect.documents import progress

MAX_OCR_PAGES = 50
"""Of one file. Further pages of a PDF without a text layer, and of a TIFF, are counted in `ocr_skipped_pages`: a page
takes 2 to 5 s on one core."""
MAX_SIDE_PIXELS = 1600
"""Larger pictures are scaled down. Measured on text pages at 200 dpi (2,339 pixels high), one core: 5.3 s a page at
2,000 pixels, 4.7 s at 1,600, and the same 97 % of the words."""
MIN_SIDE_PIXELS = 16
"""Thinner pictures hold no line of text (the recogniser's lines are 48 high), and rapidocr fails on the thinnest."""
_MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
}


@dataclass(frozen=True, slots=True)
class OcrText:
    """The words of one picture in reading order; `confidence` is the mean over its lines, 0 to 1."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Box:
    """A piece of text and its bounding box, in pixels from the upper left."""

    left: float
    top: float
    right: float
    bottom: float
    text: str

    @property
    def height(self) -> float:
        """In pixels."""
        return self.bottom - self.top


def read_words(pixels: Any) -> OcrText:
    """The words of a picture, uint8 [height, width, 3] in the order blue, green, red."""
    height, width = pixels.shape[:2]
    if min(height, width) * min(1.0, MAX_SIDE_PIXELS / max(height, width)) < MIN_SIDE_PIXELS:
        return OcrText("", 0.0)
    result = _engine()(pixels)
    progress.beat()
    if result.boxes is None or not result.txts:
        return OcrText("", 0.0)
    boxes = []
    for corners, text in zip(result.boxes, result.txts, strict=True):
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        if text.strip():
            boxes.append(Box(left, top, right, bottom, text.strip()))
    confidence = sum(result.scores) / len(result.scores)
    return OcrText("\n".join(in_reading_order(boxes)), round(float(confidence), 3))


def in_reading_order(boxes: list[Box]) -> list[str]:
    """Lines from top to bottom, columns of running text one after the other (XY-cut), tables row by row."""
    if len(boxes) < 2:
        return [box.text for box in boxes]
    columns = _split_by_gaps(boxes, sideways=True)
    if len(columns) > 1:
        return [line for column in columns for line in in_reading_order(column)]
    blocks = _split_by_gaps(boxes, sideways=False)
    if len(blocks) > 1:
        return [line for block in blocks for line in in_reading_order(block)]
    return _lines(boxes)


@lru_cache(maxsize=1)
def _engine() -> Any:
    import logging

    import cv2
    import rapidocr

    logging.getLogger("RapidOCR").disabled = True  # it logs each model and each picture without words to stderr
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


def _split_by_gaps(boxes: list[Box], sideways: bool) -> list[list[Box]]:
    """The boxes in groups separated by white space, in reading order: columns (`sideways`) or blocks one below the
    other. Columns are split only between running text, where lines are long; short cells side by side belong to a
    table. Blocks are split at the widest gaps first, so that a heading is separated before the paragraphs of the
    columns below it are."""
    line = median(box.height for box in boxes)
    spans = [(box.left, box.right, box) if sideways else (box.top, box.bottom, box) for box in boxes]
    spans.sort(key=lambda span: span[:2])
    gaps, end = [], spans[0][1]
    for start, stop, _ in spans[1:]:
        gaps.append(start - end)
        end = max(end, stop)
    min_gap = line if sideways else max(line * 0.7, max(gaps) * 0.8)
    groups = [[spans[0][2]]]
    for gap, (_, _, box) in zip(gaps, spans[1:], strict=True):
        if gap >= min_gap:
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
