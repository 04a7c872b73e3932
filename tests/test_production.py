"""The list to go through before a home is open to others: what is wrong is told, with its remedy."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from test_edge import certificate

from soldiom_ray.errors import InputError
from soldiom_ray.records import now
from soldiom_ray.services import production
from soldiom_ray.settings import load_settings, write_private

KEY = "0123456789abcdef" * 4
GOOD = {
    "SOLDIOM_ENCRYPTION_KEY": KEY,
    "SOLDIOM_API_HOSTS": "api.example.org,www.example.org",
    "SOLDIOM_DATABASE_URL": f"postgresql://soldiom:{KEY}@db.internal/soldiom",
    "SOLDIOM_CHROMA_URL": "http://chroma:8001",
    "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
}


def states(home: Path, **variables: str) -> dict[str, str]:
    """The state of each point."""
    settings = load_settings({"SOLDIOM_HOME": str(home)} | GOOD | variables)
    found = production.check_production(settings)
    assert all(each["remedy"] for each in found if each["state"] == "error")
    assert KEY not in json.dumps(found)
    return {each["check"].removeprefix("production: "): each["state"] for each in found}


def back_up_days_ago(home: Path, days: int) -> None:
    at = now() - datetime.timedelta(days=days)
    write_private(home / "run" / "backup.json", json.dumps({"at": at.isoformat(), "path": "x"}))


def test_a_home_that_is_ready_has_no_errors(tmp_path: Path) -> None:
    back_up_days_ago(tmp_path, 1)
    assert states(tmp_path) == {
        "encryption key": "ok", "passwords": "ok", "https": "ok", "names": "ok", "ports": "ok",
        "Ray's token": "warning", "services elsewhere": "ok", "backups": "ok", "edge": "warning",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("point", "state", "variables"),
    [
        ("encryption key", "error", {"SOLDIOM_ENCRYPTION_KEY": ""}),
        ("encryption key", "error", {"SOLDIOM_ENCRYPTION_KEY": "ab" * 32}),
        ("passwords", "error", {"SOLDIOM_DATABASE_URL": "postgresql://u:postgres@db/d"}),
        ("passwords", "error", {"SOLDIOM_DATABASE_URL": "mysql://root@db/d"}),
        ("https", "error", {"SOLDIOM_API_HOST": "0.0.0.0"}),
        ("https", "warning", {"SOLDIOM_API_HOST": "0.0.0.0", "RAY_ADDRESS": "ray-head:6379"}),
        ("names", "warning", {"SOLDIOM_API_HOSTS": "*.example.org"}),
        ("names", "warning", {"SOLDIOM_API_HOSTS": ""}),
        ("services elsewhere", "error", {"SOLDIOM_S3_ENDPOINT": "http://s3.example.org"}),
        ("services elsewhere", "error", {"SOLDIOM_CHROMA_URL": "http://8.8.8.8:8001"}),
        ("backups", "error", {}),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, point: str, state: str, variables: dict[str, Any]) -> None:
    assert states(tmp_path, **variables)[point] == state


def test_old_backups_and_certificates_that_end_are_told(tmp_path: Path) -> None:
    back_up_days_ago(tmp_path, 3)
    pair = [str(path) for path in certificate(tmp_path)]
    found = states(tmp_path, SOLDIOM_TLS_CERT=pair[0], SOLDIOM_TLS_KEY=pair[1])
    assert (found["backups"], found["https"]) == ("error", "warning")
    found = states(tmp_path, SOLDIOM_TLS_CERT=pair[1], SOLDIOM_TLS_KEY=pair[1])
    assert found["https"] == "error"


def test_the_public_address_is_an_https_address(tmp_path: Path) -> None:
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    with pytest.raises(InputError, match="public address"):
        production.check_production(settings, "http://api.example.org")
