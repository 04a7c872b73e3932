"""A home under load whose services are killed again and again: what was acknowledged stays, and clients come back."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest
from api_server import UPLOAD
from conftest import Home

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
