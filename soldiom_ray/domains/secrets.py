"""Secrets of the connections in a recipe: passwords in database URLs, values of HTTP headers, and what opens something
in the address of an endpoint (`?token=`, `?sig=`, user and password).

A secret never enters a stored recipe. It is kept in an owner-only file of the home, sealed when there is an encryption
key, under a reference that names whose it is and its destination, so that it is only ever sent to the destination it
was given for, and only for that user (the `keeper`: see `records.keeper_of`).
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from soldiom_ray.domains.connections import (
    DatabaseAddress,
    origin_of,
    read_database_url,
    secret_parameters,
    split_secrets,
    with_secrets,
)
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import Source
from soldiom_ray.errors import DamagedError, InputError
from soldiom_ray.sealing import is_sealed_text, seal_text, unseal_text
from soldiom_ray.settings import Settings, change_private_json, read_json

FILE = "connections.json"
"""Not the file of the environment's secrets, which holds the encryption key: a copy of this one alone opens nothing."""
EARLIER_ENTRY = "connections"
"""Where earlier versions kept these secrets in the file of the environment's, unsealed."""


def hide_secrets(settings: Settings, recipe: Recipe, keeper: str) -> Recipe:
    """The recipe without the secrets in its sources, which are stored for the jobs of this home."""
    secrets: dict[str, str] = {}
    sources = tuple(_move_secrets(source, keeper, secrets) for source in recipe.collect or ())
    if secrets:
        _save(settings, secrets)
    return recipe.model_copy(update={"collect": sources}) if recipe.collect else recipe


def password_of(settings: Settings, keeper: str, address: DatabaseAddress) -> str | None:
    """The stored password of this database and keeper."""
    return _secret(settings, _database_reference(keeper, address))


def headers_of(settings: Settings, keeper: str, url: str, names: Mapping[str, str]) -> dict[str, str]:
    """Headers with the values stored for this endpoint and keeper; a header without a value is left out."""
    values = {name: value or _secret(settings, _header_reference(keeper, url, name)) for name, value in names.items()}
    return {name: value for name, value in values.items() if value}


def address_of(settings: Settings, keeper: str, url: str) -> str:
    """An endpoint's URL with the values stored for its empty secret parameters and this keeper. InputError for one that
    has none: a parameter that is empty on purpose is left out of the address."""
    values = {name: _secret(settings, _parameter_reference(keeper, url, name)) for name in secret_parameters(url)}
    if missing := [name for name, value in values.items() if value is None]:
        raise InputError(
            f"No value is kept for the parameter {missing[0][:60]!r} of {origin_of(url)}.",
            remedy="give it in the address once; it is kept apart for you",
        )
    return with_secrets(url, {name: value for name, value in values.items() if value})


def _save(settings: Settings, secrets: Mapping[str, str]) -> None:
    """Keep secrets under their references, and with them whatever is not sealed yet."""
    earlier = dict(read_json(settings.secrets_path).get(EARLIER_ENTRY, {}))

    def merged(stored: dict[str, Any]) -> dict[str, Any]:
        unsealed = {key: value for key, value in stored.items() if not is_sealed_text(value)}
        plain = {key: value for key, value in earlier.items() if key not in stored} | unsealed | dict(secrets)
        return stored | {
            key: seal_text(value, _sealing_name(key), settings.encryption_keys) for key, value in plain.items()
        }

    change_private_json(settings.keys_folder / FILE, merged)
    change_private_json(settings.secrets_path, lambda stored: {k: v for k, v in stored.items() if k != EARLIER_ENTRY})


def reseal_secrets(settings: Settings) -> int:
    """Seal all kept secrets with the newest key; returns how many there are. InputError for one that does not open:
    nothing is changed then."""
    stored = read_json(settings.secrets_path).get(EARLIER_ENTRY, {}) | read_json(settings.keys_folder / FILE)
    _save(settings, {reference: _secret(settings, reference) or "" for reference in stored})
    return len(stored)


def _secret(settings: Settings, reference: str) -> str | None:
    """The secret that was saved under a reference."""
    stored = read_json(settings.secrets_path).get(EARLIER_ENTRY, {}) | read_json(settings.keys_folder / FILE)
    if not isinstance(value := stored.get(reference), str):
        return None
    if not is_sealed_text(value):  # kept before there was a key, in a file that its owner alone writes
        return value
    try:
        return unseal_text(value, _sealing_name(reference), settings.encryption_keys)
    except (DamagedError, InputError) as error:
        raise InputError(
            f"The secret that is kept for {reference.split(maxsplit=1)[1]} was sealed with another key.",
            remedy="set the SOLDIOM_ENCRYPTION_KEY of that time, or give the secret in the recipe once more",
        ) from error


def _sealing_name(reference: str) -> str:
    return f"connections/{reference}"


def _move_secrets(source: Source, keeper: str, secrets: dict[str, str]) -> Source:
    """The source without its secrets, which `secrets` then holds under their references."""
    if source.source == "database":
        address, password = read_database_url(source.url)
        if password:
            secrets[_database_reference(keeper, address)] = password
        return source.model_copy(update={"url": address.url})
    if source.source == "url":
        url, parameters, userinfo = split_secrets(source.url)
        for name, value in parameters.items():
            secrets[_parameter_reference(keeper, url, name)] = value
        headers = dict(source.headers)
        if userinfo and not any(name.lower() == "authorization" for name in headers):
            headers["Authorization"] = f"Basic {b64encode(unquote(userinfo).encode()).decode()}"
        for name, value in headers.items():
            if value:
                secrets[_header_reference(keeper, url, name)] = value
        return source.model_copy(update={"url": url, "headers": dict.fromkeys(headers, "")})
    return source


def _database_reference(keeper: str, address: DatabaseAddress) -> str:
    server = address.socket or f"{address.host.lower()}:{address.port}"
    return f"{keeper} {address.backend} {quote(address.user, safe='')}@{server}/{quote(address.database)}"


def _parameter_reference(keeper: str, url: str, name: str) -> str:
    return f"{keeper} parameter {origin_of(url)} {name}"


def _header_reference(keeper: str, url: str, name: str) -> str:
    return f"{keeper} header {origin_of(url)} {name.lower()}"
