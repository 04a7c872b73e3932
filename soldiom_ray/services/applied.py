"""The settings with which a home runs, and what has changed since: a variable that is set to something else on a
running home takes effect with the next `up`, and is refused where it would split the home in two.

Values are stored as keyed hashes: some are secret."""

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from soldiom_ray.errors import ConflictError
from soldiom_ray.settings import Settings, write_private

NEEDS_DOWN = ("SOLDIOM_TLS_CERT", "SOLDIOM_TLS_KEY")
"""Serve's listener takes these when it starts, and keeps them."""
SHARED = ("SOLDIOM_STORAGE", "SOLDIOM_S3_ENDPOINT", "SOLDIOM_ENCRYPTION_KEY", "SOLDIOM_DATABASE_URL")
"""A job with another one of these would write where the API does not look, or what it cannot read."""


def remember(settings: Settings) -> None:
    """Note the settings with which `up` has started this home."""
    salt = secrets.token_hex(16)
    write_private(_path(settings), json.dumps({"salt": salt, "values": _values(settings, salt)}))


def forget(settings: Settings) -> None:
    """The home is stopped: whatever is set next takes effect."""
    _path(settings).unlink(missing_ok=True)


def changes(settings: Settings) -> list[str]:
    """Variables whose value is another one than that with which the home was started; none where it was not."""
    try:
        stored = json.loads(_path(settings).read_text())
        values, salt = dict(stored["values"]), str(stored["salt"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(name for name, value in _values(settings, salt).items() if values.get(name, value) != value)


def check_up(settings: Settings) -> None:
    """ConflictError for a change that a running home cannot take."""
    if fixed := [name for name in changes(settings) if name in NEEDS_DOWN]:
        raise ConflictError(
            f"{' and '.join(fixed)} changed, which the running API cannot take over.",
            remedy="run `soldiom down`, then `soldiom up`",
        )


def check_job(settings: Settings) -> None:
    """ConflictError for a setting of this shell with which a job would not see what the running services see."""
    if other := [name for name in changes(settings) if name in SHARED]:
        raise ConflictError(
            f"{' and '.join(other)} is not what this home runs with: its API would not see what the job makes.",
            remedy=f"unset {' '.join(other)}, or run `soldiom up` here: the running home then takes it over",
        )


def _values(settings: Settings, salt: str) -> dict[str, str]:
    values: dict[str, object] = {
        "SOLDIOM_STORAGE": settings.storage,
        "SOLDIOM_S3_ENDPOINT": settings.s3_endpoint,
        "SOLDIOM_ENCRYPTION_KEY": ",".join(key.hex() for key in settings.encryption_keys) or None,
        "SOLDIOM_DATABASE_URL": settings.database_url if "postgres" in settings.external else None,
        "SOLDIOM_CHROMA_URL": settings.chroma_url if "chroma" in settings.external else None,
        "MLFLOW_TRACKING_URI": settings.mlflow_url if "mlflow" in settings.external else None,
        "SOLDIOM_GITHUB_API_URL": settings.github_api_url,
        "SOLDIOM_GITHUB_TOKEN": settings.github_tokens,
        "HF_ENDPOINT": settings.hf_endpoint,
        "HF_TOKEN": settings.hf_token,
        "SOLDIOM_JUDGE_URL": settings.judge_url,
        "SOLDIOM_JUDGE_API_KEY": settings.judge_api_key,
        "SOLDIOM_TLS_CERT": settings.tls_cert,
        "SOLDIOM_TLS_KEY": settings.tls_key,
        "SOLDIOM_OIDC": settings.oidc,
        "SOLDIOM_RATE_LIMIT": settings.rate_limit,
        "SOLDIOM_PRIVATE_HOSTS": settings.private_hosts,
        "SOLDIOM_API_HOSTS": settings.api_hosts,
        "SOLDIOM_API_FOLDERS": settings.api_folders,
        "SOLDIOM_UPLOAD_MAX_BYTES": settings.upload_max_bytes,
        "SOLDIOM_UPLOAD_QUOTA_BYTES": settings.upload_quota_bytes,
        "SOLDIOM_ANSWER_DAYS": settings.answer_days,
        "SOLDIOM_OTLP_ENDPOINT": settings.otlp_endpoint,
    }
    return {
        name: hmac.new(salt.encode(), str(value).encode(), hashlib.sha256).hexdigest() for name, value in values.items()
    }


def _path(settings: Settings) -> Path:
    return settings.run_folder / "applied.json"
