"""Audio and video: what the container tells, keyframes as pictures, and what is said as text."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.image import MAX_PIXELS, dhash
from soldiom_ray.collect.documents.parsed import Attachment, ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

MAX_KEYFRAMES = 16
KEYFRAME_SIDE = 768
"""Pixels of the longest side, as much as vision models of a few billion parameters take."""
SAME_SCENE_LEVELS = 24
"""Of 255: keyframes of which none of 32 x 32 places differs by more from the one before are kept once. Measured on
slides: another line of text makes 78, the same slide coded again 2. (Slides of text on white often share a dhash.)"""
PROBED_PACKETS = 50
"""A sound file none of whose first packets decodes is no sound; a good one gives sound within the first three."""
_CONTAINERS = "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,wav,webm,w64"
"""What FFmpeg may take a file for. Playlists (HLS, concat, DASH, SDP) would open further files and addresses."""
_TAGS = ("title", "artist", "album", "date", "genre", "language")


@dataclass
class _Walk:
    """What a walk over the packets found; of these only the first are decoded, and only until sound comes out."""

    seconds: float = 0.0
    packets: int = 0
    decodes: bool = False
    broken: bool = False
    keyframes: list[int] = field(default_factory=list)
    """Places in the walk of the video's packets that start a picture of their own."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """One text: the transcript, then the words that keyframes show; "" where there are none.

    `metadata`: container, duration_seconds, transcript (the model that wrote it, or why there is none), and where they
    are known audio_codec, sample_rate, channels, video_codec, width, height, frames_per_second, title, artist, album,
    date, genre, language, has_gps, transcribed_seconds, told_duration_seconds (when the file claims another duration
    than it holds), ends_early, bad_packets.
    Keyframes are JPEG attachments with seconds, width, height and, where OCR found words, text.
    """
    with _opened(data) as container:
        video, audio = _streams(container)
        if video is None and audio is None:
            raise SkippedError("damaged", "neither sound nor pictures in it")
        metadata = _told(container, video, audio)
        told_seconds = (container.duration or 0) / 1_000_000
        walk = _walk(container, video or audio, video is not None)
    if not walk.packets:
        raise SkippedError("damaged", f"a {metadata['container']} file that holds no {'picture' if video else 'sound'}")
    if not video and not walk.decodes:
        raise SkippedError("damaged", f"none of its sound decodes ({metadata['container']}, {metadata['audio_codec']})")
    metadata["duration_seconds"] = round(walk.seconds, 3)
    if abs(told_seconds - walk.seconds) > 1 + walk.seconds / 10:
        metadata["told_duration_seconds"] = round(told_seconds, 3)
    if walk.broken:
        metadata["ends_early"] = True
    attachments = _keyframes(data, walk, options.ocr, metadata) if video else ()
    text = _transcript(data, options.speech_model, metadata) if audio else ""
    if not audio:
        metadata["transcript"] = "no transcript, because the file has no audio stream"
    if video and not attachments and not text and not audio:
        raise SkippedError("damaged", f"none of {walk.packets} pictures decodes")
    seen = [
        f"On screen at {a.metadata['seconds']:g} s: {a.metadata['text']}" for a in attachments if "text" in a.metadata
    ]
    return [ParsedText("\n\n".join(part for part in (text, *seen) if part), "", metadata, attachments)]


def _opened(data: bytes) -> Any:
    import av

    av.logging.set_level(av.logging.PANIC)

    def refuse(url: str, flags: int, options: dict[str, str]) -> Any:
        raise PermissionError("a media file may open no other")

    try:
        return av.open(
            io.BytesIO(data),
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"},
            io_open=refuse,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError, EOFError, OSError) as error:
        raise SkippedError("damaged", f"no audio or video that opens ({type(error).__name__})") from error


def _streams(container: Any) -> tuple[Any, Any]:
    """The first video and the first audio stream that can be decoded; a cover is no video."""
    from av.stream import Disposition

    moving = [
        stream
        for stream in container.streams.video
        if stream.codec_context and not stream.disposition & Disposition.attached_pic
    ]
    sounding = [stream for stream in container.streams.audio if stream.codec_context]
    for stream in (*moving[:1], *sounding[:1]):
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return next(iter(moving), None), next(iter(sounding), None)


def _told(container: Any, video: Any, audio: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"container": container.format.name.split(",")[0]}
    if audio:
        context = audio.codec_context
        found |= {"audio_codec": context.name, "sample_rate": context.sample_rate, "channels": context.channels}
    if video:
        context, rate = video.codec_context, video.average_rate
        found |= {"video_codec": context.name, "width": context.width, "height": context.height}
        found["frames_per_second"] = round(float(rate), 3) if rate else 0
    tags: dict[str, str] = {}
    for source in (container.metadata, *(stream.metadata for stream in (video, audio) if stream)):
        tags = {key.lower(): value for key, value in source.items()} | tags
    for key in _TAGS:
        value = "".join(filter(str.isprintable, tags.get(key, ""))).strip()[:200]
        found[key] = "" if value == "und" else value
    found["has_gps"] = any("location" in key or "gps" in key for key in tags)
    return {key: value for key, value in found.items() if value}


def _walk(container: Any, stream: Any, pictures: bool) -> _Walk:
    from av.error import FFmpegError

    walk = _Walk()
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if pictures and packet.is_keyframe:
                walk.keyframes.append(walk.packets)
            walk.packets += 1
            if not (pictures or walk.decodes) and walk.packets <= PROBED_PACKETS:
                walk.decodes = _sounds(packet)
            if packet.pts is not None and packet.time_base:
                begins = packet.pts - (stream.start_time or 0)
                walk.seconds = max(walk.seconds, float((begins + (packet.duration or 0)) * packet.time_base))
    except (FFmpegError, OSError, ValueError):
        walk.broken = True
    return walk


def _sounds(packet: Any) -> bool:
    from av.error import FFmpegError

    try:
        return bool(packet.decode())
    except (FFmpegError, ValueError):
        return False


def _keyframes(data: bytes, walk: _Walk, ocr: bool, metadata: dict[str, Any]) -> tuple[Attachment, ...]:
    """At most 16 pictures, evenly chosen among those that decode alone, without those that show the same again."""
    import numpy
    from av.error import FFmpegError

    count = min(MAX_KEYFRAMES, len(walk.keyframes))
    chosen = {walk.keyframes[index * len(walk.keyframes) // count] for index in range(count)}
    found: list[Attachment] = []
    before: Any = None
    with _opened(data) as container:
        video, _ = _streams(container)
        number = -1
        try:
            for packet in container.demux(video):
                number += bool(packet.size)
                if not packet.size or number not in chosen:
                    continue
                picture = _decoded(video, packet)
                if picture is None:
                    metadata["bad_packets"] = metadata.get("bad_packets", 0) + 1
                    continue
                small = numpy.asarray(picture.convert("L").resize((32, 32)), dtype=numpy.int16)
                if before is not None and abs(small - before).max() <= SAME_SCENE_LEVELS:
                    continue
                before = small
                begins = (packet.pts or 0) - (video.start_time or 0)
                found.append(_attachment(picture, float(begins * packet.time_base), ocr))
        except (FFmpegError, OSError, ValueError):
            metadata["ends_early"] = True
    return tuple(found)


def _decoded(video: Any, packet: Any) -> Any:
    """The picture of one packet by itself, or None when it does not decode."""
    from av.error import FFmpegError

    try:
        frames = [*video.codec_context.decode(packet), *video.codec_context.decode(None)]
        video.codec_context.flush_buffers()
        return frames[0].to_image() if frames else None
    except (FFmpegError, ValueError, OSError):
        return None


def _attachment(picture: Any, seconds: float, ocr: bool) -> Attachment:
    from soldiom_ray.collect.documents.image import pixels_of

    picture.thumbnail((KEYFRAME_SIDE, KEYFRAME_SIDE))
    sink = io.BytesIO()
    picture.convert("RGB").save(sink, "JPEG", quality=85)
    metadata = {"seconds": round(seconds, 3), "width": picture.width, "height": picture.height, "dhash": dhash(picture)}
    if ocr:
        from soldiom_ray.collect.documents.ocr import read

        metadata |= {"text": text} if (text := read(pixels_of(picture)).text) else {}
    return Attachment(sink.getvalue(), metadata | {"media_type": "image/jpeg"})


def _transcript(data: bytes, model: str, metadata: dict[str, Any]) -> str:
    from soldiom_ray.collect.documents import speech

    with _opened(data) as container:
        _, audio = _streams(container)
        try:
            found = speech.transcribe(_samples(container, audio, metadata), model)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            metadata["transcript"] = f"no transcript, because the speech model does not load ({type(error).__name__})"
            return ""
    metadata["transcript"] = found.source
    if found.seconds:
        metadata["transcribed_seconds"] = round(found.seconds, 1)
    return found.text


def _samples(container: Any, audio: Any, metadata: dict[str, Any]) -> Iterator[Any]:
    """Arrays of 16-bit samples, mono, at the speech models' rate, one packet's worth at a time."""
    import av
    from av.error import FFmpegError

    from soldiom_ray.collect.documents.speech import RATE

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    packets = container.demux(audio)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (FFmpegError, OSError, ValueError):
            metadata["ends_early"] = True
            break
        try:
            for frame in packet.decode():
                for part in resampler.resample(frame):
                    yield part.to_ndarray()[0]
        except (FFmpegError, ValueError):
            metadata["bad_packets"] = metadata.get("bad_packets", 0) + 1
    for part in resampler.resample(None):
        yield part.to_ndarray()[0]
