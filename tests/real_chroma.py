"""A Chroma server of a test's own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest


class Chroma:
    """On a folder; on a port that is named or found."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--host", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--path", str(folder)],
            env=os.environ | {"ANONYMIZED_TELEMETRY": "FALSE"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.url}/api/v2/heartbeat", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail("Chroma did not start")

    def stop(self) -> None:
        """It waits for connections that clients keep open, so not for long."""
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait(20)
