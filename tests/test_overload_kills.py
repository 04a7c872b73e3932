"""A home under load whose services are killed again and again: what was acknowledged stays, and clients come back."""

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from api_server import UPLOAD
from conftest import Home
from process_title import title_of
from sqlalchemy import select

from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import UserInput
from soldiom_ray.sealing import unseal_text
from soldiom_ray.services.processes import service_processes
from soldiom_ray.settings import load_settings
from soldiom_ray.storage import open_storage

pytestmark = [pytest.mark.service, pytest.mark.endurance]
KILLS = 10


class Clients:
    """Clients that write texts and ask for health until they are stopped; what they saw."""

    def __init__(self, url: str, key: str) -> None:
        self.written: list[str] = []
        self.statuses: dict[str, Counter[int | str]] = {
            "write": Counter(),
            "/healthz": Counter(),
            "/api/models": Counter(),
        }
        self.seconds: dict[str, list[float]] = {name: [] for name in self.statuses}
        self._stop = threading.Event()
        targets = [self._write, self._write, *(self._get(path) for path in ("/healthz", "/api/models"))]
        self._threads = [threading.Thread(target=target, args=(url, key), daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        for name, seconds in self.seconds.items():
            ordered = sorted(seconds)
            p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
            print(f"{name}: {dict(self.statuses[name])}, p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")

    def _ask(
        self, name: str, client: httpx.Client, method: str, path: str, body: object = None
    ) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = client.request(method, path, json=body)
        except httpx.HTTPError as error:
            self.statuses[name][type(error).__name__] += 1
            return None
        self.seconds[name].append(time.monotonic() - began)
        self.statuses[name][answer.status_code] += 1
        if answer.status_code in (429, 503):
            assert int(answer.headers["retry-after"]) > 0
        return answer

    def _write(self, url: str, key: str) -> None:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            while not self._stop.is_set():
                body = {"user_id": "kills", "input_type": "text", "content": "text"}
                answer = self._ask("write", client, "POST", UPLOAD, body)
                if answer is not None and answer.status_code == 201:
                    self.written.append(answer.json()["id"])
                time.sleep(0.02)

    def _get(self, path: str) -> Callable[[str, str], None]:
        def ask(url: str, key: str) -> None:
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
                while not self._stop.is_set():
                    self._ask(path, client, "GET", path)
                    time.sleep(0.05)

        return ask


def test_postgresql_killed_ten_times_under_load_loses_nothing_and_comes_back(home: Home) -> None:
    url = home.json("status", code=None)["services"]["api"]["url"]
    key = (home.folder / "keys" / "admin_key").read_text().strip()
    clients, down_seconds = Clients(url, key), []
    for _ in range(KILLS):
        time.sleep(3)
        while (pid := home.json("status", code=None)["services"]["postgres"]["pid"]) is None:
            time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        writes = len(clients.written)
        while len(clients.written) == writes and time.monotonic() - killed < 90:
            time.sleep(0.05)
        down_seconds.append(time.monotonic() - killed)
    clients.stop()
    print("seconds without a write:", [round(seconds, 1) for seconds in down_seconds])
    assert max(down_seconds) < 60
    assert set(clients.statuses["/healthz"]) == {200}
    assert set(clients.statuses["write"]) <= {201, 429, 503}
    assert home.json("status", code=None)["services"]["postgres"]["restarts"] >= KILLS
    listed: set[str] = set()
    headers, cursor = {"Authorization": f"Bearer {key}"}, None
    while True:
        params = {"limit": 200, "user_id": "kills"} | ({"cursor": cursor} if cursor else {})
        page = httpx.get(url + UPLOAD, params=params, headers=headers, timeout=60).json()
        listed |= {item["id"] for item in page["items"]}
        if (cursor := page["next"]) is None:
            break
        time.sleep(0.2)
    assert set(clients.written) <= listed


def serve_processes(home: Home, name: str) -> list[psutil.Process]:
    """Processes of this home's Ray Serve whose title begins so."""
    settings = load_settings(home.environ)
    processes = [psutil.Process(pid) for pid in service_processes(settings, "ray")]
    return [each for each in processes if title_of(each).startswith(name)]


@pytest.fixture
def generous(home: Home) -> Iterator[Home]:
    """The home with a rate limit that these tests do not reach."""
    home.run("up", SOLDIOM_RATE_LIMIT="100000/minute")
    yield home
    home.run("up", SOLDIOM_RATE_LIMIT="600/minute")


@pytest.mark.parametrize(
    ("title", "allowed"), [("ray::ServeReplica:api", {200, 503}), ("ray::ProxyActor", {200, 503, "refused"})]
)
def test_a_killed_process_of_the_api_costs_seconds_and_neither_a_500_nor_a_429(
    generous: Home, title: str, allowed: set[int | str]
) -> None:
    statuses: Counter[int | str] = Counter()
    stop = threading.Event()

    def ask(path: str) -> None:
        with httpx.Client(base_url=generous.api_url, headers={"Authorization": f"Bearer {generous.key}"}) as client:
            while not stop.is_set():
                try:
                    answer = client.get(path, timeout=60)
                except httpx.TransportError:
                    statuses["refused"] += 1
                    time.sleep(0.1)
                    continue
                statuses[answer.status_code] += 1
                time.sleep(int(answer.headers["retry-after"]) if answer.status_code == 503 else 0.05)

    threads = [threading.Thread(target=ask, args=(path,)) for path in ("/healthz", *["/api/models"] * 4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(3)
        for process in serve_processes(generous, title):
            process.kill()
        time.sleep(12)
        before = statuses[200]
        time.sleep(1)
        assert statuses[200] > before, "nothing is answered 12 s after a kill"
    stop.set()
    for thread in threads:
        thread.join()
    print(title, dict(statuses))
    assert set(statuses) <= allowed
    assert statuses[503] <= 15


def test_ten_thousand_small_uploads_come_back_byte_for_byte_in_bounded_pages_and_cost_little_memory(
    generous: Home,
) -> None:
    uploads, statuses, written = 10_000, Counter[int](), dict[str, str]()
    [replica] = serve_processes(generous, "ray::ServeReplica:api")
    before = replica.memory_info().rss

    def write(numbers: range) -> None:
        with httpx.Client(base_url=generous.api_url, headers={"Authorization": f"Bearer {generous.key}"}) as client:
            for number in numbers:
                text = f"note {number} " * 20
                if number % 2:
                    body = {"user_id": "many", "input_type": "text", "content": text}
                    answer = client.post(UPLOAD, json=body, timeout=60)
                else:
                    files = {"file": (f"{number}.txt", text.encode())}
                    answer = client.post(UPLOAD, files=files, data={"user_id": "many"}, timeout=60)
                statuses[answer.status_code] += 1
                if answer.status_code == 201:
                    made = answer.json() if number % 2 else answer.json()["items"][0]
                    written[made["id"]] = text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [range(first, uploads, 8) for first in range(8)]))
    grown = replica.memory_info().rss - before
    print(dict(statuses), f"the replica grew by {grown >> 20} MiB from {before >> 20}")
    assert len(written) == uploads and grown < 100 << 20
    listed, params = dict[str, str](), {"limit": "200", "user_id": "many"}
    headers = {"Authorization": f"Bearer {generous.key}"}
    while "cursor" not in params or params["cursor"]:
        answer = httpx.get(generous.api_url + UPLOAD, params=params, headers=headers, timeout=60)
        assert len(answer.content) < 4 << 20
        listed |= {item["id"]: item["sha256"] for item in answer.json()["items"]}
        params["cursor"] = answer.json()["next"] or ""
    assert listed == {key: hashlib.sha256(text.encode()).hexdigest() for key, text in written.items()}
    assert stored_texts(generous, "many") == written


def stored_texts(home: Home, user: str) -> dict[str, str]:
    """What the database and the storage hold of a user's inputs, opened with the home's key."""
    settings = load_settings(home.environ)
    storage = open_storage(settings)
    with open_session(settings) as session:
        rows = session.scalars(select(UserInput).where(UserInput.user_id == user)).all()
        return {
            row.id: storage.read(row.content).decode()
            if row.input_type == "file"
            else unseal_text(row.content, f"user_inputs/{row.id}", settings.encryption_keys)
            for row in rows
        }
