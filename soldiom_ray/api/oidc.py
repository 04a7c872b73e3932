"""Logins of an OpenID Connect provider beside our own keys: a bearer token (a JWT) that it has signed names the caller.

Tokens are signed with RS256 or ES256, by a key of the issuer's set that the token's `kid` names; issuer, audience and
expiry have to be there and right. The set is read again for a `kid` that it lacks, so that the issuer may rotate its
keys, but at most every REFRESH_SECONDS: strangers' tokens cost it no request each.
"""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, model_validator

from soldiom_ray.errors import DeniedError, InputError, Problem, UnauthenticatedError, UnavailableError
from soldiom_ray.records import ROLES, Record
from soldiom_ray.settings import HOME_TENANT

ALGORITHMS = ("RS256", "ES256")
LEEWAY_SECONDS = 60
REFRESH_SECONDS = 30.0
OLDEST_SECONDS = 3600.0
"""After so long the set is read again in any case: a key that the issuer has withdrawn is no longer taken."""
TOLD_PER_MINUTE = 30
FETCH_SECONDS, SET_BYTES, TOKEN_CHARACTERS = 5.0, 1 << 20, 16_384


class Login(Record):
    """How the console lets a person log in at the provider: the authorization code flow with PKCE, of a public client
    (one without a secret) whose redirect address is the console's."""

    client: str = Field(min_length=1)
    authorization_endpoint: str = Field(min_length=1)
    token_endpoint: str = Field(min_length=1)
    """The provider's addresses (https, or http on this machine). The second must answer the console's origin (CORS)."""
    scope: str = Field("openid", min_length=1)
    """What is asked for, separated by spaces: enough that the access token is for `audience` and has `role_claim`."""

    @model_validator(mode="after")
    def _is_safe(self) -> "Login":
        for address in (self.authorization_endpoint, self.token_endpoint):
            if not _is_safe_address(address) or any(letter in address for letter in "\"'; ,"):
                raise ValueError("the endpoints are https:// addresses, or http:// ones of this machine")
        return self

    @property
    def origin(self) -> str:
        """Where tokens are fetched."""
        address = urlsplit(self.token_endpoint)
        return f"{address.scheme}://{address.netloc}"


class Provider(Record):
    """The file that SOLDIOM_OIDC names. `roles` maps values of the claim `role_claim` to ours; who has several gets the
    highest, who has none is let in nowhere."""

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks: str = Field(min_length=1)
    """The address of the issuer's key set (https, or http on this machine), or a file with it."""
    role_claim: str = "roles"
    roles: dict[str, Literal["viewer", "user", "trainer", "admin"]] = Field(min_length=1)
    tenant: str = Field(HOME_TENANT, min_length=1, max_length=64)
    login: Login | None = None

    @model_validator(mode="after")
    def _keys_come_safely(self) -> "Provider":
        if not (_is_safe_address(self.jwks) or Path(self.jwks).is_absolute()):
            raise ValueError("`jwks` is an https:// address, an http:// one of this machine, or the path of a file")
        return self


def read_provider(path: Path) -> Provider:
    """The provider of a file. InputError that names each mistake."""
    try:
        return Provider.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        problems = [Problem(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors(include_input=False)]
        raise InputError(
            f"SOLDIOM_OIDC ({path}) cannot be used.", remedy="correct the file", problems=problems
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"SOLDIOM_OIDC ({path}) cannot be read: {type(error).__name__}.", remedy="correct it"
        ) from error


class Issuer:
    """Checks tokens of one provider. Thread-safe."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._lock = threading.Lock()
        self._keys: Any = None
        self._read_at = self._tried_at = self._minute = float("-inf")
        self._told = 0

    def identify(self, token: str) -> tuple[str, str, str]:
        """(id, name, role) of whom a token names. Errors of `subject_of`, and DeniedError for one without a role
        here."""
        subject, name, role = self.subject_of(token)
        if role is None:
            raise DeniedError(
                f"None of the roles in the token's claim {self.provider.role_claim!r} has one here.",
                remedy="whoever runs the server maps roles in the file of SOLDIOM_OIDC",
            )
        return subject, name, role

    def subject_of(self, token: str) -> tuple[str, str, str | None]:
        """(id, name, role or None) of whom a token names. UnauthenticatedError for a token that is not good,
        UnavailableError while the issuer's keys cannot be read."""
        claims = self._claims(token)
        subject = str(claims["sub"])
        digest = hashlib.sha256(f"{self.provider.issuer}\n{subject}".encode()).hexdigest()
        name = str(claims.get("preferred_username") or claims.get("email") or subject)
        return f"oidc-{digest[:32]}", name[:100], self._role(claims.get(self.provider.role_claim))

    def is_told(self) -> bool:
        """Whether this refusal is one of the first of its minute, which the audit trail has: whoever sends what is no
        token may not fill it."""
        with self._lock:
            now = time.monotonic()
            if now - self._minute >= 60:
                self._minute, self._told = now, 0
            self._told += 1
            return self._told <= TOLD_PER_MINUTE

    def _claims(self, token: str) -> Mapping[str, Any]:
        from joserfc import jws, jwt
        from joserfc.errors import JoseError

        if len(token) > TOKEN_CHARACTERS:
            raise _refused("it is too long")
        try:
            kid = jws.extract_compact(token.encode("ascii")).headers().get("kid")
            if not isinstance(kid, str):
                raise _refused("it names no key (`kid`)")
            claims = jwt.decode(token, self._keys_with(kid), algorithms=ALGORITHMS).claims
            registry = jwt.JWTClaimsRegistry(
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": self.provider.issuer},
                aud={"essential": True, "value": self.provider.audience},
                sub={"essential": True},
                exp={"essential": True},
            )
            registry.validate(claims)
        except JoseError as error:
            raise _refused(error.error.replace("_", " ")) from error
        except (ValueError, TypeError, KeyError) as error:  # what is no token at all
            raise _refused("it is no signed token") from error
        return claims

    def _role(self, values: Any) -> str | None:
        listed = values if isinstance(values, list) else str(values).split() if values else []
        held = {self.provider.roles[each] for each in listed if isinstance(each, str) and each in self.provider.roles}
        return max(held, key=ROLES.index, default=None)

    def _keys_with(self, kid: str) -> Any:
        """The issuer's keys, read again where they are old or lack this one."""
        with self._lock:
            now = time.monotonic()
            is_old = now - self._read_at > OLDEST_SECONDS
            lacks = self._keys is None or all(key.kid != kid for key in self._keys.keys)
            if (is_old or lacks) and (self._keys is None or now - self._tried_at > REFRESH_SECONDS):
                self._tried_at = now
                self._read_keys(now)
            if self._keys is None or now - self._read_at > OLDEST_SECONDS + REFRESH_SECONDS:
                raise UnavailableError("The keys of the login's issuer cannot be read.", remedy="try again")
            return self._keys

    def _read_keys(self, now: float) -> None:
        from joserfc.jwk import KeySet

        try:
            found = KeySet.import_key_set(json.loads(_read(self.provider.jwks)))
        except Exception as error:  # whatever a stranger's server sends; the earlier keys hold on for a while
            if self._keys is None:
                raise UnavailableError(
                    f"The keys of the login's issuer cannot be read: {type(error).__name__}.", remedy="try again"
                ) from error
            return
        self._keys, self._read_at = found, now


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"The token is not good: {why}.", remedy="log in again")


def _read(place: str) -> bytes:
    """The bytes of a key set. Redirects are not followed."""
    if not place.startswith(("https://", "http://")):
        return Path(place).read_bytes()
    import httpx

    with httpx.Client(timeout=FETCH_SECONDS, trust_env=False) as client, client.stream("GET", place) as response:
        response.raise_for_status()
        if response.status_code != 200:
            raise ValueError("the issuer's server did not send its keys")
        read = b""
        for part in response.iter_bytes():
            read += part
            if len(read) > SET_BYTES:
                raise ValueError("the key set is too large")
        return read


def _is_safe_address(text: str) -> bool:
    """Whether nobody on the way can read or change what comes from there."""
    address = urlsplit(text)
    is_local = address.hostname == "localhost" or _is_loopback(address.hostname)
    return (address.scheme == "https" and bool(address.netloc)) or (address.scheme == "http" and is_local)


def _is_loopback(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False
