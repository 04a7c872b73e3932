"""What a user makes is that user's: on every route another user's things are as if they did not exist, until they are
shared; a deployed model may be asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from api_server import UPLOAD, answered_by, artifact, problem, routes

from soldiom_ray.api.auth import ROLE
from soldiom_ray.db import answers, datasets, deployments, evaluations, feedback, inputs, jobs, keys, models
from soldiom_ray.db.answers import Exchange
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.ownership import Reader, act_as
from soldiom_ray.errors import ConflictError, NotFoundError
from soldiom_ray.records import new_id
from soldiom_ray.settings import Settings

RUN, SCORES = "run-00000000000000f1", "scores-00000000000000f1"
SECRET = "vermilion"
"""In the name of everything that the first user makes."""


@dataclass
class World:
    """Three users and what the first of them has made."""

    url: str
    keys: dict[str, str]
    users: dict[str, str]
    made: dict[str, str]

    def call(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[who]}"}
        content = {} if body is None else {"json": body}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **content)


@pytest.fixture(scope="module")
def world(api_settings: Settings, api_url: str) -> World:
    with open_session(api_settings) as session:
        rows = {
            name: keys.create(session, role, name)
            for name, role in {"ann": "trainer", "ben": "trainer", "eve": "viewer", "root": "admin"}.items()
        }
        users = {name: row.id for name, (row, _) in rows.items()}
        ann = users["ann"]
        job = jobs.create(session, name=f"{SECRET}-job", kind="train", config={}, owner=ann)
        jobs.set_stage(session, job.id, "train", artifact_id=RUN)
        made = {"job_id": job.id}
        for number, stage in enumerate(("documents", "dataset", "index")):
            stored = artifact(stage, 0xF0 + number)
            row = datasets.record(session, stored, name=f"{SECRET}-{stage}", source="user", stage=stage, owner=ann)
            made |= {f"{stage}_id": row.id, f"{stage}_artifact": stored.id}
        lineage = {"documents": [{"id": made["documents_artifact"]}], "task": "causal_lm"}
        columns: dict[str, Any] = {"run_artifact": RUN, "scores_artifact": SCORES, "lineage": lineage, "owner": ann}
        served_columns = columns | {"run_artifact": "run-00000000000000f3"}
        model = models.create(session, family="fine-tuned", name=SECRET, training_job_id=job.id, **columns)
        served = models.create(session, family="fine-tuned", name="asked-by-all", card="the card", **served_columns)
        deployments.set_state(session, served.id, "running", config={"notice": SECRET})
        scored = evaluations.record(
            session, run_artifact=RUN, scores={}, scores_artifact=SCORES, model_id=model.id, owner=ann
        )
        said = {"user_id": SECRET, "input_type": "text", "content": "x", "sha256": "0", "size_bytes": 1}
        made |= {"model_id": model.id, "served": served.id, "evaluation_id": scored.id}
        made |= {"input_id": inputs.add(session, owner=ann, **said).id}
        exchange = Exchange({"form": "chat", "messages": [{"role": "user", "content": SECRET}]}, SECRET)
        answer = answers.add(
            session, exchange, (), id=new_id(), tenant="default", model_id=model.id, owner=ann, user_id=SECRET
        )
        given = feedback.give(
            session, answer, user_id=SECRET, rating="up", correction="", reason="", encryption_keys=()
        )
        made |= {"answer_id": answer.id, "feedback_id": given.id}
    return World(api_url, {name: plain for name, (_, plain) in rows.items()}, users, made)


def bodies(made: dict[str, str]) -> dict[str, list[Any]]:
    """Bodies that name one of these things, by the route that takes them."""
    training = {"name": "x", "base_model": "builtin/tiny"}
    inferred = [{"model": made["model_id"], "messages": [{"role": "user", "content": "x"}]}]
    recipes = [
        {"name": "x", "version": made["model_id"], "deploy": {}},
        {"name": "x", "run": made["run"], "evaluate": {}},
        {"name": "x", "documents": [made["documents_artifact"]], "prepare": {}},
        {"name": "x", "collect": [{"source": "files", "inputs": [made["input_id"]]}]},
    ]
    return {
        "/api/training/collect/files": [{"inputs": [made["input_id"]]}],
        "/api/training/jobs": [training | {"dataset_id": made["dataset_id"]}, *({"recipe": each} for each in recipes)],
        "/api/training/plan": [training | {"dataset_id": made["dataset_id"]}],
        "/api/evaluations": [{"run": made["run"]}, {"run": made["model_id"]}],
        "/api/search": [{"query": "x", "index": made["index_id"]}],
        "/api/feedback": [{"answer_id": made["answer_id"], "rating": "up"}],
        "/api/watermark/detect": [{"model": made["model_id"], "text": "x"}],
        "/v1/chat/completions": inferred,
        "/v1/completions": [{"model": made["model_id"], "prompt": "x"}],
        "/api/models/{model_id}/compress": [{"to": "int8"}],
        "/api/inference/{model_id}": [{"input": "x"}],
        "/api/inference/{model_id}/batch": [{"inputs": ["x"]}],
    }


NAMES_NOTHING = {
    *(f"/api/training/collect/{source}" for source in ("github", "huggingface", "database", "url", "user-input")),
    "/v1/embeddings",
    "/api/specialists/{domain}/{capability}",
}
"""Routes that take no id of a user's thing; the last one's query does, see below."""


def calls(settings: Settings, made: dict[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Every call that names something of a user, for these things. A route that the tests do not know fails."""
    named = {name: value for name, value in made.items() if name.endswith("_id")} | {"model": made["model_id"]}
    for route in routes(settings):
        role, parameters = (route.openapi_extra or {})[ROLE], set(route.param_convertors) - {"name"}
        if role in ("anyone", "local or admin", "admin") or route.path_format in NAMES_NOTHING:
            continue
        for method in sorted(route.methods or ()):
            if not parameters and method == "GET":
                continue
            known = bodies(made).get(route.path_format, [None] if parameters else None)
            assert parameters <= set(named), f"{route.path_format}: whose is {parameters - set(named)}?"
            assert known is not None, f"{route.path_format}: which body names something of a user?"
            path = route.path_format.format(**{**named, "name": "x.png"})
            for body in known:
                yield method, path, body
    yield "GET", f"/api/models/{made['run']}", None
    yield "GET", f"/api/feedback?model={made['model_id']}", None
    yield "GET", f"/api/training/jobs/{made['job_id']}/logs?follow=true", None
    yield "POST", f"/api/specialists/moderation/spam?model={made['model_id']}", {"text": "x"}
    yield "GET", f"/api/datasets/{made['dataset_artifact']}", None


def test_on_every_route_anothers_things_are_as_if_they_did_not_exist(api_settings: Settings, world: World) -> None:
    made = world.made | {"run": RUN}
    unknown = {name: new_id() for name in made} | {"run": "run-00000000000000f2"}
    unknown |= {f"{stage}_artifact": f"{stage}-00000000000000ff" for stage in ("documents", "dataset", "index")}
    told = list(zip(calls(api_settings, made), calls(api_settings, unknown), strict=True))
    assert len(told) > 45
    for (method, path, body), (_, other_path, other_body) in told:
        answer, expected = world.call("ben", method, path, body), world.call("ben", method, other_path, other_body)
        assert answer.status_code == expected.status_code == 404, (method, path, answer.text, expected.text)
        text, other = answer.text, expected.text
        for name in made:
            text, other = text.replace(made[name], name), other.replace(unknown[name], name)
        assert text.replace(SECRET, "") == other, (method, path)
        assert SECRET not in text
    for path in (f"/api/models/{SECRET}", f"/api/models/fine-tuned/{SECRET}@1", f"/v1/models/{SECRET}"):
        assert "Did you mean" not in problem(world.call("ben", "GET", path), 404)["detail"]


def test_no_list_has_anothers_things_and_an_admin_sees_them_all(api_settings: Settings, world: World) -> None:
    lists = [
        route.path_format
        for route in routes(api_settings)
        if "GET" in (route.methods or ()) and not route.param_convertors
        if (route.openapi_extra or {})[ROLE] in ("viewer", "user", "trainer")
    ]
    assert len(lists) >= 12
    private = {value for name, value in world.made.items() if name != "served"} | {RUN, SCORES}
    for path in (*lists, "/api/usage?by=job", "/api/usage?by=key", "/api/models?family=fine-tuned"):
        for who in ("ben", "eve"):
            shown = world.call(who, "GET", path)
            assert shown.status_code in (200, 403), (path, shown.text)
            assert not [each for each in private if each in shown.text], (who, path)
    for path, name in {
        "/api/training/jobs": "job_id",
        "/api/datasets": "index_id",
        "/api/models": "model_id",
        "/api/evaluations": "evaluation_id",
        "/api/feedback": "feedback_id",
        UPLOAD: "input_id",
    }.items():
        for who in ("ann", "root"):
            assert world.made[name] in world.call(who, "GET", f"{path}?limit=200").text, (who, path)
    page = world.call("ben", "GET", "/api/datasets?limit=1").json()
    assert page == {"items": [], "next": None}


def test_a_deployed_model_is_asked_by_its_tenant_and_shows_its_card_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endpoint:
        async def generate(self, request: dict[str, Any]) -> Any:
            counts = {"prompt_tokens": 1, "completion_tokens": 1}
            return {"outputs": [{"text": "hello", "finish_reason": "stop", **counts} for _ in request["messages"]]}

    answered_by(Endpoint(), monkeypatch)
    served = world.made["served"]
    shown = world.call("eve", "GET", f"/api/models/{served}").json()
    assert shown["card"] == "the card" and shown["deployment"] is None and shown["lineage"] == {}
    assert not [each for each in (RUN, SCORES, world.made["documents_artifact"]) if each in str(shown)]
    assert served in world.call("ben", "GET", "/v1/models").text
    asked = world.call("ben", "POST", f"/api/inference/{served}", {"messages": [{"role": "user", "content": "hi"}]})
    assert asked.status_code == 200, asked.text
    rated = world.call("ben", "POST", "/api/feedback", {"answer_id": asked.json()["id"], "rating": "down"})
    assert rated.status_code == 201
    again = world.call("ben", "POST", "/api/feedback", {"answer_id": asked.json()["id"], "rating": "up"})
    assert again.json()["id"] == rated.json()["id"]
    for verb in ("metrics", "lineage", "sbom"):
        problem(world.call("ben", "GET", f"/api/models/{served}/{verb}"), 404)
    problem(world.call("ben", "GET", f"/api/feedback/{rated.json()['id']}"), 404)
    assert world.call("ann", "GET", f"/api/feedback/{rated.json()['id']}").json()["answer"] == "hello"


def test_what_is_shared_is_seen_and_used_by_all_and_changed_by_its_owner_and_admins_alone(world: World) -> None:
    made = world.made
    shared = (
        (f"/api/datasets/{made['documents_id']}", True),
        (f"/api/models/{made['model_id']}", True),
        (f"{UPLOAD}/{made['input_id']}", False),
    )
    for path, readable in shared:
        problem(world.call("ben", "POST", f"{path}/share"), 404)
        assert world.call("ann", "POST", f"{path}/share").json()["shared"] is True
        for who in ("ben", "eve") if readable else ():
            assert world.call(who, "GET", path).status_code in (200, 404), path
            listed = world.call(who, "GET", path.rpartition("/")[0]).text
            assert path.rpartition("/")[2] in listed, (who, path)
        problem(world.call("ben", "DELETE", path), 403)
        problem(world.call("ben", "POST", f"{path}/share", {"shared": False}), 403)
    assert made["input_id"] in world.call("ben", "GET", UPLOAD).text
    seen = world.call("ben", "GET", f"/api/models/{made['model_id']}").json()
    assert seen["run_artifact"] == RUN and seen["shared"] and seen["owner"] == world.users["ann"]
    assert world.call("ben", "GET", f"/api/evaluations/{made['evaluation_id']}").status_code in (200, 404)
    assert made["evaluation_id"] in world.call("ben", "GET", "/api/evaluations").text
    assert made["feedback_id"] not in world.call("ben", "GET", "/api/feedback").text  # it holds what users asked
    for verb in ("promote", "rollback", "deploy", "retrain"):
        problem(world.call("ben", "POST", f"/api/models/{made['model_id']}/{verb}"), 403)
    recipe = {"name": "x", "version": made["model_id"], "deploy": {}}
    problem(world.call("ben", "POST", "/api/training/jobs", {"recipe": recipe}), 403)
    for path, _ in shared:
        assert world.call("root", "POST", f"{path}/share", {"shared": False}).json()["shared"] is False
        problem(world.call("ben", "POST", f"{path}/share"), 404)


def test_what_the_command_line_makes_is_the_tenants_and_an_admin_alone_hides_it(
    api_settings: Settings, world: World
) -> None:
    with open_session(api_settings) as session:
        row = datasets.record(session, artifact("dataset", 0xE0), name="all's", source="local", stage="dataset")
    path = f"/api/datasets/{row.id}"
    assert world.call("eve", "GET", path).json()["shared"] is True
    problem(world.call("ben", "POST", f"{path}/share", {"shared": False}), 403)
    assert world.call("root", "POST", f"{path}/share", {"shared": False}).status_code == 200
    problem(world.call("eve", "GET", path), 404)
    assert world.call("root", "DELETE", path).status_code == 204


def test_users_make_the_same_names_keys_and_artifacts_without_meeting(api_settings: Settings, world: World) -> None:
    with open_session(api_settings) as session:
        made = {}
        for who in ("ann", "ben"):
            owner = world.users[who]
            model = models.create(session, family="fine-tuned", name="twin", owner=owner)
            stored = artifact("dataset", 0xD0)
            row = datasets.record(session, stored, name=f"{who}'s", source="user", stage="dataset", owner=owner)
            job = jobs.create(session, name=who, kind="train", config={"of": who}, owner=owner, idempotency_key="k")
            made[who] = (model, row, job)
        assert made["ann"][2].id != made["ben"][2].id
        with pytest.raises(ConflictError):
            jobs.create(session, name="x", kind="t", config={}, owner=world.users["ann"], idempotency_key="k")
    assert {row.version for row, _, _ in made.values()} == {1}
    for who in ("ann", "ben"):
        shown = world.call(who, "GET", "/api/models/fine-tuned/twin").json()
        assert shown["id"] == made[who][0].id and [each["id"] for each in shown["versions"]] == [made[who][0].id]
        assert world.call(who, "GET", f"/api/datasets/{stored.id}").json()["name"] == f"{who}'s"
    assert world.call("ann", "DELETE", f"/api/datasets/{stored.id}").status_code == 204
    assert world.call("ben", "GET", "/api/datasets").json()["items"][0]["id"] == made["ben"][1].id
    text = {"user_id": "u", "input_type": "text", "content": "the same"}
    with httpx.Client(base_url=world.url) as client:
        ids = {
            client.post(
                UPLOAD,
                json=text,
                headers={"Authorization": f"Bearer {world.keys[who]}", "Idempotency-Key": "same"},
            ).json()["id"]
            for who in ("ann", "ben", "ann")
        }
    assert len(ids) == 2


def test_a_key_that_follows_another_sees_what_that_one_made(api_settings: Settings, world: World) -> None:
    body = {"name": "ann's next", "role": "trainer", "user": world.users["ann"]}
    made = world.call("root", "POST", "/api/keys", body)
    assert made.status_code == 201 and made.json()["user"] == world.users["ann"]
    world.keys["next"] = made.json()["key"]
    assert world.call("next", "GET", f"/api/training/jobs/{world.made['job_id']}").json()["name"] == f"{SECRET}-job"
    current = world.call("next", "GET", "/api/keys/current").json()
    assert (current["id"], current["user"]) == (made.json()["id"], world.users["ann"])
    problem(world.call("root", "POST", "/api/keys", body | {"user": "nobody's"}), 404)


def test_a_job_reads_with_the_rights_of_whoever_started_it(api_settings: Settings, world: World) -> None:
    try:
        act_as(Reader("default", world.users["ben"], is_admin=False))
        with open_session(api_settings) as session, pytest.raises(NotFoundError):
            datasets.get(session, world.made["dataset_id"], "default")
        act_as(Reader("default", world.users["ben"], is_admin=True))
        with open_session(api_settings) as session:
            assert datasets.get(session, world.made["dataset_id"], "default").name == f"{SECRET}-dataset"
        act_as(Reader("other", world.users["ann"], is_admin=True))
        with open_session(api_settings) as session, pytest.raises(NotFoundError):
            datasets.get(session, world.made["dataset_id"])
    finally:
        act_as(None)
