"""The docs stay true: files and pages that they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
SOURCES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("soldiom_ray/**/*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    """A path may leave out `soldiom_ray/`, or, on a page about one stage, its folder too."""
    named = set(re.findall(r"(?<![\w/.-])((?:\w+/)*\w+\.py)\b", page.read_text()))
    known = SOURCES | {path.relative_to(ROOT).as_posix() for path in ROOT.glob("[!.]*/**/*.py")}
    missing = {name for name in named if not any(path == name or path.endswith(f"/{name}") for path in known)}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_folder_of_the_code_that_a_page_names_exists(page: Path) -> None:
    stages = {path.name for path in (ROOT / "soldiom_ray").iterdir() if path.is_dir()}
    named = set(re.findall(r"(?<![\w/.-])((?:\w+/)+)(?=[\s`:,;.]|$)", page.read_text()))
    inside = {name for name in named if name.split("/")[0] in stages}
    assert not {name for name in inside if not (ROOT / "soldiom_ray" / name).is_dir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_page_of_ours_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                anchor
            )
