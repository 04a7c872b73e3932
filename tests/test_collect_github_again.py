"""A crawl that is run again: what GitHub says with 304, what is not downloaded twice, what a stop leaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from collecting import MODEL, documents_of, make_context
from crawling import crawl, look, open_api
from stand_in import Repository, StandIn

from soldiom_ray.collect.github.tree import TreeReader
from soldiom_ray.errors import InputError

FILES = {"model.py": MODEL}


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def statuses(server: StandIn, since: int) -> tuple[int, int]:
    """Requests since then, and how many of all were answered by 304."""
    return len(server.log) - since, server.github.unchanged


@pytest.mark.parametrize("tokens", ["one", "one,two,three", ""])
def test_a_second_crawl_of_an_unchanged_world_costs_only_304s(server: StandIn, tmp_path: Path, tokens: str) -> None:
    server.add(*(Repository(f"a/r{n}", FILES, stars=5000 - n) for n in range(30)))
    _, first = crawl(server, tmp_path, tokens=tokens)
    before, used = len(server.log), sum(map(len, server.github.used.values()))
    _, second = crawl(server, tmp_path, tokens=tokens)
    asked = len(server.log) - before
    assert second.id == first.id and asked == 31 == server.github.unchanged
    assert sum(map(len, server.github.used.values())) == used, "a 304 costs nothing"


def test_a_push_is_seen_by_the_tree_and_alone_is_downloaded(server: StandIn, tmp_path: Path) -> None:
    repositories = [Repository(f"a/r{n}", dict(FILES), stars=5000 - n) for n in range(30)]
    server.add(*repositories)
    _, first = crawl(server, tmp_path)
    repositories[3].files["new.py"] = b"x = 1\n"
    repositories[4].pushed_at = "2026-11-20T00:00:00Z"
    before = len(server.requests("^/archive"))
    context, second = crawl(server, tmp_path)
    assert second.id != first.id and len(server.requests("^/archive")) == before + 1
    assert len(documents_of(context, second)) == 31 and second.details["reused"] == 29
    assert second.details["requests_unchanged"] == 29, "the page and one tree are new"


def test_what_is_reused_bears_the_stars_of_today(server: StandIn, tmp_path: Path) -> None:
    repositories = [Repository(f"a/r{n}", dict(FILES), stars=5000 - n) for n in range(2)]
    server.add(*repositories)
    crawl(server, tmp_path)
    repositories[0].stars, repositories[1].files["b.py"] = 7777, MODEL
    context, second = crawl(server, tmp_path)
    assert second.details["reused"] == 1
    assert '"stars": 7777' in next(d["metadata"] for d in documents_of(context, second) if d["group"] == "a/r0")


def test_an_etag_is_used_only_by_the_token_it_was_given_to(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES))
    look(server, tmp_path, tokens="one")
    look(server, tmp_path, tokens="two")
    asked = [r for r in server.requests("/git/trees") if r.headers["authorization"].endswith("two")]
    assert "if-none-match" not in asked[0].headers
    look(server, tmp_path, tokens="one")
    look(server, tmp_path, tokens="two")
    assert server.github.unchanged == 4


def test_what_was_kept_of_an_answer_is_sealed_and_may_be_lost(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES))
    variables = {"SOLDIOM_GITHUB_API_URL": server.url, "SOLDIOM_ENCRYPTION_KEY": "ab" * 32}
    reader = TreeReader(open_api(server, tmp_path))
    sealed = make_context(tmp_path / "sealed", **variables).settings
    reader.api.cache.storage.encryption_keys = sealed.encryption_keys
    repository = look(server, tmp_path / "plain").trees[0].repository
    tree = reader.read(repository)
    cached = [path for path in tmp_path.rglob("raw/github/answers/*/*") if "plain" not in str(path)]
    assert cached and all(b"sha" not in path.read_bytes() for path in cached)
    for path in cached:
        path.write_bytes(b"SLDM1\0 damaged")
    assert reader.read(repository) == tree and server.github.unchanged == 0
    assert reader.read(repository) == tree and server.github.unchanged == 1


def test_a_304_that_nobody_asked_for_is_not_believed(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES))
    server.fail("/git/trees", 304, body=b"", times=2)
    assert look(server, tmp_path).trees[0].sha


def test_a_crawl_that_stopped_goes_on_without_downloading_again(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", FILES, stars=5000 - n) for n in range(4)))
    server.fail("^/repos/a/r2/tarball", 401, message="Bad credentials")
    with pytest.raises(InputError, match="token"):
        crawl(server, tmp_path)
    before = len(server.requests("^/archive"))
    context, manifest = crawl(server, tmp_path)
    assert before == 2 and len(server.requests("^/archive")) == 4 and manifest.details["reused"] == 2
    assert len(documents_of(context, manifest)) == 4


def test_other_filters_read_the_archives_again_but_not_the_trees(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES | {"README.md": b"# Words\n\nof it.\n"}))
    crawl(server, tmp_path, kinds=("architecture",))
    context, manifest = crawl(server, tmp_path, kinds=("documentation",))
    assert [d["path"] for d in documents_of(context, manifest)] == ["README.md"] and server.github.unchanged == 2


def test_a_repository_that_got_a_new_name_is_read_again_under_it(server: StandIn, tmp_path: Path) -> None:
    repository = Repository("new/name", FILES, old_name=None)
    server.add(repository)
    crawl(server, tmp_path)
    repository.old_name = "old/name"
    context, manifest = crawl(server, tmp_path)
    assert {d["group"] for d in documents_of(context, manifest)} == {"new/name"}
