"""A real, empty MariaDB for one test module."""

import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 60.0


@contextmanager
def mariadb() -> Iterator[str]:
    """Its URL (user root without a password, over TCP). Skips the test where no server is installed."""
    install, serve = shutil.which("mariadb-install-db"), shutil.which("mariadbd") or shutil.which("/usr/sbin/mariadbd")
    if not install or not serve:
        pytest.skip("no mariadbd is installed (Debian: apt-get install mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="sldm-my-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        user = [f"--user={getpass.getuser()}"]
        made = [install, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal"]
        subprocess.run([*made, "--skip-test-db", *user], check=True, capture_output=True, timeout=120)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        begun = [serve, "--no-defaults", f"--datadir={folder / 'data'}", f"--socket={folder / 's'}", *user]
        begun += [f"--port={port}", "--bind-address=127.0.0.1", "--skip-log-bin", "--innodb-buffer-pool-size=64M"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([*begun, f"--pid-file={folder / 'pid'}"], stdout=log, stderr=log)
        try:
            _wait(port, server, folder / "log")
            yield f"mysql://root@127.0.0.1:{port}/mysql"
        finally:
            server.terminate()
            server.wait(30)


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    import pymysql

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=2).close()
            return
        except pymysql.MySQLError:
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail(f"mariadbd did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
