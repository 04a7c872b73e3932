"""Logs as JSON lines on stderr, each with the job and stage it belongs to. User text and secrets never go in."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

job_id: ContextVar[str] = ContextVar("job_id", default="")
stage: ContextVar[str] = ContextVar("stage", default="")


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, job, stage and the `extra` named `data`."""

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
