"""One home with real services for all end-to-end tests, and small real inputs."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import guard
import httpx
import pytest
from collecting import github_world, hub_world
from nodes import Nodes, ray_nodes
from real_chroma import Chroma
from real_mariadb import mariadb
from real_postgres import postgres
from stand_in import StandIn

pytest_plugins = ["api_server"]

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Read when torch is first imported: threads that spin, or more of them than cores, make tests many times slower."""
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


@contextmanager
def starting() -> Iterator[None]:
    """One home after the other, also of other processes of tests: two that start at the same moment see the same ports
    free, and take each other's service for their own."""
    with (Path(tempfile.gettempdir()) / f"soldiom-tests-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Services up in a home of their own, for the whole session; GitHub and the Hub are a server on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="sldm-", dir="/tmp"))
    with StandIn() as world:
        world.add(*github_world(), *hub_world())
        variables = {"SOLDIOM_GITHUB_API_URL": world.url, "HF_ENDPOINT": world.url}
        variables["SOLDIOM_API_FOLDERS"] = str(tmp_path_factory.getbasetemp())
        variables["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # an actor of each training, which one node can spare
        made = Home(folder, {"SOLDIOM_API_PORT": str(free_port())} | variables)
        try:
            with starting():
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
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # an actor of each training; this node is not taken away
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Nodes]:
    """A Ray of one node and those that tests add, in processes of their own."""
    with ray_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroma]:
    """One server for all modules: a collection is named after an index, and an index after what made it."""
    server = Chroma(tmp_path_factory.mktemp("chroma"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    with mariadb() as url:
        yield url


@pytest.fixture(scope="module")
def postgres_url(postgres_server: str) -> str:
    """The URL of a new database for this module."""
    import psycopg

    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="module")
def mariadb_url(mariadb_server: str) -> str:
    """The URL of a new database for this module; the user root has no password."""
    import pymysql
    from sqlalchemy.engine import make_url

    url, name = make_url(mariadb_server), f"test_{uuid.uuid4().hex[:12]}"
    with pymysql.connect(host=url.host, port=url.port or 0, user=url.username) as connection:
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return url.set(database=name).render_as_string()


SERVICE_FIXTURES = {"home", "ray_cluster", "node_cluster", "chroma", "postgres_server", "mariadb_server"}
GROUPS = {
    "test_train_nodes": "nodes",
    "test_prepare_nodes": "nodes",
    "test_collect_kills": "nodes",
    "test_workflow": "home",
    "test_domains": "home",
    "test_two_nodes": "home",
    "test_console_browser": "home",
    "test_monitoring": "home",
}
"""Files that share what is expensive to start run in one process, in this order; every other is a group of its own."""
FIRST = ("nodes", "home", "test_services", "test_deploy", "test_strategies", "test_train", "test_embed")
"""The groups that take longest come first, so that no process is left waiting at the end; `nodes` before all others: a
process that was part of another Ray before loses its actors there."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a service, and bring the long groups to the front."""
    for item in items:
        if SERVICE_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.service)
    groups = {group: rank for rank, group in enumerate(FIRST)}
    files = {file: rank for rank, file in enumerate(GROUPS)}
    items.sort(key=lambda item: (groups.get(group_of(item.nodeid), len(groups)), files.get(item.path.stem, 0)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Every process of tests must name them alike, so long bytes (an archive with its time, say) are no names."""
    return argname if isinstance(val, bytes) and len(val) > 20 else None


def group_of(node: str) -> str:
    """By a test's id."""
    file = Path(node.partition("::")[0]).stem
    return GROUPS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand whole groups to the processes, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    guard.allow_services(item.get_closest_marker("service") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    guard.allow_services(True)  # what a module shares is stopped here, whichever test was its last
