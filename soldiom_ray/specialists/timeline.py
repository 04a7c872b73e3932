"""Timelines: the events of a log, an export or a report in the order of time, with what was assumed and what has no
date."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.evidence import text_of
from soldiom_ray.specialists.log_records import NO_DATE, Record, read_records
from soldiom_ray.specialists.times import Defaults, Moment, Reading, decimals_of, resolve, write_instant, zone_named

MAX_CHARACTERS = 16 << 20
MAX_RECORDS = 200_000
MAX_DESCRIPTION = 4000


def reconstruct_timeline(document: dict[str, Any]) -> dict[str, Any]:
    """`{"text": str, "zone"?: name or offset, "year"?: of the first record, "day_first"?: bool}` -> `{"format",
    "events", "undated", "counts", "undated_reasons", "assumptions", "read_to", "complete"}`.

    An event is `{"time": ISO 8601 in UTC, "original": the time as written, "zone", "zone_source": written | format |
    given | assumed, "precision": day | second | subsecond, "source", "host", "description", "line", "record", "note"}`.
    Events of one time keep the order of the text; all times have as many decimals as the finest needs, so that they
    sort as texts. `undated` holds `{"line", "record", "reason", "text"}`, so that `counts["records"] ==
    counts["dated"] + counts["undated"]`; a record of free text with several dates makes several events. Formats:
    syslog (RFC 3164, RFC 5424), access logs of Apache and nginx, CSV and JSON of event logs, Timesketch, plaso and
    journald, other tables and JSON with a field named as a time, lines with a date, free text."""
    text = text_of(document)
    read_to = len(text) if len(text) <= MAX_CHARACTERS else text.rfind("\n", 0, MAX_CHARACTERS) + 1 or MAX_CHARACTERS
    form, stream = read_records(text[:read_to])
    records: list[Record] = []
    for record in stream:
        if len(records) == MAX_RECORDS:
            read_to = records[-1].end
            break
        records.append(record)
    defaults, assumptions = _defaults(document, records)
    years = _years(records, document.get("year"), assumptions)
    events, undated = _events(records, defaults, years)
    counts = {"records": len(records), "dated": len({event["record"] for event in events}), "undated": len(undated)}
    return {
        "format": form,
        "events": events,
        "undated": undated,
        "counts": counts | {"events": len(events)},
        "undated_reasons": dict(Counter(_short_reason(item["reason"]) for item in undated)),
        "assumptions": assumptions + _event_assumptions(events, defaults),
        "read_to": read_to,
        "complete": read_to == len(text),
    }


def _defaults(document: dict[str, Any], records: list[Record]) -> tuple[Defaults, list[str]]:
    name = document.get("zone") or ""
    zone = zone_named(str(name)) if name else UTC
    if zone is None:
        raise InputError(
            f'the zone "{name}" is not known', remedy="Give a name as Europe/Berlin or an offset as +02:00."
        )
    day_first = document.get("day_first")
    if day_first is not None and not isinstance(day_first, bool):
        raise InputError(f'"day_first" is {day_first!r}, neither true nor false')
    assumptions: list[str] = []
    if day_first is None:
        day_first = _order_of_days(records, assumptions)
    return Defaults(zone, str(name) or "UTC", "given" if name else "assumed", day_first), assumptions


def _order_of_days(records: list[Record], assumptions: list[str]) -> bool | None:
    """Whether dates as 03/04/2025 begin with the day, where others of the same text can only be read in one way."""
    unclear, day_first, month_first = 0, 0, 0
    for record in records:
        for reading, written, _ in record.readings:
            unclear += reading.swapped
            first, _, rest = written.partition("/")
            then = rest.partition("/")[0]
            if first.isdecimal() and then.isdecimal() and len(first) <= 2:
                day_first += int(first) > 12
                month_first += int(then) > 12
    if not unclear:
        return None
    if bool(day_first) != bool(month_first):
        order = "day" if day_first else "month"
        assumptions.append(f"{unclear} dates are read with the {order} first, as others of this text must be")
        return bool(day_first)
    mixed = " although others of this text have the day first" if day_first else ""
    assumptions.append(f"{unclear} dates could have day or month first; read as month/day{mixed}. Give day_first.")
    return None


def _years(records: list[Record], given: Any, assumptions: list[str]) -> list[int | None]:
    """The year for each record that names none: counted from the given one of the first record, or back from the
    latest year that the text names, or from this year; a step from December to January is a new year."""
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 1900 <= given <= 9999):
        raise InputError(f'"year" is {given!r}, not a year')
    steps: list[int | None] = []
    named: list[int] = []
    turns, month = 0, 0
    for record in records:
        reading = record.readings[0][0] if record.readings else None
        if reading is None or reading.instant is not None or reading.year is not None:
            named += [reading.year] if reading and reading.year else []
            steps.append(None)
            continue
        turns += (month - reading.month >= 6) - (turns > 0 and reading.month - month >= 10)
        month = reading.month
        steps.append(turns)
    used = [step for step in steps if step is not None]
    if not used:
        return [None] * len(steps)
    last = max(named) if named else datetime.now(UTC).year
    first = given - used[0] if given is not None else last - used[-1]
    source = "as given" if given is not None else "the latest named in this text" if named else "this year"
    assumptions.append(f"{len(used)} records name no year: {first + used[0]} to {first + used[-1]}, {source}")
    return [None if step is None else first + step for step in steps]


def _events(
    records: list[Record], defaults: Defaults, years: list[int | None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    events: list[tuple[int, dict[str, Any]]] = []
    undated: list[dict[str, Any]] = []
    for number, (record, year) in enumerate(zip(records, years, strict=True), 1):
        reasons = [record.reason]
        dated = False
        for reading, original, description in record.readings:
            moment = resolve(_ordered(reading, defaults), defaults, year)
            if isinstance(moment, str) or not write_instant(moment.instant, 0):
                reasons.append(moment if isinstance(moment, str) else "no such date")
                continue
            dated = True
            events.append((moment.instant, _event(moment, original, description, record, number)))
        if not dated:
            text = _cut(record.original)
            undated.append(
                {"line": record.line, "record": number, "reason": "; ".join(filter(None, reasons)), "text": text}
            )
    events.sort(key=lambda pair: pair[0])
    decimals = decimals_of(instant for instant, _ in events)
    return [{"time": write_instant(instant, decimals), **event} for instant, event in events], undated


def _ordered(reading: Reading, defaults: Defaults) -> Reading:
    if reading.swapped and defaults.day_first is not None:
        month, day = (reading.day, reading.month) if defaults.day_first else (reading.month, reading.day)
        return replace(reading, month=month, day=day, swapped=False)
    return reading


def _event(moment: Moment, original: str, description: str, record: Record, number: int) -> dict[str, Any]:
    cut = _cut(description)
    notes = [moment.note, "description cut" if len(cut) < len(description) else ""]
    return {
        "original": original,
        "zone": moment.zone,
        "zone_source": moment.zone_source,
        "precision": moment.precision,
        "source": record.source,
        "host": record.host,
        "description": cut,
        "line": record.line,
        "record": number,
        "note": "; ".join(filter(None, notes)),
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_DESCRIPTION else text[:MAX_DESCRIPTION]


def _short_reason(reason: str) -> str:
    return "continues a line" if reason.startswith("continues line") else reason


def _event_assumptions(events: list[dict[str, Any]], defaults: Defaults) -> list[str]:
    without_date = sum(event["note"].startswith(NO_DATE) for event in events)
    without_zone = sum(event["zone_source"] == "assumed" for event in events)
    assumptions = (
        [f"times of prose without a date, on the day of the time before: {without_date}"] if without_date else []
    )
    if without_zone:
        assumptions.append(f"{without_zone} times name no zone: read as {defaults.zone_name}. Give zone.")
    return assumptions
