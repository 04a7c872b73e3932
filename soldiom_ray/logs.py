"""Logs as JSON lines on stderr, each with the job and stage it belongs to; the same for people. User text and secrets
never go in."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

from soldiom_ray.tracing import trace_ids

job_id: ContextVar[str] = ContextVar("job_id", default="")
stage: ContextVar[str] = ContextVar("stage", default="")
request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, job, stage, request, trace and span where there are,
    and the dictionary passed as `extra={"data": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job_id.get():
            line["job"] = job_id.get()
        if stage.get():
            line["stage"] = stage.get()
        if request_id.get():
            line["request"] = request_id.get()
        line |= trace_ids()
        data = getattr(record, "data", None)
        if data:
            line["data"] = data
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logging(level: int = logging.INFO) -> None:
    """Send this package's log records to stderr as JSON lines; calling it again changes only the level."""
    logger = logging.getLogger("soldiom_ray")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.propagate = False


def readable(parts: Iterable[str]) -> Iterator[str]:
    """A job's log for people, line by line, from parts that may be cut anywhere. Lines of ours show time (UTC), stage,
    level, message and fields, a traceback below them; what libraries printed stays as it is."""
    rest = ""
    for part in parts:
        *lines, rest = (rest + part).split("\n")
        for line in lines:
            yield _readable_line(line)
    if rest:
        yield _readable_line(rest)


def _readable_line(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or not {"time", "level", "message"} <= entry.keys():
        return line
    time = str(entry["time"])[:19].replace("T", " ")
    data = entry["data"] if isinstance(entry.get("data"), dict) else {}
    fields = [f"{name}={_field(value)}" for name, value in data.items() if not _is_block(value)]
    head = f"{time}  {entry.get('stage', ''):<9} {entry['level']:<7}  {'  '.join([str(entry['message']), *fields])}"
    blocks = [f"{name}:\n{value}" for name, value in data.items() if _is_block(value)]
    if entry.get("exception"):
        blocks.append(str(entry["exception"]))
    return "\n".join([head, *(f"    {line}" for block in blocks for line in block.splitlines())])


def _is_block(value: object) -> bool:
    return isinstance(value, str) and "\n" in value


def _field(value: object) -> str:
    if isinstance(value, str):
        return value if value and not set(value) & set(' "=') else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
