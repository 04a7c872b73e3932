"""Limits: nothing is sent during a penalty, tokens of one account share one budget, waits are bounded and told."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import MODEL, documents_of, make_context
from crawling import crawl, look
from stand_in import Repository, Secondary, StandIn

from soldiom_ray.collect.github import account_limiter
from soldiom_ray.collect.github.account_limiter import DOWNLOAD, AccountLimiter, seconds_to_reset
from soldiom_ray.collect.github.accounts import Accounts, learn_owners
from soldiom_ray.collect.github.api import GithubApi
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.settings import Settings

FILES = {"model.py": MODEL}
SLOW_DOWN = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class PenaltiesInMemory:
    """Penalties in memory."""

    def __init__(self) -> None:
        self.penalties: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        return self.penalties

    def write(self, penalties: dict[str, Any]) -> None:
        self.penalties = penalties


def rate_limit(limit: int, remaining: int, reset: float, **more: str) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset": str(reset),
    } | more


@pytest.mark.parametrize("status", [403, 429])
def test_a_limit_with_retry_after_is_waited_for_by_everybody(server: StandIn, tmp_path: Path, status: int) -> None:
    server.add(Repository("a/b", FILES))
    server.fail("/git/trees", status, message=SLOW_DOWN, headers={"Retry-After": "2"}, silent_seconds=1.9)
    started, messages = time.monotonic(), []
    crawl(server, tmp_path, messages=messages)
    assert time.monotonic() - started >= 2 and server.sins == 0


@pytest.mark.parametrize("status", [403, 429])
def test_a_secondary_limit_without_a_word_on_time_is_waited_out(
    server: StandIn, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert account_limiter.SECONDARY_SECONDS == 60
    monkeypatch.setattr(account_limiter, "SECONDARY_SECONDS", 1.0)
    server.add(Repository("a/b", FILES))
    server.fail("/git/trees", status, times=2, message=SLOW_DOWN, silent_seconds=0.9)
    started = time.monotonic()
    crawl(server, tmp_path)
    assert time.monotonic() - started >= 3 and server.sins == 0


def test_a_server_that_trips_in_all_four_ways_is_never_asked_during_a_penalty(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_limiter, "SECONDARY_SECONDS", 0.6)
    server.add(*(Repository(f"a/r{n}", FILES) for n in range(20)))
    server.github.secondary = Secondary(most=9, window_seconds=5.0, silent_seconds=0.5)
    context, manifest = crawl(server, tmp_path)
    assert len(documents_of(context, manifest)) == 20
    assert server.github.secondary.tripped >= 4 and server.sins == 0


def test_many_workers_ask_one_after_the_other_and_stop_together(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_limiter, "SECONDARY_SECONDS", 0.6)
    server.add(*(Repository(f"a/r{n}", FILES) for n in range(24)))
    tasks = look(server, tmp_path).list_tasks(lambda share, message: None).tasks
    server.github.secondary = Secondary(most=10, window_seconds=5.0, silent_seconds=0.5)
    results: list[int] = []

    def work(mine: list[Any]) -> None:
        results.extend(len(task.run().documents) for task in mine)

    workers = [threading.Thread(target=work, args=(list(tasks[n::6]),)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [1] * 24 and server.github.secondary.tripped >= 2
    assert server.sins == 0 and server.most_at_once == 1


def test_a_service_that_is_away_for_a_told_time_is_left_alone(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES))
    server.fail("/tarball/", 503, headers={"Retry-After": "1"}, silent_seconds=0.95)
    crawl(server, tmp_path)
    assert server.sins == 0


def test_an_exhausted_token_waits_for_its_reset_and_the_other_goes_on(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", FILES) for n in range(6)))
    server.github.limits["core"] = (7, 3.0)
    crawl(server, tmp_path, tokens="one,two")
    used = {r.headers["authorization"].split()[1] for r in server.requests("^/repos")}
    assert len(used) == 2 and len(server.requests("^/archive")) == 6
    assert server.github.exhausted_requests == 0


def test_tokens_of_one_account_share_its_budget(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", FILES) for n in range(6)))
    server.github.accounts = {"one": 77, "two": 77}
    server.github.limits["core"] = (7, 2.0)
    crawl(server, tmp_path, tokens="one,two")
    assert server.github.exhausted_requests == 0 and len(server.requests("^/user")) == 2


def test_the_account_of_a_token_is_asked_once_and_a_mute_one_counts_by_itself(server: StandIn, tmp_path: Path) -> None:
    server.github.accounts = {"one": 77, "two": 77}
    server.github.mute = {"app"}
    settings = make_context(tmp_path, SOLDIOM_GITHUB_API_URL=server.url, SOLDIOM_GITHUB_TOKEN="one,two,app").settings

    def ask(one_token: Settings) -> str:
        return GithubApi(one_token, Accounts(one_token), lambda message: None).account()

    owners = learn_owners(settings, ask)
    assert owners[0] == owners[1] != owners[2] and learn_owners(settings, ask) == owners
    assert len(server.requests("^/user")) == 3 and len(Accounts(settings, owners).limiters) == 2


def test_a_refused_token_is_told_before_anything_is_searched(server: StandIn, tmp_path: Path) -> None:
    server.fail("^/user", 401, message="Bad credentials")
    with pytest.raises(InputError, match="SOLDIOM_GITHUB_TOKEN"):
        crawl(server, tmp_path)
    assert not server.requests("^/search")


@pytest.mark.parametrize("asked", ["86400", "Wed, 25 Nov 2099 00:00:00 GMT"])
def test_a_limit_that_lasts_too_long_is_told_and_not_waited_for(server: StandIn, tmp_path: Path, asked: str) -> None:
    server.add(Repository("a/b", FILES))
    server.fail("/git/trees", 429, times=9, message="slow down", headers={"Retry-After": asked})
    with pytest.raises(UnavailableError, match=asked):
        crawl(server, tmp_path)
    before = len(server.log)
    with pytest.raises(UnavailableError, match="rate limit"):
        crawl(server, tmp_path)
    assert len(server.log) == before, "the penalty is remembered"


def test_the_wait_is_told_with_its_seconds(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES))
    server.fail("/git/trees", 429, message=SLOW_DOWN, headers={"Retry-After": "4"})
    messages: list[str] = []
    crawl(server, tmp_path, messages=messages)
    assert any("GitHub's limit for core: 5 s to wait" in message for message in messages)


def test_a_servers_clock_that_is_ahead_makes_no_longer_wait(server: StandIn, tmp_path: Path) -> None:
    server.clock_ahead_seconds = 600.0
    server.add(*(Repository(f"a/r{n}", FILES) for n in range(4)))
    server.github.limits["core"] = (5, 2.0)
    messages: list[str] = []
    crawl(server, tmp_path, messages=messages)
    assert server.github.exhausted_requests == 0
    assert not any("s to wait" in message for message in messages)  # such a wait would be told, this one is too short


def test_a_reset_is_counted_by_the_servers_clock_and_in_seconds() -> None:
    date = {"date": "Tue, 10 Oct 2017 16:00:00 GMT"}
    assert seconds_to_reset({"x-ratelimit-reset": "1507651260"} | date, now=5.0) == 60
    assert seconds_to_reset({"x-ratelimit-reset": "1507651200000"} | date, now=5.0) == 0
    assert seconds_to_reset({"x-ratelimit-reset": "soon"}, now=5.0) is None
    assert seconds_to_reset({"x-ratelimit-reset": "65"}, now=5.0) == 60


def test_searches_are_as_far_apart_as_the_limit_asks() -> None:
    clock = Clock()
    limiter = AccountLimiter(clock=clock)
    limiter.release(limiter.acquire("search"), "search", rate_limit(30, 29, clock.now + 60), good=True)
    assert limiter.acquire("search").wait_seconds == 0 and limiter.acquire("core").wait_seconds == pytest.approx(0.01)
    clock.now += 2.1
    limiter.leases.clear()
    assert limiter.acquire("search").wait_seconds == 0
    limiter.leases.clear()
    assert limiter.acquire("search").wait_seconds == 2.0


def test_the_last_requests_are_left_to_others_until_the_reset() -> None:
    clock = Clock()
    limiter = AccountLimiter(clock=clock)
    limiter.release(limiter.acquire("core"), "core", rate_limit(5000, 21, clock.now + 50), good=True)
    limiter.release(limiter.acquire("core"), "core", {}, good=True)
    assert (
        limiter.acquire("core").wait_seconds == 51 == limiter.paused_seconds()
        and limiter.acquire("search").wait_seconds == 0
    )
    clock.now += 52
    limiter.leases.clear()
    assert limiter.acquire("core").wait_seconds == 0


def test_a_minute_has_at_most_so_many_requests_where_github_counts_them() -> None:
    clock = Clock()
    limiter = AccountLimiter(clock=clock)
    for number in range(account_limiter.PER_MINUTE + 1):
        turn = limiter.acquire("core")
        assert turn.wait_seconds == 0, number
        limiter.release(turn, "core", rate_limit(5000, 4000, clock.now + 3000), good=True)
        clock.now += 0.01
    assert 45 < limiter.acquire("core").wait_seconds < 60


def test_penalties_double_only_when_they_come_one_after_the_other() -> None:
    clock = Clock()
    limiter = AccountLimiter(clock=clock)
    first = limiter.acquire("core")
    also = account_limiter.Turn(0.0, 99, clock.now - 1)
    assert limiter.penalize(first, None) == 60 and limiter.penalize(also, None) == 60
    limiter.release(first, "core", {}, good=False)
    assert limiter.acquire("core").wait_seconds == 60 and limiter.acquire(DOWNLOAD).wait_seconds == 60
    clock.now += 61
    second = limiter.acquire("core")
    assert second.wait_seconds == 0 and limiter.penalize(second, None) == 120
    limiter.release(second, "core", {}, good=False)
    clock.now += 121
    third = limiter.acquire("core")
    limiter.release(third, "core", {}, good=True)
    assert limiter.penalize(limiter.acquire("core"), None) == 60


def test_a_new_limiter_goes_on_with_the_penalties_of_the_one_that_died() -> None:
    clock, store = Clock(), PenaltiesInMemory()
    limiter = AccountLimiter(clock=clock, store=store)
    turn = limiter.acquire("core")
    limiter.penalize(turn, 30)
    limiter.mark_exhausted("search", 500)
    clock.now += 10
    new = AccountLimiter(clock=clock, store=store)
    assert new.acquire("core").wait_seconds == 20
    clock.now += 21
    assert new.acquire("core").wait_seconds == 0 and new.acquire("search").wait_seconds == pytest.approx(470, abs=1)


def test_a_slow_answer_holds_back_others_for_a_while_only_and_a_lost_one_is_forgotten() -> None:
    clock = Clock()
    limiter = AccountLimiter(clock=clock)
    for _ in range(account_limiter.CONCURRENT):
        assert limiter.acquire("core").wait_seconds == 0
        clock.now += account_limiter.SLOW_SECONDS + 0.1
    assert limiter.acquire("core").wait_seconds > 0 and limiter.acquire(DOWNLOAD).wait_seconds > 0
    clock.now += account_limiter.LEASE_SECONDS
    assert limiter.acquire("core").wait_seconds == 0


def test_a_download_holds_back_others_until_its_answer_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_limiter, "_BLOCK_SECONDS", 0.05)
    limiter = AccountLimiter(clock=Clock())
    turn = limiter.acquire(DOWNLOAD)
    assert limiter.acquire("core").wait_seconds > 0
    limiter.response_started(turn)
    assert limiter.acquire("core").wait_seconds == 0
