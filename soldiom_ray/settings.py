"""The environment becomes one frozen `Settings`; nothing else in the package reads it.

Precedence: a variable that is set; then what `soldiom up` wrote down for this home (`run/addresses.json`, the
addresses of the services it started, and `keys/secrets.json`, secrets handed on to jobs); then the default.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soldiom_ray.errors import InputError, Problem

SECRET_VARIABLES = ("SOLDIOM_GITHUB_TOKEN", "HF_TOKEN", "SOLDIOM_ENCRYPTION_KEY", "SOLDIOM_DATABASE_URL")
"""Handed to jobs through an owner-only file, never through a job's visible environment. A database URL may hold a
password."""

JOB_VARIABLES = (
    "SOLDIOM_HOME",
    "SOLDIOM_STORAGE",
    "SOLDIOM_S3_ENDPOINT",
    "SOLDIOM_CHROMA_URL",
    "MLFLOW_TRACKING_URI",
    "SOLDIOM_GITHUB_API_URL",
    "HF_ENDPOINT",
    "SOLDIOM_API_HOST",
    "SOLDIOM_API_PORT",
    "SOLDIOM_PRIVATE_HOSTS",
    "SOLDIOM_UPLOAD_MAX_BYTES",
    "SOLDIOM_UPLOAD_QUOTA_BYTES",
)
"""Handed to jobs as they stand in the environment of whoever submits."""

UPLOAD_MAX_BYTES = 512 << 20
UPLOAD_QUOTA_BYTES = 20 << 30
_NO_HOST = "holds {!r}; write host names, addresses or networks such as db.example.org, 10.1.2.3, 10.1.0.0/16"


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
    encryption_key: bytes | None = field(repr=False)
    api_host: str
    api_port: int
    tls_cert: Path | None
    tls_key: Path | None
    rate_limit: str
    private_hosts: tuple[str, ...]
    """Host names, addresses and networks that sources of users may reach though they are private."""
    upload_max_bytes: int
    """Of one upload, all its files together."""
    upload_quota_bytes: int
    """Of all uploads that a tenant keeps."""
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
    def ray_token_path(self) -> Path:
        """The token that every client of this home's Ray must show."""
        return self.keys_folder / "ray_token"

    @property
    def local_key_path(self) -> Path:
        """The admin key that the CLI of this home uses."""
        return self.keys_folder / "admin_key"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every setting; raise one `InputError` that names each wrong variable, its value and what it may be."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("SOLDIOM_HOME") or "~/.soldiom").expanduser().absolute()
    addresses = _read_json(home / "run" / "addresses.json")
    secrets = _read_json(home / "keys" / "secrets.json")
    problems: list[Problem] = []

    def text(name: str) -> str | None:
        return (environ.get(name) or "").strip() or None

    def secret(name: str) -> str | None:
        return text(name) or secrets.get(name)

    def url(name: str, schemes: tuple[str, ...]) -> str | None:
        value = secret(name) if name in SECRET_VARIABLES else text(name)
        if value and urlsplit(value).scheme not in schemes:
            problems.append(Problem(name, f"its scheme is {urlsplit(value).scheme!r}; known: {', '.join(schemes)}"))
        return value

    def path(name: str) -> Path | None:
        value = text(name)
        if value and not Path(value).is_file():
            problems.append(Problem(name, f"no file at {value!r}"))
        return Path(value) if value else None

    storage = url("SOLDIOM_STORAGE", ("file", "s3")) or (home / "storage").as_uri()
    database_url = url(
        "SOLDIOM_DATABASE_URL", ("postgresql", "postgresql+psycopg", "mysql", "mysql+pymysql", "mariadb")
    )
    chroma_url = url("SOLDIOM_CHROMA_URL", ("http", "https"))
    mlflow_url = url("MLFLOW_TRACKING_URI", ("http", "https"))
    ray_address = text("RAY_ADDRESS")
    given = {"postgres": database_url, "chroma": chroma_url, "mlflow": mlflow_url, "ray": ray_address}
    own = set(addresses.values())
    external = frozenset(name for name, value in given.items() if value and value not in own)

    port_text = text("SOLDIOM_API_PORT") or str(addresses.get("api_port", "8000"))
    if not (port_text.isdecimal() and 0 < int(port_text) < 65536):
        problems.append(Problem("SOLDIOM_API_PORT", f"is {port_text!r}; it must be a number from 1 to 65535"))
    key = None
    key_text = secret("SOLDIOM_ENCRYPTION_KEY")
    if key_text:
        key = _key_bytes(key_text)
        if key is None:
            problems.append(
                Problem(
                    "SOLDIOM_ENCRYPTION_KEY",
                    "must be 32 bytes written as 64 hex digits: make one with `openssl rand -hex 32`",
                )
            )
    tls_cert, tls_key = path("SOLDIOM_TLS_CERT"), path("SOLDIOM_TLS_KEY")
    if (tls_cert is None) != (tls_key is None):
        problems.append(Problem("SOLDIOM_TLS_CERT", "and SOLDIOM_TLS_KEY belong together; only one of them is set"))
    rate_limit = text("SOLDIOM_RATE_LIMIT") or "600/minute"
    count, _, period = rate_limit.partition("/")
    if not (count.isdecimal() and int(count) > 0 and period in ("second", "minute", "hour")):
        problems.append(
            Problem("SOLDIOM_RATE_LIMIT", f"is {rate_limit!r}; write it as COUNT/second, COUNT/minute or COUNT/hour")
        )
    private_hosts = tuple(
        part.strip().lower() for part in (text("SOLDIOM_PRIVATE_HOSTS") or "").split(",") if part.strip()
    )
    problems.extend(
        Problem("SOLDIOM_PRIVATE_HOSTS", _NO_HOST.format(host)) for host in private_hosts if not _is_host(host)
    )

    def size(name: str, default: int) -> int:
        value = text(name) or str(default)
        if not (value.isdecimal() and 0 < len(value) < 19 and int(value)):
            problems.append(Problem(name, f"is {value!r}; it must be a number of bytes, such as {default}"))
            return default
        return int(value)

    upload_max_bytes = size("SOLDIOM_UPLOAD_MAX_BYTES", UPLOAD_MAX_BYTES)
    upload_quota_bytes = size("SOLDIOM_UPLOAD_QUOTA_BYTES", UPLOAD_QUOTA_BYTES)
    github_api_url = url("SOLDIOM_GITHUB_API_URL", ("http", "https")) or "https://api.github.com"
    hf_endpoint = url("HF_ENDPOINT", ("http", "https")) or "https://huggingface.co"
    if problems:
        raise InputError(
            "The environment holds settings that cannot be used.", remedy="correct or unset them", problems=problems
        )
    return Settings(
        home=home,
        storage=storage,
        database_url=database_url or addresses.get("postgres"),
        chroma_url=chroma_url or addresses.get("chroma"),
        mlflow_url=mlflow_url or addresses.get("mlflow"),
        ray_address=addresses.get("ray") if ray_address in (None, addresses.get("dashboard")) else ray_address,
        dashboard_url=ray_address if ray_address and ray_address.startswith("http") else addresses.get("dashboard"),
        s3_endpoint=url("SOLDIOM_S3_ENDPOINT", ("http", "https")),
        github_api_url=github_api_url.rstrip("/"),
        github_tokens=tuple(t.strip() for t in (secret("SOLDIOM_GITHUB_TOKEN") or "").split(",") if t.strip()),
        hf_endpoint=hf_endpoint.rstrip("/"),
        hf_token=secret("HF_TOKEN"),
        encryption_key=key,
        api_host=text("SOLDIOM_API_HOST") or addresses.get("api_host") or "127.0.0.1",
        api_port=int(port_text),
        tls_cert=tls_cert,
        tls_key=tls_key,
        rate_limit=rate_limit,
        private_hosts=private_hosts,
        upload_max_bytes=upload_max_bytes,
        upload_quota_bytes=upload_quota_bytes,
        external=external,
    )


def job_environment(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables a job needs to see the same settings, none of them secret."""
    environ = os.environ if environ is None else environ
    variables = {name: environ[name] for name in JOB_VARIABLES if environ.get(name)}
    return variables | {"SOLDIOM_HOME": str(settings.home)}


def keep_secrets(
    settings: Settings, environ: Mapping[str, str] | None = None, *, forget: tuple[str, ...] = ()
) -> Settings:
    """Write the secrets of this environment where the jobs of this home read them (owner only); the settings that
    follow. Those named in `forget` are dropped where this environment does not set them."""
    environ = os.environ if environ is None else environ
    found = {name: environ[name] for name in SECRET_VARIABLES if environ.get(name)}
    _change_secrets(settings, lambda known: {k: v for k, v in known.items() if k not in forget} | found)
    return load_settings(environ)


def keep_connection_secrets(settings: Settings, secrets: Mapping[str, str]) -> None:
    """Keep secrets of collected databases and endpoints beside those of the environment, each under its reference."""
    _change_secrets(settings, lambda known: known | {"connections": known.get("connections", {}) | dict(secrets)})


def connection_secret(settings: Settings, reference: str) -> str | None:
    """What was kept under a reference."""
    value = _read_json(settings.keys_folder / "secrets.json").get("connections", {}).get(reference)
    return value if isinstance(value, str) else None


def _change_secrets(settings: Settings, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """One change at a time, over all processes of this machine: none is lost."""
    path = settings.keys_folder / "secrets.json"
    known = _read_json(path)
    if change(known) == known:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path.with_name(".secrets.lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_private(path, json.dumps(change(_read_json(path))))


def environment_value(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The value of a variable that a user names as the place of a secret. InputError when it is not set."""
    value = (os.environ if environ is None else environ).get(name, "")
    if not value:
        raise InputError(f"The environment variable {name[:60]!r} is not set.", remedy="set it in this shell")
    return value


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (0600, its folder 0700), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _is_host(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return re.fullmatch(r"(?!-)[a-z0-9._-]{1,253}", text) is not None
    return True


def _key_bytes(text: str) -> bytes | None:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if len(key) == 32 else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy="delete it and run `soldiom up`") from error
    return dict(value)
