"""The services of a home, with the real programs: brought up, crashed one by one, repaired, put side by side, stopped.

Slow as a whole, so everything shares one home and its order matters: each test leaves all services running."""

import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from conftest import free_port, starting
from typer.testing import CliRunner

from soldiom_ray import compute, services
from soldiom_ray.cli.app import app
from soldiom_ray.db import jobs
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import ConflictError, SoldiomError, UnavailableError
from soldiom_ray.services import addresses, chroma, postgres, processes, start, supervision
from soldiom_ray.services.addresses import Addresses
from soldiom_ray.services.http import get
from soldiom_ray.settings import Settings, load_settings

pytestmark = pytest.mark.service
FOLDERS = {"postgres": postgres.folder}


def settings_of(folder: Path, **variables: str) -> Settings:
    return load_settings({"SOLDIOM_HOME": str(folder), **variables})


def up(folder: Path, **variables: str) -> list[str]:
    """Bring a home up as the command line does; returns what was reported."""
    from soldiom_ray.db.engine import migrate

    lines: list[str] = []
    with starting():
        services.up(settings_of(folder, **variables), lines.append, prepare=migrate)
    return lines


def states(folder: Path, **variables: str) -> dict[str, str]:
    return {name: service["state"] for name, service in services.status(settings_of(folder, **variables)).items()}


def members(folder: Path) -> set[int]:
    """Every living process of a home."""
    settings = settings_of(folder)
    return {
        pid
        for name in ("postgres", "chroma", "mlflow", "ray", "supervisor")
        for pid in processes.service_processes(settings, name, FOLDERS[name](settings) if name in FOLDERS else None)
    }


def pid_of(folder: Path, name: str) -> int:
    return int(services.status(settings_of(folder))[name]["pid"])


def running_program(pids: set[int], program: str) -> list[int]:
    matches = []
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if program.encode() in command.split(b"\0")[0]:
            matches.append(pid)
    return matches


def remove(folder: Path) -> None:
    services.down(settings_of(folder))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="sldm-", dir="/tmp"))
    try:
        up(home, SOLDIOM_API_PORT=str(free_port()))
        yield home
    finally:
        remove(home)


ALL_RUNNING = dict.fromkeys(("postgres", "chroma", "mlflow", "ray", "api", "supervisor"), "running")


def test_up_brings_every_service_of_the_home_up(folder: Path) -> None:
    assert states(folder) == ALL_RUNNING
    settings = settings_of(folder)
    assert settings.database_url and settings.chroma_url and settings.mlflow_url and settings.ray_address
    assert not settings.external


def test_a_second_up_changes_nothing(folder: Path) -> None:
    before = members(folder)
    lines = up(folder)
    assert sorted(lines) == ["api: running", "chroma: running", "mlflow: running", "postgres: running", "ray: running"]
    after = services.status(settings_of(folder))
    assert {service["pid"] for service in after.values()} <= before


def test_ray_refuses_whoever_lacks_the_token_which_only_its_owner_can_read(folder: Path) -> None:
    settings = settings_of(folder)
    assert stat.S_IMODE(settings.ray_token_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.keys_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.run_folder.stat().st_mode) == 0o700
    assert get(f"{settings.dashboard_url}/api/jobs/").status == 401
    token = settings.ray_token_path.read_text()
    assert get(f"{settings.dashboard_url}/api/jobs/", {"Authorization": f"Bearer {token}"}).status == 200


def test_what_the_home_holds_is_its_owners_alone(folder: Path) -> None:
    """Whoever may not enter a folder reaches nothing in it, whatever Ray grants on its sessions within `run`."""
    folders = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_dir()}
    assert {"keys", "run", "postgres", "logs", "chroma", "mlflow"} <= folders.keys()
    assert not {name for name, mode in folders.items() if mode & 0o077}
    (folder / "ray-train").mkdir(mode=0o755)  # an earlier version left such folders
    up(folder)
    assert stat.S_IMODE((folder / "ray-train").stat().st_mode) == 0o700
    kept = [path for path in (folder / "keys").iterdir() if path.is_file()]
    assert kept and all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in kept)


def test_a_job_sees_this_home_and_none_of_the_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = compute.job_client(settings_of(folder))
    job = client.submit_job(entrypoint="env")
    deadline = time.monotonic() + 60
    while (state := client.get_job_status(job).value) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert state == "SUCCEEDED"
    seen = dict(line.split("=", 1) for line in client.get_job_logs(job).splitlines() if "=" in line)
    assert seen["SOLDIOM_HOME"] == str(folder)
    assert seen["RAY_AUTH_TOKEN_PATH"] == str(folder / "keys" / "ray_token")
    assert seen["RAY_JOB_STOP_WAIT_TIME_S"] == "30" and seen["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
    assert "RAY_AUTH_TOKEN" not in seen and "HF_TOKEN" not in seen


def test_mlflow_answers_to_its_own_address_only(folder: Path) -> None:
    address = settings_of(folder).mlflow_url
    page = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert get(page).status == 200
    assert get(page, {"Host": "10.evil.example"}).status == 403


def test_environment_names_the_addresses_that_other_programs_read(folder: Path) -> None:
    settings = settings_of(folder)
    variables = services.environment(settings)
    assert variables["RAY_ADDRESS"] == settings.dashboard_url and variables["RAY_AUTH_MODE"] == "token"
    again = load_settings(variables)
    assert not again.external
    assert (again.ray_address, again.dashboard_url) == (settings.ray_address, settings.dashboard_url)


def test_doctor_finds_no_error_and_lists_every_port_none_of_which_others_can_reach(folder: Path) -> None:
    findings = {finding["check"]: finding for finding in services.doctor(settings_of(folder))}
    assert [finding for finding in findings.values() if finding["state"] == "error"] == []
    assert findings["ports"]["state"] == "ok", findings["ports"]
    listed = [finding for check, finding in findings.items() if check.startswith("port ")]
    assert len(listed) > 10 and all("127.0.0.1" in finding["detail"] for finding in listed)
    assert any("the API: asks for a key" in finding["detail"] for finding in listed)
    assert any("no key" in finding["detail"] for finding in listed)
    assert findings["encryption at rest"]["state"] == "warning"
    assert findings["optional: deepspeed"]["state"] == "ok"


def test_doctor_calls_a_key_file_that_others_can_read_an_error(folder: Path) -> None:
    settings = settings_of(folder)
    settings.ray_token_path.chmod(0o644)
    try:
        findings = {finding["check"]: finding for finding in services.doctor(settings)}
        assert findings["key files"]["state"] == "error" and "chmod" in findings["key files"]["remedy"]
    finally:
        settings.ray_token_path.chmod(0o600)


def test_up_repairs_services_that_were_killed(folder: Path) -> None:
    names = ("chroma", "mlflow", "postgres")
    supervision.stop(settings_of(folder))
    for name in names:
        os.kill(pid_of(folder, name), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while "running" in [states(folder)[name] for name in names] and time.monotonic() < deadline:
        time.sleep(0.1)
    for name in names:
        service = services.status(settings_of(folder))[name]
        assert service["state"] == "failed" and "soldiom up" in service["detail"]
    lines = up(folder)
    assert all(any(line.startswith(f"{name}: started") for line in lines) for name in names)
    assert states(folder) == ALL_RUNNING
    page = f"{settings_of(folder).mlflow_url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert get(page, timeout_seconds=10).status == 200


def wait_until_running(folder: Path, seconds: float) -> dict[str, dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while states(folder) != ALL_RUNNING and time.monotonic() < deadline:
        time.sleep(0.3)
    assert states(folder) == ALL_RUNNING
    return services.status(settings_of(folder))


def test_the_supervisor_restarts_services_that_died_and_status_tells_of_it(folder: Path) -> None:
    names = ("chroma", "mlflow", "postgres")
    before = services.status(settings_of(folder))
    for name in names:
        os.kill(before[name]["pid"], signal.SIGKILL)
    after = wait_until_running(folder, 90)
    for name in names:
        assert after[name]["restarts"] == before[name]["restarts"] + 1
        assert f"process {before[name]['pid']} ended" in after[name]["last_restart"]
        assert "restarted" in after[name]["detail"] and after[name]["url"] == before[name]["url"]
    assert after["ray"]["pid"] == before["ray"]["pid"] and after["supervisor"]["pid"] == before["supervisor"]["pid"]


def test_a_killed_supervisor_is_started_again_and_there_is_never_a_second_one(folder: Path) -> None:
    settings = settings_of(folder)
    os.kill(pid_of(folder, "supervisor"), signal.SIGKILL)
    while states(folder)["supervisor"] == "running":
        time.sleep(0.05)
    for _ in range(3):
        services.ensure_supervisor(settings)
        processes.delete_record(settings, supervision.NAME)  # as if several had been started at the same moment
    services.ensure_supervisor(settings)
    deadline, alive, recorded = time.monotonic() + 60, set[int](), None
    while time.monotonic() < deadline and (recorded is None or alive != {recorded}):
        time.sleep(0.3)
        alive = processes.service_processes(settings, supervision.NAME)
        recorded = services.status(settings)[supervision.NAME]["pid"]  # none while the record is that of one that ended
    assert alive == {recorded}


@pytest.mark.parametrize("program", ["gcs_server", "raylet"])
def test_up_repairs_ray_after_its_heart_was_killed(folder: Path, program: str) -> None:
    supervision.stop(settings_of(folder))
    for pid in running_program(processes.service_processes(settings_of(folder), "ray"), program):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while states(folder)["ray"] != "failed" and time.monotonic() < deadline:
        time.sleep(0.3)
    lines = up(folder)
    assert [line for line in lines if line.startswith("ray: started")]
    assert states(folder) == ALL_RUNNING


def test_a_port_of_the_api_that_another_program_has_stops_up_before_anything_starts() -> None:
    other = Path(tempfile.mkdtemp(prefix="sldm-", dir="/tmp"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConflictError, match=f"Port {port}.*process {os.getpid()}") as caught:
            up(other, SOLDIOM_API_PORT=str(port))
    assert "SOLDIOM_API_PORT=" in caught.value.remedy
    assert not members(other) and not (other / "postgres").exists()
    shutil.rmtree(other)


def test_a_running_api_is_not_moved_to_another_port_silently(folder: Path) -> None:
    with pytest.raises(ConflictError, match="runs at"):
        up(folder, SOLDIOM_API_PORT=str(free_port()))
    assert states(folder) == ALL_RUNNING


def test_a_service_placed_elsewhere_is_left_alone(folder: Path) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}"
    service = services.status(settings_of(folder, SOLDIOM_CHROMA_URL=elsewhere))["chroma"]
    assert service["state"] == "external" and service["url"] == elsewhere and "does not answer" in service["detail"]


def test_doctor_names_the_ports_of_a_cluster_placed_elsewhere(tmp_path: Path) -> None:
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path), "RAY_ADDRESS": "10.0.0.5:6379"})
    [finding] = [each for each in services.doctor(settings) if each["check"] == "ports of the cluster"]
    assert "19000-19099 of every node and ask for no key" in finding["detail"]


def test_two_homes_with_a_long_path_run_side_by_side_and_stop_apart(folder: Path) -> None:
    root = Path(tempfile.mkdtemp(prefix="sldm-", dir="/tmp"))
    other = root / ("long-name-" * 9) / "home"
    try:
        up(other, SOLDIOM_API_PORT=str(free_port()))
        assert states(other) == ALL_RUNNING
        first, second = settings_of(folder), settings_of(other)
        for name in ("database_url", "chroma_url", "mlflow_url", "ray_address", "dashboard_url", "api_url"):
            assert getattr(first, name) != getattr(second, name)
        assert not members(folder) & members(other)
        before = members(folder)
        services.down(second)
        assert not members(other)
        assert set(states(other).values()) == {"stopped"}
        assert {service["pid"] for service in services.status(first).values()} <= before
        assert states(folder) == ALL_RUNNING
    finally:
        remove(other)
        shutil.rmtree(root)
        shutil.rmtree(services.short_folder(settings_of(other)), ignore_errors=True)


def test_a_port_that_another_home_took_at_the_same_moment_is_not_taken_for_the_own_service(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = urlsplit(settings_of(folder).chroma_url or "").port or 0
    other = Path(tempfile.mkdtemp(prefix="sldm-", dir="/tmp"))
    settings, really_free, asked = settings_of(other), addresses.is_free, [0]

    def free_when_first_asked(port: int) -> bool:
        asked.append(port)
        return len(asked) == 2 or really_free(port)

    monkeypatch.setattr(addresses, "is_free", free_when_first_asked)
    try:
        settings.run_folder.mkdir(parents=True)
        (other / "logs").mkdir()
        assert f"port {taken} is used by process" in chroma.probe(settings, Addresses(chroma_port=taken))
        chosen = start.ensure_service(
            settings, start.BY_NAME["chroma"], Addresses(chroma_port=taken), lambda line: None
        )
        assert chosen.chroma_port != taken and asked[1] == taken
        assert chroma.probe(settings, chosen) == ""
        assert states(folder) == ALL_RUNNING
    finally:
        processes.stop(settings, "chroma")
        shutil.rmtree(other)


def test_down_leaves_no_process_and_up_takes_the_same_addresses_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settings_of(folder)
    family = members(folder)
    monkeypatch.setenv("SOLDIOM_HOME", str(folder))
    with open_session(before) as session:
        jobs.create(session, name="unfinished", kind="train", config={}).submission_id = "unfinished"
    token = before.ray_token_path.read_text()
    before.ray_token_path.write_text("not-the-token-of-this-ray")
    refused = CliRunner().invoke(app, ["down"])  # what Ray refuses keeps nothing running, and is told
    before.ray_token_path.write_text(token)
    assert isinstance(refused.exception, SoldiomError) and refused.exit_code == 1
    assert "logs of the last jobs were not stored" in str(refused.exception)
    assert not members(folder)
    assert not [
        pid for pid in family if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]
    assert set(states(folder).values()) == {"stopped"}
    services.down(before)
    with pytest.raises(UnavailableError, match="does not answer"):
        compute.job_client(before)
    (folder / "postgres" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{folder / 'postgres'}\n1\n5432\n\n\n1 1\nready\n"
    )
    up(folder)
    assert settings_of(folder) == before


def test_compute_names_the_remedy_when_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        compute.job_client(settings_of(tmp_path))
    assert "soldiom up" in caught.value.remedy
    dead = replace(settings_of(tmp_path), ray_address=f"127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError, match="does not answer"):
        compute.connect(dead)
