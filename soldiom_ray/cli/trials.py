"""The trials of a sweep as a table."""

from collections.abc import Mapping
from typing import Any

from soldiom_ray.cli.output import table_of


def live_table(job: Mapping[str, Any]) -> Any:
    trials = next(
        (stage["details"].get("trials") for stage in job.get("stages", ()) if stage["stage"] == "train"), None
    )
    return table_of(trial_rows(trials), trial_columns(trials)) if trials else None


def trial_rows(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**trial, **trial["settings"]} for trial in trials]


def trial_columns(trials: list[dict[str, Any]]) -> list[str]:
    """The settings that differ stand after the trial's number."""
    if not trials:
        return ["trial"]
    names = [name for name in trials[0] if name not in ("trial", "settings", "start_seconds")]
    return ["trial", *trials[0]["settings"], *names]
