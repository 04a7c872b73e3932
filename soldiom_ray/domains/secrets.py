"""Secrets of the connections in a recipe: passwords in database URLs and values of HTTP headers.

A secret never enters a stored recipe. It is kept in the home's owner-only secrets file under a reference that names
tenant and destination, so that it is only ever sent to the destination it was given for, and only for that tenant.
"""

from collections.abc import Mapping
from urllib.parse import quote

from soldiom_ray.domains.connections import DatabaseAddress, origin_of, read_database_url
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.domains.sources import Source
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


def _move_secrets(source: Source, tenant: str, secrets: dict[str, str]) -> Source:
    """The source without its secrets, which `secrets` then holds under their references."""
    if source.source == "database":
        address, password = read_database_url(source.url)
        if password:
            secrets[_database_reference(tenant, address)] = password
        return source.model_copy(update={"url": address.url})
    if source.source == "url" and source.headers:
        for name, value in source.headers.items():
            if value:
                secrets[_header_reference(tenant, source.url, name)] = value
        return source.model_copy(update={"headers": dict.fromkeys(source.headers, "")})
    return source


def _database_reference(tenant: str, address: DatabaseAddress) -> str:
    server = address.socket or f"{address.host.lower()}:{address.port}"
    return f"{tenant} {address.backend} {quote(address.user, safe='')}@{server}/{quote(address.database)}"


def _header_reference(tenant: str, url: str, name: str) -> str:
    return f"{tenant} header {origin_of(url)} {name.lower()}"
