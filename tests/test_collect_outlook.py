"""Outlook messages, written here as [MS-OXMSG] says."""

import struct
from typing import Any

import pytest
from broken_files import Folder, ole_bytes

from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.collect.documents.compressed_rtf import decompress
from soldiom_ray.collect.documents.nested import MAX_MEMBERS
from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.text import SkippedError

NOON = 133_537_680_000_000_000
"""2024-03-01 12:00 UTC in steps of 100 ns since 1601."""
HELLO = bytes.fromhex(
    "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
)
"""Compressed RTF, the example of [MS-OXRTFCP] 3.1."""


def item(header: int, numbers: dict[int, int] | None = None, **properties: Any) -> dict[str, Any]:
    """A folder of properties: p0037="text", p1013=b"binary", p3701={...}, s0037=b"text in a code page"."""
    folder: dict[str, Any] = {}
    fixed = b""
    for number, value in (numbers or {}).items():
        kind = 0x40 if value >> 32 else 3
        fixed += struct.pack("<HHIQ", kind, number, 6, value)
    for name, value in properties.items():
        kind = "001E" if name[0] == "s" else {str: "001F", bytes: "0102", dict: "000D"}[type(value)]
        content = value.encode("utf-16-le") if isinstance(value, str) else value
        folder[f"__substg1.0_{name[1:]}{kind}"] = content
        fixed += struct.pack("<HHIQ", int(kind, 16), int(name[1:], 16), 6, len(content))
    return folder | {"__properties_version1.0": bytes(header) + fixed}


def message(header: int = 32, recipients: tuple[Folder, ...] = (), attachments: tuple[Folder, ...] = (),
            numbers: dict[int, int] | None = None, **properties: Any) -> dict[str, Any]:  # fmt: skip
    folder = item(header, numbers, **properties)
    folder |= {f"__recip_version1.0_#{number:08X}": one for number, one in enumerate(recipients)}
    return folder | {f"__attach_version1.0_#{number:08X}": one for number, one in enumerate(attachments)}


def texts_of(folder: Folder) -> dict[str, ParsedText]:
    return {parsed.part: parsed for parsed in parse_bytes("a.msg", ole_bytes(folder))}


def outcome(data: bytes) -> str:
    with pytest.raises(SkippedError) as raised:
        parse_bytes("a.msg", data)
    return raised.value.reason


def test_headers_body_and_attachments_are_read() -> None:
    letter = message(
        recipients=(
            item(8, {0x0C15: 1}, p3001="Bo", p39FE="bo@x.example"),
            item(8, {0x0C15: 1}, p3001="Cy", p3003="/O=EX/CN=CY"),
            item(8, {0x0C15: 2}, p3001="di@x.example", p3003="di@x.example"),
        ),
        attachments=(
            item(8, p3707="notes.txt", p3701=b"Attached words."),
            item(8, p3707="inner.msg", p3701=message(24, p0037="Inner", p1000="Forwarded.")),
            item(8, p3707="run.bin", p3701=b"\x7fELF\0\0\0"),
            item(8, p3001="far away"),
            item(8, p370E="multipart/signed", p3701=b"Content-Type: text/plain\n\nSigned words."),
            item(8, p3001="Object", p3701={"CONTENTS": b"x"}),
        ),
        numbers={0x39: NOON},
        p0037="Größe", p0C1A="Ann", p0C1F="ann@x.example", p1000="Plain words.\r\n", p1013=b"<p>HTML words.</p>",
        p1009=HELLO, p3A08="a place that is not read", p0070="Größe",
    )  # fmt: skip
    texts = texts_of(letter)
    first = texts[""]
    assert first.text == "Größe\n\nPlain words."
    assert {name: first.metadata[name] for name in ("subject", "from", "to", "cc", "date")} == {
        "subject": "Größe",
        "from": "Ann <ann@x.example>",
        "to": "Bo <bo@x.example>, Cy",
        "cc": "di@x.example",
        "date": "Fri, 01 Mar 2024 12:00:00 +0000",
    }
    assert first.metadata["skipped"] == {"alternatives": 2, "properties": 1}
    assert texts["notes.txt"].text == "Attached words." and texts["inner.msg"].text == "Inner\n\nForwarded."
    assert texts["attachment 5.eml"].text == "Signed words."
    assert first.metadata["left_out_counts"] == {"unsupported": 3}


def test_the_body_is_plain_else_html_else_rich_text() -> None:
    html = "<meta charset=koi8-r><p>Москва</p>".encode("koi8-r")
    assert texts_of(message(p1013=html))[""].text == "Москва"
    assert texts_of(message(numbers={0x3FDE: 1251}, p1013="<p>Москва</p>".encode("cp1251")))[""].text == "Москва"
    assert texts_of(message(p1013="<p>in Unicode</p>"))[""].text == "in Unicode"
    assert texts_of(message(numbers={0x3FFD: 932}, s1000="東京".encode("cp932")))[""].text == "東京"
    assert texts_of(message(p0037="x", p1009=HELLO))[""].text == "x\n\nhello world"
    stored = b"".join(
        rb"{\rtf1\ansi\fromhtml1 {\*\htmltag64 <p>}\htmlrtf \par \htmlrtf0 from a page{\*\htmltag72 </p>}}".splitlines()
    )
    packed = struct.pack("<II4sI", len(stored) + 12, len(stored), b"MELA", 0) + stored
    assert texts_of(message(p1009=packed))[""].text == "from a page"


def test_a_property_without_a_number_and_half_a_character_cost_no_message() -> None:
    folder = message(p0037="Rent") | {"__substg1.0_100²001F": "odd".encode("utf-16-le")}
    folder["__substg1.0_1000001F"] = "Body.".encode("utf-16-le") + b"x"
    (text,) = parse_bytes("a.msg", ole_bytes(folder))
    assert "Body." in text.text


def test_headers_of_the_transport_stand_in() -> None:
    headers = (
        "Subject: By mail\r\nFrom: Ann <a@x.example>\r\nTo: b@x.example\r\nDate: Fri, 1 Mar 2024 12:00:00 +0100\r\n"
    )
    (parsed,) = parse_bytes("a.msg", ole_bytes(message(p007D=headers, p1000="Words.", p0E04="Bo")))
    assert parsed.metadata["from"] == "Ann <a@x.example>" and parsed.metadata["to"] == "Bo"
    assert parsed.metadata["date"] == "Fri, 01 Mar 2024 12:00:00 +0100" and "skipped" not in parsed.metadata


def test_compressed_rich_text_follows_the_examples_of_its_specification() -> None:
    assert decompress(HELLO) == b"{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n"
    repeated = bytes.fromhex("1a0000001c0000004c5a4675e2d44b51410004205758595a0d6e7d010eb0")
    assert decompress(repeated) == b"{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}"


def test_files_that_are_cut_off_or_go_in_circles_are_damaged() -> None:
    data = ole_bytes(message(p0037="Subject", p1000="word " * 2000, p1009=b"x" * 5000))
    for size in (40, 600, len(data) // 2):
        assert outcome(data[:size]) == "damaged"
    for place in range(0, 40, 4):
        circle = bytearray(data)
        table = len(data) - 512
        circle[table + place : table + place + 4] = (place // 4).to_bytes(4, "little")
        assert outcome(bytes(circle)) == "damaged"
    assert outcome(ole_bytes(message(p1009=b"no compressed text"))) == "damaged"
    assert outcome(ole_bytes(message())) == "empty"
    names = [f"s{number}" for number in range(50)]
    shared = bytearray(ole_bytes({name: bytes(100_000 if name == "s0" else 5000) for name in names} | message()))
    directory = (struct.unpack_from("<I", shared, 48)[0] + 1) * 512
    for number in range(2, 51):  # every stream begins where the large one does
        place = directory + number * 128 + 116
        shared[place : place + 4] = shared[directory + 128 + 116 :][:4]
    assert outcome(bytes(shared)) == "damaged"


def test_ten_thousand_attachments_and_messages_within_messages_end() -> None:
    attachments = tuple(item(8, p3707=f"{number}.txt", p3701=b"word") for number in range(MAX_MEMBERS + 1))
    texts = parse_bytes("a.msg", ole_bytes(message(attachments=attachments, p1000="Words."), 4096))
    assert len(texts) == MAX_MEMBERS + 1 and texts[0].metadata["left_out_counts"] == {"too_large": 1}
    deep = message(24, p1000="deepest")
    for number in range(9):
        deep = message(24 if number < 8 else 32, attachments=(item(8, p3701=deep),), p1000=f"level {number}")
    assert [text.text for text in parse_bytes("a.msg", ole_bytes(deep))] == [f"level {n}" for n in (8, 7, 6, 5, 4)]
