"""Images: size, format, a perceptual hash, and their words by OCR. The place where a picture was taken stays
private."""

import io
import warnings
from datetime import datetime
from typing import Any

from soldiom_ray.collect.documents import pictures
from soldiom_ray.collect.documents.ocr import MAX_OCR_PAGES
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

MAX_PIXELS = 30_000_000
"""A phone's photo has 12 to 24 million, an A4 page at 400 dpi 15. At three bytes a pixel this is 90 MB."""
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")
_MAKE, _MODEL, _DATE_TIME, _EXIF, _TAKEN, _GPS = 0x010F, 0x0110, 0x0132, 0x8769, 0x9003, 0x8825  # EXIF 2.32, tables 3-8


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """One text: the words on the picture, "" where there are none or OCR is off.

    `metadata`: width, height (as shown, turned upright), mode, format, dhash (64 bits, hexadecimal, of the first
    frame), and, where known, camera, taken, has_gps, ocr_confidence, ocr_skipped_pages,
    bad_frames.
    """
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses at twice this and warns before
    try:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except UnidentifiedImageError as error:
        raise SkippedError("unsupported", f"not an image of a supported format ({', '.join(_FORMATS)})") from error
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, IndexError) as error:
        raise SkippedError("damaged", f"an image that does not open ({type(error).__name__})") from error
    with image:
        form, mode, metadata = str(image.format), image.mode, _exif(image)
        upright = _upright(image, form)
        basics = {"width": upright.width, "height": upright.height, "mode": mode, "format": form}
        if options.pictures:
            return [pictures.picture(data, image, upright, basics)]
        metadata = basics | {"dhash": dhash(upright)} | metadata
        frames = _frame_count(image)
        if frames > 1:
            metadata["frames"] = frames
        texts = [""]
        if options.ocr:
            # Only the frames of a TIFF are pages; a GIF or WebP is an animation.
            texts = _ocr_texts(image, upright, frames if form == "TIFF" else 1, metadata)
    return [ParsedText("\n\n".join(text for text in texts if text), metadata=metadata)]


def dhash(image: Any) -> str:
    """64 bits in hexadecimal: whether each of 8 x 8 places is brighter than its right neighbour. Near-duplicates differ
    in few bits."""
    import numpy
    from PIL import Image

    small = numpy.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=numpy.int16)
    return numpy.packbits(small[:, :-1] > small[:, 1:]).tobytes().hex()


def pixels_of(image: Any) -> Any:
    """Pixels as OCR takes them: uint8 [height, width, 3], blue, green, red; transparent pixels become white."""
    import numpy
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256).convert("L")
    return numpy.ascontiguousarray(numpy.asarray(image.convert("RGB"))[:, :, ::-1])


def _upright(image: Any, form: str) -> Any:
    """The current frame, decoded and rotated by its EXIF orientation."""
    from PIL import Image, ImageOps

    try:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(image.width, image.height)
        image.load()
        return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise SkippedError(
            "damaged", f"a {form} image that ends early or breaks off ({type(error).__name__})"
        ) from error


def _too_large(width: int = 0, height: int = 0) -> SkippedError:
    size = f"{width} x {height} pixels; " if width else ""
    return SkippedError("too_large", f"{size}at most {MAX_PIXELS // 1_000_000} million pixels are read")


def _exif(image: Any) -> dict[str, Any]:
    """Camera and time, and only whether there are GPS coordinates: where somebody was is private."""
    try:
        exif = image.getexif()
        camera = " ".join(str(exif.get(key) or "").strip("\0 ") for key in (_MAKE, _MODEL)).strip()
        timestamp = str(exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_DATE_TIME) or "").strip("\0 ")
        has_gps = bool(exif.get_ifd(_GPS))
    except Exception:  # cameras write EXIF in any shape; a broken block does not harm the picture
        return {}
    try:
        taken = datetime.strptime(timestamp, "%Y:%m:%d %H:%M:%S").isoformat()  # EXIF has no time zone
    except ValueError:
        taken = ""
    metadata = {"camera": "".join(filter(str.isprintable, camera))[:100], "taken": taken, "has_gps": has_gps}
    return {key: value for key, value in metadata.items() if value}


def _frame_count(image: Any) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError):
        return 1


def _ocr_texts(image: Any, first: Any, frames: int, metadata: dict[str, Any]) -> list[str]:
    """The words of each page by OCR; confidence and unread pages are added to `metadata`."""
    from soldiom_ray.collect.documents import ocr

    texts, confidences, failed_frames = [], [], 0
    for number in range(min(frames, MAX_OCR_PAGES)):
        try:
            if number:
                image.seek(number)
                frame = _upright(image, "TIFF")
            else:
                frame = first
        except (SkippedError, EOFError, OSError, ValueError, SyntaxError):
            failed_frames += 1
            continue
        reading = ocr.read_words(pixels_of(frame))
        texts.append(reading.text)
        if reading.text:
            confidences.append(reading.confidence)
    if confidences:
        metadata["ocr_confidence"] = round(sum(confidences) / len(confidences), 3)
    if frames > MAX_OCR_PAGES:
        metadata["ocr_skipped_pages"] = frames - MAX_OCR_PAGES
    if failed_frames:
        metadata["bad_frames"] = failed_frames
    return texts
