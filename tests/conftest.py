"""One home with real services for all end-to-end tests, and small real inputs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from collecting import github_world, hub_world
from real_chroma import Chroma
from stand_in import StandIn

pytest_plugins = ["api_server"]

NO_DASHBOARD = "http://127.0.0.1:9"
"""RAY_API_SERVER_ADDRESS of a Ray without dashboard: Ray Train, which asks it at its end, hears at once that none is
there instead of waiting for 12 s."""
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Home:
    """A home of its own: its environment, the command line in it, and its API."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SOLDIOM_", "MLFLOW_"))
        }
        return kept | {"SOLDIOM_HOME": str(self.folder), "OMP_NUM_THREADS": "2"} | self.variables

    def run(
        self, *arguments: str, code: int | None = 0, timeout: float = 400, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """`soldiom …` as a process; its exit code must be `code`."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("soldiom")), *arguments],
            env=self.environ | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if code is not None and done.returncode != code:
            pytest.fail(f"soldiom {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str, **options: Any) -> Any:
        """The JSON document of a command."""
        return json.loads(self.run(*arguments, "--json", **options).stdout)

    @property
    def api_url(self) -> str:
        addresses = json.loads((self.folder / "run" / "addresses.json").read_text())
        return f"http://127.0.0.1:{addresses.get('api_port', self.variables.get('SOLDIOM_API_PORT'))}"

    @property
    def key(self) -> str:
        return (self.folder / "keys" / "admin_key").read_text().strip()

    def call(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """One call of the API; `key=""` sends none."""
        key = self.key if key is None else key
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        return httpx.request(method, self.api_url + path, headers=headers, timeout=120, trust_env=False, **options)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What a module sets in the environment (Ray's authentication, say) ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """Services up in a home of their own, for the whole session; GitHub and the Hub are a server on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="sldm-", dir="/tmp"))
    with StandIn() as world:
        world.add(*github_world(), *hub_world())
        variables = {"SOLDIOM_GITHUB_API_URL": world.url, "HF_ENDPOINT": world.url}
        made = Home(folder, {"SOLDIOM_API_PORT": str(free_port())} | variables)
        try:
            made.run("up")
            yield made
        finally:
            made.run("down", code=None)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real Python source: some modules of installed packages, one folder per package."""
    root = tmp_path_factory.mktemp("input") / "sources"
    for package in ("peft", "accelerate", "huggingface_hub", "rich", "typer", "alembic"):
        where = (
            Path(sys.prefix)
            / "lib"
            / f"python{sys.version_info.major}.{sys.version_info.minor}"
            / "site-packages"
            / package
        )
        files = sorted(path for path in where.rglob("*.py") if 2_000 < path.stat().st_size < 20_000)[:12]
        for number, path in enumerate(files):
            target = root / package / f"{number:02d}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return root


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray of this module's own, with two CPUs."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_API_SERVER_ADDRESS": NO_DASHBOARD}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroma]:
    server = Chroma(tmp_path_factory.mktemp("chroma"))
    yield server
    server.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that lose nodes come first: a process that was part of another Ray before loses its actors there."""
    items.sort(key=lambda item: item.path.name != "test_train_nodes.py")
