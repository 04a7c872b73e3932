"""Feedback through the API and the command line: joined to the answer that it is about, reviewed, made an example."""

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from api_server import problem, serve
from sqlalchemy import select

from soldiom_ray.api import endpoints
from soldiom_ray.collect.documents import parse_bytes
from soldiom_ray.db import answers, deployments, feedback, jobs, keys, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Answer, Feedback, UserInput
from soldiom_ray.domains.recipes import as_dict
from soldiom_ray.domains.retraining import RETRAIN, retraining
from soldiom_ray.errors import DamagedError
from soldiom_ray.records import new_id, now
from soldiom_ray.sealing import SEALED_PREFIX, unseal_text
from soldiom_ray.settings import Settings

SECRET = "the patient is called Planted Name"
COUNTS = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.fixture(scope="module")
def sealed_settings(api_settings: Settings) -> Settings:
    return replace(api_settings, encryption_keys=(bytes(range(32)),), rate_limit="100000/minute")


@pytest.fixture(scope="module")
def url(sealed_settings: Settings) -> Iterator[str]:
    yield from serve(sealed_settings)


@pytest.fixture(scope="module")
def model_ids(sealed_settings: Settings) -> dict[str, str]:
    """Served models: one that is asked by its chat template, one that classifies, and another tenant's."""
    with open_session(sealed_settings) as session:
        chat = models.create(session, family="fine-tuned", name="helper", deployed=True)
        classes = {"lineage": {"task": "text_classification"}, "deployed": True}
        labels = models.create(session, family="fine-tuned", name="labels", **classes)
        other = models.create(session, family="fine-tuned", name="helper", tenant="other", deployed=True)
        return {"chat": chat.id, "labels": labels.id, "other": other.id}


@pytest.fixture
def client(
    url: str, api_keys: dict[str, str], model_ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """A client with a user's key, of an API whose models answer alike."""

    async def call(name: str, method: str, request: dict[str, Any]) -> Any:
        output = {"text": " a poor answer", "finish_reason": "stop", **COUNTS}
        label = {"output": {"label": "ham", "scores": {"ham": 1.0}, "abstained": False}, **COUNTS}
        return {"outputs": [label if name.endswith(model_ids["labels"]) else output] * len(request.get("inputs", [0]))}

    async def stream(name: str, method: str, request: dict[str, Any]) -> AsyncIterator[Any]:
        for text in (" a poor", " answer"):
            yield {"text": text}
        yield {"done": True, "finish_reason": "stop", "usage": COUNTS}

    monkeypatch.setattr(endpoints, "call", call)
    monkeypatch.setattr(endpoints, "stream", stream)
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as made:
        yield made


@pytest.fixture
def trainer(url: str, api_keys: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_keys['trainer']}"}, timeout=30) as made:
        yield made


def ask(client: httpx.Client, model_id: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/api/inference/{model_id}", json={"input": "What is it?"} | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rate(client: httpx.Client, answer_id: str, rating: str = "down", **body: Any) -> httpx.Response:
    return client.post("/api/feedback", json={"answer_id": answer_id, "rating": rating} | body)


def ids_of_every_door(client: httpx.Client, model_id: str) -> list[str]:
    """An answer's id by each call that answers."""
    path, openai = f"/api/inference/{model_id}", {"model": model_id, "messages": [{"role": "user", "content": "x"}]}
    streamed = client.post(path, json={"input": "x", "stream": True}).text.split("\n\n")
    chunks = client.post("/v1/chat/completions", json=openai | {"stream": True}).text.split("\n\n")
    return [
        ask(client, model_id)["id"],
        *(output["id"] for output in client.post(f"{path}/batch", json={"inputs": ["x", "y"]}).json()["outputs"]),
        next(json.loads(line[6:])["id"] for line in streamed if '"usage"' in line),
        client.post("/v1/chat/completions", json=openai).json()["id"],
        client.post("/v1/completions", json={"model": model_id, "prompt": "x"}).json()["id"],
        json.loads(chunks[0][6:])["id"],
    ]


def test_an_answer_of_every_call_can_be_rated_by_its_id(client: httpx.Client, model_ids: dict[str, str]) -> None:
    ids = ids_of_every_door(client, model_ids["chat"])
    assert len(set(ids)) == 7
    for answer_id in ids:
        assert rate(client, answer_id, "up").status_code == 201, answer_id


def test_feedback_is_reviewed_and_an_accepted_correction_becomes_an_example(
    client: httpx.Client, trainer: httpx.Client, model_ids: dict[str, str], sealed_settings: Settings
) -> None:
    answered = ask(client, model_ids["chat"], user_id="ada")
    body = {"correction": "The right answer.", "reason": "it is wrong"}
    given = rate(client, answered["id"], **body)
    assert given.status_code == 201
    feedback_id = given.json()["id"]
    assert rate(client, answered["id"], **body).json()["id"] == feedback_id  # the same user, once
    [item] = [each for each in trainer.get("/api/feedback").json()["items"] if each["id"] == feedback_id]
    assert (item["user_id"], item["rating"], item["status"]) == ("ada", "down", "new")
    assert item["question"]["messages"] == [{"role": "user", "content": "What is it?"}]
    assert (item["answer"], item["correction"]) == (" a poor answer", "The right answer.")
    accepted = trainer.post(f"/api/feedback/{feedback_id}/accept")
    assert accepted.status_code == 200 and accepted.json()["status"] == "accepted"
    assert trainer.post(f"/api/feedback/{feedback_id}/accept").json() == accepted.json()
    problem(rate(client, answered["id"], "up"), 409)
    turns = [{"role": "user", "content": "What is it?"}]
    assert stored_example(sealed_settings, accepted.json()["input_id"]) == {
        "chosen": [*turns, {"role": "assistant", "content": "The right answer."}],
        "rejected": [*turns, {"role": "assistant", "content": " a poor answer"}],
    }
    rejected = trainer.post(f"/api/feedback/{feedback_id}/reject").json()
    assert (rejected["status"], rejected["input_id"]) == ("rejected", None)
    with open_session(sealed_settings) as session:
        assert session.get(UserInput, accepted.json()["input_id"]) is None
        assert feedback.accepted_inputs(session, "default", [model_ids["chat"]]) == []


def test_an_answer_to_a_user_whose_name_is_too_long_to_be_found_again_is_not_stored(
    client: httpx.Client, model_ids: dict[str, str]
) -> None:
    body = {"model": model_ids["chat"], "messages": [{"role": "user", "content": "What is it?"}]}
    for length, status in ((128, 201), (129, 404)):
        answered = client.post("/v1/chat/completions", json=body | {"user": "u" * length}).json()
        assert rate(client, answered["id"], "up").status_code == status


def test_the_same_said_many_times_at_once_is_one_feedback(client: httpx.Client, model_ids: dict[str, str]) -> None:
    answer_id = ask(client, model_ids["chat"])["id"]
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: rate(client, answer_id, "up"), range(16)))
    assert {each.status_code for each in given} == {201}
    assert len({each.json()["id"] for each in given}) == 1


def test_a_page_of_feedback_is_no_larger_than_a_response_and_the_next_goes_on(
    client: httpx.Client, trainer: httpx.Client, model_ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [ask(client, model_ids["chat"], input=letter * 3000)["id"] for letter in "abc"]
    newest = [rate(client, answer_id, "up").json()["id"] for answer_id in asked][::-1]
    monkeypatch.setattr(feedback, "PAGE_BYTES", 8000)
    page = trainer.get("/api/feedback").json()
    assert [item["id"] for item in page["items"]] == newest[:2]
    following = trainer.get("/api/feedback", params={"cursor": page["next"]}).json()
    assert following["items"][0]["id"] == newest[2]


def test_what_a_model_may_learn_depends_on_how_it_was_asked_and_rated(
    client: httpx.Client, trainer: httpx.Client, model_ids: dict[str, str], sealed_settings: Settings
) -> None:
    def learnt(answer_id: str, rating: str, **body: Any) -> Any:
        feedback_id = rate(client, answer_id, rating, **body).json()["id"]
        accepted = trainer.post(f"/api/feedback/{feedback_id}/accept", json={})
        return stored_example(sealed_settings, accepted.json()["input_id"])

    good = learnt(ask(client, model_ids["chat"])["id"], "up")
    assert good["messages"][-1] == {"role": "assistant", "content": " a poor answer"}
    assert learnt(ask(client, model_ids["chat"], raw=True)["id"], "down", correction=" b") == {"text": "What is it? b"}
    label = {"text": "What is it?", "label": "spam"}
    assert learnt(ask(client, model_ids["labels"])["id"], "down", correction="spam") == label
    bad = rate(client, ask(client, model_ids["chat"])["id"]).json()["id"]
    assert "correction" in problem(trainer.post(f"/api/feedback/{bad}/accept"), 422)["remedy"]
    own = trainer.post(f"/api/feedback/{bad}/accept", json={"correction": "The reviewer's."}).json()
    assert stored_example(sealed_settings, own["input_id"])["chosen"][-1]["content"] == "The reviewer's."


def test_an_example_is_read_as_a_conversation_with_its_worse_answer() -> None:
    exchange = answers.Exchange({"form": "chat", "messages": [{"role": "user", "content": "Why?"}]}, "No.")
    [parsed] = parse_bytes("x.json", json.dumps(feedback.example(exchange, "Because.")).encode())
    assert [turn["content"] for turn in parsed.metadata["messages"]] == ["Why?", "Because."]
    assert parsed.metadata["rejected"] == "No."


def test_satisfaction_of_each_version_stands_in_the_models_metrics_with_its_interval(
    client: httpx.Client, trainer: httpx.Client, sealed_settings: Settings
) -> None:
    with open_session(sealed_settings) as session:
        first, second = (models.create(session, family="fine-tuned", name="v", deployed=True).id for _ in range(2))
    for number in range(4):
        for model_id in (first, second):
            good = model_id == second or number == 0
            assert rate(client, ask(client, model_id)["id"], "up" if good else "down").status_code == 201
    shown = trainer.get("/api/models/fine-tuned/v/metrics").json()
    newest, oldest = shown["satisfaction"]
    assert (newest["requests_share"], oldest["requests_share"]) == (1.0, 0.0)
    assert (newest["id"], newest["share"], newest["ratings"]) == (second, 1.0, 4)
    assert (oldest["id"], oldest["share"], oldest["up"], oldest["down"]) == (first, 0.25, 1, 3)
    assert newest["low"] == pytest.approx(0.5101, abs=1e-4)  # Wilson 1927, 4 of 4
    traffic = shown["traffic"]
    assert (traffic["answers"], traffic["prompt_tokens"], len(traffic["days"])) == (4, 12, 1)


def test_nobody_rates_or_reads_what_is_not_theirs(
    client: httpx.Client, trainer: httpx.Client, url: str, api_keys: dict[str, str], model_ids: dict[str, str],
    sealed_settings: Settings,
) -> None:  # fmt: skip
    answer_id = ask(client, model_ids["chat"])["id"]
    given = rate(client, answer_id, correction="x").json()["id"]
    with open_session(sealed_settings) as session:
        second_user = keys.create(session, "user", "second")[1]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {second_user}"}) as stranger:
        problem(rate(stranger, answer_id), 404)
        problem(stranger.get("/api/feedback"), 403)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_keys['other']}"}) as other:
        problem(rate(other, answer_id), 404)
        problem(other.get(f"/api/feedback/{given}"), 404)
        problem(other.post(f"/api/feedback/{given}/accept"), 404)
        problem(other.post(f"/api/feedback/{given}/reject"), 404)
        assert other.get("/api/feedback").json() == {"items": [], "next": None}
        problem(other.get("/api/feedback", params={"model": model_ids["chat"]}), 404)
    assert rate(trainer, answer_id, "up", user_id="trainer").status_code == 201
    problem(rate(client, "no-such-answer"), 404)
    problem(client.post("/api/feedback", json={"answer_id": answer_id, "rating": "great"}), 422)


def test_what_users_say_is_sealed_and_a_swapped_row_does_not_open(
    client: httpx.Client, trainer: httpx.Client, model_ids: dict[str, str], sealed_settings: Settings
) -> None:
    first = ask(client, model_ids["chat"], input=SECRET)["id"]
    second = ask(client, model_ids["chat"])["id"]
    given = rate(client, first, correction=SECRET, reason=SECRET).json()["id"]
    trainer.post(f"/api/feedback/{given}/accept")
    with open_session(sealed_settings) as session:
        for table in (Answer, Feedback, UserInput):
            for row in session.scalars(select(table)):
                assert SECRET not in json.dumps({name: str(value) for name, value in vars(row).items()})
        one, two = session.get_one(Answer, first), session.get_one(Answer, second)
        assert one.question.startswith(SEALED_PREFIX)
        one.question, two.question = two.question, one.question
        with pytest.raises(DamagedError):
            answers.exchange_of(one, sealed_settings.encryption_keys)
        session.rollback()


def test_answers_nobody_rated_go_when_they_are_old_and_none_is_stored_for_0_days(
    client: httpx.Client, model_ids: dict[str, str], sealed_settings: Settings, api_keys: dict[str, str]
) -> None:
    rated, forgotten = (ask(client, model_ids["chat"])["id"] for _ in range(2))
    rate(client, rated, "up")
    with open_session(sealed_settings) as session:
        for answer_id in (rated, forgotten):
            session.get_one(Answer, answer_id).created_at = now() - timedelta(days=31)
    with open_session(sealed_settings) as session:
        assert answers.remove_older(session, 30) == 1
        assert session.get(Answer, forgotten) is None and session.get(Answer, rated)
    problem(rate(client, forgotten), 404)
    server = serve(replace(sealed_settings, answer_days=0))
    headers = {"Authorization": f"Bearer {api_keys['user']}"}
    with httpx.Client(base_url=next(server), headers=headers) as unstored:
        assert ask(unstored, model_ids["chat"])["id"] is None
    next(server, None)


RECIPE = {
    "name": "tales",
    "collect": [{"source": "local", "path": "/tales"}],
    "prepare": {"filters": ["min_words"]},
    "train": {"base_model": "builtin/tiny", "method": "lora", "rank": 4},
    "evaluate": {"max_tokens": 5000, "gate": {"beat": "base"}},
    "register": {},
    "deploy": {},
}


@pytest.fixture
def tales(sealed_settings: Settings) -> str:
    """A served model whose jobs are known: its documents, and those of an earlier retraining beside them."""
    with open_session(sealed_settings) as session:
        number = len(models.list_models(session, "default", name="tales")[0])
        documents, run = (f"documents-{number:015x}{last}" for last in "ab"), f"run-{number:016x}"
        first, again = documents
        made = jobs.create(session, name="tales", kind="workflow", config=RECIPE)
        stages = {"collect": first, "prepare": f"dataset-{number:016x}", "train": run}
        for stage, made_artifact in stages.items():
            jobs.set_stage(session, made.id, stage, artifact_id=made_artifact)
        retrained = jobs.create(session, name="tales", kind=RETRAIN, config=RECIPE)
        jobs.set_stage(session, retrained.id, "collect", artifact_id=again)
        model = models.create(
            session,
            family="fine-tuned",
            name="tales",
            run_artifact=run,
            dataset_id=stages["prepare"],
            lineage={"task": "causal_lm", "documents": [{"id": again}, {"id": first}]},
            gate={"passed": True, "promoted": True},
        )
        deployments.set_state(session, model.id, "running", replicas=2, config={"replicas": 2})
        return model.id


def test_retraining_is_a_recipe_of_the_former_data_and_the_examples_that_are_accepted_now(
    client: httpx.Client, trainer: httpx.Client, sealed_settings: Settings, tales: str
) -> None:
    path = "/api/models/fine-tuned/tales/retrain"
    assert "soldiom feedback review" in problem(trainer.post(path), 409)["remedy"]
    problem(client.post(path), 403)
    accepted = []
    for _ in range(3):
        given = rate(client, ask(client, tales)["id"], correction="Better.").json()["id"]
        accepted.append(trainer.post(f"/api/feedback/{given}/accept").json()["input_id"])
    trainer.post(f"/api/feedback/{given}/reject")
    with open_session(sealed_settings) as session:
        recipe = as_dict(retraining(session, "fine-tuned/tales", "default"))
        former = models.get(session, tales).lineage["documents"][1]["id"]
    assert recipe["collect"][0]["inputs"] == accepted[:2] and recipe["documents"] == [former]
    assert recipe["prepare"]["filters"] == ["min_words"]
    assert (recipe["train"]["base_model"], recipe["train"]["rank"]) == ("builtin/tiny", 4)
    assert (recipe["evaluate"]["max_tokens"], recipe["evaluate"]["gate"]["beat"]) == (5000, "previous")
    assert recipe["register"]["name"] == recipe["name"] == "tales"
    assert (recipe["deploy"]["replicas"], recipe["deploy"]["only"]) == (2, "promoted")
    assert "full" in problem(trainer.post(path, json={"method": "dpo"}), 422)["detail"]
    with open_session(sealed_settings) as session:
        for version in feedback.versions_of(session, models.get(session, tales)):
            version.gate = {"passed": False, "promoted": False}
        session.flush()
        unbeaten = as_dict(retraining(session, "fine-tuned/tales", "default"))
        assert unbeaten["evaluate"]["gate"]["beat"] == "base"  # a version without a champion has nothing else to beat
        session.rollback()


def test_what_the_former_gate_asked_for_beside_the_base_is_asked_for_again(
    client: httpx.Client, trainer: httpx.Client, sealed_settings: Settings, tales: str
) -> None:
    def gate_after(former: dict[str, Any]) -> dict[str, Any]:
        with open_session(sealed_settings) as session:
            run = models.get(session, tales).run_artifact
            job = jobs.maker_of(session, str(run), "train", "default")
            assert job is not None
            job.config = RECIPE | {"evaluate": {"gate": former}}
            session.flush()
            gate: dict[str, Any] = as_dict(retraining(session, tales, "default"))["evaluate"]["gate"]
            session.rollback()
            return gate

    given = rate(client, ask(client, tales)["id"], correction="Better.").json()["id"]
    trainer.post(f"/api/feedback/{given}/accept")
    floor = {"metric": "token_accuracy", "beat": "value", "value": 0.6}
    both = gate_after(floor)["all"]
    assert both[0]["beat"] == "previous" and both[1].items() >= floor.items()
    several = gate_after({"all": [{"beat": "previous"}, floor, {"beat": "base"}]})["all"]
    assert [each["beat"] for each in several] == ["previous", "value"]
    assert gate_after({"beat": "previous"})["beat"] == "previous"


def test_dpo_begins_at_the_weights_of_the_version_and_is_measured_against_it(
    client: httpx.Client, trainer: httpx.Client, sealed_settings: Settings, tales: str
) -> None:
    given = rate(client, ask(client, tales)["id"], correction="Better.").json()["id"]
    trainer.post(f"/api/feedback/{given}/accept")
    with open_session(sealed_settings) as session:
        run = models.get(session, tales).run_artifact
        assert run is not None
        job = jobs.maker_of(session, run, "train", "default")
        assert job is not None
        job.config = RECIPE | {"train": {"base_model": "builtin/tiny", "method": "full", "sequence_length": 64}}
        session.flush()
        recipe = as_dict(retraining(session, tales, "default", "dpo"))
    train = recipe["train"]
    assert (train["task"], train["method"], train["base_model"]) == ("preference", "full", run)
    assert train["sequence_length"] == 64 and recipe["evaluate"]["gate"]["beat"] == "base"


def test_a_name_means_the_newest_version_that_is_deployed(
    client: httpx.Client, sealed_settings: Settings, tales: str
) -> None:
    with open_session(sealed_settings) as session:
        newer = models.create(session, family="fine-tuned", name="tales").id
    assert ask(client, "fine-tuned/tales")["model"] == tales
    assert client.get("/v1/models/tales").json()["id"] == tales
    problem(client.post(f"/api/inference/{newer}", json={"input": "x"}), 409)
    with open_session(sealed_settings) as session:
        deployments.set_state(session, newer, "running")
    assert ask(client, "fine-tuned/tales")["model"] == newer


def stored_example(settings: Settings, input_id: str) -> Any:
    with open_session(settings) as session:
        row = session.get_one(UserInput, input_id)
        return json.loads(unseal_text(row.content, f"user_inputs/{input_id}", settings.encryption_keys))


def test_what_people_prefer_becomes_pairs(sealed_settings: Settings, model_ids: dict[str, str]) -> None:
    def give(session: Any, question: str, output: str, rating: str, correction: str = "") -> Feedback:
        exchange = answers.Exchange({"form": "chat", "messages": [{"role": "user", "content": question}]}, output)
        columns = {"id": new_id(), "tenant": "raters", "model_id": model_ids["chat"], "owner": "k", "user_id": "u"}
        answer = answers.add(session, exchange, sealed_settings.encryption_keys, **columns)
        rated = {"user_id": "u", "rating": rating, "correction": correction, "reason": ""}
        return feedback.give(session, answer, encryption_keys=sealed_settings.encryption_keys, **rated)

    with open_session(sealed_settings) as session:
        give(session, "one", "poor", "down", "good")
        give(session, "two", "fine", "up")
        give(session, "two", "bad", "down")
        give(session, "three", "alone", "up")
        give(session, "four", "as good", "down", "as good ")
        feedback.reject(session, give(session, "five", "x", "down", "y").id, "raters", reviewer="r")
        pairs = feedback.rated_pairs(session, "raters", sealed_settings.encryption_keys, 10)
        assert {(pair.question, pair.better, pair.worse) for pair in pairs} == {
            ("one", "good", "poor"),
            ("two", "fine", "bad"),
        }
        assert len(feedback.rated_pairs(session, "raters", sealed_settings.encryption_keys, 1)) == 1
        assert feedback.rated_pairs(session, "nobody", (), 10) == []
