"""API keys: `sld_<prefix>_<secret>`. The prefix finds the row, the SHA-256 of the whole key decides."""

import hashlib
import hmac
import re
import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from soldiom_ray.db.pages import newest_first
from soldiom_ray.db.tables import ApiKey
from soldiom_ray.errors import InputError, NotFoundError
from soldiom_ray.records import ROLES, now
from soldiom_ray.settings import HOME_TENANT

LOGIN = re.compile(r"oidc-[0-9a-f]{32}")
"""The user of a login's subject; see `api.oidc`."""


def create(
    session: Session, role: str, name: str, tenant: str = HOME_TENANT, user: str | None = None
) -> tuple[ApiKey, str]:
    """Create a key: its row, and the key itself, which is stored nowhere and cannot be shown again. It stands for a
    user of its own, or for the one of another key (`user`: that key's id, or the `owner` of what a login's subject
    made). NotFoundError for one that the tenant does not have."""
    if role not in ROLES:
        raise InputError(f"No role {role!r}.", remedy=f"use one of {', '.join(ROLES)}")
    prefix = secrets.token_hex(4)
    secret_key = f"sld_{prefix}_{secrets.token_urlsafe(32)}"
    owner = _user(session, user, tenant) if user else None
    row = ApiKey(tenant=tenant, name=name, role=role, prefix=prefix, key_hash=_hash(secret_key), owner=owner)
    session.add(row)
    session.flush()
    return row, secret_key


def _user(session: Session, user: str, tenant: str) -> str:
    return user if LOGIN.fullmatch(user) else user_of(get(session, user, tenant))


def user_of(row: ApiKey) -> str:
    """The user that a key stands for: owner of what is made with it."""
    return row.owner or row.id


def find(session: Session, secret_key: str) -> ApiKey | None:
    """The row of a valid key, or None."""
    parts = secret_key.split("_", 2)
    if len(parts) != 3 or parts[0] != "sld" or not (parts[1].isascii() and parts[1].isalnum()):
        return None
    row = session.scalars(select(ApiKey).where(ApiKey.prefix == parts[1])).one_or_none()
    if row is None or not hmac.compare_digest(row.key_hash, _hash(secret_key)) or row.revoked_at is not None:
        return None
    if row.last_used_at is None or now() - row.last_used_at > timedelta(minutes=1):
        row.last_used_at = now()
    return row


def get(session: Session, key_id: str, tenant: str | None = None) -> ApiKey:
    """The key's row; NotFoundError when there is none or it is another tenant's."""
    query = select(ApiKey).where(ApiKey.id == key_id)
    if tenant is not None:
        query = query.where(ApiKey.tenant == tenant)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotFoundError(f"No key {key_id!r}.", remedy="list them with `soldiom keys list`")
    return row


def list_keys(
    session: Session, tenant: str | None = None, cursor: str | None = None, limit: int = 50
) -> tuple[list[ApiKey], str | None]:
    """A page of keys, revoked ones too, newest first, and the cursor of the next page."""
    query = select(ApiKey)
    if tenant is not None:
        query = query.where(ApiKey.tenant == tenant)
    return newest_first(session, query, ApiKey.id, cursor or None, limit)


def revoke(session: Session, key_id: str, tenant: str | None = None) -> ApiKey:
    """Revoke a key: it is refused from the end of this transaction on."""
    row = get(session, key_id, tenant)
    row.revoked_at = row.revoked_at or now()
    session.flush()
    return row


def as_dict(row: ApiKey) -> dict[str, Any]:
    """The key as the API and the CLI show it, without anything that grants access."""
    shown: dict[str, Any] = {name: getattr(row, name) for name in ("id", "name", "role", "prefix", "tenant")}
    shown["user"] = user_of(row)
    for name in ("created_at", "revoked_at", "last_used_at"):
        time = getattr(row, name)
        shown[name] = time.isoformat() if time else None
    return shown


def _hash(secret_key: str) -> str:
    return hashlib.sha256(secret_key.encode("utf-8", "surrogateescape")).hexdigest()
