"""One limiter for each account of a server, shared by all workers and jobs of a cluster through one named Ray actor,
and by all callers of a process without Ray.

How a server counts is in its source's folder: `github/account_limiter.py`, `huggingface/window_limiter.py`.
"""

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

ACTOR = "soldiom-limiter"
MAX_CONCURRENT_CALLS = 128
"""A call may block for some seconds, so that nobody has to poll for a turn."""

_ATTEMPTS = 5
_FIRST_RETRY_SECONDS = 0.2
Limiter = TypeVar("Limiter")


class Limiters:
    """What the actor holds: limiters by name, each made at its first call."""

    def __init__(self) -> None:
        self._limiters: dict[str, Any] = {}
        self._lock = threading.Lock()

    def limiter(self, name: str, make: Callable[[], Limiter]) -> Limiter:
        """The limiter of this name."""
        with self._lock:
            if name not in self._limiters:
                self._limiters[name] = make()
            return cast(Limiter, self._limiters[name])

    def call(self, name: str, make: Callable[[], Any], method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of a limiter."""
        return getattr(self.limiter(name, make), method)(*arguments)


def open_limiter(name: str, make: Callable[[], Limiter], scope: str) -> Limiter:
    """The limiter of this name: shared by the cluster when Ray is connected, else by the callers of this process
    with the same scope. `make` is pickled for the actor, so it is a class or a `partial` of one."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return cast(Limiter, _RemoteLimiter(name, make))
    return _local.limiter(f"{scope} {name}", make)


class _RemoteLimiter:
    """Forwards calls of a limiter's methods to the actor. When the job that started the actor ends, the next caller
    starts it again, and its limiters read the penalties that they stored; a detached actor would stay forever."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self._name = name
        self._make = make
        self._handle: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return (_RemoteLimiter, (self._name, self._make))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        for attempt in range(_ATTEMPTS):
            try:
                if self._handle is None:
                    self._handle = (
                        ray.remote(num_cpus=0)(Limiters)
                        .options(
                            name=ACTOR,
                            namespace="soldiom",
                            get_if_exists=True,
                            max_concurrency=MAX_CONCURRENT_CALLS,
                        )
                        .remote()
                    )
                return ray.get(self._handle.call.remote(self._name, self._make, method, arguments))
            except ray.exceptions.ActorDiedError:
                self._handle = None
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_FIRST_RETRY_SECONDS * 2**attempt)
        return None


_local = Limiters()
