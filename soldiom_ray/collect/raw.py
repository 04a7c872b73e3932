"""Raw bytes of what was collected, kept once by their hash, sealed when an encryption key is set. A document's `sha256`
is its file's; a part of a file (a row, a record) names its file's in `metadata.file_sha256`."""

import hashlib

from soldiom_ray.storage import Storage, raw_key

__all__ = ["raw_key", "store_raw"]


def store_raw(storage: Storage, data: bytes) -> str:
    """Keep bytes unless they are kept already; their SHA-256."""
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write_once(raw_key(sha256), data)
    return sha256
