"""The list to go through before a home is open to others, as far as a program can: `soldiom doctor --production`.

The edge in front of the API is looked at from outside, by its public address, where one is given."""

import http.client
import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from soldiom_ray.errors import InputError
from soldiom_ray.records import now
from soldiom_ray.services.addresses import Addresses, load_addresses
from soldiom_ray.services.backup import last_backup
from soldiom_ray.services.diagnosis import Finding, finding, is_loopback, listening, purpose_of
from soldiom_ray.services.http import get
from soldiom_ray.settings import Settings

BACKUP_DAYS = 2
CERTIFICATE_DAYS = 14
LEAST_PASSWORD = 12
KNOWN_PASSWORDS = {"postgres", "password", "soldiom", "changeme", "secret", "admin", "minioadmin", "root", "test"}
EDGE = "put cluster/edge/Caddyfile in front of it, see docs/deploy.md"


def check_production(settings: Settings, url: str = "") -> list[Finding]:
    """One finding per point of the list, as those of `doctor`. InputError for a `url` that is no https address."""
    checks: tuple[Callable[[Settings], Iterable[Finding]], ...] = (
        _key, _passwords, _api, _names, _ports, _ray_token, _plain_services, _backups,
    )  # fmt: skip
    return [*(each for check in checks for each in check(settings)), *_edge(url)]


def _key(settings: Settings) -> Iterator[Finding]:
    keys, name = settings.encryption_keys, "production: encryption key"
    make = 'export SOLDIOM_ENCRYPTION_KEY="$(openssl rand -hex 32)" before anything is stored; keep a copy elsewhere'
    if not keys:
        yield finding(name, "error", "SOLDIOM_ENCRYPTION_KEY is not set: what is stored lies open", make)
    elif len(set(keys[0])) < 8:
        yield finding(name, "error", "SOLDIOM_ENCRYPTION_KEY is a pattern, not a random number", make)
    else:
        yield finding(name, "ok", "objects, texts of users and backups are sealed")


def _passwords(settings: Settings) -> Iterator[Finding]:
    if "postgres" not in settings.external:
        yield finding("production: passwords", "ok", "the database is behind a socket that only its owner may enter")
        return
    parts = urlsplit(settings.database_url or "")
    password = unquote(parts.password or "")
    weak = password.lower() in KNOWN_PASSWORDS or password == parts.username or len(password) < LEAST_PASSWORD
    if weak and parts.hostname:
        detail = f"the password of SOLDIOM_DATABASE_URL is missing, a usual one, or shorter than {LEAST_PASSWORD}"
        yield finding("production: passwords", "error", detail, "give its user one of `openssl rand -hex 32`")
    else:
        yield finding("production: passwords", "ok", "SOLDIOM_DATABASE_URL has a password of its own")


def _api(settings: Settings) -> Iterator[Finding]:
    """Whether keys cross a network in the clear."""
    name = "production: https"
    if settings.tls_cert:
        yield from _certificate_file(settings)
    elif is_loopback_name(settings.api_host):
        yield finding(name, "ok", f"the API listens on {settings.api_host} alone, for an edge with HTTPS to reach it")
    elif "ray" in settings.external:
        detail = f"the API listens on {settings.api_host} without HTTPS: the network of the nodes must end at the edge"
        yield finding(name, "warning", detail, "let the edge alone reach it, as compose.yaml and network.yaml do")
    else:
        detail = f"the API listens on {settings.api_host} without HTTPS: keys cross the network in the clear"
        yield finding(name, "error", detail, f"leave SOLDIOM_API_HOST out, and {EDGE}")


def _certificate_file(settings: Settings) -> Iterator[Finding]:
    from cryptography import x509

    if settings.tls_cert is None:
        return
    try:
        certificate = x509.load_pem_x509_certificate(settings.tls_cert.read_bytes())
    except (OSError, ValueError) as error:
        detail = f"{settings.tls_cert} is no certificate: {error}"
        yield finding("production: https", "error", detail, "SOLDIOM_TLS_CERT names a PEM file")
        return
    yield _expiry("production: https", f"SOLDIOM_TLS_CERT ({settings.tls_cert})", certificate.not_valid_after_utc)


def _expiry(name: str, what: str, end: datetime) -> Finding:
    days = (end - now()).days
    state = "error" if end < now() else "warning" if days < CERTIFICATE_DAYS else "ok"
    return finding(name, state, f"{what} is valid until {end:%Y-%m-%d}", "" if state == "ok" else "renew it")


def _names(settings: Settings) -> Iterator[Finding]:
    """Names under which browsers may call: those whose pages are the operator's own."""
    name = "production: names"
    if wide := [each for each in settings.api_hosts if each.startswith("*.")]:
        detail = f"pages of every name below {', '.join(wide)} may call the API from a browser"
        yield finding(name, "warning", detail, "list single names in SOLDIOM_API_HOSTS")
    elif settings.api_hosts:
        yield finding(name, "ok", f"SOLDIOM_API_HOSTS lists {', '.join(settings.api_hosts)}; no star")
    else:
        detail = "SOLDIOM_API_HOSTS is empty: the API answers under addresses and this machine's name only"
        yield finding(name, "warning", detail, "SOLDIOM_API_HOSTS=api.example.org")


def _ports(settings: Settings) -> Iterator[Finding]:
    own = {port for port, host in listening(settings) if not is_loopback(host) and port != settings.api_port}
    if open_ports := sorted(port for port in own if not purpose_of(settings, port)[1]):
        named = ", ".join(f"{port} ({purpose_of(settings, port)[0]})" for port in open_ports)
        yield finding("production: ports", "error", f"others reach without a key: {named}", "close them to others")
    else:
        detail = "what others could reach asks for a key" if own else "nothing but the API listens for others"
        yield finding("production: ports", "ok", detail)


def _ray_token(settings: Settings) -> Iterator[Finding]:
    name = "production: Ray's token"
    address = (load_addresses(settings) or Addresses()).dashboard if settings.dashboard_url else ""
    answer = get(f"{settings.dashboard_url or address}/api/jobs/") if address or settings.dashboard_url else None
    if answer is None or not answer.status:
        yield finding(name, "warning", "Ray does not answer, so this was not looked at", "run `soldiom up`")
    elif answer.status == 401:
        yield finding(name, "ok", "Ray takes no job without its token")
    else:
        detail = "Ray takes jobs from everybody who reaches it: any code, on every node"
        yield finding(name, "error", detail, "start its nodes with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN")


def _plain_services(settings: Settings) -> Iterator[Finding]:
    """Services elsewhere whose bytes cross a public network unencrypted."""
    urls = {
        "SOLDIOM_CHROMA_URL": settings.chroma_url,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "SOLDIOM_S3_ENDPOINT": settings.s3_endpoint,
    }
    plain = [name for name, url in urls.items() if url and url.startswith("http://") and not _is_inside(url)]
    if plain:
        detail = f"{', '.join(plain)} cross a network in the clear"
        yield finding("production: services elsewhere", "error", detail, "use https, or a private network")
    else:
        yield finding("production: services elsewhere", "ok", "they are private, or reached by https")


def _is_inside(url: str) -> bool:
    """Whether an address is private, or a name that only a network of one's own knows."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".internal", ".local", ".svc", ".lan"))


def _backups(settings: Settings) -> Iterator[Finding]:
    name, done = "production: backups", last_backup(settings)
    remedy = f"run `soldiom backup FOLDER` every night, and keep what it writes on another machine ({BACKUP_DAYS} days)"
    if not done:
        yield finding(name, "error", "this home was never copied", remedy)
        return
    age = now() - datetime.fromisoformat(str(done["at"]))
    state = "ok" if age < timedelta(days=BACKUP_DAYS) else "error"
    yield finding(name, state, f"the last one was written {done['at'][:16]}Z", "" if state == "ok" else remedy)


def _edge(url: str) -> Iterator[Finding]:
    """What the public address shows to everybody."""
    name = "production: edge"
    if not url:
        yield finding(name, "warning", "not looked at", "add --url https://api.example.org")
        return
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise InputError(f"--url is {url!r}.", remedy="give the public address, such as https://api.example.org")
    host, port = parts.hostname, parts.port or 443
    try:
        status, headers, end = _ask(host, port, "/healthz")
    except (OSError, http.client.HTTPException) as error:
        yield finding(name, "error", f"{url} cannot be asked: {error}", EDGE)
        return
    yield finding(name, "ok" if status == 200 else "error", f"/healthz of {url} answers {status}", "")
    yield _expiry("production: certificate", f"that of {host}", end)
    age = re.search(r"max-age=(\d+)", headers.get("strict-transport-security", ""))
    lasting = age is not None and int(age[1]) >= 86400 * 180
    detail = "browsers keep to https (HSTS)" if lasting else "browsers are not told to keep to https for half a year"
    yield finding("production: HSTS", "ok" if lasting else "error", detail, "" if lasting else EDGE)
    counts, _, _ = _ask(host, port, "/metrics")
    state = "ok" if counts in (401, 403, 404) else "error"
    remedy = "" if state == "ok" else EDGE
    yield finding("production: metrics", state, f"/metrics answers strangers with {counts}", remedy)
    foreign, seen, _ = _ask(host, port, "/healthz", {"Origin": "https://elsewhere.example.com"})
    allowed = seen.get("access-control-allow-origin")
    detail = f"may read: {allowed}" if allowed else f"may not read (its call was answered with {foreign})"
    detail = f"a page of another site {detail}"
    yield finding("production: CORS", "error" if allowed else "ok", detail, "list single names" if allowed else "")


def _ask(
    host: str, port: int, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], datetime]:
    """Status, headers in lower case, and the end of a certificate that is checked."""
    connection = http.client.HTTPSConnection(host, port, timeout=15, context=ssl.create_default_context())
    try:
        connection.request("GET", path, headers=headers or {})
        certificate = connection.sock.getpeercert() or {}
        answer = connection.getresponse()
        end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, end
    finally:
        connection.close()


def is_loopback_name(host: str) -> bool:
    """Whether what listens under this name or address is reached from this machine alone."""
    try:
        return is_loopback(host)
    except ValueError:
        return host == "localhost"
