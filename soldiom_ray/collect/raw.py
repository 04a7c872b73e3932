"""Raw bytes of collected files, stored once under their hash and sealed when an encryption key is set. A document's
`sha256` is its file's; a part of a file (a row, a record) names its file's in `metadata.file_sha256`."""

import hashlib

from soldiom_ray.storage import Storage, raw_key

__all__ = ["raw_key", "store_raw"]


def store_raw(storage: Storage, data: bytes) -> str:
    """Store bytes unless they are stored already; returns their SHA-256."""
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write_once(raw_key(sha256), data)
    return sha256
