"""Points in time as logs and reports write them, and what of them was assumed: a zone, a year, the order of day and
month.

Instants are nanoseconds since 1970 in UTC (int), since FILETIME and journals are finer than Python's datetime.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SINCE_1601 = 11_644_473_600
"""Seconds from 1601, where FILETIME and WebKit begin, to 1970."""

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar janvier enero", "feb february februar février fevrier febrero",
            "mar march märz maerz mars marzo", "apr april avril abril", "may mai mayo", "jun june juni juin junio",
            "jul july juli juillet julio", "aug august août aout agosto", "sep sept september septembre septiembre",
            "oct october okt oktober octobre octubre", "nov november novembre noviembre",
            "dec december dez dezember décembre decembre diciembre",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
ABBREVIATED_ZONES = {
    "Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 60, "CET": 60, "CEST": 120, "EET": 120, "EEST": 180, "MSK": 180,
    "EST": -300, "EDT": -240, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420, "AKST": -540,
    "AKDT": -480, "HST": -600, "JST": 540, "KST": 540, "AEST": 600, "AEDT": 660, "NZST": 720, "NZDT": 780,
}  # fmt: skip
"""Minutes east of Greenwich. CST, IST, BST and the like have several meanings and are not here."""
UNCLEAR_ZONES = ("CST", "IST", "BST", "AST", "SST", "ECT", "GST")

_MONTH = "(?P<month_name>" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\.?"
_YEAR = r"(?P<year>(?:1[6-9]|2[01])[0-9]{2})"
_CLOCK = (
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9})[0-9]{0,9})?)?"
    r"(?![0-9:])(?:\s?(?P<half>[AP]\.?M\b\.?))?"
)
_NAMES = "|".join(sorted([*ABBREVIATED_ZONES, *UNCLEAR_ZONES], key=len, reverse=True))
_ZONE = (
    rf"(?:\s?(?P<zone>[+-][0-9]{{2}}:?[0-9]{{2}}(?![0-9])|[+-][0-9]{{2}}(?![\w:])"
    rf"|(?:UTC|GMT)[+-][0-9]{{1,2}}(?::?[0-9]{{2}})?(?!\w)|(?:{_NAMES})(?!\w)))?"
)
_AT = r"(?:,? (?:at |um |à |a las )?|T|, )"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(r"(?i)(?<![\w./:-])" + pattern)


PATTERNS = {
    "iso": _compiled(
        rf"{_YEAR}(?P<mark>[-/.])(?P<month>[0-9]{{1,2}})(?P=mark)(?P<day>[0-9]{{1,2}})"
        rf"(?:(?:[T ]|, )[ ]?{_CLOCK}{_ZONE}|(?![\w/.-]\w))"
    ),
    "basic": _compiled(
        rf"{_YEAR}(?P<month>[01][0-9])(?P<day>[0-3][0-9])(?:T|-|_)?"
        r"(?P<hour>[0-2][0-9])(?P<minute>[0-5][0-9])(?P<second>[0-6][0-9])"
        r"(?P<zone>Z|[+-][0-9]{4})?(?!\w)"
    ),
    "apache": _compiled(rf"(?P<day>[0-9]{{2}})/{_MONTH}/{_YEAR}:{_CLOCK}{_ZONE}"),
    "syslog": _compiled(
        rf"{_MONTH}[ ]{{1,2}}(?P<day>[0-9]{{1,2}})(?:,? (?P<early>(?:19|2[01])[0-9]{{2}}),?)?[ ]{_CLOCK}{_ZONE}"
        r"(?: (?P<year>(?:19|2[01])[0-9]{2})(?![\w:.-]))?"
    ),
    "slashes": _compiled(
        rf"(?P<first>[0-9]{{1,2}})(?P<mark>[/.-])(?P<then>[0-9]{{1,2}})(?P=mark)"
        rf"(?:{_YEAR}|(?P<short>[0-9]{{2}})(?=,? [0-9]{{1,2}}:))"
        rf"(?:(?:{_AT}| - ){_CLOCK}{_ZONE}|(?![\w/-]|\.[0-9]))"
    ),
    "day_month": _compiled(
        rf"(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th|er|\.)?[ -](?:of |de )?{_MONTH}(?:,? |-| de ){_YEAR}"
        rf"(?!\w)(?:{_AT}{_CLOCK}{_ZONE})?"
    ),
    "month_day": _compiled(rf"{_MONTH} (?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,? {_YEAR}(?!\w)(?:{_AT}{_CLOCK}{_ZONE})?"),
}
CLOCK = _compiled(rf"(?P<at>\b(?:at|by|from|since|until|around|um|ab|bis|gegen|à|vers|a las) )?{_CLOCK}{_ZONE}")
STAMP = re.compile(
    r"(?:\A\s{0,8}[\[(\"]?|audit\()(?P<stamp>[0-9]{10}(?:\.[0-9]{1,9})?|[0-9]{13}|[0-9]{16,19})(?![\w.-])"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A date or time as written: its span, its fields, None for what is not there; `swapped` says that day and month
    may be the other way round; `instant` is there where a number says all."""

    start: int
    end: int
    month: int = 1
    day: int = 1
    year: int | None = None
    clock: tuple[int, int, int, int] | None = None
    zone: str = ""
    swapped: bool = False
    zone_by_format: bool = False
    instant: int | None = None
    note: str = ""
    in_words: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant, and how much of it was written: `zone_source` is written, format, given or assumed; `precision` is
    day, minute, second or subsecond."""

    instant: int
    zone: str
    zone_source: str
    precision: str
    note: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What stands in where a text says nothing: the zone (with its source), the order of day and month."""

    zone: tzinfo
    zone_name: str
    zone_source: str
    day_first: bool | None = None


UTC_ALWAYS = Defaults(UTC, "UTC", "format")


def find_readings(line: str) -> list[Reading]:
    """All dates of a line in their order; of two that overlap the first, of two that begin together the longer."""
    candidates = sorted(_candidates(line), key=lambda reading: (reading.start, -reading.end))
    readings: list[Reading] = []
    for reading in candidates:
        if not readings or reading.start >= readings[-1].end:
            readings.append(reading)
    return readings


def find_clocks(line: str, readings: Iterable[Reading], *, marked: bool = False) -> list[Reading]:
    """The times of day of a line that stand without a date, so in none of its readings; `marked`: only those that
    cannot be a score or a ratio, for a word such as "at", seconds, a zone, AM or PM, or the line's beginning."""
    spans = [(reading.start, reading.end) for reading in readings]
    found = []
    for match in CLOCK.finditer(line):
        clock = _clock(match.groupdict())
        if not clock or any(start < match.end() and match.start() < end for start, end in spans):
            continue
        is_marked = any(match[mark] for mark in ("at", "second", "half", "zone")) or not line[: match.start()].strip()
        if is_marked or not marked:
            zone = (match["zone"] or "").upper()
            found.append(Reading(match.start(), match.end(), clock=clock, zone=zone))
    return found


def read_stamp(digits: str, start: int = 0) -> Reading | None:
    """The instant of a plain number, by its length: seconds, milli-, micro- or nanoseconds since 1970; WebKit's
    microseconds (17 digits) and FILETIME (18 digits) since 1601."""
    whole, _, fraction = digits.partition(".")
    scale = {10: SECOND, 13: 10**6, 16: 10**3, 17: 10**3, 18: 100, 19: 1}.get(len(whole))
    if not scale or (len(whole) in (17, 18) and not whole.startswith("1")):
        return None
    instant = int(whole) * scale + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
    note = {10: "seconds", 13: "milliseconds", 16: "microseconds", 19: "nanoseconds"}.get(len(whole), "")
    note = f"{note} since 1970" if note else {17: "WebKit time", 18: "FILETIME"}[len(whole)]
    if len(whole) in (17, 18):
        instant -= SINCE_1601 * SECOND
    return Reading(start, start + len(digits), zone="UTC", instant=instant, note=note)


def resolve(reading: Reading, defaults: Defaults, year: int | None = None) -> Moment | str:
    """The moment of a reading, or the reason why it is none. `year` stands in where none is written."""
    if reading.instant is not None:
        precision = "second" if reading.note.startswith("sec") else "subsecond"
        return Moment(reading.instant, "UTC", "format", precision, reading.note)
    notes = [reading.note] if reading.note else []
    if reading.year is None:
        if year is None:
            return "no year"
        notes.append(f"no year written, {year} assumed")
    hour, minute, second, nanos = reading.clock or (0, 0, 0, 0)
    leap = second == 60
    try:
        local = datetime(reading.year or year or 1, reading.month, reading.day, hour, minute, min(second, 59))
    except ValueError:
        return "no such date"
    offset = offset_of(reading.zone)
    zone, name, source = defaults.zone, defaults.zone_name, defaults.zone_source
    if offset is not None:
        zone, name, source = (
            timezone(offset),
            _offset_name(reading.zone, offset),
            "format" if reading.zone_by_format else "written",
        )
    elif reading.zone:
        notes.append(f"{reading.zone} has several meanings")
    if reading.swapped:
        other = f"{local.year}-{local.day:02}-{local.month:02}"
        notes.append(f"day and month unclear, could be {other}")
    notes += _clock_change(local, zone)
    try:
        utc = local.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        return "no such date"
    elapsed = utc - EPOCH
    instant = (elapsed.days * 86400 + elapsed.seconds + leap) * SECOND + nanos
    return Moment(instant, name, source, _precision(reading), "; ".join(notes))


def decimals_of(instants: Iterable[int]) -> int:
    """The decimals of a second (0, 3, 6 or 9) that write all of these."""
    decimals = 0
    for instant in instants:
        while instant % 10 ** (9 - decimals):
            decimals += 3
    return decimals


def write_instant(instant: int, decimals: int) -> str:
    """ISO 8601 in UTC; empty for years that it cannot write. Texts of equal decimals sort as their instants."""
    seconds, nanos = divmod(instant, SECOND)
    try:
        whole = (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:
        return ""
    whole = whole.rjust(19, "0")
    fraction = f"{nanos:09}"[:decimals]
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


def zone_named(name: str) -> tzinfo | None:
    """The zone of a name (Europe/Berlin), an offset (+02:00) or an abbreviation with one meaning; None for others."""
    offset = offset_of(name)
    if offset is not None:
        return timezone(offset)
    try:
        return ZoneInfo(name) if re.fullmatch(r"[A-Za-z][\w+-]*(?:/[\w+-]+)*", name) else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def offset_of(zone: str) -> timedelta | None:
    """The offset that a written zone says, None where it says none or several."""
    zone = zone.upper()
    if zone in ABBREVIATED_ZONES:
        return timedelta(minutes=ABBREVIATED_ZONES[zone])
    match = re.fullmatch(r"(?:UTC|GMT)?([+-])([0-9]{1,2}):?([0-9]{2})?", zone)
    if not match or int(match[2]) > 14 or int(match[3] or 0) > 59:
        return None
    return timedelta(minutes=int(match[1] + "1") * (int(match[2]) * 60 + int(match[3] or 0)))


def _candidates(line: str) -> Iterator[Reading]:
    if stamp := STAMP.search(line):
        reading = read_stamp(stamp["stamp"], stamp.start("stamp"))
        if reading:
            yield reading
    for name, pattern in PATTERNS.items():
        for match in pattern.finditer(line):
            reading = _reading(name, match)
            if reading:
                yield reading


def _reading(name: str, match: re.Match[str]) -> Reading | None:
    fields = match.groupdict()
    year = fields.get("year") or fields.get("early")
    clock = _clock(fields)
    if clock == ():
        return None
    reading = Reading(match.start(), match.end(), year=int(year) if year else None, clock=clock or None)
    reading = replace(reading, zone=(fields.get("zone") or "").upper())
    if name == "slashes":
        return _in_order(reading, int(fields["first"]), int(fields["then"]), fields)
    month = MONTHS[fields["month_name"].lower()] if fields.get("month_name") else int(fields["month"])
    reading = replace(reading, month=month, day=int(fields["day"]), in_words=name in ("day_month", "month_day"))
    return reading if 1 <= month <= 12 and 1 <= reading.day <= 31 else None


def _in_order(reading: Reading, first: int, then: int, fields: dict[str, str]) -> Reading | None:
    """Which of two numbers is the day: by what is possible, by the stops of 4.3.2025; else `swapped`, read as month
    and day until the whole text says otherwise."""
    if fields.get("short"):
        short = int(fields["short"])
        century = 2000 if short < 70 else 1900
        reading = replace(reading, year=century + short, note=f"year written as {short:02}")
    if not (1 <= first <= 31 and 1 <= then <= 31) or (first > 12 and then > 12):
        return None
    if first > 12 or fields["mark"] == ".":
        return replace(reading, month=then, day=first) if then <= 12 else None
    return replace(reading, month=first, day=then, swapped=then <= 12 and first != then)


def _clock(fields: dict[str, str]) -> tuple[int, int, int, int] | tuple[()] | None:
    """Hour, minute, second, nanoseconds; None where none is written, empty where none is possible."""
    if not fields.get("hour"):
        return None
    hour, minute, second = int(fields["hour"]), int(fields["minute"]), int(fields.get("second") or 0)
    if half := (fields.get("half") or "").lower():
        if not 1 <= hour <= 12:
            return ()
        hour = hour % 12 + 12 * half.startswith("p")
    if hour > 23 or minute > 59 or second > 60:
        return ()
    return hour, minute, second, int((fields.get("fraction") or "").ljust(9, "0"))


def _precision(reading: Reading) -> str:
    if not reading.clock:
        return "day"
    return "subsecond" if reading.clock[3] else "second"


def _offset_name(written: str, offset: timedelta) -> str:
    if not offset:
        return "UTC"
    minutes = int(offset.total_seconds()) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _clock_change(local: datetime, zone: tzinfo) -> Iterator[str]:
    """What a change of clocks does to a local time: one that is skipped, or one that comes twice."""
    if not isinstance(zone, ZoneInfo):
        return
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return
    back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None)
    yield (
        "this time comes twice (clocks go back), the first is taken"
        if back == local
        else ("this time does not exist (clocks go forward)")
    )
