"""Images, audio and video: what they tell, what they show, what is said in them, and files that break."""

import io
import math
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from collecting import make_context

from soldiom_ray.collect import collect
from soldiom_ray.collect.documents import image, media, ocr, sandbox, speech
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError
from soldiom_ray.domains.sources import FilesSource

DATA = Path(__file__).parents[2] / "shared" / "data" / "documents"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no documents at {DATA}")


def picture(text: str = "", size: tuple[int, int] = (800, 200)) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    drawn = Image.new("RGB", size, "white")
    ImageDraw.Draw(drawn).text((40, 60), text, fill="black", font=ImageFont.load_default(60))
    return drawn


def saved(drawn: Any, form: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    drawn.save(sink, form, **options)
    return sink.getvalue()


def see(data: bytes, use_ocr: bool = True) -> ParsedText:
    (parsed,) = image.parse("a", data, ParseOptions(ocr=use_ocr))
    return parsed


def hear(data: bytes, model: str = "", use_ocr: bool = False) -> ParsedText:
    (parsed,) = media.parse("a", data, ParseOptions(ocr=use_ocr, speech_model=model))
    return parsed


def outcome(module: Any, data: bytes) -> str:
    with pytest.raises(SkippedError) as raised:
        module.parse("a", data, ParseOptions())
    return f"{raised.value.reason}: {raised.value.detail}"


def tone(seconds: float, loudness: int = 8_000) -> Any:
    import numpy

    return (numpy.sin(numpy.arange(int(16_000 * seconds)) / 20) * loudness).astype("int16")


def wav(samples: Any, told_bytes: int | None = None) -> bytes:
    size = samples.nbytes if told_bytes is None else told_bytes
    head = struct.pack(
        "<4sI8sIHHIIHH4sI",
        b"RIFF",
        min(size + 36, 2**32 - 1),
        b"WAVEfmt ",
        16,
        1,
        1,
        16_000,
        32_000,
        2,
        16,
        b"data",
        size,
    )
    return head + samples.tobytes()


def film(pictures: list[Any], seconds_each: int = 1, with_sound: bool = False) -> bytes:
    """A video of still scenes; each starts with a picture that decodes alone."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=4, options={"g": "4"})
        video.width, video.height = pictures[0].size
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono") if with_sound else None
        for number in range(len(pictures) * 4 * seconds_each):
            frame = av.VideoFrame.from_image(pictures[number // (4 * seconds_each)])
            frame.pts, frame.time_base = number, Fraction(1, 4)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(tone(1.0).reshape(1, -1), "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return sink.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_each_form_of_image_tells_its_size_and_its_words(form: str) -> None:
    parsed = see(saved(picture("Hello picture"), form))
    assert parsed.text == "Hello picture" and parsed.metadata["ocr_confidence"] > 0.9
    metadata = parsed.metadata
    assert (metadata["width"], metadata["height"], metadata["format"], len(metadata["dhash"])) == (800, 200, form, 16)
    without = see(saved(picture("Hello picture"), form), use_ocr=False)
    assert without.text == "" and without.metadata["dhash"] == metadata["dhash"]


def test_a_picture_without_words_keeps_what_is_known_of_it() -> None:
    parsed = see(saved(picture(), "PNG"))
    assert parsed.text == "" and parsed.metadata["width"] == 800 and "ocr_confidence" not in parsed.metadata


def test_near_copies_have_near_hashes() -> None:
    from PIL import Image

    content = Image.radial_gradient("L").crop((0, 0, 200, 256))
    rough = Image.open(io.BytesIO(saved(content.resize((97, 111)), "JPEG", quality=30)))
    first, near, far = (int(image.dhash(each), 16) for each in (content, rough, content.rotate(90, expand=True)))
    assert (first ^ near).bit_count() <= 4 and (first ^ far).bit_count() >= 8


def test_exif_gives_camera_and_time_and_only_whether_there_is_a_place() -> None:
    from PIL import Image

    metadata = Image.Exif()
    metadata[0x010F], metadata[0x0110], metadata[0x0132], metadata[0x0112] = "Acme", "X100", "2024:05:06 07:08:09", 6
    metadata[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 0.0)}
    parsed = see(saved(picture(size=(300, 100)), "JPEG", exif=metadata), use_ocr=False)
    metadata = parsed.metadata
    assert metadata["camera"] == "Acme X100" and metadata["taken"] == "2024-05-06T07:08:09" and metadata["has_gps"]
    assert (metadata["width"], metadata["height"]) == (100, 300)  # turned upright
    assert "48" not in str({key: value for key, value in metadata.items() if key != "dhash"})


def test_the_pages_of_a_tiff_are_all_read() -> None:
    pages = [picture("Page one"), picture("Page two")]
    parsed = see(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert parsed.text == "Page one\n\nPage two" and parsed.metadata["frames"] == 2
    moving = see(saved(pages[0], "GIF", save_all=True, append_images=pages[1:]))
    assert moving.text == "Page one" and moving.metadata["frames"] == 2


def test_transparent_and_sixteen_bit_pictures_are_read() -> None:
    from PIL import Image

    ink = picture("Clear ink").convert("L").point(lambda value: 255 - value)
    clear = Image.merge("RGBA", [Image.new("L", ink.size, 0)] * 3 + [ink])
    assert see(saved(clear, "PNG")).text == "Clear ink"
    deep = picture("Deep grey").convert("I").point(lambda value: value * 257).convert("I;16")
    assert see(saved(deep, "PNG")).text == "Deep grey"


def test_each_broken_image_has_its_own_outcome() -> None:
    content = saved(picture("x"), "PNG")
    assert outcome(image, content[: len(content) // 2]).startswith("damaged: a PNG image that ends early")
    assert outcome(image, content[:12]).startswith(("damaged", "unsupported"))
    assert outcome(image, b"\xff\xd8\xff\xe0" + bytes(50)).startswith(("damaged", "unsupported"))
    assert outcome(image, b"not an image").startswith("unsupported: not an image of a supported format (PNG, JPEG")
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    assert outcome(image, bomb).startswith("too_large")
    assert outcome(image, saved(picture(size=(6_000, 5_001)), "BMP")) == "too_large: at most 30 million pixels are read"


def test_ocr_uses_the_models_of_the_wheel_on_one_thread_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import rapidocr
    import requests

    def refuse(*args: Any, **more: Any) -> Any:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(requests, "get", refuse)
    ocr._engine.cache_clear()
    assert ocr.read_words(image.pixels_of(picture("Offline"))).text == "Offline"
    assert ocr._engine() is ocr._engine()
    models = Path(rapidocr.__file__).parent / "models"
    config = ocr._engine().cfg
    assert {Path(config[step].model_path).parent for step in ("Det", "Cls", "Rec")} == {models}
    assert all((models / name).is_file() for name in ocr._MODELS.values())
    assert ocr._engine().text_rec.session.session.get_session_options().intra_op_num_threads == 1
    assert capfd.readouterr() == ("", "")


@needs_data
def test_speech_becomes_text_by_pocketsphinx_at_the_quality_it_has() -> None:
    """Measured: 10 of the transcript's 18 different words. It is a test's model, not one for real work."""
    pytest.importorskip("pocketsphinx")
    expected_words = set((DATA / "audio" / "sample_10s.transcript.txt").read_text().lower().replace(".", "").split())
    parsed = hear((DATA / "audio" / "sample_10s.mp3").read_bytes(), "pocketsphinx")
    assert len(expected_words & set(parsed.text.split())) / len(expected_words) > 0.5
    metadata = parsed.metadata
    assert metadata["transcript"] == "pocketsphinx" and metadata["transcribed_seconds"] == 10.0
    assert (metadata["audio_codec"], metadata["sample_rate"], metadata["channels"]) == ("mp3float", 44_100, 1)
    assert metadata["title"] == "Shakespeare on Scenery" and abs(metadata["duration_seconds"] - 10) < 0.1


@needs_data
def test_a_film_gives_keyframes_and_what_is_said() -> None:
    parsed = hear((DATA / "audio" / "sample_10s_video-mp4.mp4").read_bytes(), use_ocr=True)
    (frame,) = parsed.attachments
    assert frame.data.startswith(b"\xff\xd8\xff") and frame.metadata["width"] == 320
    assert parsed.metadata["video_codec"] == "h264" and parsed.metadata["frames_per_second"] == 24.0
    assert parsed.text == "On screen at 0 s: sample_10s_video-mp4.mp4"


def test_why_there_is_no_transcript_is_always_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loud, silent = wav(tone(1)), wav(tone(1, loudness=20))
    assert hear(loud).metadata["transcript"] == "no transcript, because no speech model is set (speech_model)"
    assert hear(silent, "pocketsphinx").metadata["transcript"] == "no transcript, because the audio is silent"
    reason = "no transcript, because the file has no audio stream"
    assert hear(film([picture()])).metadata["transcript"] == reason
    nowhere = hear(loud, str(tmp_path)).metadata["transcript"]
    assert nowhere.startswith("no transcript, because the speech model is neither pocketsphinx nor a folder")
    (tmp_path / "config.json").write_text("{}")
    broken = hear(loud, str(tmp_path)).metadata["transcript"]
    assert broken.startswith("no transcript, because the speech model does not load (")
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    reason = "no transcript, because pocketsphinx is not installed (pip install 'soldiom[speech]', which needs a C"
    assert hear(loud, "pocketsphinx").metadata["transcript"] == f"{reason} compiler on Python 3.12 and 3.14)"


def test_recordings_without_a_transcript_are_counted_by_the_reason(tmp_path: Path) -> None:
    (tmp_path / "loud.wav").write_bytes(wav(tone(1)))
    manifest = collect(
        make_context(tmp_path / "home"), [FilesSource(source="files", paths=(str(tmp_path / "loud.wav"),))]
    )
    assert manifest.details["no transcript, because no speech model is set (speech_model)"] == 1


def tiny_whisper(folder: Path) -> None:
    """A Whisper of two layers whose every token is "h", with a tokenizer of single bytes."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    vocabulary = {word: number for number, word in enumerate([*sorted(ByteLevel.alphabet()), "<end>", "<start>"])}
    names = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<end>")
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], **names, additional_special_tokens=["<start>"])
    end, start = vocabulary["<end>"], vocabulary["<start>"]
    shape = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    tokens = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    none = {"suppress_tokens": None, "begin_suppress_tokens": None}
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, max_target_positions=48, **shape, **heads, **tokens, **none
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = 12
    norm = model.model.decoder.layer_norm
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.copy_(100 * model.proj_out.weight[vocabulary["h"]])
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)


def test_a_whisper_folder_writes_the_transcript_in_the_sandbox_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_whisper(tmp_path / "tiny")
    parsed = hear(wav(tone(2)), str(tmp_path / "tiny"))
    assert parsed.metadata["transcript"] == "whisper:tiny" and parsed.metadata["transcribed_seconds"] == 2.0
    assert set(parsed.text) == {"h"} and len(parsed.text) > 5
    with sandbox.Sandbox() as opened:
        (again,) = opened.parse("a.wav", wav(tone(2)), ParseOptions(speech_model=str(tmp_path / "tiny")))
    assert (again.text, again.metadata) == (parsed.text, parsed.metadata)


def test_weights_that_are_a_pickle_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_whisper(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    metadata = hear(wav(tone(2)), str(folder)).metadata["transcript"]
    assert metadata.startswith("no transcript, because the speech model does not load (")


def test_sound_of_any_length_is_cut_where_it_is_quiet_and_only_so_much_is_transcribed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numpy

    samples = tone(70)
    samples[26 * 16_000 : 27 * 16_000] = 0
    pieces = list(speech._pieces(iter(numpy.array_split(samples, 997))))
    assert 26 <= len(pieces[0]) / 16_000 <= 27 and all(len(part) <= 30 * 16_000 for part in pieces)
    assert (numpy.concatenate(pieces) == samples).all()
    monkeypatch.setattr(speech, "MAX_SECONDS", 3)
    assert math.isclose(sum(map(len, speech._pieces(iter([samples, samples])))) / 16_000, 3)


def test_keyframes_are_few_even_and_different() -> None:
    scenes = [picture(text, (1600, 800)) for text in ("First slide", "Second slide", "Third")]
    parsed = hear(film(scenes, seconds_each=3, with_sound=True))
    assert [frame.metadata["seconds"] for frame in parsed.attachments] == [0.0, 3.0, 6.0]
    assert {(frame.metadata["width"], frame.metadata["height"]) for frame in parsed.attachments} == {(768, 384)}
    assert parsed.metadata["duration_seconds"] == 9.0 and parsed.metadata["audio_codec"] == "pcm_s16le"
    many = hear(film([scenes[number % 3] for number in range(40)]))
    assert 2 <= len(many.attachments) <= media.MAX_KEYFRAMES


def test_what_a_header_claims_is_checked_against_what_is_there() -> None:
    parsed = hear(wav(tone(2), told_bytes=4_000_000_000))
    assert parsed.metadata["duration_seconds"] == 2.0
    content = film([picture("a"), picture("b"), picture("c")])
    cut = hear(content[: len(content) // 2])
    assert cut.metadata["duration_seconds"] < 3 and cut.metadata["told_duration_seconds"] == 3.0 and cut.attachments


def test_each_broken_media_file_has_a_clear_outcome() -> None:
    content = film([picture("a")])
    assert outcome(media, b"").startswith("damaged: no audio or video that opens")
    assert outcome(media, content[:60]).startswith("damaged")
    assert outcome(media, wav(tone(0))).startswith("damaged: a wav file that holds no sound")
    assert outcome(media, b"ID3\x03\0\0\0\0\0\0" + bytes(5_000)).startswith("damaged")
    noise = bytes((7 * number * number + 13) % 256 for number in range(60_000))
    assert outcome(media, b"fLaC" + noise).startswith("damaged")


@needs_data
def test_truncated_and_mislabelled_files_are_what_they_are() -> None:
    mp3 = (DATA / "audio" / "sample_10s.mp3").read_bytes()
    (parsed,) = media.parse("really.wav", mp3, ParseOptions())
    assert parsed.metadata["container"] == "mp3"
    half = hear(mp3[: len(mp3) // 2]).metadata
    assert 4.5 < half["duration_seconds"] < 5.5
    mp4 = (DATA / "audio" / "sample_10s_video-mp4.mp4").read_bytes()
    assert outcome(media, mp4[: len(mp4) // 2]).startswith("damaged")  # its index stands at the end


def test_a_playlist_cannot_make_us_open_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(wav(tone(1)))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ):
        assert outcome(media, text.encode()).startswith("damaged: no audio or video that opens")


def test_media_and_pictures_pass_through_the_sandbox_with_their_attachments() -> None:
    with sandbox.Sandbox() as opened:
        (image_text,) = opened.parse("a.png", saved(picture("In the box"), "PNG"), ParseOptions())
        (played,) = opened.parse("a.mkv", film([picture("Scene")]), ParseOptions())
        process = opened.process
        assert process is not None
        peak = Path(f"/proc/{process.pid}/status").read_text().partition("VmPeak:")[2].split()[0]
    assert image_text.text == "In the box" and played.text == "On screen at 0 s: Scene"
    assert played.attachments[0].data.startswith(b"\xff\xd8\xff")
    assert int(peak) < 1_500_000  # KiB; measured 0.9 to 1.2 million with OCR
