"""The environment becomes one frozen `Settings`; nothing else in the package reads it.

Precedence: a variable that is set; then what `soldiom up` wrote down for this home (`run/addresses.json`, the
addresses of the services it started, `run/environment.json`, what its environment set, and `keys/secrets.json`, secrets
handed on to jobs); then the default.
"""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soldiom_ray.errors import InputError, Problem

HOME_TENANT = "default"
"""The tenant of whoever runs the server."""

SECRET_VARIABLES = (
    "SOLDIOM_GITHUB_TOKEN", "HF_TOKEN", "SOLDIOM_JUDGE_API_KEY", "SOLDIOM_ENCRYPTION_KEY", "SOLDIOM_DATABASE_URL"
)  # fmt: skip
"""Handed to jobs through an owner-only file, never through a job's visible environment. A database URL may hold a
password."""

KEY_COMMAND = "SOLDIOM_ENCRYPTION_KEY_COMMAND"
"""Prints what SOLDIOM_ENCRYPTION_KEY would hold, as the clients of key management services do: where it is set, no file
of the home holds the key."""

JOB_VARIABLES = (
    "SOLDIOM_HOME",
    "SOLDIOM_STORAGE",
    "SOLDIOM_S3_ENDPOINT",
    "SOLDIOM_CHROMA_URL",
    "MLFLOW_TRACKING_URI",
    "SOLDIOM_GITHUB_API_URL",
    "HF_ENDPOINT",
    "SOLDIOM_JUDGE_URL",
    "SOLDIOM_API_HOST",
    "SOLDIOM_API_PORT",
    "SOLDIOM_PRIVATE_HOSTS",
    "SOLDIOM_API_FOLDERS",
    "SOLDIOM_API_HOSTS",
    "SOLDIOM_UPLOAD_MAX_BYTES",
    "SOLDIOM_UPLOAD_QUOTA_BYTES",
    "SOLDIOM_ANSWER_DAYS",
    "SOLDIOM_OTLP_ENDPOINT",
    "SOLDIOM_OIDC",
    KEY_COMMAND,
)
"""Handed to jobs as they stand in the environment of whoever submits."""

KEPT_VARIABLES = (
    "SOLDIOM_STORAGE",
    "SOLDIOM_S3_ENDPOINT",
    "SOLDIOM_GITHUB_API_URL",
    "HF_ENDPOINT",
    "SOLDIOM_JUDGE_URL",
    "SOLDIOM_PRIVATE_HOSTS",
    "SOLDIOM_API_FOLDERS",
    "SOLDIOM_API_HOSTS",
    "SOLDIOM_UPLOAD_MAX_BYTES",
    "SOLDIOM_UPLOAD_QUOTA_BYTES",
    "SOLDIOM_ANSWER_DAYS",
    "SOLDIOM_OTLP_ENDPOINT",
    "SOLDIOM_OIDC",
    "SOLDIOM_RATE_LIMIT",
    KEY_COMMAND,
)
"""Those that `soldiom up` writes down for this home until `soldiom down`: they hold in other shells, too."""

NO_TOKEN = ""
"""`hf_token` of a tenant that may not use the home's: neither the token nor the copies in the Hub's local cache, among
which may be private ones."""

UPLOAD_MAX_BYTES = 512 << 20
UPLOAD_QUOTA_BYTES = 20 << 30
ANSWER_DAYS = 30
GITHUB_API_URL = "https://api.github.com"
HF_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process. `addresses` holds what `soldiom up` started, by service name."""

    home: Path
    storage: str
    database_url: str | None = field(repr=False)
    chroma_url: str | None
    mlflow_url: str | None
    ray_address: str | None
    dashboard_url: str | None
    s3_endpoint: str | None
    github_api_url: str
    github_tokens: tuple[str, ...] = field(repr=False)
    hf_endpoint: str
    hf_token: str | None = field(repr=False)
    judge_url: str | None
    """The OpenAI-compatible API that compares answers; private or not, every recipe may name its models."""
    judge_api_key: str | None = field(repr=False)
    """Sent to `judge_url` alone."""
    encryption_keys: tuple[bytes, ...] = field(repr=False)
    """The first seals, all open; none: nothing is sealed."""
    api_host: str
    api_port: int
    tls_cert: Path | None
    tls_key: Path | None
    oidc: Path | None
    """The file that describes whose logins are taken beside our own keys (`api.oidc.Provider`)."""
    rate_limit: str
    private_hosts: tuple[str, ...]
    """Host names, addresses and networks that sources of users may reach though they are private."""
    api_hosts: tuple[str, ...]
    """Names under which clients reach the API, besides this machine's own; `*.example.org` is every name below."""
    api_folders: tuple[Path, ...]
    """Folders of this machine that recipes sent through the API may name."""
    upload_max_bytes: int
    """Of one upload, all its files together."""
    upload_quota_bytes: int
    """Of all uploads that a tenant keeps."""
    answer_days: int
    """How long the API stores answers that nobody rated, with their questions; 0: it stores none."""
    otlp_endpoint: str | None
    """The collector that traces go to, over HTTP."""
    trace_parent: str | None
    """The span that started this process's job (W3C's `traceparent`)."""
    external: frozenset[str]
    """Names of the services (postgres, chroma, mlflow, ray) that the environment places elsewhere."""

    @property
    def api_url(self) -> str:
        """Where a program on this machine reaches the API."""
        host = "127.0.0.1" if self.api_host in ("0.0.0.0", "::") else self.api_host  # noqa: S104
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.api_port}"

    @property
    def run_folder(self) -> Path:
        """Addresses and process ids of the services of this home."""
        return self.home / "run"

    @property
    def keys_folder(self) -> Path:
        """Secrets of this home, mode 0700, files 0600."""
        return self.home / "keys"

    @property
    def secrets_path(self) -> Path:
        """Secrets of the environment, for the jobs of this home."""
        return self.keys_folder / "secrets.json"

    @property
    def ray_token_path(self) -> Path:
        """The token that every client of this home's Ray must show."""
        return self.keys_folder / "ray_token"

    @property
    def local_key_path(self) -> Path:
        """The admin key that the CLI of this home uses."""
        return self.keys_folder / "admin_key"


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of this home, whether it exists or not."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("SOLDIOM_HOME") or "~/.soldiom").expanduser().absolute()


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every setting; raise one `InputError` that names each wrong variable, its value and what it may be."""
    environ = os.environ if environ is None else environ
    home = home_folder(environ)
    variables = _Variables(environ, home)
    addresses = variables.addresses
    urls = variables.service_urls()
    settings = Settings(
        home=home,
        storage=variables.url("SOLDIOM_STORAGE", "file", "s3") or (home / "storage").as_uri(),
        database_url=urls["postgres"] or addresses.get("postgres"),
        chroma_url=urls["chroma"] or addresses.get("chroma"),
        mlflow_url=urls["mlflow"] or addresses.get("mlflow"),
        ray_address=addresses.get("ray") if urls["ray"] in (None, addresses.get("dashboard")) else urls["ray"],
        dashboard_url=urls["ray"] if (urls["ray"] or "").startswith("http") else addresses.get("dashboard"),
        s3_endpoint=variables.url("SOLDIOM_S3_ENDPOINT", "http", "https"),
        github_api_url=(variables.url("SOLDIOM_GITHUB_API_URL", "http", "https") or GITHUB_API_URL).rstrip("/"),
        github_tokens=variables.parts("SOLDIOM_GITHUB_TOKEN"),
        hf_endpoint=(variables.url("HF_ENDPOINT", "http", "https") or HF_ENDPOINT).rstrip("/"),
        hf_token=variables.text("HF_TOKEN"),
        judge_url=(variables.url("SOLDIOM_JUDGE_URL", "http", "https") or "").rstrip("/") or None,
        judge_api_key=variables.text("SOLDIOM_JUDGE_API_KEY"),
        encryption_keys=variables.encryption_keys(),
        api_host=variables.text("SOLDIOM_API_HOST") or addresses.get("api_host") or "127.0.0.1",
        api_port=variables.port("SOLDIOM_API_PORT", str(addresses.get("api_port", "8000"))),
        tls_cert=variables.file("SOLDIOM_TLS_CERT"),
        tls_key=variables.file("SOLDIOM_TLS_KEY"),
        oidc=variables.file("SOLDIOM_OIDC"),
        rate_limit=variables.rate_limit(),
        private_hosts=variables.hosts("SOLDIOM_PRIVATE_HOSTS"),
        api_hosts=variables.names("SOLDIOM_API_HOSTS"),
        api_folders=variables.folders("SOLDIOM_API_FOLDERS"),
        upload_max_bytes=variables.size("SOLDIOM_UPLOAD_MAX_BYTES", UPLOAD_MAX_BYTES),
        upload_quota_bytes=variables.size("SOLDIOM_UPLOAD_QUOTA_BYTES", UPLOAD_QUOTA_BYTES),
        answer_days=variables.days("SOLDIOM_ANSWER_DAYS", ANSWER_DAYS),
        otlp_endpoint=variables.url("SOLDIOM_OTLP_ENDPOINT", "http", "https"),
        trace_parent=variables.text("TRACEPARENT"),
        external=frozenset(name for name, url in urls.items() if url and url not in set(addresses.values())),
    )
    problems = variables.problems
    if (settings.tls_cert is None) != (settings.tls_key is None):
        problems.append(Problem("SOLDIOM_TLS_CERT", "and SOLDIOM_TLS_KEY belong together; only one of them is set"))
    if problems:
        raise InputError(
            "The environment holds settings that cannot be used.", remedy="correct or unset them", problems=problems
        )
    return settings


class _Variables:
    """The environment, and what this home has written down. Each reader returns a usable value and adds to `problems`
    what is wrong with the variable."""

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        self.environ = environ
        self.home = home
        self.addresses = read_json(home / "run" / "addresses.json")
        self.secrets = read_json(home / "keys" / "secrets.json")
        self.kept = read_json(home / "run" / "environment.json")
        self.problems: list[Problem] = []

    def text(self, name: str) -> str | None:
        """A variable; one that is not set, as this home keeps it."""
        value = (self.environ.get(name) or "").strip() or None
        kept = self.secrets if name in SECRET_VARIABLES else self.kept if name in KEPT_VARIABLES else {}
        return value or kept.get(name)

    def parts(self, name: str) -> tuple[str, ...]:
        """A list, separated by commas."""
        return tuple(part.strip() for part in (self.text(name) or "").split(",") if part.strip())

    def url(self, name: str, *schemes: str) -> str | None:
        """A URL with one of these schemes."""
        value = self.text(name)
        if value and urlsplit(value).scheme not in schemes:
            self._add(name, f"its scheme is {urlsplit(value).scheme!r}; known: {', '.join(schemes)}")
        return value

    def service_urls(self) -> dict[str, str | None]:
        """Where the environment places each service."""
        return {
            "postgres": self.url(
                "SOLDIOM_DATABASE_URL", "postgresql", "postgresql+psycopg", "mysql", "mysql+pymysql", "mariadb"
            ),
            "chroma": self.url("SOLDIOM_CHROMA_URL", "http", "https"),
            "mlflow": self.url("MLFLOW_TRACKING_URI", "http", "https"),
            "ray": self.text("RAY_ADDRESS"),
        }

    def file(self, name: str) -> Path | None:
        """The path of an existing file."""
        value = self.text(name)
        if value and not Path(value).is_file():
            self._add(name, f"no file at {value!r}")
        return Path(value) if value else None

    def names(self, name: str) -> tuple[str, ...]:
        """Host names in lower case, each also as `*.NAME` for all names below it."""
        names = tuple(part.lower() for part in self.parts(name))
        for each in names:
            if not re.fullmatch(r"(\*\.)?(?!-)[a-z0-9._-]{1,253}", each):
                self._add(name, f"holds {each!r}; write host names without a port: api.example.org, *.example.org")
        return names

    def folders(self, name: str) -> tuple[Path, ...]:
        """Absolute paths of folders. Those that do not exist yet are no mistake: a network drive may come later."""
        folders = self.parts(name)
        for folder in folders:
            path, home = Path(folder).resolve(), self.home.resolve()
            if not Path(folder).is_absolute() or path == Path("/"):
                self._add(name, f"holds {folder!r}; write absolute paths of folders, but not /")
            elif home.is_relative_to(path) or path.is_relative_to(home):
                self._add(name, f"holds {folder!r}, which opens the keys of this home ({home}); name other folders")
        return tuple(Path(folder) for folder in folders)

    def port(self, name: str, default: str) -> int:
        """A TCP port."""
        value = self.text(name) or default
        if value.isdecimal() and 0 < int(value) < 65536:
            return int(value)
        self._add(name, f"is {value!r}; it must be a number from 1 to 65535")
        return 0

    def size(self, name: str, default: int) -> int:
        """A number of bytes."""
        value = self.text(name) or str(default)
        if value.isdecimal() and len(value) < 19 and int(value):
            return int(value)
        self._add(name, f"is {value!r}; it must be a number of bytes, such as {default}")
        return default

    def days(self, name: str, default: int) -> int:
        """A number of days, perhaps 0."""
        value = self.text(name) or str(default)
        if value.isdecimal() and len(value) < 6:
            return int(value)
        self._add(name, f"is {value!r}; it must be a number of days, such as {default}, or 0")
        return default

    def encryption_keys(self) -> tuple[bytes, ...]:
        """Keys of 32 bytes: those of the environment, else those that its command prints, else those of this home."""
        name, text = "SOLDIOM_ENCRYPTION_KEY", self.environ.get("SOLDIOM_ENCRYPTION_KEY", "").strip()
        if not text and (command := self.text(KEY_COMMAND)):
            name = KEY_COMMAND
            try:
                text = _printed_keys(command)
            except InputError as error:
                self._add(name, error.what)
                return ()
        keys = [_key_bytes(part.strip()) for part in (text or self.text(name) or "").split(",") if part.strip()]
        if None in keys or len(set(keys)) < len(keys):
            remedy = "make one with `openssl rand -hex 32`"
            form = "must be 32 bytes written as 64 hex digits, or several such keys, separated by commas and each once"
            self._add(name, f"{form}: {remedy}")
        return tuple(key for key in keys if key)

    def rate_limit(self) -> str:
        """COUNT/PERIOD."""
        value = self.text("SOLDIOM_RATE_LIMIT") or "600/minute"
        count, _, period = value.partition("/")
        if not (count.isdecimal() and int(count) > 0 and period in ("second", "minute", "hour")):
            self._add("SOLDIOM_RATE_LIMIT", f"is {value!r}; write it as COUNT/second, COUNT/minute or COUNT/hour")
        return value

    def hosts(self, name: str) -> tuple[str, ...]:
        """Host names, addresses and networks, in lower case."""
        hosts = tuple(part.lower() for part in self.parts(name))
        for host in hosts:
            if not _is_host(host):
                self._add(
                    name,
                    f"holds {host!r}; write host names, addresses or networks such as db.example.org, 10.1.2.3,"
                    " 10.1.0.0/16",
                )
        return hosts

    def _add(self, name: str, message: str) -> None:
        self.problems.append(Problem(name, message))


def job_environment(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables a job needs to see the same settings, none of them secret."""
    environ = os.environ if environ is None else environ
    variables = {name: environ[name] for name in JOB_VARIABLES if environ.get(name)}
    return variables | {"SOLDIOM_HOME": str(settings.home)}


def keep_environment(settings: Settings, environ: Mapping[str, str] | None = None) -> None:
    """Write down what this environment sets for the home; what it does not set stays as an earlier one has."""
    environ = os.environ if environ is None else environ
    path = settings.run_folder / "environment.json"
    kept = read_json(path) | {name: environ[name] for name in KEPT_VARIABLES if environ.get(name)}
    write_private(path, json.dumps(kept, indent=2))


def forget_environment(settings: Settings) -> None:
    """The home is stopped: the next `up` begins from what its environment sets."""
    (settings.run_folder / "environment.json").unlink(missing_ok=True)


def save_secrets(
    settings: Settings, environ: Mapping[str, str] | None = None, *, forget: tuple[str, ...] = ()
) -> Settings:
    """Write the secrets of this environment where the jobs of this home read them (owner only); returns the settings as
    they are then. Those named in `forget` are dropped where this environment does not set them."""
    environ = os.environ if environ is None else environ
    secrets = {name: environ[name] for name in SECRET_VARIABLES if environ.get(name)}
    if environ.get(KEY_COMMAND):
        forget = (*forget, "SOLDIOM_ENCRYPTION_KEY")
    change_private_json(
        settings.secrets_path, lambda stored: {k: v for k, v in stored.items() if k not in forget} | secrets
    )
    return load_settings(environ)


def change_private_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change an owner-only JSON file, one process of this machine at a time, so that no change is lost."""
    stored = read_json(path)
    if change(stored) == stored:
        return
    with private_lock(path.with_name(".secrets.lock")):
        write_private(path, json.dumps(change(read_json(path))))


@contextmanager
def private_lock(path: Path) -> Iterator[None]:
    """Held by one process of this machine at a time, in an owner-only file; it ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def environment_value(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The value of a variable that a user names as the place of a secret. InputError when it is not set."""
    value = (os.environ if environ is None else environ).get(name, "")
    if not value:
        raise InputError(f"The environment variable {name[:60]!r} is not set.", remedy="set it in this shell")
    return value


def environment_of(home: Path) -> dict[str, str]:
    """This environment for a process of another home of this machine: without what belongs to this one."""
    own = ("SOLDIOM_", "RAY_", "MLFLOW_", "TRACEPARENT")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | {"SOLDIOM_HOME": str(home)}


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (0600, its folder 0700), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _is_host(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return re.fullmatch(r"(?!-)[a-z0-9._-]{1,253}", text) is not None
    return True


@lru_cache(4)
def _printed_keys(command: str) -> str:
    """What a command prints, run once in each process. InputError, without its output, where it fails."""
    try:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)  # noqa: S602
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        status = f"ended with {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else "failed"
        raise InputError(f"{status}; run it by hand to see why") from error
    if not done.stdout.strip():
        raise InputError("printed nothing; it must print the key")
    return done.stdout.strip()


def _key_bytes(text: str) -> bytes | None:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if len(key) == 32 else None


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file of the home; an empty one where there is no file."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy="delete it and run `soldiom up`") from error
    return dict(value)
