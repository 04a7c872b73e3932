"""The number and hash of the newest row of the audit trail, kept outside the database: who can change the database
alone can neither cut the trail's end nor empty it unseen. A copy of this file elsewhere protects from more."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from soldiom_ray.settings import Settings, private_lock, write_private


@dataclass(frozen=True, slots=True)
class Anchor:
    """The newest row that was committed when this was written."""

    seq: int
    hash: str


def anchor_path(settings: Settings) -> Path:
    """Where the anchor of this home lies."""
    return settings.keys_folder / "audit_anchor.json"


def read_anchor(settings: Settings) -> Anchor | None:
    """The anchor; None before the first row. A damaged one is a row that no trail holds."""
    try:
        stored = json.loads(anchor_path(settings).read_text())
        return Anchor(int(stored["seq"]), str(stored["hash"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return Anchor(1, "")


def write_anchor(settings: Settings, anchor: Anchor) -> None:
    """Move the anchor forward, one process of this machine at a time; an older row than its own is left out."""
    path = anchor_path(settings)
    with private_lock(path.with_name(".audit.lock")):
        current = read_anchor(settings)
        if current is None or current.seq < anchor.seq:
            write_private(path, json.dumps(asdict(anchor)))
