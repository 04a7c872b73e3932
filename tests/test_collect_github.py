"""What a crawl of GitHub keeps and what it counts, through PyGithub, against a local server that behaves like it."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from collecting import MODEL, documents_of, github_world, make_context
from crawling import crawl, look
from stand_in import Repository, StandIn

from soldiom_ray.collect import collect
from soldiom_ray.collect.github import archive
from soldiom_ray.collect.http import response as http_response
from soldiom_ray.domains.sources import GithubSource
from soldiom_ray.errors import InputError, UnavailableError

FILES = {"model.py": MODEL}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soldiom_ray.collect.github.api.FIRST_RETRY_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


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


def test_every_document_tells_what_is_known_of_its_repository(server: StandIn, tmp_path: Path) -> None:
    repository = Repository("a/b", FILES, stars=1234, topics=("machine-learning", "vision"))
    server.add(repository)
    context, manifest = crawl(server, tmp_path)
    (document,) = documents_of(context, manifest)
    assert document["metadata"] == (
        f'{{"repository_id": {repository.id}, "description": "About a/b", "topics": ["machine-learning", "vision"], '
        '"stars": 1234, "forks": 123, "language": "Python", "license": "MIT", '
        '"created_at": "2020-05-05T00:00:00Z", "pushed_at": "2026-11-01T00:00:00Z"}'
    )


def test_only_the_best_repositories_and_the_kinds_asked_for_are_read(server: StandIn, tmp_path: Path) -> None:
    server.add(*github_world())
    context, manifest = crawl(server, tmp_path, max_repositories=1, kinds=("training",))
    assert [(d["group"], d["path"]) for d in documents_of(context, manifest)] == [("ada/nets", "train.py")]
    assert manifest.details["outcomes"]["other_kind"] > 2 and len(server.requests("/tarball/")) == 1


def test_a_repository_costs_a_tree_and_an_archive(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", FILES) for n in range(40)))
    crawl(server, tmp_path)
    assert len(server.log) <= 3.2 * 40 and len(server.requests("/git/trees/")) == 40
    assert len(server.requests("/tarball/")) == len(server.requests("^/archive/")) == 40


def test_a_repository_that_moved_vanished_or_is_empty_is_counted(server: StandIn, tmp_path: Path) -> None:
    server.add(
        Repository("new/name", FILES, old_name="old/name"),
        Repository("a/gone", FILES, life="deleted"),
        Repository("a/dmca", FILES, life="blocked"),
        Repository("a/private", FILES, life="forbidden"),
        Repository("a/empty", {}, life="empty"),
        Repository("a/images", {"x.png": b"x"}),
        Repository("a/huge", {"LICENSE": b"x"} | FILES, truncated=True),
    )
    context, manifest = crawl(server, tmp_path)
    outcomes = manifest.details["outcomes"]
    for name in ("not_found", "blocked", "forbidden", "empty", "nothing_wanted"):
        assert outcomes[f"repository_{name}"] == 1, name
    assert manifest.details["renamed"] == 1 and manifest.details["tree_truncated"] == 1
    assert {d["group"] for d in documents_of(context, manifest)} == {"new/name", "a/huge"}
    dropped = {(row["group"], row["reason"]) for row in context.artifacts.rows(manifest, "dropped/")}
    assert ("a/dmca", "repository_blocked") in dropped


def test_a_name_that_another_repository_took_is_not_read_for_it(server: StandIn, tmp_path: Path) -> None:
    server.add(
        Repository("moved/away", {"mine.py": MODEL}, old_name="a/famous", stars=9000),
        Repository("a/famous", {"taken.py": MODEL}, stars=3),
        Repository("was/deleted", FILES, life="deleted", old_name="b/famous"),
        Repository("b/famous", {"taken.py": MODEL}, stars=3),
    )
    context, manifest = crawl(server, tmp_path)
    assert [(d["group"], d["path"]) for d in documents_of(context, manifest)] == [("moved/away", "mine.py")]
    assert manifest.details["renamed"] == 1 and manifest.details["outcomes"]["repository_not_found"] == 1


@pytest.mark.parametrize("trees_by_id", [True, False])
def test_a_renamed_branch_is_found(server: StandIn, tmp_path: Path, trees_by_id: bool) -> None:
    server.github.trees_by_id = trees_by_id
    server.add(
        *(Repository(f"a/r{n}", FILES) for n in range(5)), Repository("a/b", FILES, branch="trunk/x", old_branch="main")
    )
    assert len(documents_of(*crawl(server, tmp_path))) == 6


def test_a_server_that_knows_trees_only_by_name_is_asked_by_name(server: StandIn, tmp_path: Path) -> None:
    server.github.trees_by_id = False
    server.add(
        *(Repository(f"a/r{n}", FILES, stars=9000 - n) for n in range(30)),
        Repository("new/name", FILES, old_name="old/name"),
    )
    context, manifest = crawl(server, tmp_path)
    assert len(documents_of(context, manifest)) == 31 and manifest.details["renamed"] == 1
    assert len(server.log) <= 3.3 * 31


def test_links_submodules_pointers_and_colliding_names_are_counted(server: StandIn, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    files = {"weights.py": pointer, "Model.py": MODEL, "model.py": MODEL + b"\n", "latin.py": b"x = '\xe9'\n"}
    server.add(Repository("a/b", files, symlinks=("link.py",), submodules=("deps/one", "deps/two")))
    context, manifest = crawl(server, tmp_path)
    outcomes = manifest.details["outcomes"]
    assert {n: outcomes[n] for n in ("link", "submodule", "lfs_pointer", "undecodable", "collected")} == {
        "link": 1, "submodule": 2, "lfs_pointer": 1, "undecodable": 1, "collected": 2,
    }  # fmt: skip
    assert manifest.details["case_colliding"] == 1
    dropped = {(row["path"], row["reason"]) for row in context.artifacts.rows(manifest, "dropped/")}
    assert ("deps/one", "submodule") in dropped and ("link.py", "link") in dropped


def test_an_archive_cannot_reach_outside_or_grow_without_bound(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 5_000_000)
    link = tarfile.TarInfo("top/link.py")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = tarfile.TarInfo("top/../../../evil.py")
    outside.size = 3
    large, bomb = tarfile.TarInfo("top/large.py"), tarfile.TarInfo("top/bomb.py")
    large.size, bomb.size = 2_000_000, 9_000_000
    server.add(
        Repository("a/evil", FILES, extra=(link, outside, large, bomb)),
        Repository("a/torn", FILES, archive=b"\x1f\x8b not gzip at all"),
    )
    context, manifest = crawl(server, tmp_path)
    assert [d["path"] for d in documents_of(context, manifest)] == ["model.py"]
    outcomes = manifest.details["outcomes"]
    assert {n: outcomes[n] for n in ("link", "unsafe_path", "too_large", "archive_bomb", "damaged")} == {
        "link": 1, "unsafe_path": 1, "too_large": 1, "archive_bomb": 1, "damaged": 1,
    }  # fmt: skip


def test_an_archive_that_declares_a_huge_name_or_is_cut_is_damaged_and_named_in_writable_characters() -> None:
    def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w:gz", format=tarfile.GNU_FORMAT) as made:
            for member, data in members:
                member.size = member.size or len(data)
                made.addfile(member, io.BytesIO(data))
        return sink.getvalue()

    named = packed((tarfile.TarInfo("top/caf\udce9.py"), MODEL))
    unpacked = archive.unpack(io.BytesIO(named), lambda path: True, 1000)
    assert list(unpacked.files) == ["caf\N{REPLACEMENT CHARACTER}.py"] and not unpacked.damaged
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    header = gzip.compress(long_name.tobuf() + b"x" * 5000)
    assert archive.unpack(io.BytesIO(header), lambda path: True, 1000).damaged
    for length in (len(named) // 2, len(named) - 5):
        assert archive.unpack(io.BytesIO(named[:length]), lambda path: True, 1000).damaged, length


def test_an_archive_that_is_damaged_for_now_is_fetched_again_by_this_and_the_next_crawl(
    server: StandIn, tmp_path: Path
) -> None:
    torn, whole = Repository("a/torn", FILES), Repository("a/whole", FILES)
    torn.archive = b"\x1f\x8b not gzip at all"
    server.add(torn, whole)
    context, first = crawl(server, tmp_path)
    assert first.details["outcomes"]["damaged"] == 1 and len(server.requests("^/archive/a/torn")) == 2
    torn.archive = None
    context, second = crawl(server, tmp_path)
    assert second.id != first.id and {d["group"] for d in documents_of(context, second)} == {"a/torn", "a/whole"}
    assert crawl(server, tmp_path)[1].id == second.id


def test_the_token_is_not_shown_to_the_host_of_the_archive(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES))
    server.github.archive_elsewhere = True
    crawl(server, tmp_path, tokens="very-secret")
    (download,) = server.requests("^/archive/")
    assert download.host.startswith("localhost") and "authorization" not in download.headers
    assert all("very-secret" in r.headers["authorization"] for r in server.requests("^/repos"))
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert stored and not any(b"very-secret" in data for data in stored)


def test_broken_answers_are_asked_for_again(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", {"model.py": MODEL * 2000}))
    html = {"Content-Type": "text/html"}
    server.fail("^/search", 502, times=2, body=b"<html>unicorn</html>", headers=html)
    server.cut("/git/trees", times=1)
    server.fail("/git/trees", 200, body=b"<html>down</html>", headers=html)
    server.fail("/git/trees", 200, body=b'{"tree": [')
    server.fail("/git/trees", 200, body=b'{"sha": 1, "tree": 7}')
    server.reset("/git/trees")
    server.reset("/tarball/")
    server.fail("^/archive", 200, body=b"<html>down</html>", headers=html)
    server.fail("^/archive", 202, body=b"")
    server.cut("^/archive", times=1)
    context, manifest = crawl(server, tmp_path)
    assert len(documents_of(context, manifest)) == 1 and len(server.requests("^/archive")) == 4


def test_an_answer_that_is_not_ready_is_asked_for_again_and_not_for_ever(server: StandIn, tmp_path: Path) -> None:
    server.add(Repository("a/b", FILES), Repository("a/c", FILES))
    server.fail("/repositories/[0-9]+/git/trees", 202, times=6, body=b"{}")
    _, manifest = crawl(server, tmp_path)
    assert manifest.details["outcomes"]["repository_unavailable"] == 1 and manifest.details["repositories"] == 1


def test_an_answer_that_drips_is_given_up_and_asked_for_again(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_response, "BODY_SECONDS", 0.5)
    server.add(Repository("a/b", FILES))
    server.drip("/git/trees", seconds=0.05)
    server.drip("^/archive", seconds=0.05)
    context, manifest = crawl(server, tmp_path)
    assert len(documents_of(context, manifest)) == 1
    assert len(server.requests("/git/trees")) == len(server.requests("^/archive")) == 2


def test_a_crawl_of_an_unkind_server_gives_the_same_as_of_a_kind_one(server: StandIn, tmp_path: Path) -> None:
    server.add(*(Repository(f"a/r{n}", {"model.py": MODEL + b"# %d\n" % n}, stars=5000 - n) for n in range(15)))
    context, kind = crawl(server, tmp_path / "kind")
    server.unkind(0.15, seed=5)
    other, unkind = crawl(server, tmp_path / "unkind")
    assert unkind.id == kind.id and documents_of(other, unkind) == documents_of(context, kind)
    assert server.sins == 0


def test_a_github_that_stops_answering_ends_the_crawl_and_the_next_goes_on(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soldiom_ray.collect.github.api.FIRST_RETRY_SECONDS", 0.001)
    server.add(*(Repository(f"a/r{n}", FILES, stars=9000 - n) for n in range(20)))
    server.fail("/git/trees", 401, times=0)
    trees = look(server, tmp_path).trees
    server.fail("/git/trees", 502, times=60)
    with pytest.raises(UnavailableError, match="10 repositories in a row"):
        look(server, tmp_path)
    server.faults.clear()
    assert look(server, tmp_path).trees == trees


def test_nothing_found_and_nobody_there_are_different_errors(server: StandIn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no documents"):
        crawl(server, tmp_path / "a")
    server.add(Repository("a/b", FILES))
    server.fail("^/repos", 500, times=99)
    with pytest.raises(UnavailableError, match="repository_unavailable"):
        crawl(server, tmp_path / "b")
