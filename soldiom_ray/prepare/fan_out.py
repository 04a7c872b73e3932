"""The same function over many pieces of work: as Ray tasks when this process is connected to Ray, else here."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from soldiom_ray.errors import SoldiomError

Result = TypeVar("Result")

IN_FLIGHT_PER_CPU = 2
"""Pieces handed out ahead of the results taken back: enough to keep every CPU busy, and a bound on memory."""


def fan_out(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], shared: tuple[Any, ...] = ()
) -> Iterator[Result]:
    """`function(*shared, *call)` for every call, in their order. Closing the iterator cancels what still runs."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        yield from (function(*shared, *call) for call in calls)
        return
    from ray.exceptions import RayTaskError

    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    kept = [ray.put(value) for value in shared]
    limit = IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running = [remote.remote(*kept, *call) for call in calls[:limit]]
    following = limit
    try:
        while running:
            try:
                result = ray.get(running[0])
            except RayTaskError as error:
                if isinstance(error.cause, SoldiomError):
                    raise error.cause from None
                raise
            running.pop(0)
            if following < len(calls):
                running.append(remote.remote(*kept, *calls[following]))
                following += 1
            yield result
    finally:
        for reference in running:
            ray.cancel(reference)
