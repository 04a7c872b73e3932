"""Every field that a body of the API may hold is judged: does it name a path, a model, an address? And what happens to
those that do."""

import json
import os
import sqlite3
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soldiom_ray.api.app import make_app
from soldiom_ray.artifacts import Artifacts, Context
from soldiom_ray.collect import collect
from soldiom_ray.domains.access import OPERATOR, Access, access_of_job, access_through_api, check_access
from soldiom_ray.domains.recipes import validate_recipe
from soldiom_ray.domains.references import KINDS, NAMES
from soldiom_ray.domains.schema import Recipe, Train
from soldiom_ray.domains.search import FIXED
from soldiom_ray.domains.sources import FilesSource, LocalSource
from soldiom_ray.errors import DeniedError, InputError
from soldiom_ray.settings import Settings, load_settings
from soldiom_ray.storage import open_storage

JUDGED = {
    "patterns, matched against names, never opened": (
        "FilesSource.include", "FilesSource.exclude", "LocalSource.include", "LocalSource.exclude",
    ),
    "words of a search, a license, a kind, a column, a label": (
        "GithubSource.topics", "GithubSource.languages", "HuggingfaceSource.tasks", "HuggingfaceSource.libraries",
        "FilesSource.columns", "FilesSource.license", "DatabaseSource.columns", "DatabaseSource.group_by",
        "UrlSource.columns", "Prepare.kinds", "LicensePolicy.allow", "LicensePolicy.deny", "LicensePolicy.ask",
        "SplitRule.test_groups", "ClassifierCheck.label", "Train.target_modules", "Recipe.name", "Recipe.domain",
        "Register.name", "Register.specialization", "Federate.labels",
        "TrainingBody.name", "TrainingBody.specialization",
        "PromotionBody.reason", "query format",
        "query license", "query reason", "query specialization", "SearchBody.filters",
    ),
    "a key's id or a user's name, compared with those of requests; times": (
        "QuotaBody.subject", "KeyBody.user", "query since", "query until",
    ),
    "run in the user's own database, which is opened to read": ("DatabaseSource.query", "DatabaseSource.tables"),
    "what a judge is asked; its address is an endpoint": ("Judge.model", "Judge.criteria"),
    "parts of an answer or of a request to the same origin": (
        "UrlSource.records", "UrlSource.next", "UrlSource.cursor", "UrlSource.page", "UrlSource.headers",
    ),
    "installed distributions; editable ones are judged by their folder": ("LocalSource.packages",),
    "numbers and single words (Train._describes_only)": ("Train.architecture",),
    "refers to parts of itself only (Evaluate._schema_refers_to_itself)": ("Evaluate.answer_schema",),
    "refers to parts of itself only (models/decoding/schemas.py, resolved)": ("JsonSchema.schema",),
    "names of the domains that come with Soldiom and of their capabilities": ("path domain", "path capability"),
    "a capability's input, checked against its schema; texts for rules and models": (
        "post /api/specialists/{domain}/{capability}",
    ),
    "values of settings of `train`; those that name a model are not searched (test below)": ("Sweep.space",),
    "become a recipe, which is judged": (
        "TrainingBody.recipe", "TrainingBody.config", "TrainingBody.base_model", "TrainingBody.dataset_id",
        "TrainingBody.sweep", "EvaluationBody.run", "EvaluationBody.dataset_id", "EvaluationBody.config",
    ),
    "the bytes of a picture for a model, decoded as PNG or JPEG": (
        "InferenceBody.image", "post /api/inference/{model_id}.image",
    ),
    "texts for a model, stored or answered": (
        "InferenceBody.input", "InferenceBody.tools", "BatchBody.inputs", "Message.content", "Message.tool_calls",
        "Message.tool_call_id", "Message.name", "Parameters.stop", "SearchBody.query",
        "ChatBody.stop", "ChatBody.tools", "ChatMessage.content", "ChatMessage.name", "ChatMessage.tool_call_id",
        "ChatMessage.tool_calls", "ToolName.name", "CompletionBody.prompt", "CompletionBody.stop",
        "post /api/training/collect/user-input.content", "post /api/training/collect/user-input.metadata",
        "post /api/training/collect/user-input.file",
        "EmbeddingsBody.input", "FeedbackBody.correction", "FeedbackBody.reason", "AcceptanceBody.correction",
        "WatermarkBody.text",
    ),
    "ids and names, compared in the database": (
        "header idempotency-key", "query user_id", "query cursor", "query sha256", "path input_id", "path job_id",
        "path model_id", "path dataset_id", "path key_id", "path evaluation_id",
        "SearchBody.index", "KeyBody.name", "KeyBody.tenant", "ChatBody.model", "CompletionBody.model",
        "EmbeddingsBody.model", "WatermarkBody.model",
        "path model", "query model", "path feedback_id", "path user_id", "FeedbackBody.answer_id",
        "InferenceBody.user_id", "BatchBody.user_id", "FeedbackBody.user_id", "ChatBody.user", "CompletionBody.user",
        "post /api/training/collect/user-input.user_id",
    ),
    "read by nobody: OpenAI's clients may send it": (
        "EmbeddingsBody.user", "JsonSchema.name", "JsonSchema.description",
    ),
    "compared with the files of a manifest": ("path name",),
}  # fmt: skip
"""Free texts that name nothing on the server or elsewhere, by what becomes of them."""


def free_texts(schema: Any, location: str, definitions: dict[str, Any], seen: set[str]) -> Iterator[tuple[str, str]]:
    """(field, what it names or "") of each field of a JSON schema that takes any text, or anything at all."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/")[-1]
        if name not in seen:
            seen.add(name)
            yield from free_texts(definitions[name], name, definitions, seen)
        return
    members = [member for key in ("anyOf", "oneOf", "allOf") for member in schema.get(key, ())]
    is_open = schema.get("additionalProperties") is True or not (
        members or schema.keys() & {"type", "enum", "const", "properties"}
    )
    is_text = schema.get("type") == "string" and not schema.keys() & {"enum", "const"}
    if NAMES in schema or is_open or is_text:
        yield location, str(schema.get(NAMES, ""))
    inner = [*members, *(schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict))]
    for member in inner:
        yield from free_texts(member, location, definitions, seen)
    for name, member in schema.get("properties", {}).items():
        yield from free_texts(member, f"{location}.{name}", definitions, seen)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings({"SOLDIOM_HOME": str(tmp_path_factory.mktemp("home"))})


def test_every_free_text_of_every_body_and_of_recipes_is_judged(settings: Settings) -> None:
    document = make_app(settings, reconciles=False).openapi()
    definitions = document["components"]["schemas"]
    recipe = Recipe.model_json_schema(by_alias=True)
    fields: list[tuple[str, str]] = []
    seen: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                where = f"{parameter['in']} {parameter['name']}"
                fields += free_texts(parameter["schema"], where, definitions, seen)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                fields += free_texts(content["schema"], f"{method} {path}", definitions, seen)
    fields += free_texts(recipe, "Recipe", recipe["$defs"], seen)
    marked = {field: kind for field, kind in fields if kind}
    assert set(marked.values()) <= set(KINDS) and len(marked) > 10
    judged = {name for names in JUDGED.values() for name in names}
    unjudged = sorted({field for field, _ in fields} - marked.keys() - judged)
    assert not unjudged, (
        f"mark it in the schema (domains/references.py), or say in JUDGED why it names nothing: {unjudged}"
    )
    assert not judged - {field for field, _ in fields}, "no longer there"


def recipe_of(**headings: Any) -> Recipe:
    return validate_recipe({"name": "x"} | headings)


def test_a_sweep_searches_no_setting_that_names_something() -> None:
    schema = Train.model_json_schema()
    named = {
        field.partition(".")[2] for field, kind in free_texts(schema, "Train", schema.get("$defs", {}), set()) if kind
    }
    assert named and named <= set(FIXED)


PLACES = {
    "collect[0].path": lambda path: {"collect": [{"source": "local", "path": path}]},
    "collect[0].paths[1]": lambda path: {"collect": [{"source": "files", "paths": ["/open/a", path]}]},
    "collect[0].speech_model": lambda path: {
        "collect": [{"source": "files", "inputs": ["u"], "speech_model": path}]
    },
    "collect[0].url": lambda path: {"collect": [{"source": "database", "url": f"sqlite://{path}", "private": True}]},
    "train.base_model": lambda path: {"dataset": "d", "train": {"base_model": path}},
    "embed.model": lambda path: {"dataset": "d", "embed": {"model": path}},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_path_is_for_whoever_runs_the_server_and_within_opened_folders_for_its_admin(
    place: str, tmp_path: Path
) -> None:
    opened, other = tmp_path / "opened", tmp_path / "other"
    (opened / "model").mkdir(parents=True)
    (other / "model").mkdir(parents=True)
    (other / "model" / "config.json").write_text("{}")
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path / "home"), "SOLDIOM_API_FOLDERS": f"{opened}, /open"})
    admin = access_through_api(settings, "default", is_admin=True)
    outsiders = [
        access_through_api(settings, "default", is_admin=False),
        access_through_api(settings, "acme", is_admin=True),
        access_of_job(settings, "key-of-acme", "acme"),
    ]
    good = recipe_of(**PLACES[place](str(opened / "model")))
    check_access(good, OPERATOR)
    check_access(good, admin)
    check_access(good, access_of_job(settings, "key-of-default", "default"))
    (opened / "link").symlink_to(other / "model")
    (opened / "loop").symlink_to(opened / "loop")
    wrong = [other / "model", "/etc/passwd", opened / "link", opened / "loop", f"{opened}/../other/model", f"{opened}x"]
    for path in map(str, wrong):
        recipe = recipe_of(**PLACES[place](path))
        check_access(recipe, OPERATOR)
        with pytest.raises(DeniedError) as denied:
            check_access(recipe, admin)
        assert place in [problem.loc for problem in denied.value.problems] and path not in str(denied.value)
    for access in outsiders:
        with pytest.raises(DeniedError, match="upload"):
            check_access(good, access)
    assert access_of_job(settings, "cli", "default") == OPERATOR == Access(None, private=True)


def test_a_model_whose_folder_holds_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    for link in ("tokenizer.json", "inner/deep.json"):
        folder = tmp_path / "opened" / link.replace("/", "-")
        (folder / link).parent.mkdir(parents=True)
        (folder / link).symlink_to(secret)
        with pytest.raises(DeniedError):
            access = Access((tmp_path / "opened",), private=False)
            check_access(recipe_of(**PLACES["train.base_model"](str(folder))), access)


@pytest.mark.parametrize("source", ["files", "local"])
def test_links_that_lead_out_of_an_opened_folder_are_dropped_and_nothing_behind_them_is_read(
    source: str, settings: Settings, tmp_path: Path
) -> None:
    opened, secret = tmp_path / "opened", tmp_path / "secret.md"
    (opened / "sub").mkdir(parents=True)
    secret.write_text("# hunter2\n\nthe secret of the server, in a sentence that is long enough\n")
    (opened / "sub" / "good.md").write_text("# Good\n\nA text that anybody in the team may read, in a sentence.\n")
    for link in (opened / "one.md", opened / "sub" / "two.md", opened / "LICENSE"):
        link.symlink_to(secret)
    (opened / "folder").symlink_to(tmp_path, target_is_directory=True)
    (opened / ".git").symlink_to(tmp_path / "not-there")
    context = Context(settings, Artifacts(open_storage(settings)), lambda *_: None, folders=(opened,))
    declared: Any = (
        FilesSource(paths=(str(opened), str(opened / "one.md")))
        if source == "files"
        else LocalSource(source="local", path=str(opened))
    )
    manifest = collect(context, [declared])
    rows = list(context.artifacts.rows(manifest, "documents/"))
    assert [Path(row["path"]).name for row in rows] == ["good.md"]
    assert "hunter2" not in json.dumps([rows, manifest.model_dump(mode="json")], default=str)
    assert manifest.counts["outcome_leads_out"] >= 1


def test_a_file_that_becomes_a_link_between_listing_and_reading_is_not_read(tmp_path: Path) -> None:
    from soldiom_ray.domains.access import read_within

    opened, secret = tmp_path / "opened", tmp_path / "secret"
    opened.mkdir()
    secret.write_text("hunter2")
    (opened / "a").write_text("good")
    assert read_within(opened / "a", (opened,)) == b"good"
    (opened / "a").unlink()
    os.symlink(secret, opened / "a")
    with pytest.raises(PermissionError):
        read_within(opened / "a", (opened,))


def test_an_architecture_holds_numbers_and_single_words_only() -> None:
    recipe_of(
        dataset="d", train={"method": "full", "architecture": {"model_type": "llama", "rope": {"type": "linear"}}}
    )
    for member in ({"_name_or_path": "x"}, {"hidden_act": "/etc/passwd"}, {"a": {"b": ["../x"]}}, {"a": "kernels/x"}):
        with pytest.raises(InputError, match="architecture"):
            recipe_of(dataset="d", train={"method": "full", "architecture": member})


def test_folders_opened_to_the_api_are_absolute_and_not_everything(tmp_path: Path) -> None:
    for value in ("relative", "/", "~/x", str(tmp_path), str(tmp_path.parent), str(tmp_path / "keys")):
        with pytest.raises(InputError, match="SOLDIOM_API_FOLDERS"):
            load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_API_FOLDERS": value})


def test_a_schema_of_answers_names_nothing_that_would_be_fetched(tmp_path: Path) -> None:
    from soldiom_ray.metrics.answers import json_validity
    from soldiom_ray.metrics.measurement import AnswerOutcome
    from soldiom_ray.models.decoding.schemas import checked

    def evaluate(schema: dict[str, Any]) -> Recipe:
        return recipe_of(run="r", evaluate={"answer_schema": schema})

    evaluate({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}})
    (tmp_path / "secret.json").write_text('{"type": "object"}')
    for target in (f"file://{tmp_path}/secret.json", "http://169.254.169.254/latest", "other.json"):
        for schema in ({"$ref": target}, {"properties": {"a": {"anyOf": [{"$dynamicRef": target}]}}}):
            with pytest.raises(InputError, match="answer_schema"):
                evaluate(schema)
            with pytest.raises(InputError, match=r"[$][a-zA-Z]*[rR]ef"):  # that of a request to an endpoint
                checked(schema | {"type": "object"})
    with pytest.raises(Exception, match="secret"):  # and were it not refused, nothing would be opened
        json_validity(AnswerOutcome(("{}",), ("{}",), {"$ref": f"file://{tmp_path}/secret.json"}))


def hostile_files(folder: Path, secret: Path) -> None:
    """Documents that name a file of the server in every way that their formats have."""
    words = "words that make a text " * 5
    texts = {
        "a.html": f"<p>{words}<img src='file://{secret}'><iframe src='file://{secret}'></iframe>",
        "a.svg": f"<svg xmlns:xlink='x'><image xlink:href='file://{secret}'/><text>{words}</text></svg>",
        "a.xml": f"<!DOCTYPE a [<!ENTITY x SYSTEM 'file://{secret}'>]><a>{words}&x;</a>",
        "a.md": f"# {words}\n\n![x](file://{secret}) <!--#include file='{secret}'-->",
        "a.jsonl": json.dumps({"text": words, "image": str(secret), "path": str(secret), "url": f"file://{secret}"}),
        "a.csv": f"text,image\n{words},{secret}\n",
        "a.sql": f"CREATE TABLE t(a text); INSERT INTO t VALUES('{words}'); ATTACH '{secret}' AS x;",
        "a.mp4": f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n",
        "b.mp3": f"ffconcat version 1.0\nfile '{secret}'\n",
        "a.ipynb": json.dumps({"cells": [{"cell_type": "markdown", "source": f"{words} ![x](file://{secret})"}]}),
        "a.eml": f"Subject: x\nContent-Type: message/external-body; access-type=local-file; name='{secret}'\n\n{words}",
        "a.tex": f"\\input{{{secret}}} {words}",
        "a.rst": f"{words}\n\n.. include:: {secret}\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = 0xA1FF << 16
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr(link, str(secret))
        archive.writestr("good.txt", words)
    with tarfile.open(folder / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"link-{kind.decode()}.txt")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    with sqlite3.connect(folder / "a.sqlite") as database:
        database.execute(f"CREATE TABLE t AS SELECT '{words}' AS text")
        database.execute("CREATE VIEW v AS SELECT readfile('x') AS text")


def test_documents_that_name_a_file_of_the_server_bring_nothing_of_it(settings: Settings, tmp_path: Path) -> None:
    opened, secret = tmp_path / "opened", tmp_path / "secret.txt"
    opened.mkdir()
    secret.write_text("hunter2 is the secret of the server\n")
    hostile_files(opened, secret)
    context = Context(settings, Artifacts(open_storage(settings)), lambda *_: None, folders=(opened,))
    manifest = collect(context, [FilesSource(paths=(str(opened),))])
    rows = [row for kind in ("documents/", "dropped/") for row in context.artifacts.rows(manifest, kind)]
    assert manifest.counts["documents"] >= 5 and len(rows) >= 12
    assert "hunter2" not in json.dumps([rows, manifest.model_dump(mode="json")], default=str)
    storage = context.artifacts.storage
    kept = storage.keys("kept") + storage.keys("raw")
    assert not [key for key in kept if b"hunter2" in storage.read(key)]
