"""Parsers run in a process of their own, with limits on time and memory, so that no file can stop a batch.

The process gets no environment (no secrets), no network and no write access, and one file at a time through a pipe.
When it dies or takes too long the file is counted as skipped, and the next file gets a new process.
"""

import json
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO, Any

from soldiom_ray.collect.documents.parsed import Attachment, ParsedText, ParseOptions
from soldiom_ray.collect.text import SkippedError

CPU_SECONDS = 45
WALL_SECONDS = 300.0
"""Much more than CPU_SECONDS, so that a file's outcome does not depend on how busy the machine is: this limit ends
parsers that only wait."""
LONGEST_SECONDS = 3600.0
MEMORY_BYTES = 2 << 30
MAX_REPLY_BYTES = 1 << 30
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    # One file, one core; and every thread, every arena of malloc and Arrow's own allocator reserve address space.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "TORCHINDUCTOR_CACHE_DIR": "/",  # importing transformers makes this folder, and nothing may be written
}
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from soldiom_ray.collect.documents.sandbox import serve; serve(*map(int, sys.argv[2:]))"
)
_DEATH_CAUSES = {
    -signal.SIGABRT: "it aborted, as it does when memory runs out",
    -signal.SIGKILL: "it was killed, as the system does when memory runs out",
    -signal.SIGSEGV: "a segmentation fault",
}


@dataclass
class Sandbox:
    """Parses files, one after the other; a context manager that ends its process. `wall_seconds` and `cpu_seconds`
    count from the start of a file or from its parser's last heartbeat; `longest_seconds` is the limit for a whole
    file."""

    wall_seconds: float = WALL_SECONDS
    cpu_seconds: int = CPU_SECONDS
    memory_bytes: int = MEMORY_BYTES
    longest_seconds: float = LONGEST_SECONDS
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def parse(self, name: str, data: bytes, options: ParseOptions | None = None) -> list[ParsedText]:
        """As `parse_bytes`, with three more reasons to skip a file: timeout, too_complex (memory) and crashed."""
        process = self.process if self.process and self.process.poll() is None else self._start()
        reply: _Reply | None = None
        try:
            reply = self._exchange(process, name, data, options or ParseOptions())
        except (BrokenPipeError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, BrokenPipeError):
                process.wait(5)
        finally:
            if reply is None or reply.reason == "too_complex":
                self.stop()
        if reply is None:
            raise SkippedError("crashed", f"the parser's process died on it{_death_cause(process)}")
        if reply.reason:
            raise SkippedError(reply.reason, reply.detail)
        return reply.texts

    def stop(self) -> None:
        """End the process."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self.process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.stop()
        arguments = [json.dumps(sys.path), str(self.cpu_seconds), str(self.memory_bytes)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
        )
        return self.process

    def _exchange(
        self, process: subprocess.Popen[bytes], name: str, data: bytes, options: ParseOptions
    ) -> "_Reply | None":
        if process.stdin is None or process.stdout is None:
            return None
        _send(process.stdin, json.dumps({"name": name, "options": asdict(options)}).encode())
        _send(process.stdin, data)
        body = self._receive_frame(process.stdout)
        blobs = self._receive_frame(process.stdout) if body else None
        if not body or blobs is None:
            process.wait(5)
            if process.returncode == -signal.SIGXCPU:
                raise SkippedError("timeout", f"more than {self.cpu_seconds} s of CPU")
            return None
        return _read_reply(json.loads(body), blobs)

    def _receive_frame(self, pipe: IO[bytes]) -> bytes | None:
        """The next frame; None at the end of the pipe. Heartbeats that precede it extend the deadline."""
        longest = time.monotonic() + self.longest_seconds
        while True:
            deadline = min(time.monotonic() + self.wall_seconds, longest)
            head = self._read(pipe, 8, deadline)
            if len(head) < 8:
                return None
            length = int.from_bytes(head, "big")
            if length == _HEARTBEAT:
                continue
            if length > MAX_REPLY_BYTES:
                raise SkippedError("too_large", f"its texts hold more than {MAX_REPLY_BYTES >> 20} MiB")
            body = self._read(pipe, length, deadline)
            return body if len(body) == length else None

    def _read(self, pipe: IO[bytes], count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SkippedError("timeout", f"more than {self.wall_seconds:g} s")
            part = pipe.raw.read(min(count, 1 << 20)) if hasattr(pipe, "raw") else pipe.read(count)
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


_HEARTBEAT = (1 << 64) - 1


@dataclass
class _Reply:
    texts: list[ParsedText] = field(default_factory=list)
    reason: str = ""
    detail: str = ""


def _read_reply(reply: dict[str, Any], blobs: bytes) -> _Reply:
    """A reply from its two frames: JSON, and the bytes of attachments and pictures. The process may have read a hostile
    file, so every value is converted, never trusted."""
    if "reason" in reply:
        return _Reply([], str(reply["reason"])[:40], str(reply["detail"])[:1000])
    texts, offset = [], 0
    for text, part, metadata, attachment_sizes, image_bytes in reply["texts"]:
        attachments = []
        for attachment_metadata, size in attachment_sizes:
            attachments.append(Attachment(blobs[offset : offset + size], dict(attachment_metadata)))
            offset += size
        image = blobs[offset : offset + image_bytes] if image_bytes else None
        offset += image_bytes
        texts.append(ParsedText(str(text), str(part), dict(metadata), tuple(attachments), image))
    return _Reply(texts)


def _death_cause(process: subprocess.Popen[bytes]) -> str:
    cause = _DEATH_CAUSES.get(process.returncode or 0)
    return f": {cause}" if cause else ""


def serve(cpu_seconds: int, memory_bytes: int) -> None:
    """The process's side: parse files until the pipe closes."""
    from soldiom_ray.collect.documents import progress
    from soldiom_ray.collect.documents.confine import confine, limit

    confine(memory_bytes)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr

    def heartbeat() -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_seconds)
        sink.write(_HEARTBEAT.to_bytes(8, "big"))
        sink.flush()

    progress.listen(heartbeat)
    while (request := _receive(source)) is not None and (data := _receive(source)) is not None:
        heartbeat()
        reply, blobs = _parse_request(json.loads(request), data, memory_bytes)
        _send(sink, reply)
        _send(sink, blobs)


def _parse_request(request: dict[str, Any], data: bytes, memory_bytes: int) -> tuple[bytes, bytes]:
    from soldiom_ray.collect.documents import parse_bytes

    try:
        texts = parse_bytes(request["name"], data, ParseOptions(**request["options"]))
        blobs = [blob for parsed in texts for blob in (*(a.data for a in parsed.attachments), parsed.image or b"")]
        described = [
            (t.text, t.part, t.metadata, [(a.metadata, len(a.data)) for a in t.attachments], len(t.image or b""))
            for t in texts
        ]
        return json.dumps({"texts": described}).encode(), b"".join(blobs)
    except SkippedError as skipped:
        reply = {"reason": skipped.reason, "detail": skipped.detail}
    except MemoryError:
        reply = {"reason": "too_complex", "detail": f"more than {memory_bytes >> 20} MiB of memory"}
    except Exception as error:
        reply = {"reason": "crashed", "detail": type(error).__name__}
    return json.dumps(reply).encode(), b""


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(8, "big"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(8)
    return pipe.read(int.from_bytes(head, "big")) if len(head) == 8 else None
