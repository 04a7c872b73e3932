"""Speech becomes text with a model on this machine: a Whisper folder, or pocketsphinx."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from soldiom_ray.collect.documents import progress

RATE = 16_000
"""Samples per second; both models take mono at this rate, as 16-bit integers."""
POCKETSPHINX = "pocketsphinx"
NO_TRANSCRIPT = "no transcript"
"""How a text's `transcript` begins where there is none; the reason follows."""
POCKETSPHINX_REMEDY = "pip install 'soldiom[speech]', which needs a C compiler on Python 3.12 and 3.14"
MAX_SECONDS = 1_800
"""Audio beyond this is not transcribed (`transcribed_seconds` says how much was). pocketsphinx takes 0.32 s of one core
for a second of speech (measured); a model that takes up to 1 s stays within the sandbox's limits."""
_PIECE_SECONDS, _CUT_SECONDS = 30, 10
_SILENT_PEAK = 100
"""Of 32,768: 50 dB below full scale. Rooms without speech are recorded at 60 dB below and less."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript; `source` names the model, or says why there is none."""

    text: str
    source: str
    seconds: float = 0.0


def speech_model_problem(model: str) -> str:
    """Why this speech model cannot write transcripts here; "" when it can."""
    if not model:
        return "no speech model is set (speech_model)"
    if model == POCKETSPHINX:
        return "" if find_spec("pocketsphinx") else f"pocketsphinx is not installed ({POCKETSPHINX_REMEDY})"
    if not (Path(model) / "config.json").is_file():
        return "the speech model is neither pocketsphinx nor a folder with a Whisper model (speech_model)"
    return "" if find_spec("transformers") else "transformers is not installed (pip install 'soldiom[models]')"


def transcribe(sound: Iterator[Any], model: str) -> Transcript:
    """The words in a stream of sample arrays, int16 [samples]. Raises OSError or ValueError when the model's folder
    does not load."""
    reason = speech_model_problem(model)
    if reason:
        return Transcript("", f"{NO_TRANSCRIPT}, because {reason}")
    texts, seconds, is_silent = [], 0.0, True
    for piece in _pieces(sound):
        seconds += len(piece) / RATE
        if abs(piece.astype("int32")).max(initial=0) >= _SILENT_PEAK:
            is_silent = False
            texts.append(_pocketsphinx(piece) if model == POCKETSPHINX else _whisper(model, piece))
            progress.beat()
    if is_silent:
        return Transcript("", f"{NO_TRANSCRIPT}, because the audio is silent", seconds)
    source = POCKETSPHINX if model == POCKETSPHINX else f"whisper:{Path(model).name}"
    return Transcript("\n".join(text for text in texts if text), source, seconds)


def _pieces(sound: Iterator[Any]) -> Iterator[Any]:
    """Pieces of at most 30 s, cut at the quietest moment of the last 10 s; MAX_SECONDS in total."""
    import numpy

    buffered: list[Any] = []
    length, samples_left = 0, MAX_SECONDS * RATE
    for samples in sound:
        samples = samples[:samples_left]
        samples_left -= len(samples)
        buffered.append(samples)
        length += len(samples)
        while length >= _PIECE_SECONDS * RATE:
            joined = numpy.concatenate(buffered)
            end = _quietest(joined)
            yield joined[:end]
            buffered, length = [joined[end:]], len(joined) - end
        if samples_left <= 0:
            break
    if length:
        yield numpy.concatenate(buffered)


def _quietest(samples: Any) -> int:
    """Index of the middle of the quietest fifth of a second between second 20 and second 30."""
    step = RATE // 5
    start = (_PIECE_SECONDS - _CUT_SECONDS) * RATE
    window = samples[start : _PIECE_SECONDS * RATE].astype("float32").reshape(-1, step)
    return start + int((window**2).sum(axis=1).argmin()) * step + step // 2


def _pocketsphinx(samples: Any) -> str:
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    best = decoder.hyp()
    return str(best.hypstr) if best else ""


@lru_cache(maxsize=1)
def _decoder() -> Any:
    import pocketsphinx  # type: ignore[import-untyped, unused-ignore]

    return pocketsphinx.Decoder(samprate=float(RATE), loglevel="FATAL")


def _whisper(folder: str, samples: Any) -> str:
    import torch

    processor, model = _loaded(folder)
    inputs = processor(samples.astype("float32") / 32_768, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(inputs.input_features)
    return str(processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


@lru_cache(maxsize=1)
def _loaded(folder: str) -> tuple[Any, Any]:
    """Processor and model, from this folder alone: no code of the model is run, no pickle is opened."""
    import torch
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    torch.set_num_threads(1)
    options = {"local_files_only": True, "trust_remote_code": False}
    processor = AutoProcessor.from_pretrained(folder, **options)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, use_safetensors=True, **options)
    return processor, model.eval()
