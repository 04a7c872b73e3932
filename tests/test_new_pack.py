"""A pack made of a team's own documents: what they allow for, and what is missing."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from soldiom_ray.api.routes import specialists
from soldiom_ray.cli.app import app
from soldiom_ray.domains.new_pack import new_pack
from soldiom_ray.domains.pack_runs import plan_run
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.specialists import find_pack, own_folder, packs, read_pack
from soldiom_ray.errors import InputError, NotFoundError
from soldiom_ray.settings import load_settings

LABELS = {"fault": {"train": 40, "test": 10}, "praise": {"train": 9, "test": 2}}


def counts(kept: int, **more: int) -> dict[str, int]:
    return {"kept": kept, "train": kept - 12, "validation": 0, "test": 12, **more}


@pytest.mark.parametrize(
    ("counted", "details", "pairs", "use", "capabilities", "missing"),
    [
        (counts(61), {"labels": LABELS}, 0, "classify_texts", ["classify"], "praise (9)"),
        (counts(61, pictures=61), {"labels": LABELS}, 0, "classify_pictures", ["classify"], "12 held-out samples"),
        (counts(61), {"labels": {}}, 49, "answer", ["answer"], "49 pairs of question and answer"),
        (counts(61), {"labels": {}}, 3, "search", ["find-passages", "continue"], "Nothing to learn a task from"),
    ],
)
def test_documents_become_the_pack_that_they_allow_for(
    counted: dict[str, int], details: dict[str, Any], pairs: int, use: str, capabilities: list[str], missing: str
) -> None:
    details |= {"languages": {"en": 20, "de": 41}, "licenses": {"unknown": 61}, "warnings": ["A warning."]}
    made = new_pack("depot", "", "/srv/depot", counted, details, pairs)
    pack = read_pack(made.text, "depot.yaml")
    assert made.use == use and list(pack.capabilities) == capabilities and pack.title == "Depot"
    text = " ".join(made.missing)
    assert missing in text and "A warning." in text and "placeholders" in text and "61 of 61 samples name no" in text
    assert ("41 of 61 samples are not in English" in text) == (use != "classify_pictures")
    planned = plan_run(pack, None, {})
    recipe = validate_recipe({**planned.recipes["first"], "domain": None})
    assert recipe.collect and recipe.train and (recipe.embed is not None) == (use == "search")


def test_the_packs_of_a_home_stand_beside_those_that_come_with_soldiom(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLDIOM_HOME", str(tmp_path))
    assert "depot" not in packs() and "legal" in packs()
    own_folder().mkdir()
    made = new_pack("depot", "Depot", "/srv/depot", counts(61), {"labels": LABELS}, 0)
    (own_folder() / "depot.yaml").write_text(made.text)
    (own_folder() / "broken.yaml").write_text("name: broken\n")
    assert find_pack("depot").models["first"].registered == "fine-tuned/depot" and "legal" in packs()
    with pytest.raises(InputError, match=r"broken\.yaml has"):
        find_pack("broken")
    (own_folder() / "gone.yaml").symlink_to(tmp_path / "nowhere")
    for name in ("gone", "a" * 300, "../domains/depot", "depot\x00"):
        with pytest.raises(NotFoundError, match="No domain"):
            find_pack(name)
    (own_folder() / "depot.yaml").write_text(made.text.replace("title: Depot", "title: Night depot"))
    assert find_pack("depot").title == "Night depot"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("legal", "comes with Soldiom"),
        ("../depot", "small letters"),
        ("/etc/depot", "small letters"),
        ("", "small letters"),
        ("d" * 300, "small letters"),
        ("spam-filter", "a model of the domain moderation"),
        ("depot", "There is a domain 'depot' already"),
    ],
)
def test_a_name_that_is_taken_or_is_none_is_refused_before_anything_is_read(
    name: str, why: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLDIOM_HOME", str(tmp_path))
    own_folder().mkdir()
    (own_folder() / "depot.yaml").write_text("name: depot\n")
    result = CliRunner().invoke(app, ["new-domain", name, "--from", str(tmp_path), "--json"])
    assert isinstance(result.exception, InputError) and why in str(result.exception)


def test_the_api_names_no_folder_that_a_domain_was_made_from(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLDIOM_HOME", str(tmp_path))
    own_folder().mkdir()
    made = new_pack("depot", "Depot", "/srv/private/depot", counts(61), {"labels": LABELS}, 0)
    (own_folder() / "depot.yaml").write_text(made.text)
    monkeypatch.setattr(specialists, "open_session", lambda settings, **reach: nullcontext())
    monkeypatch.setattr(specialists.models, "list_models", lambda *arguments, **options: ([], None))
    caller: Any = SimpleNamespace(tenant="default")
    listed = specialists.list_specialists(caller, load_settings())
    assert "/srv/private/depot" in made.text and "depot" in [item["id"] for item in listed["items"]]
    assert "/srv/private" not in str(listed)
    caller.tenant = "another"  # whose the domain, with the labels of its data, is not
    assert "depot" not in str(specialists.list_specialists(caller, load_settings()))
    with pytest.raises(NotFoundError, match="No domain 'depot'; known: ") as refused:
        find_pack("depot", "another")
    assert "depot," not in str(refused.value)
