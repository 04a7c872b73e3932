"""What evidence and timeline say, indexed, and how a statement of a report stands to it."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from soldiom_ray.specialists.evidence import extract_evidence
from soldiom_ray.specialists.times import (
    UTC_ALWAYS,
    Reading,
    find_clocks,
    find_readings,
    offset_of,
    resolve,
    write_instant,
)
from soldiom_ray.specialists.wording import content_words, directions, has_negation, numbers, written_words

CITATION = re.compile(r"\[(?P<inside>E?[0-9]{1,7}(?:(?:, ?| ?[-\u2013] ?)E?[0-9]{1,7}){0,16})\]")
QUOTE = re.compile(r"[\"\u201c](?P<inside>[^\"\u201c\u201d]{0,4000})[\"\u201d]")
WORDS_IN_EVENT = 0.6
"""Share of the content words of a statement without addresses or times that one event must have."""
WORDS_OF_SUPPORT = 0.5
"""Share of the words of a statement with addresses or times that what it is drawn from must have."""
NEAR_CHARACTERS = 500
MAX_TOGETHER = 2000
MAX_SUPPORT = 20
BATCH_CHARACTERS = 1 << 20
QUOTING = {ord('"'): "'", 0x201C: "'", 0x201D: "'", ord("["): "(", ord("]"): ")", 0x3002: "."}

Claim = tuple[str, set[int], list[int]]
"""What a statement names, the events that have it, the items of evidence that are it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence as written and without its citations, its entities as (kind, normalised), its dates, and its times of
    day without a date."""

    written: str
    bare: str
    entities: list[tuple[str, str]]
    readings: list[Reading]
    clocks: list[Reading]


class Facts:
    """Evidence and events, by what they name."""

    def __init__(self, evidence: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        self.evidence = {int(item.get("id") or place): item for place, item in enumerate(evidence, 1)}
        self.events = events
        self._items: dict[str, list[int]] = {}
        for number, item in self.evidence.items():
            self._items.setdefault(_key(str(item.get("normalised"))), []).append(number)
        self._texts = [_text_of_event(event) for event in events]
        self._entities: dict[str, set[int]] = {}
        self._times: dict[str, set[int]] = {}
        self._clocks: dict[str, set[int]] = {}
        self._words: dict[str, set[int]] = {}
        self._fields: Counter[str] = Counter()
        for place, normalised in _entities_of(self._texts):
            self._entities.setdefault(_key(normalised), set()).add(place)
        for place, (event, text) in enumerate(zip(events, self._texts, strict=True), 1):
            time = str(event.get("time", ""))
            for key in {time[:10], time[:16], time[:19], _padded(time)}:
                self._times.setdefault(key, set()).add(place)
            for key in _clock_keys(event):
                self._clocks.setdefault(key, set()).add(place)
            for word in {*content_words(text), *numbers(text)}:
                self._words.setdefault(word, set()).add(place)
            self._fields.update({plain_text(str(event.get(field))) for field in ("host", "source") if event.get(field)})

    def has(self, normalised: str) -> bool:
        """Whether evidence or events have this address, file, account or the like."""
        return _key(normalised) in self._entities or _key(normalised) in self._items

    def judge(self, statement: Statement) -> dict[str, Any]:
        """Status, events, evidence, what is missing and a note for one statement."""
        cited_events, cited_items, wrong = self._cited(statement.written)
        if wrong:
            return _verdict("unsupported", wrong, "cites what does not exist")
        if statement.written.startswith("#"):
            return _verdict("no claim", [], "heading")
        claims = self._claims(statement)
        missing = [name for name, places, items in claims if not places and not items]
        counts = self._counts(statement, cited_events, cited_items)
        loose = [number for number in _loose_numbers(statement) if number not in counts]
        says_something = any(character.isalnum() for character in statement.bare)
        if not claims and not loose and not says_something:
            return _verdict("no claim", [], "")
        if not claims and not loose and not cited_events and not cited_items and not QUOTE.search(statement.bare):
            return self._in_words(statement)
        together = self._together(claims, cited_events) or cited_events
        missing += [number for number in loose if not self._has_word(number, together, cited_items)]
        missing += self._misquoted(statement, together, cited_items)
        items = sorted({item for _, _, items in claims for item in items} or cited_items)
        return self._weighed(statement, claims, missing, together, items)

    def _weighed(
        self,
        statement: Statement,
        claims: list[Claim],
        missing: list[str],
        together: set[int],
        items: list[int],
    ) -> dict[str, Any]:
        events = sorted(together)[:MAX_SUPPORT]
        support = " ".join(self._texts[place - 1] for place in events)
        said = _without(statement)
        verdict = {"events": events, "evidence": items[:MAX_SUPPORT], "missing": missing}
        if missing:
            return verdict | {"status": "unsupported", "note": "not in the evidence"}
        if has_negation(said) and not has_negation(support):
            return verdict | {"status": "unsupported", "note": "it denies, what it is drawn from does not"}
        way, ways = directions(said), directions(support)
        if len(way) == 1 and ways and not way & ways:
            return verdict | {"status": "unsupported", "note": "it says the opposite way"}
        if len(claims) > 1 and not self._together(claims, set()) and not self._near(claims):
            return verdict | {"status": "partly", "note": "no event has all of it together"}
        words = [word for word in content_words(_without_entities(said)) if word not in _REPORTING]
        known = set(content_words(support)) | {word for item in items for word in content_words(self._kind(item))}
        written = written_words(said)
        unknown = [written.get(word, word) for word in words if word not in known]
        if len(unknown) > (1 - WORDS_OF_SUPPORT) * len(words):
            return verdict | {
                "status": "partly",
                "missing": unknown,
                "note": "known things, but these words are not theirs",
            }
        return verdict | {"status": "supported", "note": ""}

    def _counts(self, statement: Statement, cited_events: set[int], cited_items: set[int]) -> set[str]:
        """Numbers that a statement may give without one event having them: how many are cited, how many events a
        quoted host or source has, how many there are."""
        quoted = [self._fields[plain_text(match["inside"])] for match in QUOTE.finditer(statement.bare)]
        return {
            str(count) for count in (len(cited_events), len(cited_items), *quoted, len(self.events), len(self.evidence))
        }

    def _kind(self, item: int) -> str:
        return f"{self.evidence[item].get('kind')} {self.evidence[item].get('value')}".replace("_", " ")

    def _near(self, claims: list[Claim]) -> bool:
        """Whether items of evidence for all of these stand close together in the text that they come from; of no
        meaning where events have each of them, and none has all."""
        if all(places for _, places, _ in claims):
            return False
        starts = [[int(self.evidence[item].get("start") or 0) for item in items[:100]] for _, _, items in claims]
        return all(starts) and any(
            all(any(abs(other - first) <= NEAR_CHARACTERS for other in others) for others in starts[1:])
            for first in starts[0]
        )

    def _claims(self, statement: Statement) -> list[Claim]:
        """(name, events that have it, items that have it) of each entity and time of a statement."""
        claims: list[Claim] = []
        for _, normalised in dict.fromkeys(statement.entities):
            key = _key(normalised)
            claims.append((normalised, self._entities.get(key, set()), self._items.get(key, [])))
        for reading in statement.readings:
            if is_quoted(statement.bare, reading.start):
                continue
            moment = resolve(reading, UTC_ALWAYS)
            if isinstance(moment, str):
                continue
            time = write_instant(moment.instant, 9)
            is_minute = moment.precision == "second" and time[17:19] == "00"
            length = 10 if moment.precision == "day" else 16 if is_minute else 19
            key = time[:29] if moment.precision == "subsecond" else time[:length]
            name = statement.bare[reading.start : reading.end]
            claims.append((name, self._times.get(key, set()), []))
        for reading in statement.clocks:
            if not is_quoted(statement.bare, reading.start):
                name = statement.bare[reading.start : reading.end]
                claims.append((name, self._clocks.get(_clock_key(reading), set()), []))
        return claims

    def _together(self, claims: list[Claim], cited: set[int]) -> set[int]:
        """The events that have all that is claimed; of cited events only those where any is cited."""
        groups = [places for _, places, items in claims if places or not items]
        together = set.intersection(*groups) if groups else set()
        return together & cited if cited and groups else together

    def _cited(self, written: str) -> tuple[set[int], set[int], list[str]]:
        events: set[int] = set()
        items: set[int] = set()
        wrong: list[str] = []
        for match in CITATION.finditer(written):
            for part in re.split(r", ?", match["inside"]):
                ends = [int(number) for number in re.findall("[0-9]+", part)]
                is_item = part.startswith("E")
                known = self.evidence.keys() if is_item else range(1, len(self.events) + 1)
                if any(end not in known for end in ends):
                    wrong.append(f"[{part}]")
                elif is_item:
                    items.update(number for number in range(ends[0], ends[-1] + 1) if number in self.evidence)
                else:
                    events.update(range(ends[0], ends[-1] + 1))
        return events, items, wrong

    def _has_word(self, word: str, places: set[int], items: set[int]) -> bool:
        if self._words.get(word, set()) & places:
            return True
        return any(word in numbers(str(self.evidence[item].get("normalised"))) for item in items)

    def _misquoted(self, statement: Statement, places: set[int], items: set[int]) -> list[str]:
        """Quotes that no event or item has word for word: none of those it is drawn from, where there are some."""
        given = [plain_text(self._texts[place - 1]) for place in sorted(places)[:MAX_TOGETHER]]
        given += [plain_text(str(self.evidence[item].get("normalised"))) for item in sorted(items)[:MAX_TOGETHER]]
        wrong = []
        for match in QUOTE.finditer(statement.bare):
            quote = plain_text(match["inside"]).rstrip("\u2026")
            if (
                quote
                and quote not in self._items
                and not any(quote in text for text in given or self._candidates(quote))
            ):
                wrong.append(quote[:80])
        return wrong

    def _candidates(self, quote: str) -> list[str]:
        """Texts of the events that have all content words of a quote but its last, which may be cut."""
        groups = [self._words.get(word, set()) for word in content_words(quote)[:-1]]
        places = set.intersection(*groups) if groups else set(range(1, min(len(self.events), MAX_TOGETHER) + 1))
        return [plain_text(self._texts[place - 1]) for place in sorted(places)[:MAX_TOGETHER]]

    def _in_words(self, statement: Statement) -> dict[str, Any]:
        """A statement that names nothing: supported where one event has most of its words."""
        words = {word for word in content_words(statement.bare) if word not in _REPORTING}
        if len(words) < 2:
            return _verdict("no claim", [], "")
        shares = Counter(place for word in words for place in self._words.get(word, set()))
        best = max(shares, key=lambda place: (shares[place], -place), default=0)
        if not best or shares[best] < WORDS_IN_EVENT * len(words):
            written = written_words(statement.bare)
            unknown = sorted(written.get(word, word) for word in words - self._words.keys())
            return _verdict("unsupported", unknown[:10], "no event says it")
        return self._weighed(statement, [], [], {best}, [])


_REPORTING = frozenset(
    content_words("event timeline item evidence record recorded list listed first last host source each hour")
)
"""Stems of a report's own words."""


def is_quoted(sentence: str, position: int) -> bool:
    """Whether a place is inside a quote, which is compared word for word."""
    return any(match.start() <= position < match.end() for match in QUOTE.finditer(sentence))


def plain_text(text: str) -> str:
    """Text as reports quote it, for comparing word for word."""
    return quotable(text).casefold()


def quotable(text: str) -> str:
    """Text of the data on one line, that can neither close its quotes nor read as a citation or a heading."""
    return re.sub(r"[\s\x00-\x1f\x7f\u2028\u2029]+", " ", text).strip().translate(QUOTING)


def _verdict(status: str, missing: list[str], note: str) -> dict[str, Any]:
    return {"status": status, "events": [], "evidence": [], "missing": missing, "note": note}


def _text_of_event(event: dict[str, Any]) -> str:
    parts = (event.get("host"), event.get("source"), event.get("description"), event.get("time"), event.get("original"))
    return " \n".join(str(part) for part in parts if part)


def _entities_of(texts: list[str]) -> Iterator[tuple[int, str]]:
    """(place from 1, normalised) of the evidence in these texts, read many at once: a call costs more than its text."""
    first, size = 0, 0
    for place in range(len(texts) + 1):
        if place < len(texts) and (place == first or size + len(texts[place]) < BATCH_CHARACTERS):
            size += len(texts[place]) + 1
            continue
        starts = list(accumulate((len(text) + 1 for text in texts[first:place]), initial=0))
        for item in extract_evidence({"text": "\n".join(texts[first:place])})["items"]:
            yield first + bisect_right(starts, item["start"]), item["normalised"]
        first, size = place, len(texts[place]) + 1 if place < len(texts) else 0


def _key(normalised: str) -> str:
    return normalised.casefold()


def _clock_keys(event: dict[str, Any]) -> set[str]:
    """The time of day of an event, to the minute and to the second: in UTC, and as its source has it without a zone."""
    if event.get("precision") == "day":
        return set()
    time, original = str(event.get("time", "")), str(event.get("original", ""))[:200]
    keys = {f"{end}{mark}" for end in (time[11:16], time[11:19]) for mark in ("Z", "")}
    for reading in [*find_readings(original), *find_clocks(original, ())]:
        if reading.clock:
            hour, minute, second, _ = reading.clock
            keys |= {f"{hour:02}:{minute:02}", f"{hour:02}:{minute:02}:{second:02}"}
    return keys


def _clock_key(reading: Reading) -> str:
    """A time of day without a date as the key of an event: in UTC where it names a zone; to the minute where it has no
    seconds."""
    hour, minute, second, _ = reading.clock or (0, 0, 0, 0)
    offset = offset_of(reading.zone)
    moved = (hour * 60 + minute - (int(offset.total_seconds()) // 60 if offset else 0)) % 1440
    seconds = f":{second:02}" if second else ""
    return f"{moved // 60:02}:{moved % 60:02}{seconds}{'' if offset is None else 'Z'}"


def _padded(time: str) -> str:
    """A time with nine decimals, without its Z."""
    whole, _, fraction = time.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def _without(statement: Statement) -> str:
    """The statement without its quotes and times."""
    bare = statement.bare
    for reading in sorted((*statement.readings, *statement.clocks), key=lambda each: each.start, reverse=True):
        bare = bare[: reading.start] + " " + bare[reading.end :]
    return QUOTE.sub(" ", bare)


def _loose_numbers(statement: Statement) -> list[str]:
    """Numbers of a statement that are part of no address, time or quote."""
    return numbers(_without_entities(_without(statement)))


def _without_entities(text: str) -> str:
    items = extract_evidence({"text": text})["items"]
    for item in reversed([item for item in items if not item["part_of"]]):
        text = text[: item["start"]] + " " + text[item["end"] :]
    return text
