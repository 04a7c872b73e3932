"""What hands pieces of work to a pool of actors and takes their results; the pool itself is tried on clusters, by
tests/test_prepare_nodes.py and tests/test_collect_kills.py."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from soldiom_ray import actors
from soldiom_ray.actors import Supply, map_in_order
from soldiom_ray.errors import InputError


def double(number: int) -> tuple[int, int]:
    return number * 2, os.getpid()


def numbers(results: list[tuple[int, int]]) -> list[int]:
    return [number for number, _ in results]


def test_pieces_wait_for_their_pass_and_the_same_number_gives_the_same_piece_again() -> None:
    async def passes() -> None:
        supply = Supply()
        early = asyncio.create_task(supply.piece(2))  # of the second pass, asked for by a worker that has nothing to do
        await supply.add(["f"], [b"a", b"b"])
        assert await supply.piece(1) == (["f"], b"b") and await supply.piece(1) == (["f"], b"b")
        assert not early.done()
        await supply.add(["g"], [b"c"])
        assert await early == (["g"], b"c") and await supply.piece(0) is None
        last = asyncio.create_task(supply.piece(3))
        await supply.end()
        assert await last is None and await supply.piece(2) == (["g"], b"c")

    asyncio.run(passes())


def test_a_result_that_does_not_come_is_waited_for_with_ticks_and_an_error_arrives() -> None:
    release, ticks = threading.Event(), []

    def values() -> Iterator[int]:
        yield 1
        release.wait(10)
        raise InputError("number is 2.", remedy="give another")

    fetched = actors._Fetched(values())
    assert fetched.take(lambda: None) == 1
    assert not fetched.wait(0.05, lambda: None)

    def tick() -> None:
        ticks.append(1)
        release.set()

    with pytest.raises(InputError, match="number is 2"):
        fetched.take(tick)
    assert ticks == [1]


def test_without_ray_everything_is_done_here() -> None:
    ticks: list[int] = []
    tick: Callable[[], None] = lambda: ticks.append(1)  # noqa: E731
    assert numbers(list(map_in_order(double, range(4), tick))) == [0, 2, 4, 6] and not ticks
