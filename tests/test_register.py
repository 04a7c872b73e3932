"""register: versions in our database and in MLflow, with real PostgreSQL and MLflow."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from conftest import free_port
from small_models import small_base, small_context, small_dataset, small_run, small_settings, tuned

from soldiom_ray.artifacts import Context
from soldiom_ray.compress import compress
from soldiom_ray.db import audit, evaluations, models
from soldiom_ray.db.engine import migrate, open_session
from soldiom_ray.deploy import deploy
from soldiom_ray.domains.compression import compression
from soldiom_ray.domains.schema import Deploy, Evaluate, Register
from soldiom_ray.errors import ConflictError, DeniedError, InputError, NotFoundError, UnavailableError
from soldiom_ray.evaluate import evaluate
from soldiom_ray.examples import Example, read_examples
from soldiom_ray.records import Manifest
from soldiom_ray.register import register
from soldiom_ray.register.bases import base_name
from soldiom_ray.register.sources import combined_license, data_sources
from soldiom_ray.registry import PREVIOUS, champion, lineage, materials, promote, remove, rollback

GROUPS = {"train": {"alpha": 3}, "validation": {"beta": 1}, "test": {"gamma": 2}}
EXAMPLE = Example(group="gamma", prompt="How many?", reference="Seven.", base="How many?", tuned="Seven!")
VERDICTS = {True: "Passed: the tuned model beats its base.", False: "Not passed: the interval includes zero."}


@pytest.fixture(scope="module")
def services(
    postgres_server: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A PostgreSQL with our tables, and an MLflow server on another of its databases."""
    import psycopg

    root = tmp_path_factory.mktemp("services")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlflow")
    ours = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    theirs = postgres_server.replace("/postgres?", "/mlflow?").replace("postgresql://", "postgresql+psycopg://")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", theirs, "--artifacts-destination", (root / "mlflow").as_uri()]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.3)
    migrate(small_settings(root, SOLDIOM_DATABASE_URL=ours))
    yield {"SOLDIOM_DATABASE_URL": ours, "MLFLOW_TRACKING_URI": url}
    os.killpg(process.pid, 15)
    process.wait(30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    base = small_base(root / "small-base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Small base\nMade for a test.\n")
    return {"base": base, "tuned": tuned(base, root / "tuned", 2)}


@pytest.fixture
def context(tmp_path: Path, services: dict[str, str]) -> Context:
    return small_context(small_settings(tmp_path / "home", **services))


def small_scores(context: Context, run: Manifest, dataset: Manifest, passed: bool = True, groups: int = 3) -> Manifest:
    """A scores artifact as `evaluate` writes it."""
    draft = context.artifacts.draft("scores", {"passed": passed, "run": run.id, "groups": groups}, (run.id, dataset.id))
    draft.write("report.md", b"# Scores\n")
    draft.write("scores.json", json.dumps({"examples": [EXAMPLE.model_dump()]}).encode())
    interval = {"mean": -0.5, "low": -0.6, "high": -0.4 if passed else 0.1}
    return draft.commit(
        details={
            "base": {"loss": 3.0}, "tuned": {"loss": 2.5}, "difference": {"loss": interval}, "tokens": 900,
            "documents": 12, "groups": groups,
            "gate": {"metric": "loss", "passed": passed, "verdict": VERDICTS[passed], "confidence": 0.95},
        }
    )  # fmt: skip


def made(
    context: Context, folders: dict[str, Path], name: str, passed: bool = True, **columns: str
) -> tuple[Manifest, Manifest, Manifest]:
    """Dataset, run and scores of a name of their own."""
    dataset = small_dataset(context, GROUPS, **columns)
    run = small_run(context, dataset, folders["tuned"], folders["base"], rank=name)
    return run, small_scores(context, run, dataset, passed), dataset


@contextmanager
def hanging_up() -> Iterator[tuple[str, list[str]]]:
    """(URL of a server that closes every connection at once, a list that grows with each of them)."""
    connections: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()
                    connections.append("connection")

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_run_and_its_base_become_versions_in_the_database_and_in_mlflow(
    context: Context, folders: dict[str, Path], services: dict[str, str]
) -> None:
    from mlflow.tracking import MlflowClient

    run, scores, dataset = made(context, folders, "first")
    version = register(context, "first", run, scores, dataset, Register(specialization="legal"))
    details = version.details
    assert (details["family"], details["name"], details["version"]) == ("fine-tuned", "first", 1)
    with open_session(context.settings) as session:
        row = models.get(session, details["model_id"])
        base = models.get(session, str(row.base_model_id))
        scored = evaluations.of_model(session, row.id)
    assert (row.family, row.name, row.run_artifact, row.specialization) == ("fine-tuned", "first", run.id, "legal")
    assert row.performance_metrics["tuned"] == {"loss": 2.5} and row.gate["passed"] and row.gate["promoted"]
    assert row.license == "Apache-2.0 AND MIT" and not row.deployed
    assert scored[0].scores_artifact == scores.id
    assert (base.family, base.license, base.mlflow_version) == ("base", "Apache-2.0", "1")
    assert "Made for a test." in base.card
    client = MlflowClient(services["MLFLOW_TRACKING_URI"])
    version_in_mlflow = client.get_model_version(details["mlflow_name"], details["mlflow_version"])
    tags = version_in_mlflow.tags
    assert (tags["model_id"], tags["gate"], tags["family"]) == (row.id, "passed", "fine-tuned")
    assert run.id in version_in_mlflow.source
    assert client.get_model_version_by_alias("fine-tuned.first", "champion").version == details["mlflow_version"]
    card = context.artifacts.read(version, "card.md").decode()
    assert card == row.card
    for part in (
        "## Intended use",
        "## Data",
        "| local | other | MIT | alpha, gamma, beta | 4 | 2 |",
        "## Evaluation",
        run.id,
    ):
        assert part in card, part
    assert "[-0.6000, -0.4000]" in card and "Apache-2.0" in card and "## Limits" in card
    shown = [card.index(text) for text in ("## Answers before and after", "How many?", "Seven.", "Seven!")]
    assert shown == sorted(shown)


def test_a_card_leaves_out_the_held_out_examples_when_texts_are_sealed(
    tmp_path: Path, folders: dict[str, Path], services: dict[str, str]
) -> None:
    context = small_context(small_settings(tmp_path / "home", SOLDIOM_ENCRYPTION_KEY="ab" * 32, **services))
    run, scores, dataset = made(context, folders, "sealed")
    version = register(context, "sealed", run, scores, dataset, Register())
    assert read_examples(context.artifacts, scores.id) == [EXAMPLE]
    with open_session(context.settings) as session:
        assert "How many?" not in models.get(session, version.details["model_id"]).card


def test_registering_twice_gives_the_same_version_and_one_base(
    context: Context, folders: dict[str, Path], services: dict[str, str]
) -> None:
    from mlflow.tracking import MlflowClient

    run, scores, dataset = made(context, folders, "twice")
    first = register(context, "twice", run, scores, dataset, Register())
    again = register(context, "twice", run, scores, dataset, Register())
    assert again.created_at == first.created_at
    context.artifacts.delete(first.id)
    third = register(context, "twice", run, scores, dataset, Register())
    assert third.details["model_id"] == first.details["model_id"]
    with open_session(context.settings) as session:
        assert len(models.list_models(session, None, name="twice")[0]) == 1
        assert len(models.list_models(session, None, family="base", name=base_name(str(folders["base"])))[0]) == 1
    client = MlflowClient(services["MLFLOW_TRACKING_URI"])
    assert len(client.search_model_versions("name='fine-tuned.twice'")) == 1


def test_a_second_run_becomes_the_next_version(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "next")
    assert register(context, "next", run, scores, dataset, Register()).details["version"] == 1
    second = small_scores(context, run, dataset, passed=False)
    details = register(context, "next", run, second, dataset, Register()).details
    assert details["version"] == 2 and details["mlflow_version"] == "2"


def test_a_model_whose_gate_failed_is_registered_and_not_promoted(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "failed", passed=False)
    details = register(context, "failed", run, scores, dataset, Register()).details
    assert not details["promoted"] and champion(context.settings, "fine-tuned.failed") is None
    with pytest.raises(ConflictError, match="includes zero"):
        promote(context.settings, details["model_id"], actor="key", is_admin=True)
    asked = {"actor": "key", "force": True}
    with pytest.raises(DeniedError, match="Only an administrator"):
        promote(context.settings, details["model_id"], is_admin=False, reason="a demonstration", **asked)
    with pytest.raises(InputError, match="give a reason"):
        promote(context.settings, details["model_id"], is_admin=True, reason=" ", **asked)
    forced = promote(context.settings, details["model_id"], is_admin=True, reason="a demonstration", **asked)
    with open_session(context.settings) as session:
        rows = [row for row in audit.list_rows(session, None)[0] if row.object == details["model_id"]]
    assert [row.decision for row in rows] == ["allow", "deny", "deny", "deny"]
    assert rows[0].details["reason"] == "a demonstration" and rows[0].details["forced"] and rows[0].actor == "key"
    assert forced["gate"]["forced"] and not forced["gate"]["passed"]
    assert champion(context.settings, "fine-tuned.failed") == details["mlflow_version"]


def test_a_model_that_nothing_was_measured_of_is_registered_and_says_so(
    context: Context, folders: dict[str, Path]
) -> None:
    dataset = small_dataset(context, {"train": {"alpha": 3}})
    run = small_run(context, dataset, folders["tuned"], folders["base"], rank="unmeasured")
    scores = evaluate(context, run, dataset, Evaluate())
    version = register(context, "unmeasured", run, scores, dataset, Register())
    details, card = version.details, context.artifacts.read(version, "card.md").decode()
    assert not details["promoted"] and details["gate"]["measured"] is False
    assert "## Evaluation\n\nNot measured" in card and "0 group(s)" not in card
    with pytest.raises(ConflictError, match="Not measured"):
        promote(context.settings, details["model_id"], actor="key", is_admin=True)


def test_mlflow_being_down_loses_nothing(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "patient")
    with hanging_up() as (url, attempts):
        down = replace(context, settings=replace(context.settings, mlflow_url=url))
        with pytest.raises(UnavailableError, match="cannot be reached"):
            register(down, "patient", run, scores, dataset, Register())
    assert attempts == ["connection"] * 3, "MLflow's own values would try for minutes"
    details = register(context, "patient", run, scores, dataset, Register()).details
    assert details["version"] == 1 and details["mlflow_version"] == "1"


def test_a_half_registered_version_is_finished_by_the_next_run(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "half")
    details = register(context, "half", run, scores, dataset, Register()).details
    with open_session(context.settings) as session:
        models.update(session, details["model_id"], mlflow_name=None, mlflow_version=None)
    again = register(context, "half", run, scores, dataset, Register()).details
    assert (again["model_id"], again["mlflow_version"]) == (details["model_id"], details["mlflow_version"])


def test_a_removed_version_is_gone_from_both_and_can_be_registered_again(
    context: Context, folders: dict[str, Path]
) -> None:
    run, scores, dataset = made(context, folders, "removed")
    details = register(context, "removed", run, scores, dataset, Register()).details
    with open_session(context.settings) as session:
        models.update(session, details["model_id"], deployed=True)
    with pytest.raises(ConflictError, match="deployed"):
        remove(context.settings, details["model_id"])
    with open_session(context.settings) as session:
        models.update(session, details["model_id"], deployed=False)
    down = replace(context.settings, mlflow_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError):
        remove(down, details["model_id"])
    remove(context.settings, details["model_id"])
    with open_session(context.settings) as session, pytest.raises(NotFoundError):
        models.get(session, details["model_id"])
    again = register(context, "removed", run, scores, dataset, Register()).details
    assert again["model_id"] != details["model_id"]


def test_a_model_from_random_weights_can_be_registered_as_a_base_without_scores(
    context: Context, folders: dict[str, Path]
) -> None:
    dataset = small_dataset(context, GROUPS)
    run = small_run(context, dataset, folders["tuned"], None)
    version = register(context, "own-base", run, None, dataset, Register(family="base"))
    assert version.details["family"] == "base" and version.details["base_model_id"] is None
    card = context.artifacts.read(version, "card.md").decode()
    assert "Not evaluated." in card and "random weights" in card


def test_the_same_name_of_two_tenants_stays_apart(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "shared")
    ours = register(context, "shared", run, scores, dataset, Register()).details
    theirs = register(replace(context, tenant="acme"), "shared", run, scores, dataset, Register()).details
    assert ours["model_id"] != theirs["model_id"] and theirs["mlflow_name"] == "acme.fine-tuned.shared"


def test_parts_without_a_known_licence_are_named(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "unknown", license="")
    version = register(context, "unknown", run, scores, dataset, Register())
    assert version.details["license"] == "Apache-2.0 AND LicenseRef-Unknown"
    card = context.artifacts.read(version, "card.md").decode()
    assert "without a known licence: alpha, beta" in card
    assert combined_license(None, data_sources(context.artifacts, dataset)) == ("LicenseRef-Unknown", ["alpha", "beta"])


def test_pickled_weights_are_refused(context: Context, folders: dict[str, Path], tmp_path: Path) -> None:
    dataset = small_dataset(context, GROUPS)
    draft = context.artifacts.draft("run", {"pickled": True}, (dataset.id,))
    draft.write("weights/pytorch_model.bin", b"x")
    run = draft.commit(details={"base_model": str(folders["base"]), "method": "full"})
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        register(context, "pickled", run, None, dataset, Register())


def test_names_of_base_models_become_plain_names(tmp_path: Path) -> None:
    assert base_name("builtin/tiny") == "tiny"
    assert base_name("HuggingFaceTB/SmolLM2-135M") == "huggingfacetb--smollm2-135m"
    folder = tmp_path / "My Model (v2)"
    folder.mkdir()
    assert base_name(str(folder)) == "my-model-v2"
    assert Path(folder).is_dir()


def test_a_licence_that_forbids_it_blocks_promotion_deployment_and_what_is_built_on_it(
    context: Context, folders: dict[str, Path]
) -> None:
    run, scores, dataset = made(context, folders, "blocked", license="CC-BY-ND-4.0")
    version = register(context, "blocked", run, scores, dataset, Register())
    details = version.details
    assert not details["promoted"] and details["license_violations"][0]["rule"] == "no-derivatives"
    assert champion(context.settings, "fine-tuned.blocked") is None
    assert "## Terms of use\n\n- Blocked:" in context.artifacts.read(version, "card.md").decode()
    asked = {"actor": "key", "is_admin": True, "force": True, "reason": "we want it"}
    with pytest.raises(ConflictError, match=r"promoted: record train-alpha-0 of alpha \(local\) has licence CC-BY-ND"):
        promote(context.settings, details["model_id"], **asked)  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="may not be deployed: record train-alpha-0"):
        deploy(context, details["model_id"], Deploy())
    free = small_dataset(context, GROUPS)
    built = small_run(context, free, folders["tuned"], None, base_model=run.id, rank="built on blocked")
    later = register(context, "built", built, small_scores(context, built, free), free, Register()).details
    assert not later["promoted"] and "train-alpha-0" in later["license_violations"][0]["message"]


def test_a_rollback_brings_the_champion_before_back(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "rolled")
    first = register(context, "rolled", run, scores, dataset, Register()).details
    with pytest.raises(ConflictError, match="no previous champion"):
        rollback(context.settings, first["model_id"], actor="key")
    second = register(context, "rolled", run, small_scores(context, run, dataset, groups=4), dataset, Register())
    name = "fine-tuned.rolled"
    if second.details["model_id"] == first["model_id"]:
        pytest.fail("the second scores made no second version")
    assert (champion(context.settings, name), champion(context.settings, name, PREVIOUS)) == ("2", "1")
    assert rollback(context.settings, second.details["model_id"], actor="key")["id"] == first["model_id"]
    assert (champion(context.settings, name), champion(context.settings, name, PREVIOUS)) == ("1", "2")
    down = replace(context.settings, mlflow_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError):
        rollback(down, first["model_id"], actor="key")
    assert champion(context.settings, name) == "1"
    assert trail(context, "rollback", first["model_id"]) == [("allow", "UnavailableError"), ("deny", None)]


def trail(context: Context, action: str, model_id: str) -> list[tuple[str, str | None]]:
    """(decision, error) of a deed with a version, newest first."""
    with open_session(context.settings) as session:
        rows = audit.list_rows(session, None, limit=200)[0]
    return [
        (row.decision, row.details.get("failed")) for row in rows if row.action == action and row.object == model_id
    ]


def test_a_promotion_is_whole_or_not_at_all_one_at_a_time_and_in_the_trail_as_it_ended(
    context: Context, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scores, dataset = made(context, folders, "whole")
    versions = [register(context, "whole", run, scores, dataset, Register()).details["model_id"]]
    for groups in (4, 5):
        other = small_scores(context, run, dataset, groups=groups)
        versions.append(register(context, "whole", run, other, dataset, Register()).details["model_id"])
    name, settings = "fine-tuned.whole", context.settings
    assert trail(context, "promote", versions[2]) == [("allow", None)]

    def state() -> tuple[object, ...]:
        with open_session(settings) as session:
            rows = [models.get(session, each).gate for each in versions]
        return champion(settings, name), champion(settings, name, PREVIOUS), rows

    rollback(settings, versions[0], actor="key")
    before = state()
    down = replace(settings, mlflow_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError):
        promote(down, versions[0], actor="key", is_admin=False)
    with monkeypatch.context() as broken:
        append = audit.append
        broken.setattr(audit, "append", lambda *values: 1 / 0 if not values[5].get("failed") else append(*values))
        with pytest.raises(ZeroDivisionError):  # after the aliases were set
            promote(settings, versions[0], actor="key", is_admin=False)
    assert state() == before
    failed = [("allow", "ZeroDivisionError"), ("allow", "UnavailableError"), ("allow", None)]
    assert trail(context, "promote", versions[0]) == failed

    def ask(version: str) -> None:
        promote(settings, version, actor="key", is_admin=False)

    with ThreadPoolExecutor() as pool:
        list(pool.map(ask, versions * 3))
    with open_session(settings) as session:
        newest = [row.object for row in audit.list_rows(session, None, limit=200)[0] if row.object in versions]
        last, former = newest[0], next(each for each in newest if each != newest[0])
        numbers = [str(models.get(session, each).mlflow_version) for each in (last, former)]
    assert [champion(settings, name), champion(settings, name, PREVIOUS)] == numbers


def test_lineage_goes_both_ways_and_a_base_of_others_is_not_deleted(context: Context, folders: dict[str, Path]) -> None:
    run, scores, dataset = made(context, folders, "ancestor")
    details = register(context, "ancestor", run, scores, dataset, Register()).details
    made_with = {"base_model": run.id, "software": {"torch": "2.13.0"}}
    built = small_run(context, dataset, folders["tuned"], None, rank="descendant", **made_with)
    later = register(context, "descendant", built, None, dataset, Register()).details
    upward = lineage(context.settings, later["model_id"])
    assert upward["made_from"]["dataset"] == dataset.id and upward["built_on"][0]["id"] == details["model_id"]
    assert [each["license"] for each in upward["ingredients"]] == ["Apache-2.0", "MIT", "MIT"]
    assert [each["id"] for each in lineage(context.settings, details["model_id"])["bases_of"]] == [later["model_id"]]
    parts = materials(context.settings, later["model_id"])
    assert parts["specVersion"] == "1.6" and parts == materials(context.settings, later["model_id"])
    weights = {each["name"]: each["hashes"] for each in parts["metadata"]["component"]["components"]}
    assert weights["weights/model.safetensors"][0]["alg"] == "SHA-256"
    kinds = [(each["type"], each["name"]) for each in parts["components"]]
    assert ("machine-learning-model", "fine-tuned/ancestor") in kinds and ("data", f"{dataset.id}: MIT") in kinds
    assert ("library", "torch") in kinds
    with pytest.raises(ConflictError, match="fine-tuned/descendant@1 is built on it"):
        remove(context.settings, details["model_id"])
    remove(context.settings, later["model_id"])
    remove(context.settings, details["model_id"])


def test_a_smaller_version_leads_to_what_it_was_made_of(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, GROUPS | {"test": {"gamma": 12, "delta": 12}})
    run = small_run(context, dataset, folders["tuned"], folders["base"])
    row = register(context, "large", run, None, dataset, Register()).details
    with open_session(context.settings) as session:
        recipe = compression(session, "fine-tuned/large", context.tenant, "int8")
        with pytest.raises(InputError, match="base model"):
            compression(session, row["base_model_id"], context.tenant, "int8")
    assert recipe.run == run.id and recipe.compress and recipe.evaluate and recipe.register_
    smaller = compress(context, run, recipe.compress)
    scores = evaluate(context, smaller, dataset, recipe.evaluate)
    version = register(context, recipe.name, smaller, scores, dataset, recipe.register_).details
    assert version["name"] == "large-int8" and version["base_model_id"] == row["model_id"]
    assert version["promoted"] and scores.details["gate"]["by"] == -0.02
    record = lineage(context.settings, version["model_id"])
    assert next(each["id"] for each in record["built_on"]) == row["model_id"]
    with open_session(context.settings) as session:
        card = models.get(session, version["model_id"], context.tenant).card
    assert "It was compressed from fine-tuned/large version 1" in card and "nothing was trained" in card
