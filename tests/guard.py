"""A test without the mark `service` that starts one fails: `make check` would start it, too."""

import re
import subprocess
from pathlib import Path
from typing import Any

SERVICES = {"raylet", "gcs_server", "postgres", "initdb", "pg_ctl", "mariadbd", "mariadb-install-db", "chroma"}
COMMANDS = re.compile(r"-m mlflow server|soldiom (up|run)\b|ray\.init\((\)|address=.local)|Cluster\(initialize_head")
"""Commands, and calls in the text of a program for `python -c`: one that joins a Ray may be run by any test."""

_allowed = True
_start_process = subprocess.Popen.__init__


def starts_service(arguments: Any) -> bool:
    """Whether a process with these arguments is a service, or starts one."""
    words = [str(arguments)] if isinstance(arguments, str | bytes | Path) else list(map(str, arguments))
    command = " ".join([Path(words[0]).name, *words[1:]])
    return any(Path(word).name in SERVICES for word in words[:2]) or COMMANDS.search(command) is not None


def _start_guarded(self: Any, args: Any, *more: Any, **options: Any) -> None:
    if not _allowed and starts_service(args):
        raise AssertionError(f"unmarked test starts a service; add @pytest.mark.service. Command: {str(args)[:200]}")
    _start_process(self, args, *more, **options)


subprocess.Popen.__init__ = _start_guarded  # type: ignore[method-assign]


def allow_services(allowed: bool) -> None:
    """From now on."""
    global _allowed
    _allowed = allowed
