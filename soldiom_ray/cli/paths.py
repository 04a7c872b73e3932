"""Files and folders that are named on the command line."""

from pathlib import Path

from soldiom_ray.errors import InputError


def named_path(text: str, option: str) -> Path:
    """The path as it was typed, without `~`. InputError for an empty one, which would be the working folder: a shell
    variable that is not set is typed so."""
    if not text.strip():
        raise InputError(f"{option} is empty.", remedy="name a file or folder; `.` is the folder you are in")
    return Path(text).expanduser()
