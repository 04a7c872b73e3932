"""Outlook messages (.msg, [MS-OXMSG]): headers as metadata, the text of the message, attachments as files. Properties
are known by the numbers of [MS-OXPROPS]."""

import email
import email.policy
import email.utils
import struct
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from soldiom_ray.collect.documents import rtf
from soldiom_ray.collect.documents.compressed_rtf import decompress
from soldiom_ray.collect.documents.email import CHARSET, file_name, shown_headers
from soldiom_ray.collect.documents.encodings import code_page, declared_text
from soldiom_ray.collect.documents.html import DECLARED_CHARSET, read_page
from soldiom_ray.collect.documents.nested import Members, allowance
from soldiom_ray.collect.documents.ole import Container, open_container
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_UNICODE, _BYTES_TEXT, _BINARY, _OBJECT = 0x1F, 0x1E, 0x102, 0x0D
_CODE_PAGE, _INTERNET_CODE_PAGE = 0x3FFD, 0x3FDE
_SUBJECT, _BODY, _HTML, _COMPRESSED_RTF, _TRANSPORT_HEADERS = 0x37, 0x1000, 0x1013, 0x1009, 0x7D
_SENDERS = ((0x42, (0x5D02, 0x65)), (0x0C1A, (0x5D01, 0x0C1F)))
"""(name, addresses): on whose behalf, then who sent it."""
_RECIPIENT_TYPE, _RECIPIENTS = 0x0C15, {1: "to", 2: "cc", 3: "bcc"}
_DISPLAYED_RECIPIENTS = {"to": 0x0E04, "cc": 0x0E03}
_TIMES = (0x39, 0x0E06)
_ATTACHED, _ATTACHED_TYPE, _ATTACHED_NAMES = 0x3701, 0x370E, (0x3707, 0x3704, 0x3001)
_PROPERTIES, _STREAM = "__properties_version1.0", "__substg1.0_"
_WIDE_KINDS = ("001F", "101F-")
_TEXT_KINDS = (*_WIDE_KINDS, "001E", "101E-")
"""Endings of the names of streams that hold a text, or one of several (categories, keywords)."""
_MAX_TECHNICAL = 4
"""Characters of texts that are not counted when they are left out: types of addresses, prefixes."""


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """The text of the message and the texts of its attachments. `skipped` counts what was left out. Raises
    SkippedError: damaged."""
    container = open_container(data)
    if _PROPERTIES not in container.folder():
        raise SkippedError("damaged", "an Outlook message without its properties")
    with allowance():
        return _message_texts(container, 0, options)


def _message_texts(container: Container, folder: int, options: ParseOptions) -> list[ParsedText]:
    message = _Item(container, folder, 32 if folder == 0 else 24)
    headers = _headers(message)
    body, skipped = _body(message, options)
    text = "\n\n".join(section for section in (headers.get("subject", ""), body) if section)
    shown = f"{text} {headers}"
    skipped["properties"] = sum(len(other) > _MAX_TECHNICAL and other not in shown for other in message.other_texts())
    members = Members()
    for number, place in enumerate(message.folders("__attach_"), 1):
        _add_attachment(_Item(container, place, 8, message.codec), number, members, options)
    metadata = headers | skipped_entry(skipped)
    return members.with_skipped(([ParsedText(text, metadata=metadata)] if text else []) + members.texts)


class _Item:
    """A message, a recipient or an attachment: a folder of properties. `header` is the length of what precedes the
    properties of fixed size."""

    def __init__(self, container: Container, folder: int, header: int, codec: str = "") -> None:
        self.container = container
        self._places = {name.upper(): place for name, place in container.folder(folder).items()}
        place = self._places.get(_PROPERTIES.upper())
        self._fixed = container.stream(place)[header:] if place is not None else b""
        page = self.number(_CODE_PAGE) or self.number(_INTERNET_CODE_PAGE)
        self.codec = code_page(page) if page else codec or "cp1252"
        self._read: set[int] = set()

    def text(self, *properties: int) -> str:
        """The first of these texts that is not blank; "" for none."""
        for number in properties:
            self._read.add(number)
            for kind in (_UNICODE, _BYTES_TEXT):
                if (place := self.place(number, kind)) is not None and (text := self._decoded(place, kind).strip()):
                    return text
        return ""

    def binary(self, number: int) -> bytes:
        """The content of a property; b"" where there is none."""
        self._read.add(number)
        place = self.place(number, _BINARY)
        return self.container.stream(place) if place is not None else b""

    def number(self, number: int) -> int:
        """A number or a time; 0 where there is none."""
        for offset in range(0, len(self._fixed) - 15, 16):
            if struct.unpack_from("<H", self._fixed, offset + 2)[0] == number:
                is_time = struct.unpack_from("<H", self._fixed, offset)[0] == 0x40
                return int(struct.unpack_from("<Q" if is_time else "<I", self._fixed, offset + 8)[0])
        return 0

    def place(self, number: int, kind: int) -> int | None:
        """The entry of a property in the file."""
        return self._places.get(f"{_STREAM}{number:04X}{kind:04X}".upper())

    def folders(self, start: str) -> Iterator[int]:
        """The folders whose names begin so, in their order."""
        for name, place in sorted(self._places.items()):
            if name.startswith(start.upper()) and self.container.is_folder(place):
                yield place

    def other_texts(self) -> Iterator[str]:
        """The texts that were not asked for."""
        read = {f"{number:04X}" for number in self._read}
        for name, place in self._places.items():
            digits = name.removeprefix(_STREAM.upper())
            if digits != name and digits[4:].startswith(_TEXT_KINDS) and digits[:4] not in read:
                kind = _UNICODE if digits[4:].startswith(_WIDE_KINDS) else _BYTES_TEXT
                yield " ".join(self._decoded(place, kind).split())

    def _decoded(self, place: int, kind: int) -> str:
        content = self.container.stream(place)
        if kind == _UNICODE:
            whole = content[: len(content) // 2 * 2]  # half a character may follow
            return whole.decode("utf-16-le", "surrogatepass").replace("\0", "").replace("\r\n", "\n")
        return decoded(content.replace(b"\0", b""), self.codec)


def decoded(content: bytes, codec: str) -> str:
    """Text that is in this codec if it decodes so. Raises SkippedError: undecodable."""
    if not content.strip():
        return ""
    return declared_text(content, CHARSET.fullmatch(codec.encode())).text.replace("\r\n", "\n")


def _headers(message: _Item) -> dict[str, str]:
    transport: Any = email.message_from_string(message.text(_TRANSPORT_HEADERS), policy=email.policy.default)
    sender = next((shown for name, addresses in _SENDERS if (shown := _person(message, name, addresses))), "")
    headers = {"subject": message.text(_SUBJECT), "from": sender, "to": "", "cc": "", "bcc": "", "date": _date(message)}
    for place in message.folders("__recip_"):
        recipient = _Item(message.container, place, 8, message.codec)
        if kind := _RECIPIENTS.get(recipient.number(_RECIPIENT_TYPE)):
            person = _person(recipient, 0x3001, (0x39FE, 0x3003))
            headers[kind] = f"{headers[kind]}, {person}" if headers[kind] else person
    for kind, number in _DISPLAYED_RECIPIENTS.items():
        headers[kind] = headers[kind] or message.text(number)
    by_properties = {name: " ".join(value.split()) for name, value in headers.items() if value.strip()}
    return shown_headers(transport) | by_properties


def _person(item: _Item, name: int, addresses: tuple[int, ...]) -> str:
    """ "Name <address>"; an address within Exchange's own directory is none."""
    shown = item.text(name)
    address = next((text for number in addresses if "@" in (text := item.text(number))), "")
    return f"{shown} <{address}>" if shown and address and shown != address else shown or address


def _date(message: _Item) -> str:
    ticks = next((ticks for number in _TIMES if (ticks := message.number(number))), 0)
    try:
        moment = datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    except OverflowError:
        return ""
    return email.utils.format_datetime(moment) if ticks else ""


def _body(message: _Item, options: ParseOptions) -> tuple[str, Counter[str]]:
    """The text: plain, else of the HTML, else of the RTF; and what was left out: other forms, parts of the page."""
    plain, html, source = message.text(_BODY), message.text(_HTML), message.binary(_HTML)
    compressed = message.binary(_COMPRESSED_RTF)
    if plain:
        return plain, Counter(alternatives=bool(source or html) + bool(compressed))
    if source:
        declared = DECLARED_CHARSET.search(source[:4096])
        internet = message.number(_INTERNET_CODE_PAGE)
        html = declared_text(source, declared).text if declared else decoded(source, code_page(internet or 65001))
    page = read_page(html)
    if page.text or not compressed:
        return page.text, page.skipped + Counter(alternatives=bool(compressed))
    (rich_text,) = rtf.parse("", decompress(compressed), options)
    return rich_text.text, Counter(rich_text.metadata.get("skipped", {}))


def _add_attachment(attachment: _Item, number: int, members: Members, options: ParseOptions) -> None:
    container = attachment.container
    named = file_name(attachment.text(*_ATTACHED_NAMES))
    name = named or f"attachment {number}"
    embedded, content = attachment.place(_ATTACHED, _OBJECT), attachment.place(_ATTACHED, _BINARY)
    if embedded is not None and _PROPERTIES in container.folder(embedded):
        name = named if named.lower().endswith(".msg") else f"attachment {number}.msg"
        members.read(name, 0, lambda: _message_texts(container, embedded, options))
    elif content is not None:
        if attachment.text(_ATTACHED_TYPE).lower().startswith("multipart/"):
            name = f"attachment {number}.eml"  # a signed message keeps its parts in one attachment
        data = container.stream(content)
        members.add(name, data, options)
    else:
        why = "an object of another program" if embedded is not None else "stored outside of the message"
        members.skip(name, SkippedError("unsupported", why))
