"""Audio and video: the container's metadata, keyframes as pictures, and speech as text."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from soldiom_ray.collect.documents.image import MAX_PIXELS, dhash
from soldiom_ray.collect.documents.parsed import Attachment, ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

MAX_KEYFRAMES = 16
KEYFRAME_SIDE = 768
"""Pixels of the longest side: the input size of vision models with a few billion parameters."""
SAME_SCENE_LEVELS = 24
"""Of 255: a keyframe that differs from the previous one by no more than this in any of 32 x 32 cells shows the same
scene and is omitted. Measured on slides: one more line of text differs by 78, the same slide encoded again by 2.
(Slides of text on white often share a dhash.)"""
PROBED_PACKETS = 50
"""An audio file of whose first packets none decodes is damaged; sound ones decode within the first three."""
_CONTAINERS = "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,wav,webm,w64"
"""What FFmpeg may take a file for. Playlists (HLS, concat, DASH, SDP) would open further files and addresses."""
_TAGS = ("title", "artist", "album", "date", "genre", "language")


@dataclass
class _PacketScan:
    """Result of reading all packets of a stream; only the first are decoded, and only until one gives sound."""

    seconds: float = 0.0
    packets: int = 0
    decodes: bool = False
    broken: bool = False
    keyframes: list[int] = field(default_factory=list)
    """Indices of the packets of the video that hold a keyframe."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """One text: the transcript, then the words that keyframes show; "" where there are none.

    `metadata`: container, duration_seconds, transcript (the model that wrote it, or why there is none), and where they
    are known audio_codec, sample_rate, channels, video_codec, width, height, frames_per_second, title, artist, album,
    date, genre, language, has_gps, transcribed_seconds, told_duration_seconds (when the file declares another duration
    than it holds), ends_early, bad_packets.
    Keyframes are JPEG attachments with seconds, width, height and, where OCR found words, text.
    """
    with _open(data) as container:
        video, audio = _streams(container)
        if video is None and audio is None:
            raise SkippedError("damaged", "neither sound nor pictures in it")
        metadata = _metadata(container, video, audio) | _other_streams(container)
        declared_seconds = (container.duration or 0) / 1_000_000
        scan = _scan_packets(container, video or audio, video is not None)
    if not scan.packets:
        raise SkippedError("damaged", f"a {metadata['container']} file that holds no {'picture' if video else 'sound'}")
    if not video and not scan.decodes:
        raise SkippedError("damaged", f"none of its sound decodes ({metadata['container']}, {metadata['audio_codec']})")
    metadata["duration_seconds"] = round(scan.seconds, 3)
    if abs(declared_seconds - scan.seconds) > 1 + scan.seconds / 10:
        metadata["told_duration_seconds"] = round(declared_seconds, 3)
    if scan.broken:
        metadata["ends_early"] = True
    attachments = _keyframes(data, scan, options.ocr, metadata) if video else ()
    text = _transcript(data, options.speech_model, metadata) if audio else ""
    if not audio:
        metadata["transcript"] = "no transcript, because the file has no audio stream"
    if video and not attachments and not text and not audio:
        raise SkippedError("damaged", f"none of {scan.packets} pictures decodes")
    on_screen = [
        f"On screen at {a.metadata['seconds']:g} s: {a.metadata['text']}" for a in attachments if "text" in a.metadata
    ]
    return [ParsedText("\n\n".join(part for part in (text, *on_screen) if part), "", metadata, attachments)]


def _open(data: bytes) -> Any:
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
    """The first video and the first audio stream that can be decoded; cover art is not a video."""
    from av.stream import Disposition

    videos = [
        stream
        for stream in container.streams.video
        if stream.codec_context and not stream.disposition & Disposition.attached_pic
    ]
    sounds = [stream for stream in container.streams.audio if stream.codec_context]
    for stream in (*videos[:1], *sounds[:1]):
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return next(iter(videos), None), next(iter(sounds), None)


def _metadata(container: Any, video: Any, audio: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"container": container.format.name.split(",")[0]}
    if audio:
        context = audio.codec_context
        metadata |= {"audio_codec": context.name, "sample_rate": context.sample_rate, "channels": context.channels}
    if video:
        context, rate = video.codec_context, video.average_rate
        metadata |= {"video_codec": context.name, "width": context.width, "height": context.height}
        metadata["frames_per_second"] = round(float(rate), 3) if rate else 0
    tags: dict[str, str] = {}
    for source in (container.metadata, *(stream.metadata for stream in (video, audio) if stream)):
        tags = {key.lower(): value for key, value in source.items()} | tags
    for key in _TAGS:
        value = "".join(filter(str.isprintable, tags.get(key, ""))).strip()[:200]
        metadata[key] = "" if value == "und" else value
    metadata["has_gps"] = any("location" in key or "gps" in key for key in tags)
    return {key: value for key, value in metadata.items() if value}


def _other_streams(container: Any) -> dict[str, Any]:
    """The entry `skipped`: subtitles, and what stands beside the first video and the first audio stream."""
    kinds = Counter(stream.type for stream in container.streams)
    counts = {"subtitles": kinds["subtitle"], "pictures": kinds["video"] - 1, "sounds": kinds["audio"] - 1}
    return skipped_entry({name: max(0, count) for name, count in counts.items()})


def _scan_packets(container: Any, stream: Any, pictures: bool) -> _PacketScan:
    from av.error import FFmpegError

    scan = _PacketScan()
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if pictures and packet.is_keyframe:
                scan.keyframes.append(scan.packets)
            scan.packets += 1
            if not (pictures or scan.decodes) and scan.packets <= PROBED_PACKETS:
                scan.decodes = _gives_sound(packet)
            if packet.pts is not None and packet.time_base:
                start = packet.pts - (stream.start_time or 0)
                scan.seconds = max(scan.seconds, float((start + (packet.duration or 0)) * packet.time_base))
    except (FFmpegError, OSError, ValueError):
        scan.broken = True
    return scan


def _gives_sound(packet: Any) -> bool:
    from av.error import FFmpegError

    try:
        return bool(packet.decode())
    except (FFmpegError, ValueError):
        return False


def _keyframes(data: bytes, scan: _PacketScan, ocr: bool, metadata: dict[str, Any]) -> tuple[Attachment, ...]:
    """At most MAX_KEYFRAMES pictures, evenly spaced among the keyframes, without those that repeat a scene."""
    import numpy
    from av.error import FFmpegError

    count = min(MAX_KEYFRAMES, len(scan.keyframes))
    chosen = {scan.keyframes[index * len(scan.keyframes) // count] for index in range(count)}
    attachments: list[Attachment] = []
    previous: Any = None
    with _open(data) as container:
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
                if previous is not None and abs(small - previous).max() <= SAME_SCENE_LEVELS:
                    continue
                previous = small
                start = (packet.pts or 0) - (video.start_time or 0)
                attachments.append(_attachment(picture, float(start * packet.time_base), ocr))
        except (FFmpegError, OSError, ValueError):
            metadata["ends_early"] = True
    return tuple(attachments)


def _decoded(video: Any, packet: Any) -> Any:
    """The picture of a single packet, or None when it does not decode."""
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
        from soldiom_ray.collect.documents.ocr import read_words

        metadata |= {"text": text} if (text := read_words(pixels_of(picture)).text) else {}
    return Attachment(sink.getvalue(), metadata | {"media_type": "image/jpeg"})


def _transcript(data: bytes, model: str, metadata: dict[str, Any]) -> str:
    from soldiom_ray.collect.documents import speech

    with _open(data) as container:
        _, audio = _streams(container)
        try:
            transcript = speech.transcribe(_samples(container, audio, metadata), model)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            metadata["transcript"] = f"no transcript, because the speech model does not load ({type(error).__name__})"
            return ""
    metadata["transcript"] = transcript.source
    if transcript.seconds:
        metadata["transcribed_seconds"] = round(transcript.seconds, 1)
    return transcript.text


def _samples(container: Any, audio: Any, metadata: dict[str, Any]) -> Iterator[Any]:
    """Mono samples at the rate of the speech models, packet by packet: int16 [samples]."""
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
