"""Collection from installed packages, folders and git checkouts."""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from collecting import MODEL, documents_of, github_world, make_context, notebook
from stand_in import StandIn

from soldiom_ray.artifacts import Context
from soldiom_ray.collect import collect
from soldiom_ray.collect.local import even_shares
from soldiom_ray.domains.sources import GithubSource, LocalSource
from soldiom_ray.errors import CancelledError, InputError
from soldiom_ray.records import Document, Manifest


def gather(home: Path, **declared: Any) -> tuple[Context, Manifest]:
    context = make_context(home)
    return context, collect(context, [LocalSource(source="local", **declared)])


def test_an_installed_package_comes_with_full_provenance(tmp_path: Path) -> None:
    context, manifest = gather(tmp_path, packages=("peft",))
    documents = documents_of(context, manifest)
    version = importlib.metadata.version("peft")
    assert manifest.counts["documents"] == len(documents) > 100
    for row in documents:
        assert (row["group"], row["version"], row["license"], row["source"]) == ("peft", version, "Apache-2.0", "local")
        assert len(row["sha256"]) == 64 and row["rule"].startswith(f"local package peft=={version} include *.py")
    model = next(row for row in documents if row["path"] == "peft/peft_model.py")
    assert model["framework"] == "pytorch" and model["url"].endswith("#peft/peft_model.py")
    assert any(row["path"].endswith("METADATA") and row["kind"] == "documentation" for row in documents)
    assert {"training", "architecture", "configuration"} <= set(manifest.details["kinds"])
    assert all(Document.model_validate(row) for row in context.artifacts.rows(manifest, "documents/"))


def test_the_standard_library_comes_without_its_tests(tmp_path: Path) -> None:
    context, manifest = gather(tmp_path, packages=("stdlib",), include=("*.py",))
    rows = documents_of(context, manifest)
    assert 400 < len(rows) < 1500 and {row["license"] for row in rows} == {"PSF-2.0"}
    assert not [
        row["path"] for row in rows if {"test", "tests", "idlelib", "site-packages"} & set(row["path"].split("/"))
    ]


def test_all_missing_packages_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        gather(tmp_path, packages=("peft", "no-such-one", "nor-this"))
    assert "no-such-one, nor-this" in str(raised.value) and "pip install no-such-one nor-this" in raised.value.remedy
    with pytest.raises(InputError, match="does not exist"):
        gather(tmp_path, path=str(tmp_path / "nowhere"))


def test_every_file_of_a_folder_has_one_counted_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    files = {
        "a/model.py": MODEL,
        "a/bom.py": b"\xef\xbb\xbfx = 1\n",
        "a/latin.py": "# coding: latin-1\nx = 'é'\n".encode("latin-1"),
        "b/book.ipynb": notebook(),
        "b/bad.ipynb": b"{not json",
        "b/wrong.py": b"x = '\xe9'\n",
        "b/binary.py": b"a\0b",
        "b/empty.py": b"",
        "b/blank.py": b" \n\n",
        "b/large.md": b"x" * 5000,
        "b/lfs.py": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "c.md": b"# Words\n",
        "photo.jpg": b"\xff\xd8",
        ".hidden/x.py": b"x",
        "node_modules/x.py": b"x",
        "env2/pyvenv.cfg": b"home",
        "env2/x.py": b"x",
        "LICENSE": b"Apache License\nVersion 2.0, January 2004\n",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "b" / "dangling.py").symlink_to("/no/such/file")
    context, manifest = gather(tmp_path, path=str(folder), max_bytes=4000)
    rows = {row["path"]: row for row in documents_of(context, manifest)}
    assert sorted(rows) == ["a/bom.py", "a/latin.py", "a/model.py", "b/book.ipynb", "c.md"]
    assert manifest.details["outcomes"] == {
        "collected": 5, "damaged": 1, "undecodable": 1, "binary": 1, "empty": 2, "too_large": 1, "lfs_pointer": 1,
        "unreadable": 1, "not_included": 2,
    }  # fmt: skip
    assert rows["a/latin.py"]["text"].endswith("'é'\n") and rows["a/bom.py"]["text"] == "x = 1\n"
    assert {row["group"] for row in rows.values()} == {"code/a", "code/b", "code/c.md"}
    assert rows["c.md"]["license"] == "Apache-2.0" and "SECRET OUTPUT" not in rows["b/book.ipynb"]["text"]
    dropped = {row["path"]: row["reason"] for row in context.artifacts.rows(manifest, "dropped/")}
    assert dropped["b/wrong.py"] == "undecodable" and len(dropped) == 8


def test_a_checkout_names_its_commit_and_leaves_out_what_git_ignores(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / ".gitignore").write_text("out/\n")
    (folder / "out").mkdir()
    for name in ("kept.py", "new.py", "out/made.py"):
        (folder / name).write_text("x = 1\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    subprocess.run([*git, "add", "kept.py", ".gitignore"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    context, manifest = gather(tmp_path, path=str(folder))
    rows = documents_of(context, manifest)
    assert [row["path"] for row in rows] == ["kept.py", "new.py"]
    assert {(row["commit"], row["group"]) for row in rows} == {(commit, "repo")}


def test_a_second_run_is_free_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    context, first = gather(tmp_path, path=str(folder))
    assert gather(tmp_path, path=str(folder))[1] == first
    (folder / "a.py").write_text("x = 2\n")
    os.utime(folder / "a.py", ns=(1, 1))
    _, second = gather(tmp_path, path=str(folder))
    assert second.id != first.id and documents_of(context, second)[0]["text"] == "x = 2\n"


def test_a_limit_is_spread_evenly_over_packages(tmp_path: Path) -> None:
    _, manifest = gather(tmp_path, packages=("peft", "accelerate", "typer"), include=("*.py",), max_documents=50)
    assert manifest.counts["documents"] == 50 and max(manifest.details["groups"].values()) <= 18
    assert even_shares([100, 3, 40], 30) == [14, 3, 13] and even_shares([1, 2], None) == [1, 2]
    assert sum(even_shares([5, 5, 5], 7)) == 7


def test_nothing_collected_says_what_was_found(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_bytes(b"")
    (folder / "b.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="1 empty, 1 not_included"):
        gather(tmp_path, path=str(folder))


def test_a_collection_stops_when_its_job_is_cancelled(tmp_path: Path) -> None:
    context = make_context(tmp_path)

    def stop(share: float, message: str) -> None:
        if share > 0.4:
            raise CancelledError("The job was asked to stop.")

    stopped = Context(context.settings, context.artifacts, stop)
    with pytest.raises(CancelledError):
        collect(stopped, [LocalSource(source="local", packages=("peft", "accelerate"))])
    assert not [key for key in context.artifacts.storage.keys("documents") if key.endswith("manifest.json")]


def test_the_same_file_from_two_sources_is_one_document(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    context = make_context(tmp_path)
    source = LocalSource(source="local", path=str(folder))
    manifest = collect(context, [source, source])
    assert manifest.counts == {"documents": 1, "outcome_collected": 1, "outcome_repeated": 1}


PROGRAM = """
import hashlib, json, sys, ray
from collecting import documents_of, make_context
from pathlib import Path
from soldiom_ray import actors
from soldiom_ray.collect import collect
from soldiom_ray.domains.sources import LocalSource, GithubSource
actors.START_SECONDS = 0
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
variables = json.loads(sys.argv[2])
context = make_context(Path(sys.argv[1]), **variables)
local = LocalSource(source="local", packages=("peft", "accelerate", "stdlib"), max_documents=600)
manifest = collect(context, [local, GithubSource(pushed_within_days=1000)])
rows = documents_of(context, manifest)
ray.shutdown()
digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
print(json.dumps([len(rows), digest, manifest.details["repositories"]]))
"""


@pytest.mark.service
def test_the_result_is_the_same_with_and_without_workers(tmp_path: Path) -> None:
    with StandIn() as server:
        server.add(*github_world())
        variables = {"SOLDIOM_GITHUB_API_URL": server.url, "SOLDIOM_GITHUB_TOKEN": "one,two"}
        context = make_context(tmp_path / "one", **variables)
        local = LocalSource(source="local", packages=("peft", "accelerate", "stdlib"), max_documents=600)
        alone = collect(context, [local, GithubSource(pushed_within_days=1000)])
        rows = documents_of(context, alone)
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        python_path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "two"), json.dumps(variables)],
            env=os.environ | {"PYTHONPATH": python_path, "RAY_TMPDIR": "/tmp"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout.splitlines()[-1]) == [len(rows), digest, 3]
