"""Reports of an examination, tied to evidence and timeline: written by rules, or checked sentence by sentence.

A citation [3] or [2-5] names events by their place in `events` (from 1), [E7] an item of evidence by its `id`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from soldiom_ray.errors import InputError
from soldiom_ray.specialists.evidence import extract_evidence, text_of
from soldiom_ray.specialists.facts import CITATION, Facts, Statement, is_quoted, quotable
from soldiom_ray.specialists.times import find_clocks, find_readings
from soldiom_ray.specialists.wording import sentence_spans

MAX_LISTED = 200
"""Events that a report lists one by one; of more it lists the first of each hour, and says so."""
MAX_QUOTED = 300
NOTHING_FOUND = "Nothing was found."
MAX_SENTENCES = 20_000
MAX_FACTS = 100_000


def check_report(document: dict[str, Any]) -> dict[str, Any]:
    """`{"report": str, "evidence"?: [item], "events"?: [event], "undated"?, "assumptions"?}`, as `extract_evidence` and
    `reconstruct_timeline` give them -> `{"sentences", "unsupported": [text], "counts", "supported_share"}`.

    A sentence is `{"text", "start", "end", "status", "events": [n], "evidence": [id], "missing", "note"}`:
    `supported`: one event, or the evidence, has its addresses, files, accounts, times, numbers and quotes and most
    of its other words, its citations exist, and it denies nothing. `partly`: all that it names is known, but no event
    has it together, or what it says of it is in other words. `unsupported`: something that it names is nowhere, or it
    states in words what no event says. `no claim`: headings, what names nothing, and the limits that `write_report`
    states.
    `supported_share` is supported of all that claim something; null where nothing does."""
    report = text_of(document, "report")
    facts = Facts(_listed(document, "evidence"), _listed(document, "events"))
    own = [NOTHING_FOUND, *_limits(document)]
    limits = {line[start:end] for line in own for start, end in sentence_spans(line)}
    sentences: list[dict[str, Any]] = []
    for start, end in sentence_spans(report):
        if len(sentences) == MAX_SENTENCES:
            raise InputError(f"the report has more than {MAX_SENTENCES} sentences", remedy="Check it in parts.")
        sentence = _checked(report, start, end, facts)
        if sentence["text"] in limits:
            sentence |= {"status": "no claim", "missing": [], "note": "limits"}
        sentences.append(sentence)
    counts = Counter(sentence["status"] for sentence in sentences)
    claims = len(sentences) - counts["no claim"]
    return {
        "sentences": sentences,
        "unsupported": [sentence["text"] for sentence in sentences if sentence["status"] == "unsupported"],
        "counts": {status: counts[status] for status in ("supported", "partly", "unsupported", "no claim")},
        "supported_share": round(counts["supported"] / claims, 4) if claims else None,
    }


def write_report(document: dict[str, Any]) -> dict[str, Any]:
    """`{"title"?: str, "evidence"?: [item], "events"?: [event], "undated"?: [...], "assumptions"?: [str]}` ->
    `{"report": Markdown, "sentences": n, "check": counts of check_report}`.

    Each sentence ends with what it is drawn from. Quoted text stands in double quotes, with its own double quotes as
    single ones and its brackets as round ones, so that nothing in the data reads as a citation."""
    evidence, events = _listed(document, "evidence"), _listed(document, "events")
    title = _quoted(str(document.get("title") or "Examination report"))
    lines = [f"# {title}", "", "## Summary", *_summary(evidence, events)]
    lines += ["", "## Timeline", *_event_lines(events)] if events else []
    lines += ["", "## Evidence", *_evidence_lines(evidence)] if evidence else []
    lines += ["", "## Limits", *_limits(document)]
    report = "\n".join(lines) + "\n"
    check = check_report({**document, "report": report})
    return {"report": report, "sentences": sum(check["counts"].values()), "check": check["counts"]}


def _listed(document: dict[str, Any], field: str) -> list[dict[str, Any]]:
    rows = document.get(field)
    rows = [] if rows is None else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f'"{field}" is not a list of objects', remedy="Give what extract_evidence or the timeline gave."
        )
    if len(rows) > MAX_FACTS:
        raise InputError(f'"{field}" has {len(rows)} rows; a report takes {MAX_FACTS}')
    return rows


def _checked(report: str, start: int, end: int, facts: Facts) -> dict[str, Any]:
    written = report[start:end]
    sentence: dict[str, Any] = {"text": written, "start": start, "end": end}
    bare = CITATION.sub(" ", written)
    entities = [
        (item["kind"], item["normalised"])
        for item in extract_evidence({"text": bare})["items"]
        if facts.has(item["normalised"]) or not is_quoted(bare, item["start"])
    ]
    readings = find_readings(bare[:4000])
    statement = Statement(written, bare, entities, readings, find_clocks(bare[:4000], readings))
    return sentence | facts.judge(statement)


def _summary(evidence: list[dict[str, Any]], events: list[dict[str, Any]]) -> Iterator[str]:
    if not events and not evidence:
        yield NOTHING_FOUND
    if events:
        first, last = events[0], events[-1]
        yield f"The timeline has {len(events)} events {_range(1, len(events))}."
        yield f"The first is of {first['time']} [1]."
        yield f"The last is of {last['time']} [{len(events)}]."
        for field in ("host", "source"):
            for name, places in _grouped(events, field, 10):
                ends = f"the first [{places[0]}], the last [{places[-1]}]" if len(places) > 1 else f"[{places[0]}]"
                yield f'Events of the {field} "{_quoted(name)}": {len(places)}, {ends}.'
    if evidence:
        yield f"The evidence has {len(evidence)} items [E1-E{len(evidence)}]."


def _event_lines(events: list[dict[str, Any]]) -> Iterator[str]:
    chosen = list(range(len(events)))
    if len(events) > MAX_LISTED:
        hours: dict[str, int] = {}
        for place, event in enumerate(events):
            hours.setdefault(str(event.get("time"))[:13], place)
        chosen = list(hours.values())[:MAX_LISTED]
        yield f"Of {len(events)} events the first of each hour are listed {_range(1, len(events))}."
    for place in chosen:
        event = events[place]
        where = f' on "{_quoted(event["host"])}"' if event.get("host") else ""
        by = f' by "{_quoted(event["source"])}"' if event.get("source") else ""
        yield f'- At {event["time"]}{where}, recorded{by}: "{_quoted(event.get("description", ""))}" [{place + 1}].'


def _evidence_lines(evidence: list[dict[str, Any]]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[int]] = {}
    for item in evidence:
        groups.setdefault((str(item.get("kind")), str(item.get("normalised"))), []).append(int(item.get("id") or 0))
    kind_before = ""
    for (kind, value), places in sorted(groups.items())[: MAX_LISTED * 5]:
        if kind != kind_before:
            yield f"### {kind.replace('_', ' ')}"
            kind_before = kind
        yield f'- "{_quoted(value)}" {_cites(places, "E")}.'


def _limits(document: dict[str, Any]) -> Iterator[str]:
    undated, assumptions = document.get("undated"), document.get("assumptions")
    count = len(undated) if isinstance(undated, list) else 0
    yield f"Records without a date, which are not in the timeline: {count}."
    for assumption in assumptions if isinstance(assumptions, list) else []:
        yield f"- Assumed: {_quoted(str(assumption))}"
    yield "What no citation stands behind is not in this report; it says nothing about causes or intentions."


def _grouped(events: list[dict[str, Any]], field: str, most: int) -> list[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for place, event in enumerate(events, 1):
        if event.get(field):
            groups.setdefault(str(event[field]), []).append(place)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:most]


def _cites(places: Iterable[int], mark: str = "") -> str:
    """Places as ranges: [1-3] [7]."""
    ranges: list[list[int]] = []
    for place in sorted(set(places)):
        if ranges and place == ranges[-1][1] + 1:
            ranges[-1][1] = place
        else:
            ranges.append([place, place])
    return " ".join(_range(first, last, mark) for first, last in ranges)


def _range(first: int, last: int, mark: str = "") -> str:
    return f"[{mark}{first}-{mark}{last}]" if last > first else f"[{mark}{first}]"


def _quoted(text: str) -> str:
    line = quotable(text)
    return line if len(line) <= MAX_QUOTED else line[: MAX_QUOTED - 1] + "\u2026"
