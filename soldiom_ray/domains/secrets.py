"""Secrets of the connections in a recipe: passwords in database URLs, values of HTTP headers, and what opens something
in the address of an endpoint (`?token=`, `?sig=`, user and password).

A secret never enters a stored recipe. It is kept in the home's owner-only secrets file under a reference that names
tenant and destination, so that it is only ever sent to the destination it was given for, and only for that tenant.
"""

from base64 import b64encode
from collections.abc import Mapping
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
from soldiom_ray.errors import InputError
from soldiom_ray.settings import Settings, connection_secret, save_connection_secrets


def hide_secrets(settings: Settings, recipe: Recipe, tenant: str) -> Recipe:
    """The recipe without the secrets in its sources, which are stored for the jobs of this home."""
    secrets: dict[str, str] = {}
    sources = tuple(_move_secrets(source, tenant, secrets) for source in recipe.collect or ())
    if secrets:
        save_connection_secrets(settings, secrets)
    return recipe.model_copy(update={"collect": sources}) if recipe.collect else recipe


def password_of(settings: Settings, tenant: str, address: DatabaseAddress) -> str | None:
    """The stored password of this database and tenant."""
    return connection_secret(settings, _database_reference(tenant, address))


def headers_of(settings: Settings, tenant: str, url: str, names: Mapping[str, str]) -> dict[str, str]:
    """Headers with the values stored for this endpoint and tenant; a header without a value is left out."""
    values = {
        name: value or connection_secret(settings, _header_reference(tenant, url, name))
        for name, value in names.items()
    }
    return {name: value for name, value in values.items() if value}


def address_of(settings: Settings, tenant: str, url: str) -> str:
    """An endpoint's URL with the values stored for its empty secret parameters and this tenant. InputError for one that
    has none: a parameter that is empty on purpose is left out of the address."""
    values = {
        name: connection_secret(settings, _parameter_reference(tenant, url, name)) for name in secret_parameters(url)
    }
    if missing := [name for name, value in values.items() if value is None]:
        raise InputError(
            f"No value is kept for the parameter {missing[0][:60]!r} of {origin_of(url)}.",
            remedy="give it in the address once; it is kept apart for this tenant",
        )
    return with_secrets(url, {name: value for name, value in values.items() if value})


def _move_secrets(source: Source, tenant: str, secrets: dict[str, str]) -> Source:
    """The source without its secrets, which `secrets` then holds under their references."""
    if source.source == "database":
        address, password = read_database_url(source.url)
        if password:
            secrets[_database_reference(tenant, address)] = password
        return source.model_copy(update={"url": address.url})
    if source.source == "url":
        url, parameters, userinfo = split_secrets(source.url)
        for name, value in parameters.items():
            secrets[_parameter_reference(tenant, url, name)] = value
        headers = dict(source.headers)
        if userinfo and not any(name.lower() == "authorization" for name in headers):
            headers["Authorization"] = f"Basic {b64encode(unquote(userinfo).encode()).decode()}"
        for name, value in headers.items():
            if value:
                secrets[_header_reference(tenant, url, name)] = value
        return source.model_copy(update={"url": url, "headers": dict.fromkeys(headers, "")})
    return source


def _database_reference(tenant: str, address: DatabaseAddress) -> str:
    server = address.socket or f"{address.host.lower()}:{address.port}"
    return f"{tenant} {address.backend} {quote(address.user, safe='')}@{server}/{quote(address.database)}"


def _parameter_reference(tenant: str, url: str, name: str) -> str:
    return f"{tenant} parameter {origin_of(url)} {name}"


def _header_reference(tenant: str, url: str, name: str) -> str:
    return f"{tenant} header {origin_of(url)} {name.lower()}"
