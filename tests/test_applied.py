"""A setting that changes on a running home takes effect, or is refused with what to do."""

import socket
from pathlib import Path

import pytest

from soldiom_ray import launch
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.errors import ConflictError
from soldiom_ray.services import applied, processes, serving, start
from soldiom_ray.settings import forget_environment, keep_environment, load_settings


def test_what_up_was_told_holds_in_other_shells_until_down(tmp_path: Path) -> None:
    home = {"SOLDIOM_HOME": str(tmp_path)}
    told = home | {
        "SOLDIOM_STORAGE": "s3://bucket/x",
        "SOLDIOM_API_HOSTS": "a.example.org",
        "SOLDIOM_RATE_LIMIT": "5/hour",
    }
    keep_environment(load_settings(told), told)
    other = load_settings(home)
    assert (other.storage, other.api_hosts, other.rate_limit) == ("s3://bucket/x", ("a.example.org",), "5/hour")
    assert load_settings(home | {"SOLDIOM_RATE_LIMIT": "9/hour"}).rate_limit == "9/hour"
    keep_environment(other, home | {"SOLDIOM_RATE_LIMIT": "7/hour"})
    assert (load_settings(home).storage, load_settings(home).rate_limit) == ("s3://bucket/x", "7/hour")
    forget_environment(other)
    assert load_settings(home).storage == (tmp_path / "storage").as_uri()


def test_changes_are_named_and_secrets_are_not_kept_in_the_open(tmp_path: Path) -> None:
    home = {"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_ENCRYPTION_KEY": "ab" * 32, "HF_TOKEN": "hunter2"}
    assert applied.changes(load_settings(home)) == []
    applied.remember(load_settings(home))
    stored = (tmp_path / "run" / "applied.json").read_text()
    assert "hunter2" not in stored and "abab" not in stored
    assert applied.changes(load_settings(home)) == []
    for name, value in (
        ("SOLDIOM_RATE_LIMIT", "5/hour"), ("SOLDIOM_API_FOLDERS", "/data"), ("SOLDIOM_PRIVATE_HOSTS", "db"),
        ("HF_TOKEN", "other"), ("SOLDIOM_ENCRYPTION_KEY", "cd" * 32), ("SOLDIOM_STORAGE", "file:///else"),
        ("SOLDIOM_DATABASE_URL", "postgresql://u@h/d"), ("SOLDIOM_UPLOAD_MAX_BYTES", "5"),
    ):  # fmt: skip
        assert applied.changes(load_settings(home | {name: value})) == [name]
    applied.forget(load_settings(home))
    assert applied.changes(load_settings(home | {"HF_TOKEN": "other"})) == []


def test_a_job_that_the_homes_api_could_not_see_is_refused_and_a_certificate_needs_down(tmp_path: Path) -> None:
    certificate = tmp_path / "c.pem"
    certificate.write_text("")
    home = {"SOLDIOM_HOME": str(tmp_path)}
    applied.remember(load_settings(home))
    recipe = validate_recipe({"name": "x", "dataset": "d", "embed": {}})
    moved = load_settings(home | {"SOLDIOM_STORAGE": "file:///else"})
    with pytest.raises(ConflictError, match=r"SOLDIOM_STORAGE(.|\n)*soldiom up"):
        launch.launch_job(moved, recipe, kind="embed", owner="cli")
    applied.check_up(moved)
    secured = home | {"SOLDIOM_TLS_CERT": str(certificate), "SOLDIOM_TLS_KEY": str(certificate)}
    with pytest.raises(ConflictError, match="soldiom down"):
        applied.check_up(load_settings(secured))
    applied.check_job(load_settings(secured))


def test_a_cluster_elsewhere_is_answered_for_by_its_api_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the head of a cluster, where the proxy that has the port of the API is no process of this home."""
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        external = {
            "SOLDIOM_DATABASE_URL": "postgresql://u@h/d", "SOLDIOM_CHROMA_URL": "http://127.0.0.1:9",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "RAY_ADDRESS": "10.0.0.5:6379",
        }  # fmt: skip
        port = {"SOLDIOM_API_PORT": str(proxy.getsockname()[1])}
        settings = load_settings({"SOLDIOM_HOME": str(tmp_path)} | external | port)
        assert start.status(settings)["supervisor"]["state"] == "external"
        with pytest.raises(ConflictError, match="in use"):
            start._check_api(settings)
        processes.write_record(settings, "api", processes.ProcessRecord(0, 0))
        monkeypatch.setattr(serving, "probe", lambda *_: "")
        start._check_api(settings)
