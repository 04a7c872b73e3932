"""Records of logs and exports: which format a text has, and its records with line, source, host, description, time."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from soldiom_ray.specialists.times import (
    SECOND,
    UTC_ALWAYS,
    Reading,
    find_clocks,
    find_readings,
    read_stamp,
    resolve,
    write_instant,
)


def ordered_words(table: str) -> tuple[str, ...]:
    """The words of a table that is written as text, in its order."""
    return tuple(table.split())


FIELD = re.compile(r'(?:"(?P<quoted>(?:[^"]|"")*+)"|(?P<plain>[^,\r\n]*+))(?P<end>,|\r?\n|\r|\Z)')
TIME_NAMES = ordered_words(
    """
    datetime timecreated systemtime @timestamp timestamp __realtime_timestamp _source_realtime_timestamp utctime
    eventtime event_time time_created timegenerated creationtime creation_time _time time ts date created_at created
    updated_at lastwritetimestamp modified accessed last_access_time
    """
)
"""Names of fields that hold a record's time, in lower case, the better first."""
DESCRIPTION_NAMES = ordered_words(
    "message msg desc description mapdescription map_description ruletitle eventname log text short"
)
SOURCE_NAMES = ordered_words(
    """
    source_name syslog_identifier provider providername source_long sourcetype source channel logname parser data_type
    eventsource timestamp_desc
    """
)
HOST_NAMES = ordered_words("computer_name computer machinename _hostname hostname host system")

SYSLOG_5424 = re.compile(
    r"<(?P<priority>[0-9]{1,3})>1 (?P<time>\S{1,40}) (?P<host>\S{1,255}) (?P<app>\S{1,48}) (?P<process>\S{1,128})"
    r" (?P<id>\S{1,32}) (?P<rest>.*)\Z",
    re.DOTALL,
)
SYSLOG_REST = re.compile(
    r"\s{1,4}(?P<host>[\w.:-]{1,255}+) (?P<tag>[\w./() -]{1,64}?)(?:\[[0-9]{1,10}\])?: (?P<message>.*)\Z", re.DOTALL
)
ACCESS = re.compile(
    r"(?P<host>[\w.:-]{1,255}+) \S{1,128} (?P<user>\S{1,128}) \[(?P<time>[^\]]{20,40})\]"
    r" \"(?P<request>[^\"]{0,8192}+)\" (?P<rest>[0-9]{3} .*)\Z",
    re.DOTALL,
)
PROSE = re.compile(r"\s{0,8}(?:[-*\u2022] )?[A-Z][a-z]{1,20} (?![ 0-3][0-9] [0-9]{2}:)")
"""A sentence's beginning, and no syslog line's (Mar  4 06:25:43)."""
STOPS = (". ", "! ", "? ", "; ", "\u3002")
MAX_SENTENCE = 2000
MAX_SEARCHED = 1 << 20
"""Characters of one line that are searched for dates, and the dates that a line of free text may have."""
MAX_READINGS = 1000
NO_DATE = "no date written"
"""How the note of a time begins that stands without a date."""
LOG_HEAD = 48
"""A time of day that begins within these characters makes its line a log's, whose other dates are its message's."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the text: the line it begins at (from 1), and its readings of time (several only in free text, with
    a description each); `reason` says why there is none."""

    line: int
    original: str
    readings: tuple[tuple[Reading, str, str], ...] = ()
    source: str = ""
    host: str = ""
    reason: str = ""
    end: int = 0


def read_records(text: str) -> tuple[str, Iterator[Record]]:
    """The format's name and the records. (reading, original time, description) are a record's readings."""
    body = text.removeprefix("\ufeff")
    shift = len(text) - len(body)
    first_line = body.lstrip()[:65536].partition("\n")[0].strip()
    if first_line.startswith("{") and _json_object(first_line) is not None:
        return "json lines", _json_lines(text, shift)
    if first_line.startswith("[") and isinstance(rows := _json_value(body), list):
        return "json", _json_rows(rows, len(text))
    if columns := _columns(body):
        return columns
    return "lines", _lines(text, shift)


def _lines(text: str, start: int) -> Iterator[Record]:
    last_dated = 0
    day: Reading | None = None
    for number, line, end in _numbered(text, start):
        if not line.strip():
            continue
        record = _line_record(number, line, end)
        if record.source in ("", "text"):
            record, day = _with_clocks(record, day)
        else:
            day = None
        if record.readings:
            last_dated = number
        elif last_dated and line[0] in " \t":
            record = Record(number, line, reason=f"continues line {last_dated}", end=end)
        yield record


def _with_clocks(record: Record, day: Reading | None) -> tuple[Record, Reading | None]:
    """A line of prose with its times of day that have no date, each on the day of the time before it, which may be of
    a line before (`day`); and the last time of it."""
    line = record.original[:MAX_SEARCHED]
    written = [reading for reading, _, _ in record.readings]
    alone = set(find_clocks(line, written, marked=True)) if written or day else set()
    readings = list[tuple[Reading, str, str]]()
    for reading in sorted((*written, *alone), key=lambda each: each.start):
        sentence = _sentence(line, reading)
        if reading not in alone:
            day = reading
        elif day is None or (dated := _on_day(reading, day)) is None:
            continue
        elif readings and readings[-1][0].clock is None and readings[-1][2] == sentence:
            readings.pop()  # "On 3 March 2025 they came at 09:15" is one event
            day = replace(dated, note="date and time stand apart")
        else:
            day = dated
        readings.append((day, line[reading.start : reading.end], sentence))
    if not alone or not readings:
        return record, day
    return replace(record, readings=tuple(readings[:MAX_READINGS]), source="text", reason=""), day


def _on_day(clock: Reading, before: Reading) -> Reading | None:
    """A time of day on the day of the time before it, or on the next where it is more than half a day earlier; in its
    zone, where it names none. None after a number that stands for a time."""
    if before.instant is not None or clock.clock is None:
        return None
    note, day = f"{NO_DATE}, that of the time before assumed", replace(before, note="", swapped=False)
    if before.year and before.clock and before.clock[0] - clock.clock[0] > 12:
        try:
            next_day = date(before.year, before.month, before.day) + timedelta(days=1)
        except (ValueError, OverflowError):
            return None
        day = replace(day, year=next_day.year, month=next_day.month, day=next_day.day)
        note = f"{NO_DATE}, the day after the time before assumed"
    swapped = before.swapped and day.day == before.day
    zone = clock.zone or before.zone
    return replace(day, start=clock.start, end=clock.end, clock=clock.clock, zone=zone, swapped=swapped, note=note)


def _line_record(number: int, line: str, end: int) -> Record:
    if match := SYSLOG_5424.match(line):
        readings = find_readings(match["time"])
        if readings:
            reading = (readings[0], match["time"], _structured(match["rest"]))
            return Record(number, line, (reading,), match["app"], match["host"], end=end)
    if match := ACCESS.match(line):
        readings = find_readings(match["time"])
        if readings:
            reading = (readings[0], match["time"], f"{match['request']} {match['rest']}")
            return Record(number, line, (reading,), "access log", match["host"], end=end)
    readings = find_readings(re.sub(r"\A<[0-9]{1,3}>", lambda m: " " * len(m[0]), line[:MAX_SEARCHED]))
    if not readings:
        return Record(number, line, reason="no date", end=end)
    first = readings[0]
    is_prose = first.in_words or PROSE.match(line)
    if first.start <= LOG_HEAD and not is_prose and (first.clock or first.instant is not None):
        return _log_line(number, line, first, end)
    dated = tuple((reading, line[reading.start : reading.end], _sentence(line, reading)) for reading in readings)
    return Record(number, line, dated[:MAX_READINGS], "text", end=end)


def _log_line(number: int, line: str, reading: Reading, end: int) -> Record:
    original = line[reading.start : reading.end]
    if match := SYSLOG_REST.match(line, reading.end):
        return Record(number, line, ((reading, original, match["message"]),), match["tag"], match["host"], end=end)
    before = re.sub(r"\A<[0-9]{1,3}>", "", line[: reading.start]).strip(" \t[](<\"'")
    after = line[reading.end :].strip(" \t])>\"',;|-:")
    description = line.strip() if before or not after else after
    return Record(number, line, ((reading, original, description),), "log", end=end)


def _structured(rest: str) -> str:
    """The message of RFC 5424 after its structured data, or all where there is no message."""
    if rest.startswith("- "):
        return rest[2:].removeprefix("\ufeff")
    return rest


def _sentence(line: str, reading: Reading) -> str:
    """The sentence of a line that a date stands in."""
    first, last = max(0, reading.start - MAX_SENTENCE), min(len(line), reading.end + MAX_SENTENCE)
    begins = [at + len(mark) for mark in STOPS if (at := line.rfind(mark, first, reading.start)) >= 0]
    ends = [at + 1 for mark in STOPS if (at := line.find(mark, reading.end, last)) >= 0]
    return line[max(begins, default=first) : min(ends, default=last)].strip()


def _numbered(text: str, start: int) -> Iterator[tuple[int, str, int]]:
    """(number from 1, the line without its end, where the next begins); only \\n ends a line."""
    number = 0
    while start < len(text):
        number += 1
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield number, text[start:end].removesuffix("\r"), min(end + 1, len(text))
        start = end + 1


def _json_lines(text: str, start: int) -> Iterator[Record]:
    for number, line, end in _numbered(text, start):
        if not line.strip():
            continue
        row = _json_object(line)
        if row is None:
            yield Record(number, line, reason="not a JSON object", end=end)
        else:
            yield _row_record(number, line, row, end)


def _json_rows(rows: list[Any], end: int) -> Iterator[Record]:
    for number, row in enumerate(rows, 1):
        written = json.dumps(row, ensure_ascii=False)
        if isinstance(row, dict):
            yield _row_record(number, written, row, end)
        else:
            yield Record(number, written, reason="not a JSON object", end=end)


def _json_object(line: str) -> dict[str, Any] | None:
    value = _json_value(line)
    return value if isinstance(value, dict) else None


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _columns(text: str) -> tuple[str, Iterator[Record]] | None:
    """The records of a table with a header, where one of its columns is named as a time; else None."""
    offset = 0
    if text.startswith("#TYPE"):
        offset = text.find("\n") + 1
    head = text[offset : offset + 65536].partition("\n")[0]
    mark = max(",\t;|", key=head.count)
    if not head.count(mark):
        return None
    names = [cell.strip().strip('"').lower() for cell in head.strip("\r").split(mark)]
    if len(set(names)) < 2 or not set(names) & set(TIME_NAMES):
        return None
    kind = "l2t csv" if names[:3] == ["date", "time", "timezone"] else "csv"
    if {"mapdescription", "payloaddata1"} & set(names):
        kind = "EvtxECmd csv"
    return kind, _csv_rows(text, offset, mark, kind)


def _csv_rows(text: str, start: int, mark: str, kind: str) -> Iterator[Record]:
    rows = _cells(text, start, mark)
    _, header, _ = next(rows)
    names = [cell.strip().lower() for cell in header]
    lines = text.count("\n", 0, start)
    position = start
    for begin, cells, end in rows:
        lines += text.count("\n", position, begin)
        position = begin
        if not any(cells):
            continue
        original = text[begin:end].strip("\r\n")
        yield _row_record(lines + 1, original, dict(zip(names, cells, strict=False)), end, kind)


def _cells(text: str, start: int, mark: str) -> Iterator[tuple[int, list[str], int]]:
    """(where a row begins, its cells, where the next begins), by RFC 4180; a quote left open is a character."""
    field = FIELD if mark == "," else re.compile(FIELD.pattern.replace(",", re.escape(mark)))
    begin = start
    cells: list[str] = []
    while start < len(text):
        match = field.match(text, start)
        if not match:
            start += 1
            continue
        quoted = match["quoted"]
        cells.append(match["plain"] if quoted is None else quoted.replace('""', '"'))
        start = match.end()
        if match["end"] != mark or start >= len(text):
            yield begin, cells, start
            begin, cells = start, []


def _row_record(line: int, original: str, row: dict[str, Any], end: int, kind: str = "json") -> Record:
    fields = {str(name).lower(): value for name, value in row.items()}
    flat = fields if any(name in fields for name in TIME_NAMES) else dict(_flattened(fields))
    source = _first(flat, SOURCE_NAMES)
    host = _first(flat, HOST_NAMES)
    reading, written = _time_of(flat, kind)
    if reading is None:
        reason = "no field with a time" if not written else "no date"
        return Record(line, original, source=source, host=host, reason=reason, end=end)
    return Record(line, original, ((reading, written, _describe(flat)),), source, host, end=end)


def _flattened(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects by their own name (Event.System.TimeCreated.SystemTime), at most six deep; the
    first of a name stays."""
    seen: set[str] = set()
    level = [fields]
    for _ in range(6):
        below: list[dict[str, Any]] = []
        for member in level:
            for name, value in member.items():
                if isinstance(value, dict):
                    below.append(value)
                elif (lower := str(name).lower().lstrip("#")) not in seen:
                    seen.add(lower)
                    yield lower, value
        level = below


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | int) and value != "":
            return str(value)
    return ""


def _describe(fields: dict[str, Any]) -> str:
    """The message of a record, or its fields where it has none."""
    message = _first(fields, DESCRIPTION_NAMES)
    if message:
        return message
    skipped = {*TIME_NAMES, *SOURCE_NAMES, *HOST_NAMES}
    parts = (
        f"{name}={_short(value)}" for name, value in fields.items() if name not in skipped and value not in ("", None)
    )
    return " ".join(parts)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _time_of(fields: dict[str, Any], kind: str) -> tuple[Reading | None, str]:
    """The reading of a record's time and its text. Timesketch has `datetime` and `timestamp` (microseconds): the first
    is its time, and a second that says otherwise is noted."""
    if kind == "l2t csv":
        return _l2t_time(fields)
    written = ""
    for name in TIME_NAMES:
        value = fields.get(name)
        if value in ("", None) or isinstance(value, bool | list | dict):
            continue
        written = written or str(value)
        reading = _field_reading(name, str(value), "timestamp_desc" in fields)
        if reading:
            reading = _checked(reading, fields) if name == "datetime" else reading
            if kind == "EvtxECmd csv" and not reading.zone:
                reading = replace(reading, zone="UTC", zone_by_format=True)
            return reading, str(value)
    return None, written


def _field_reading(name: str, value: str, is_timesketch: bool) -> Reading | None:
    digits = value.strip()
    if re.fullmatch(r"-?[0-9]{1,19}(?:\.[0-9]{1,20})?", digits):
        if is_timesketch and name == "timestamp":
            return Reading(0, len(value), zone="UTC", instant=int(float(digits)) * 1000, note="microseconds since 1970")
        return read_stamp(digits)
    readings = find_readings(value)
    return readings[0] if readings else None


def _checked(reading: Reading, fields: dict[str, Any]) -> Reading:
    """The reading of `datetime`, noting a `timestamp` of Timesketch beside it that is more than a second off."""
    stamp = str(fields.get("timestamp", ""))
    if "timestamp_desc" not in fields or not re.fullmatch(r"-?[0-9]{1,19}", stamp):
        return reading
    moment = resolve(reading, UTC_ALWAYS)
    if isinstance(moment, str) or abs(moment.instant - int(stamp) * 1000) <= SECOND:
        return reading
    return replace(reading, note=f"its field timestamp says {write_instant(int(stamp) * 1000, 6) or stamp}")


def _l2t_time(fields: dict[str, Any]) -> tuple[Reading | None, str]:
    """Time of log2timeline's CSV: month/day/year, a time and a zone in columns of their own."""
    date, clock, zone = (str(fields.get(name, "")) for name in ("date", "time", "timezone"))
    written = f"{date} {clock} {zone}".strip()
    readings = find_readings(f"{date} {clock}")
    if not readings:
        return None, written
    return replace(readings[0], swapped=False, zone=zone.upper()), written
