"""Chats as WhatsApp exports them to .txt, from iOS and Android, whatever the order of its dates: a conversation for
each day."""

import re
from typing import Any

from soldiom_ray.collect.documents.formed import FormedRecord

_DATE = r"\d{1,4}[./-]\s?\d{1,2}[./-]\s?\d{2,4}\.?"
_TIME = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[AaPp]\.?\s?[Mm]\.?)?"
_LINE = re.compile(rf"^[\u200e\u200f]*(?:\[({_DATE}),?\s({_TIME})\]\s|({_DATE}),?\s({_TIME})\s[-–]\s)", re.MULTILINE)
_LEVELS = {"info", "warn", "warning", "error", "debug", "trace", "fatal", "critical", "notice"}
"""Who speaks in a program's log."""
_SPEAKER = re.compile(r"([^:\n]{1,80}?):(?:\s|$)")
_MARK = "\u200e"
"""Stands before what WhatsApp itself wrote."""
_MEDIA = re.compile(
    r"<[^<>\n]{3,40}(?:omitted|weggelassen|ausgeschlossen|omitido|omitida|omis|omesso|oculto)>|.*\b(?:omitted|weggelassen)$"
    r"|<(?:attached|angehängt|adjunto|anexado|pièce jointe)[^>\n]*>|\S+\.\w{3,4} \((?:file attached|Datei angehängt)\)"
)
_DELETED = re.compile(r"(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht)\.?")
_EDITED = re.compile(r"\s*<(?:This message was edited|Diese Nachricht wurde bearbeitet\.?)>$")
_EVENTS = re.compile(r"\b(?:changed|added|created|removed|joined|left|pinned|started)\b")
_WHO = re.compile(r"\b(?:end-to-end encrypted|Ende-zu-Ende-verschlüsselt)")


def whatsapp_days(text: str) -> list[FormedRecord]:
    """The conversation of each day of an export; [] for any other text. What nobody said, media and deleted messages
    are counted with the first."""
    if not _LINE.match(text.lstrip("\ufeff \n")):
        return []
    entries = _entries(text)
    days: dict[str, FormedRecord] = {}
    counts = {"messages that nobody said": 0, "media": 0, "deleted messages": 0}
    for day, said in entries:
        record = days.setdefault(day, FormedRecord({"messages": []}, form="WhatsApp's export"))
        turn = _turn(said, counts)
        if turn is not None:
            record["messages"].append(turn)
    spoken = [record for record in days.values() if record["messages"]]
    speakers = {turn["role"].lower() for record in spoken for turn in record["messages"]}
    if len(speakers) < 2 or speakers & _LEVELS:
        return []
    for note, count in counts.items():
        spoken[0].notes += [note] * count
    return spoken


def _entries(text: str) -> list[tuple[str, str]]:
    """(day, what stands after the time) of each message, lines that follow included."""
    heads = list(_LINE.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [
        (head[1] or head[3], text[head.end() : end].replace("\u202f", " ").strip())
        for head, end in zip(heads, ends, strict=True)
    ]


def _turn(said: str, counts: dict[str, int]) -> dict[str, Any] | None:
    speaker = _SPEAKER.match(said.lstrip(_MARK))
    if speaker is None or _EVENTS.search(speaker[1]) or _WHO.search(said):
        counts["messages that nobody said"] += 1
        return None
    content = _EDITED.sub("", said.lstrip(_MARK)[speaker.end() :].strip()).strip()
    words = content.replace(_MARK, "").strip()
    lines = words.split("\n")
    media = [line for line in lines if _MEDIA.fullmatch(line.strip())]
    words = "\n".join(line for line in lines if line not in media).strip()
    counts["media"] += len(media)
    if _DELETED.fullmatch(words):
        counts["deleted messages"] += 1
        return None
    return {"role": speaker[1].lstrip("~\u202f ").strip(), "content": words} if words else None
