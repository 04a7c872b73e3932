"""Collection from GitHub through PyGithub, against a local server that behaves like it."""

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import MODEL, documents_of, github_world, make_context
from stand_in import Repository, StandIn

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect, github_api
from soldiom_ray.collect.limiter import LocalLimiter
from soldiom_ray.domains.schema import GithubSource
from soldiom_ray.errors import InputError, UnavailableError
from soldiom_ray.records import Manifest

FOREVER = 40_000
"""pushed_within_days that the made-up dates always pass"""


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def crawl(server: StandIn, home: Path, *, tokens: str = "one", **declared: Any) -> tuple[Context, Manifest]:
    context = make_context(home, SOLDIOM_GITHUB_API_URL=server.url, SOLDIOM_GITHUB_TOKEN=tokens)
    declared = {"topics": ("machine-learning",), "languages": ("Python",), "pushed_within_days": FOREVER} | declared
    return context, collect(context, [GithubSource(**declared)])


def test_a_crawl_keeps_exactly_what_the_filters_ask_for(server: StandIn, tmp_path: Path) -> None:
    server.add(*github_world())
    context = make_context(tmp_path, SOLDIOM_GITHUB_API_URL=server.url)
    manifest = collect(context, [GithubSource(pushed_within_days=1000)])
    documents = documents_of(context, manifest)
    assert manifest.details["repositories"] == 3
    assert {d["group"] for d in documents} == {"ada/nets", "bob/deep", "cleo/books"}
    assert manifest.counts["documents"] == len(documents) == manifest.counts["outcome_collected"]
    net = next(d for d in documents if d["path"] == "model.py")
    assert (net["kind"], net["framework"], net["license"], net["source"]) == (
        "architecture",
        "pytorch",
        "MIT",
        "github",
    )
    assert net["url"] == f"https://github.com/ada/nets/blob/{net['commit']}/model.py" and len(net["commit"]) == 40
    book = next(d for d in documents if d["group"] == "cleo/books")
    assert "SECRET OUTPUT" not in book["text"] and "# %matplotlib inline" in book["text"] and book["license"] == "MIT"
    assert 'topic:machine-learning language:"Python" stars:>1000 pushed:>=' in net["rule"]


def test_only_the_best_repositories_and_the_kinds_asked_for_are_read(server: StandIn, tmp_path: Path) -> None:
    server.add(*github_world())
    context, manifest = crawl(server, tmp_path, max_repositories=1, kinds=("training",))
    assert [(d["group"], d["path"]) for d in documents_of(context, manifest)] == [("ada/nets", "train.py")]
    assert manifest.details["outcomes"]["other_kind"] > 2 and len(server.requests("/tarball/")) == 1


def test_results_past_a_thousand_are_reached_by_slices(server: StandIn, tmp_path: Path) -> None:
    many = [
        Repository(
            f"org/r{n}", {"a.bin": b"x"}, stars=1001 + n, created_at=f"20{10 + n % 16}-0{1 + n % 9}-11T00:00:00Z"
        )
        for n in range(1100)
    ]
    server.add(*many)
    from soldiom_ray.collect.github import GithubPlan
    from soldiom_ray.records import now

    context = make_context(tmp_path, SOLDIOM_GITHUB_API_URL=server.url)
    source = GithubSource(topics=("machine-learning",), languages=("Python",), pushed_within_days=FOREVER)
    todo = GithubPlan(source, context.settings, now()).todo(lambda share, message: None)
    assert len(todo.tasks) == 1100 and todo.gathered.facts["search_cut"] == 0


def test_a_repository_that_moved_vanished_or_is_empty_is_counted(server: StandIn, tmp_path: Path) -> None:
    files = {"model.py": MODEL}
    server.add(
        Repository("new/name", files, old_name="old/name"),
        Repository("a/gone", files, life="deleted"),
        Repository("a/dmca", files, life="blocked"),
        Repository("a/empty", {}, life="empty"),
        Repository("a/images", {"x.png": b"x"}),
        Repository("a/huge", {"LICENSE": b"x"} | files, truncated=True),
    )
    context, manifest = crawl(server, tmp_path)
    outcomes = manifest.details["outcomes"]
    for name in ("not_found", "blocked", "empty", "nothing_wanted"):
        assert outcomes[f"repository_{name}"] == 1, name
    assert manifest.details["renamed"] == 1 and manifest.details["tree_truncated"] == 1
    assert {d["group"] for d in documents_of(context, manifest)} == {"new/name", "a/huge"}
    dropped = {(row["group"], row["reason"]) for row in context.artifacts.rows(manifest, "dropped/")}
    assert ("a/dmca", "repository_blocked") in dropped


def test_an_archive_cannot_reach_outside_or_grow_without_bound(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soldiom_ray.collect import archive

    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 5_000_000)
    link = tarfile.TarInfo("top/link.py")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = tarfile.TarInfo("top/../../../evil.py")
    outside.size = 3
    large, bomb = tarfile.TarInfo("top/large.py"), tarfile.TarInfo("top/bomb.py")
    large.size, bomb.size = 2_000_000, 9_000_000
    server.add(
        Repository("a/evil", {"model.py": MODEL}, extra=(link, outside, large, bomb)),
        Repository("a/torn", {"model.py": MODEL}, archive=b"\x1f\x8b not gzip at all"),
    )
    context, manifest = crawl(server, tmp_path)
    assert [d["path"] for d in documents_of(context, manifest)] == ["model.py"]
    outcomes = manifest.details["outcomes"]
    assert {n: outcomes[n] for n in ("link", "unsafe_path", "too_large", "archive_bomb", "damaged")} == {
        "link": 1, "unsafe_path": 1, "too_large": 1, "archive_bomb": 1, "damaged": 1,
    }  # fmt: skip


def test_the_token_is_not_shown_to_the_host_of_the_archive(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", {"model.py": MODEL}))
    server.github.archive_elsewhere = True
    crawl(server, tmp_path, tokens="very-secret")
    (archive,) = server.requests("^/archive/")
    assert archive.host.startswith("localhost") and "authorization" not in archive.headers
    assert all("very-secret" in r.headers["authorization"] for r in server.requests("^/repos"))


def test_broken_answers_are_asked_for_again(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", {"model.py": MODEL * 2000}))
    server.fail("^/search", 502, times=2, body=b"<html>unicorn</html>", headers={"Content-Type": "text/html"})
    server.cut("^/repos/a/b/git", times=1)
    server.fail("^/repos/a/b$", 200, body=b"<html>down</html>", headers={"Content-Type": "text/html"})
    server.cut("^/archive", times=1)
    context, manifest = crawl(server, tmp_path)
    assert len(documents_of(context, manifest)) == 1 and len(server.requests("^/archive")) == 2


@pytest.mark.parametrize("status", [403, 429])
def test_a_limit_with_retry_after_is_waited_for_by_everybody(server: StandIn, tmp_path: Path, status: int) -> None:
    server.add(Repository("a/b", {"model.py": MODEL}))
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    server.fail("^/repos/a/b$", status, message=message, headers={"Retry-After": "2"}, silent_seconds=1.9)
    started = time.monotonic()
    crawl(server, tmp_path)
    assert time.monotonic() - started >= 2 and server.sins == 0


@pytest.mark.parametrize("status", [403, 429])
def test_a_secondary_limit_without_a_word_on_time_is_waited_out(
    server: StandIn, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert github_api.SECONDARY_SECONDS == 60
    monkeypatch.setattr(github_api, "SECONDARY_SECONDS", 1.0)
    server.add(Repository("a/b", {"model.py": MODEL}))
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    server.fail("^/repos/a/b/git", status, times=2, message=message, silent_seconds=0.9)
    started = time.monotonic()
    crawl(server, tmp_path)
    assert time.monotonic() - started >= 3 and server.sins == 0


def test_an_exhausted_token_waits_for_its_reset_and_the_other_goes_on(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", {"model.py": MODEL}) for n in range(3)))
    server.github.limits["core"] = (5, 3.0)
    crawl(server, tmp_path, tokens="one,two")
    used = {r.headers["authorization"].split()[1] for r in server.requests("^/repos")}
    assert len(used) == 2 and len(server.requests("^/archive")) == 3
    assert all(len(calls) <= 5 for calls in server.github.used.values())


def test_a_limit_that_lasts_too_long_is_told_and_not_waited_for(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", {"model.py": MODEL}))
    server.fail("^/repos", 429, times=9, message="slow down", headers={"Retry-After": "86400"})
    with pytest.raises(UnavailableError, match="86400"):
        crawl(server, tmp_path)


def test_a_crawl_that_stopped_goes_on_without_downloading_again(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", {"model.py": MODEL}, stars=5000 - n) for n in range(4)))
    server.fail("^/repos/a/r2", 401, message="Bad credentials")
    with pytest.raises(InputError, match="token"):
        crawl(server, tmp_path)
    before = len(server.requests("^/archive"))
    context, manifest = crawl(server, tmp_path)
    assert before == 2 and len(server.requests("^/archive")) == 4 and manifest.details["reused"] == 2
    requests = len(server.log)
    assert crawl(server, tmp_path)[1].id == manifest.id and len(server.log) == requests
    assert len(documents_of(context, manifest)) == 4


def test_nothing_found_and_nobody_there_are_different_errors(server: StandIn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no documents"):
        crawl(server, tmp_path / "a")
    server.add(Repository("a/b", {"model.py": MODEL}))
    server.fail("^/repos", 500, times=99)
    with pytest.raises(UnavailableError, match="repository_unavailable"):
        crawl(server, tmp_path / "b")


def test_the_limiter_spaces_searches_and_pauses_all_identities() -> None:
    now = [1000.0]
    limiter = LocalLimiter(2, clock=lambda: now[0])
    first = limiter.ask("search")
    told = {"x-ratelimit-limit": "30", "x-ratelimit-remaining": "29", "x-ratelimit-reset": "1060"}
    limiter.done(first, "search", told)
    second = limiter.ask("search")
    assert (first.identity, second.identity, second.wait_seconds) == (0, 1, 0.0)
    limiter.done(second, "search", told)
    third = limiter.ask("search")
    limiter.done(third, "search", told)
    assert third.wait_seconds == 0 and limiter.ask("search").wait_seconds == 0.0
    limiter.pause(60)
    assert limiter.ask("core").wait_seconds == 60 and limiter.paused_seconds() == 60
    now[0] += 61
    assert limiter.ask("core").wait_seconds == 0
