"""Addresses of databases and HTTP endpoints in recipes: checked, and read into their parts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from soldiom_ray.errors import InputError

BACKENDS = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
"""URL scheme -> database system."""
PORTS = {"postgresql": 5432, "mysql": 3306}
OPTIONS = ("sslmode", "socket")
"""Options allowed after "?" in a database's URL. Drivers know more, some of which name other hosts or local files."""
TLS_MODES = ("disable", "prefer", "require", "verify-full")


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A database's URL in parts. `backend` is postgresql, mysql or sqlite (`database` is then the file's path);
    `socket` is the path of a Unix socket (for PostgreSQL, of its folder), or ""."""

    backend: str
    host: str = ""
    port: int = 0
    user: str = ""
    database: str = ""
    sslmode: str = "prefer"
    socket: str = ""

    @property
    def public_url(self) -> str:
        """The address without user, password and options, for messages and provenance."""
        if self.backend == "sqlite":
            return f"sqlite://{self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.backend] else f":{self.port}"
        return f"{self.backend}://{host}{port}/{quote(self.database)}"

    @property
    def url(self) -> str:
        """The whole address without the password; `read_database_url` reads it back."""
        if self.backend == "sqlite":
            return f"sqlite://{self.database}"
        options = {"sslmode": self.sslmode if self.sslmode != "prefer" else "", "socket": self.socket}
        tail = urlencode({name: value for name, value in options.items() if value})
        scheme, _, remainder = self.public_url.partition("//")
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"{scheme}//{user}{remainder}{'?' if tail else ''}{tail}"


def read_database_url(url: str) -> tuple[DatabaseAddress, str | None]:
    """(parts, password) of a database's URL. Raises ValueError, without anything secret of the URL, when it is
    unusable."""
    if not url.isprintable() or " " in url:
        raise ValueError("`url` holds a space or a control character; write it as %20 or the like")
    scheme, separator, _ = url.partition("://")
    scheme = scheme.partition("+")[0]
    if separator and scheme == "sqlite":
        path = "/" + urlsplit(url).path.lstrip("/")
        if not urlsplit(url).path.startswith("/") or path == "/":
            raise ValueError("`url` names no file; write sqlite:///ABSOLUTE/PATH")
        return DatabaseAddress("sqlite", database=unquote(path)), None
    if not separator or scheme not in BACKENDS:
        raise ValueError(f"`url` must begin with {', '.join(f'{each}://' for each in BACKENDS)} or sqlite://")
    try:
        parts = urlsplit(url)
        port, host = parts.port, unquote(parts.hostname or "")
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("`url` cannot be read; write / : @ ? # in a password as %2F %3A %40 %3F %23") from None
    backend, database = BACKENDS[scheme], unquote(parts.path.removeprefix("/"))
    _check_database_parts(parts.fragment, options, host, database)
    return (
        DatabaseAddress(
            backend,
            host,
            port or PORTS[backend],
            unquote(parts.username or ""),
            database,
            options.get("sslmode", "prefer"),
            options.get("socket", ""),
        ),
        unquote(parts.password) if parts.password is not None else None,
    )


def _check_database_parts(fragment: str, options: Mapping[str, str], host: str, database: str) -> None:
    if fragment:
        raise ValueError("`url` holds a #; in a password write %23")
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"`url` has the option {unknown[0][:40]!r}; known: {', '.join(OPTIONS)}")
    if options.get("sslmode", "prefer") not in TLS_MODES:
        raise ValueError(f"`url` has an sslmode that is not known; known: {', '.join(TLS_MODES)}")
    socket = options.get("socket", "")
    if bool(socket) == bool(host) or (socket and not socket.startswith("/")):
        raise ValueError("`url` must name a host, or in its place ?socket=/ABSOLUTE/PATH")
    if any(character in host for character in "/,\\%\0") or host.startswith("-"):
        raise ValueError("`url` names a host that cannot be one")
    if not database or "\0" in database:
        raise ValueError("`url` names no database; write scheme://USER@HOST/DATABASE")


def with_password(url: str, password: str) -> str:
    """The URL with this password. Raises InputError when the URL is unusable."""
    try:
        address, _ = read_database_url(url)
    except ValueError as error:
        raise InputError(f"The database's address cannot be used: {error}.") from None
    if not address.user:
        raise InputError("A password needs a user.", remedy="write scheme://USER@HOST/DATABASE")
    user, at_sign, remainder = address.url.partition("@")
    return f"{user}:{quote(password, safe='')}{at_sign}{remainder}"


def check_database_url(url: str) -> None:
    """Raise ValueError when `read_database_url` would."""
    read_database_url(url)


SECRET_PARAMETERS = re.compile(
    r"(?:x-?(?:amz|goog|ms|oss|cos)-?)?(?:(?:access|auth|api|id|refresh|session|security|bearer|csrf|private|personal)?"
    r"token|(?:api|access|secret|subscription|auth|private|account|shared)?key(?:id)?|(?:client|app|api)?secret|sig(?:nature)?"
    r"|pass(?:word|wd|code|phrase)?|pwd|auth(?:orization)?|credentials?|jwt|sas|session(?:id)?|sid|hmac|awsaccesskeyid|code"
    r"|ticket|apikeyid)",
    re.IGNORECASE,
)
"""Names of query parameters, without hyphens and underscores, whose values open something: keys, tokens, signatures of
S3, Google, Azure and others."""


def public_address(url: str) -> str:
    """A URL without what opens something: user and password, and the values of secret query parameters."""
    return split_secrets(url)[0]


def split_secrets(url: str) -> tuple[str, dict[str, str], str]:
    """(URL with empty secret parameters and without user and password, values by parameter, "user:password")."""
    parts = urlsplit(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    secrets: dict[str, str] = {}
    pieces = []
    for piece in parts.query.split("&") if parts.query else ():
        name, equals, value = piece.partition("=")
        if equals and value and _is_secret_parameter(unquote(name)):
            secrets[unquote(name)] = unquote(value.replace("+", " "))
            piece = f"{name}="
        pieces.append(piece)
    return urlunsplit(parts._replace(netloc=host, query="&".join(pieces))), secrets, userinfo


def secret_parameters(url: str) -> list[str]:
    """Names of the secret parameters that a URL leaves empty."""
    pieces = [piece.partition("=") for piece in urlsplit(url).query.split("&")]
    return [
        unquote(name) for name, equals, value in pieces if equals and not value and _is_secret_parameter(unquote(name))
    ]


def with_secrets(url: str, values: Mapping[str, str]) -> str:
    """The URL with values in the empty secret parameters that they name."""
    parts, pieces = urlsplit(url), []
    for piece in parts.query.split("&"):
        name, equals, value = piece.partition("=")
        known = values.get(unquote(name)) if equals and not value and _is_secret_parameter(unquote(name)) else None
        pieces.append(piece if known is None else f"{name}={quote(known, safe='')}")
    return urlunsplit(parts._replace(query="&".join(pieces)))


def _is_secret_parameter(name: str) -> bool:
    return SECRET_PARAMETERS.fullmatch(re.sub(r"[-_.]", "", name)) is not None


def check_endpoint(url: str, *, userinfo: bool = False) -> None:
    """Raise ValueError unless this is an http or https URL with a host and, but for `userinfo`, without user and
    password."""
    if not url.isprintable() or not url.isascii() or any(character in url for character in ' "<>\\^`{|}'):
        raise ValueError("`url` holds a character that has to be written as %xx")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("`url` cannot be read as an address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("`url` must be http://HOST/PATH or https://HOST/PATH")
    if "@" in parts.netloc and not userinfo:
        raise ValueError("`url` holds a user or password; send them as a header (`headers`)")
    if parts.hostname.strip(".").rpartition(".")[2] == "" or "%" in parts.netloc.rpartition("@")[2]:
        raise ValueError("`url` names a host that cannot be one")


def origin_of(url: str) -> str:
    """Scheme, host and port of an endpoint, to which the secrets of its headers are bound."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
