"""What licences of base and data mean for a model: every row of the table, and the table in the docs."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from soldiom_ray.domains.base_catalog import CATALOG, license_of
from soldiom_ray.domains.builtin_models import builtin_names
from soldiom_ray.domains.schema import Deploy
from soldiom_ray.errors import ConflictError
from soldiom_ray.licenses import Compliance, Ingredient, ModelUse, check_compliance, from_name, judge
from soldiom_ray.licenses.compliance import KNOWN
from soldiom_ray.licenses.model_rules import RULES
from soldiom_ray.registry import catalog

DOCS = Path(__file__).parents[1] / "docs" / "registry.md"


def judged(license_: str, use: ModelUse, name: str = "legal", part: str = "data", *accepted: str) -> Compliance:
    return judge(name, [Ingredient(part, license_, "record r1 of pages", accepted=accepted)], use)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("license_", "rule", "any_use", "commercial"),
    [
        ("", "missing", True, False),
        ("LicenseRef-Unknown", "missing", True, False),
        ("LicenseRef-Other", "other", True, False),
        ("LicenseRef-Terms-Of-A-Site", "other", True, False),
        ("CC-BY-NC-4.0", "non-commercial", True, False),
        ("CC-BY-ND-4.0", "no-derivatives", False, False),
        ("LicenseRef-Proprietary", "no-derivatives", False, False),
        ("CC-BY-NC-SA-2.0-FR", "non-commercial", True, False),
        ("CC-BY-ND-3.0-DE", "no-derivatives", False, False),
        ("etalab-2.0", "other", True, False),
        ("MPL-2.0", "weak-copyleft", True, True),
        ("LGPL-3.0-only", "weak-copyleft", True, True),
        ("CC-BY-4.0", "attribution", True, True),
        ("BSD-3-Clause", "attribution", True, True),
        ("CC-BY-SA-4.0", "share-alike", True, True),
        ("LicenseRef-Llama-2", "llama-2", True, True),
        ("LicenseRef-Gemma", "gemma", True, True),
        ("GPL-3.0-only", "copyleft", True, False),
        ("AGPL-3.0-or-later", "copyleft", True, False),
        ("LicenseRef-OpenRAIL", "openrail", True, True),
        ("Apache-2.0", "apache", True, True),
        ("Apache-2.0 WITH LLVM-exception", "apache", True, True),
    ],
)
def test_a_row_blocks_the_uses_that_it_names(license_: str, rule: str, any_use: bool, commercial: bool) -> None:
    for use, allowed in (("any", any_use), ("commercial", commercial)):
        result = judged(license_, use)  # type: ignore[arg-type]
        assert [violation.rule for violation in result.violations][:1] == ([] if allowed else [rule]), use
        assert all("record r1 of pages" in violation.message for violation in result.violations)
    duty = next(row.duty for row in RULES if row.key == rule)
    assert duty in [asked for _, asked in judged(license_, "any").duties]


@pytest.mark.parametrize("version", ["3", "3.1", "3.2", "3.3", "4"])
def test_a_model_made_from_llama_is_called_llama_and_says_so(version: str) -> None:
    refused = judged(f"LicenseRef-Llama-{version}", "any", "legal", "base")
    assert "begins with" in refused.violations[0].message and "record r1" in refused.violations[0].message
    named = judged(f"LicenseRef-Llama-{version}", "commercial", "llama-legal", "base")
    assert not named.violations and "Built with" in named.notices[0] and f"Llama {version}" in named.notices[0]


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("llama", True), ("llama-x", True), ("llama3-x", True), ("Llama 3 x", True), ("llamaindex", False)],
)
def test_the_name_has_llama_as_its_first_word(name: str, allowed: bool) -> None:
    assert (not judged("LicenseRef-Llama-3", "any", name, "base").violations) == allowed


@pytest.mark.parametrize(
    ("name", "spdx"),
    [("llama4", "LicenseRef-Llama-4"), ("llama3.1", "LicenseRef-Llama-3.1")]
    + [
        (name, "LicenseRef-Other")
        for name in (
            "bigscience-bloom-rail-1.0",
            "qwen",
            "qwen-research",
            "tongyi-qianwen",
            "deepfloyd-if-license",
        )
    ],
)
def test_the_hub_names_of_model_licences_are_not_read_as_missing(name: str, spdx: str) -> None:
    assert from_name(name) == spdx


def test_a_version_from_before_ingredients_were_kept_has_its_bases_name_rule() -> None:
    with pytest.raises(ConflictError, match="begins with"):
        check_compliance("promoted", "legal", {"base_model": "x/y"}, "LicenseRef-Llama-3")
    check_compliance("deployed", "meta-llama", {"base_model": "x/y", "fingerprint": "0"}, "LicenseRef-Llama-3")


def test_a_forbidden_deployment_is_refused_before_a_job_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace
    from typing import Any

    from soldiom_ray.api.routes import models as routes

    record = Ingredient("data", "CC-BY-NC-4.0", "record r7 of x").as_dict()
    row = SimpleNamespace(id="1", name="legal", lineage={"ingredients": [record]}, license="CC-BY-NC-4.0")
    caller: Any = SimpleNamespace(tenant="default")
    unused: Any = None
    monkeypatch.setattr(routes, "open_session", lambda settings: nullcontext())
    monkeypatch.setattr(routes.models, "get", lambda *asked: row)
    monkeypatch.setattr(routes.submit, "start", lambda *asked: {"started": True})
    with pytest.raises(ConflictError, match="record r7 of x"):
        routes.deploy_model("1", caller, unused, unused, Deploy(use="commercial"))
    assert routes.deploy_model("1", caller, unused, unused, Deploy(use="any")) == {"started": True}


def test_notices_of_gemma_and_openrail_go_with_the_model() -> None:
    assert "ai.google.dev/gemma/terms" in judged("LicenseRef-Gemma", "any").notices[0]
    assert "use restrictions" in judged("LicenseRef-OpenRAIL", "any").notices[0]
    assert not judged("MIT", "commercial").notices and not judged("MIT", "commercial").duties


def test_every_part_of_a_creative_commons_licence_counts() -> None:
    rules = [violation.rule for violation in judged("CC-BY-NC-ND-1.0", "commercial").violations]
    assert rules == ["non-commercial", "no-derivatives"]


def test_of_alternatives_the_better_one_counts_and_of_joint_terms_all() -> None:
    assert not judged("GPL-3.0-only OR MIT", "commercial").violations
    assert judged("GPL-3.0-only AND MIT", "commercial").violations
    assert judged("CC-BY-NC-4.0 AND (MIT OR ISC)", "commercial").violations


def test_a_person_may_let_a_licence_pass() -> None:
    assert not judged("", "commercial", "legal", "data", "unknown").violations
    assert not judged("LicenseRef-Other", "commercial", "legal", "data", "LicenseRef-Other").violations
    assert judged("CC-BY-NC-4.0", "commercial", "legal", "data", "unknown").violations
    for terms in ("etalab-2.0", "LicenseRef-Terms-Of-A-Site", "GPL-2.0-only WITH Classpath-exception-2.0"):
        assert judged(terms, "commercial").violations
        assert not judged(terms, "commercial", "legal", "data", terms).violations
    assert not judged("GPL-2.0-only WITH Classpath-exception-2.0", "commercial", "x", "data", "GPL-2.0-only").violations


def test_the_refusal_names_what_causes_it_and_the_remedy() -> None:
    lineage = {"use": "commercial", "ingredients": [Ingredient("data", "GPL-3.0-only", "record r7 of x").as_dict()]}
    with pytest.raises(ConflictError, match=r"may not be deployed: record r7 of x has licence GPL-3\.0-only") as caught:
        check_compliance("deployed", "legal", lineage, "GPL-3.0-only")
    assert caught.value.status == 409 and "prepare.license" in caught.value.remedy
    check_compliance("deployed", "legal", lineage, "GPL-3.0-only", "any")
    check_compliance("deployed", "older", {}, "")
    with pytest.raises(ConflictError, match="no known licence"):
        check_compliance("deployed", "older", {}, "", "commercial")


def test_the_docs_have_every_row() -> None:
    text = DOCS.read_text()
    for rule in RULES:
        assert f"| `{rule.key}` | {rule.about} |" in text and rule.duty in text, rule.key


def test_the_catalog_has_the_builtin_models_and_says_what_licences_ask() -> None:
    assert set(builtin_names()) <= {entry.model for entry in CATALOG}
    assert all(entry.license in KNOWN for entry in CATALOG) and len({entry.name for entry in CATALOG}) == len(CATALOG)
    items = {item["name"]: item for item in catalog()}
    assert items["llama-3-8b"]["name_starts_with"] == "llama" and "Built with" in items["llama-3-8b"]["notices"][0]
    assert items["mistral-7b"]["name_starts_with"] == "" and "NOTICE" in items["mistral-7b"]["duties"][0]
    assert license_of("google/gemma-2b@main") == "LicenseRef-Gemma" and license_of("team/own") == ""
