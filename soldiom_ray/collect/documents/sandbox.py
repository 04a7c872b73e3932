"""Parsers run in a process of their own, with limits on time and memory, so that no file stops a batch.

The process gets no environment (no secrets) and one file at a time through a pipe. When it dies or takes too long the
file is counted, and the next file gets a new process.
"""

import json
import resource
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from soldiom_ray.collect.documents.parsed import ParsedText
from soldiom_ray.collect.text import LeftOut

WALL_SECONDS = 60.0
CPU_SECONDS = 45
MEMORY_BYTES = 2 << 30
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from soldiom_ray.collect.documents.sandbox import serve; serve(*map(int, sys.argv[2:]))"
)


@dataclass
class Sandbox:
    """Parses files, one after the other; a context manager that ends its process."""

    wall_seconds: float = WALL_SECONDS
    cpu_seconds: int = CPU_SECONDS
    memory_bytes: int = MEMORY_BYTES
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def parse(self, name: str, data: bytes) -> list[ParsedText]:
        """As `parse_bytes`, with the outcomes timeout, too_complex (memory) and crashed besides."""
        process = self.process if self.process and self.process.poll() is None else self._start()
        answer = None
        try:
            answer = self._ask(process, name, data)
        except BrokenPipeError:
            pass
        finally:
            if answer is None:
                self.stop()
        if answer is None:
            raise LeftOut("crashed", "the parser's process died on it")
        if "outcome" in answer:
            raise LeftOut(answer["outcome"], answer["why"])
        return [ParsedText(text, part, metadata) for text, part, metadata in answer["texts"]]

    def stop(self) -> None:
        """End the process."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.stop()
        arguments = [json.dumps(sys.path), str(self.cpu_seconds), str(self.memory_bytes)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LANG": "C.UTF-8"},
        )
        return self.process

    def _ask(self, process: subprocess.Popen[bytes], name: str, data: bytes) -> dict[str, Any] | None:
        if process.stdin is None or process.stdout is None:
            return None
        _send(process.stdin, name.encode())
        _send(process.stdin, data)
        deadline = time.monotonic() + self.wall_seconds
        head = self._read(process.stdout, 8, deadline)
        body = self._read(process.stdout, int.from_bytes(head, "big"), deadline) if len(head) == 8 else b""
        if not body:
            process.wait(5)
            if process.returncode == -24:  # SIGXCPU
                raise LeftOut("timeout", f"more than {self.cpu_seconds} s of CPU")
            return None
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _read(self, pipe: IO[bytes], count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise LeftOut("timeout", f"more than {self.wall_seconds:g} s")
            part = pipe.raw.read(min(count, 1 << 20)) if hasattr(pipe, "raw") else pipe.read(count)
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def serve(cpu_seconds: int, memory_bytes: int) -> None:
    """The process's side: answer files until the pipe closes."""
    from soldiom_ray.collect.documents import parse_bytes

    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    while (name := _receive(source)) is not None and (data := _receive(source)) is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_seconds)
        answer: dict[str, Any]
        try:
            texts = [(parsed.text, parsed.part, parsed.metadata) for parsed in parse_bytes(name.decode(), data)]
            answer = {"texts": texts}
        except LeftOut as left:
            answer = {"outcome": left.outcome, "why": left.why}
        except MemoryError:
            answer = {"outcome": "too_complex", "why": f"more than {memory_bytes >> 20} MiB of memory"}
        except Exception as error:
            answer = {"outcome": "crashed", "why": type(error).__name__}
        _send(sink, json.dumps(answer).encode())


def _limit(what: int, value: int) -> None:
    """Set the soft limit, which may rise again; the hard limit stays as it was given to us."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(8, "big"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(8)
    return pipe.read(int.from_bytes(head, "big")) if len(head) == 8 else None
