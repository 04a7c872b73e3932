"""What lies beside data and only tells of it is no text to learn: it is counted, and the licence that it names is that
of the data."""

from pathlib import Path

import pytest
from collecting import documents_of, make_context

from soldiom_ray.collect import collect
from soldiom_ray.collect.about_data import about_data
from soldiom_ray.domains.sources import FilesSource

LINE = '{"prompt": "Is it late today?", "completion": "It is noon, not late."}\n'


def written(folder: Path, **files: str) -> dict[str, Path]:
    """The files of a folder, "__" for "/" and "_" for "." in their names."""
    paths = {}
    for key, text in files.items():
        name = key.replace("__", "/").replace("_", ".")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths[f"{folder.name}/{name}"] = path
    return paths


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a_jsonl": LINE, "LICENSE": "x", "SOURCE_txt": "x", "README_md": "x", "NOTICE": "x"}, 4),
        ({"data__a_csv": "a,b", "LICENSE_md": "x", "README_md": "x", "data__README_txt": "x"}, 3),
        ({"a_jsonl": LINE, "letter_docx": "x", "LICENSE": "x", "README_md": "x"}, 1),
        ({"README_md": "x", "LICENSE": "x", "guide_md": "x"}, 0),
        ({"a_jsonl": LINE, "notice-of-termination_txt": "x", "source-code_txt": "x"}, 0),
        ({"a_png": "x", "LICENSE": "x"}, 0),
    ],
)
def test_files_that_tell_of_data_are_told_from_data(tmp_path: Path, files: dict[str, str], found: int) -> None:
    assert len(about_data(written(tmp_path, **files), None, pictures=False).files) == found


def test_they_are_counted_and_their_licence_reaches_the_data(tmp_path: Path) -> None:
    data, context = tmp_path / "data", make_context(tmp_path / "home")
    written(data, train_jsonl=LINE, README_md="---\nlicense: cc-by-4.0\n---\n# Times of day\n", LICENSE="all mine")
    manifest = collect(context, [FilesSource(source="files", paths=(str(data),))])
    (document,) = documents_of(context, manifest)
    assert document["license"] == "CC-BY-4.0"
    assert manifest.details["sources"][0]["outcomes"] == {"collected": 1, "about_the_data": 2}
    declared = collect(context, [FilesSource(source="files", paths=(str(data),), license="MIT")])
    assert documents_of(context, declared)[0]["license"] == "MIT"
    alone = collect(context, [FilesSource(source="files", paths=(str(data / "README.md"),))])
    assert "Times of day" in documents_of(context, alone)[0]["text"]
