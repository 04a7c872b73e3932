"""E-mails (.eml) and mailboxes (.mbox): headers as metadata, the text of the message, attachments as files."""

import email
import email.policy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from functools import partial
from typing import Any

from soldiom_ray.collect.documents.encodings import declared_text
from soldiom_ray.collect.documents.html import read_page
from soldiom_ray.collect.documents.nested import Members, allowance
from soldiom_ray.collect.documents.parsed import ParsedText, ParseOptions, skipped_entry
from soldiom_ray.collect.text import SkippedError

_SHOWN_HEADERS = ("subject", "from", "to", "cc", "date")
_FROM_LINE = re.compile(rb"^From [^\n]*\n(?=[!-9;-~]{1,80}:)", re.MULTILINE)
CHARSET = re.compile(rb"([\w.:-]+)")
_HEADER = re.compile(
    rb"^(?:from|to|subject|date|received|mime-version|message-id|content-type|return-path)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
MAX_HEADER_CHARACTERS = 1000


def parse(name: str, data: bytes, options: ParseOptions) -> list[ParsedText]:
    """One text per message ("message 3" in a mailbox) and the texts of its attachments."""
    with allowance():
        if not data.startswith(b"From "):
            return _message_texts(data, "", options)
        texts: list[ParsedText] = []
        failed = 0
        for number, source in enumerate(_messages(data), 1):
            try:
                texts += _message_texts(source, f"message {number}", options)
            except SkippedError:
                failed += 1
    if failed and texts:
        texts[0].metadata["bad_messages"] = failed
    return texts


def _messages(data: bytes) -> Iterator[bytes]:
    """The messages of a mailbox. Each begins after a line "From ..." before a header, at the start of the file or after
    a blank line; such lines within a message are quoted with ">"."""
    starts = [
        match
        for match in _FROM_LINE.finditer(data)
        if match.start() == 0 or data.endswith((b"\n\n", b"\n\r\n"), 0, match.start())
    ]
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(data)
        yield re.sub(rb"^>(>*From )", rb"\1", data[start.end() : end], flags=re.MULTILINE)


def _message_texts(source: bytes, part: str, options: ParseOptions) -> list[ParsedText]:
    if not _HEADER.search(source[: 1 << 16].replace(b"\r\n", b"\n").partition(b"\n\n")[0]):
        raise SkippedError("damaged", "no headers of an e-mail at its start")
    message: Any = email.message_from_bytes(source, policy=email.policy.default)
    headers = shown_headers(message)
    attachments: list[EmailMessage] = []
    body, skipped = _body(message, attachments, 0)
    members = Members()
    for number, attachment in enumerate(attachments, 1):
        _add_attachment(attachment, number, members, options)
    text = "\n\n".join(section for section in (headers.get("subject", ""), body) if section)
    texts = [ParsedText(text, part, headers | skipped_entry(skipped))] if text else []
    prefix = f"{part} " if part else ""
    attachment_texts = [ParsedText(t.text, f"{prefix}{t.part}", t.metadata, t.attachments) for t in members.texts]
    return members.with_skipped(texts + attachment_texts)


def shown_headers(message: EmailMessage) -> dict[str, str]:
    """The headers that become metadata."""
    headers = {}
    for name in _SHOWN_HEADERS:
        value = _read(partial(_header_text, message, name), "")
        if value:
            headers[name] = value[:MAX_HEADER_CHARACTERS]
    return headers


def _header_text(message: EmailMessage, name: str) -> str:
    return " ".join(str(message.get(name) or "").split())


def _read(read: Callable[[], Any], otherwise: Any) -> Any:
    """What a header says; the standard library's parser gives up on some."""
    try:
        return read()
    except (ValueError, TypeError, LookupError, AttributeError):
        return otherwise


def _body(part: EmailMessage, attachments: list[EmailMessage], depth: int) -> tuple[str, Counter[str]]:
    """The text of a part, and what was left out of it; what is no text goes to the attachments."""
    if depth > 50:
        raise SkippedError("damaged", "nested too deeply")
    kind = _read(part.get_content_type, "application/octet-stream")
    if part.is_multipart() and part.get_content_maintype() == "multipart":
        inner = [(child, *_body(child, attachments, depth + 1)) for child in part.iter_parts()]  # type: ignore[arg-type]
        filled = [(child.get_content_type(), text, skipped) for child, text, skipped in inner if text]
        if kind == "multipart/alternative" and filled:
            _, text, skipped = next((form for form in filled if form[0] == "text/plain"), filled[0])
            return text, skipped + Counter(alternatives=len(filled) - 1)
        return "\n\n".join(text for _, text, _ in filled), sum((skipped for *_, skipped in inner), Counter())
    if _read(part.get_content_disposition, "attachment") == "attachment" or _read(part.get_filename, ""):
        attachments.append(part)
    elif kind == "text/plain":
        return _text(part).strip(), Counter()
    elif kind == "text/html":
        page = read_page(_text(part))
        return page.text.strip(), page.skipped
    elif part.is_multipart() and kind != "message/rfc822":  # the report on a delivery: blocks of headers
        blocks = [str(inner).strip() for inner in part.get_payload()]
        return "\n\n".join(block for block in blocks if block), Counter()
    else:
        attachments.append(part)
    return "", Counter()


def _text(part: EmailMessage) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes) or not content.strip():
        return ""
    charset = str(_read(part.get_content_charset, "utf-8") or "utf-8").encode("ascii", "replace")
    return declared_text(content, CHARSET.fullmatch(charset)).text.replace("\r\n", "\n")


def _add_attachment(part: EmailMessage, number: int, members: Members, options: ParseOptions) -> None:
    if _read(part.get_content_type, "") == "message/rfc822":
        inner = part.get_payload(0) if part.is_multipart() else None
        name, content = f"attachment {number}.eml", inner.as_bytes() if isinstance(inner, EmailMessage) else b""
    else:
        name = file_name(str(_read(part.get_filename, "") or "")) or f"attachment {number}"
        payload = part.get_payload(decode=True)
        content = payload if isinstance(payload, bytes) else b""
    members.add(name, content, options)


def file_name(name: str) -> str:
    """An attachment's name without its path, at most 200 characters."""
    return " ".join(name.replace("\\", "/").rpartition("/")[2].split())[-200:]
