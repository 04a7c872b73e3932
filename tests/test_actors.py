"""Passes of a stage over pieces of work, in this process and in a pool of actors on a real Ray."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from soldiom_ray import actors
from soldiom_ray.actors import Supply, Workers, map_in_order
from soldiom_ray.errors import CancelledError, InputError


def double(number: int) -> tuple[int, int]:
    return number * 2, os.getpid()


def numbers(results: list[tuple[int, int]]) -> list[int]:
    return [number for number, _ in results]


@pytest.mark.service
@pytest.mark.usefixtures("ray_cluster")
def test_passes_come_in_order_share_their_workers_and_end_with_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(passes=3) as workers:
        assert {pid for _, pid in workers.map_in_order(double, range(50))} == {os.getpid()}  # too little for a pool
        monkeypatch.setattr(actors, "START_SECONDS", 0.0)
        first = list(workers.map_in_order(double, range(8)))
        second = list(workers.map_in_order(double, range(8)))
        assert numbers(first) == numbers(second) == list(range(0, 16, 2))
        pids = {pid for _, pid in first[1:]}
        assert first[0][1] == os.getpid() and os.getpid() not in pids  # the first while the pool starts
        assert {pid for _, pid in second} <= pids or len(pids) == 1
        assert list(workers.map_in_order(double, [])) == []

        def refuse(number: int) -> int:
            if number == 3:
                raise InputError("number is 3.", remedy="give another")
            return number

        passed = []
        with pytest.raises(InputError, match="number is 3") as caught:
            passed.extend(workers.map_in_order(refuse, range(8)))
        assert caught.value.remedy == "give another"
        # More pieces than blocks are left, after a pass that did not end: another pool.
        third = list(workers.map_in_order(double, range(40)))
        assert numbers(third) == list(range(0, 80, 2)) and not pids & {pid for _, pid in third}
    for thread in threading.enumerate():
        if thread.name == "results":
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.service
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("tick_seconds", [0.1])
def test_a_tick_stops_a_pass_whose_pool_has_only_begun(monkeypatch: pytest.MonkeyPatch, tick_seconds: float) -> None:
    monkeypatch.setattr(actors, "START_SECONDS", 0.0)
    monkeypatch.setattr(actors, "TICK_SECONDS", tick_seconds)
    started = threading.Event()

    def cancel() -> None:
        if started.is_set():
            raise CancelledError("stop")
        started.set()

    def wait(_: int) -> None:
        threading.Event().wait(1.5)

    with pytest.raises(CancelledError):
        list(map_in_order(wait, range(20), cancel))


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
