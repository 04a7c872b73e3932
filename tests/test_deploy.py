"""deploy: models on a real Ray Serve, with a real PostgreSQL."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    CONTEXT,
    code,
    small_base,
    small_classifier,
    small_context,
    small_dataset,
    small_run,
    small_settings,
    tuned,
)

from soldiom_ray import launch
from soldiom_ray.artifacts import Context, prefix_of
from soldiom_ray.db import deployments, models
from soldiom_ray.db.engine import migrate, open_session
from soldiom_ray.deploy import deploy, restore
from soldiom_ray.deploy.engine import FEW_ANSWERS, QUEUED_SHARE, TransformersEngine
from soldiom_ray.deploy.prompts import PromptReader
from soldiom_ray.deploy.requests import Request, read_request
from soldiom_ray.domains.builtin_models import BUILTIN_FOLDER
from soldiom_ray.domains.schema import Deploy
from soldiom_ray.errors import (
    BlockedError,
    BusyError,
    ConflictError,
    InputError,
    NotFoundError,
    UnavailableError,
    own_error,
)
from soldiom_ray.models.decoding.answers import Answer, Options
from soldiom_ray.models.generate import Generator
from soldiom_ray.models.load import load_model, load_tokenizer

PROMPTS = ["def read_rows(rows):\n", "def sort_files", "    for item in words:\n", "def merge_keys(keys):\n    for"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    base = small_base(root / "base")
    return {"base": base, "tuned": tuned(base, root / "tuned", 40)}


@pytest.fixture(scope="module")
def context(postgres_url: str, tmp_path_factory: pytest.TempPathFactory, ray_cluster: object) -> Iterator[Context]:
    """A home with a database, and a local Ray with Serve that sees the same home."""
    from ray import serve

    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    settings = small_settings(tmp_path_factory.mktemp("home"), SOLDIOM_DATABASE_URL=url)
    migrate(settings)
    serve.start(proxy_location="Disabled")
    yield small_context(settings)
    serve.shutdown()


@pytest.fixture(scope="module")
def model_id(context: Context, folders: dict[str, Path]) -> str:
    """A tuned model of the registry."""
    dataset = small_dataset(context, {"train": {"alpha": 1}})
    return a_model(context, small_run(context, dataset, folders["tuned"], folders["base"]).id, "small")


@pytest.fixture(scope="module")
def endpoint(context: Context, model_id: str) -> dict[str, Any]:
    """That model deployed: the dictionary that the stage returned."""
    return deploy(context, model_id, Deploy(max_concurrent=8, max_queued=8))


def a_model(context: Context, run: str | None, name: str, base: str | None = None) -> str:
    with open_session(context.settings) as session:
        row = models.create(session, family="fine-tuned", name=name, run_artifact=run, base_model=base)
        return row.id


def handle_of(model_id: str, **options: Any) -> Any:
    from ray import serve

    return serve.get_app_handle(f"model-{model_id}").options(**options)


def ask(model_id: str, *inputs: str, **parameters: Any) -> list[dict[str, Any]]:
    request = {"inputs": list(inputs), "parameters": parameters}
    outputs: list[dict[str, Any]] = handle_of(model_id).generate.remote(request).result(timeout_s=60)["outputs"]
    return outputs


def state_of(context: Context, model_id: str) -> tuple[Any, bool]:
    with open_session(context.settings) as session:
        return deployments.get(session, model_id), models.get(session, model_id).deployed


def test_a_deployed_model_has_answered_and_is_written_down(
    context: Context, endpoint: dict[str, Any], model_id: str, folders: dict[str, Path]
) -> None:
    assert endpoint["model_id"] == model_id and endpoint["app"] == f"model-{model_id}"
    assert endpoint["replicas"] == 1 and endpoint["answer"]["prompt"]
    row, deployed = state_of(context, model_id)
    assert row.status == "running" and deployed and row.config["max_concurrent"] == 8
    model, tokenizer = load_model(folders["tuned"])
    expected = Generator(model, tokenizer).generate([PROMPTS[0]], max_new_tokens=12)[0]
    assert ask(model_id, PROMPTS[0], max_tokens=12) == [
        {
            "text": expected.text,
            "finish_reason": expected.finish_reason,
            "prompt_tokens": expected.prompt_tokens,
            "completion_tokens": expected.completion_tokens,
        }
    ]


def test_a_classifier_is_deployed_and_answers_with_labels(context: Context, tmp_path: Path) -> None:
    dataset = small_dataset(context, {"train": {"alpha": 1}})
    details = {"task": "text_classification", "auto_class": "AutoModelForSequenceClassification"}
    details["configuration"] = {"id2label": {0: "good", 1: "bad"}}  # type: ignore[assignment]
    classifier = small_classifier(tmp_path / "classifier")
    model_id = a_model(context, small_run(context, dataset, classifier, None, **details).id, "labels")
    endpoint = deploy(context, model_id, Deploy())
    assert endpoint["answer"]["text"] in ("good", "bad")
    first, second = ask(model_id, "def read_rows", "a much longer text " * 90)
    assert set(first["output"]["scores"]) == {"good", "bad"} and second["prompt_tokens"] == CONTEXT
    with pytest.raises(Exception, match=r"(?s)text classifier.*parameters.max_tokens"):
        ask(model_id, "x", max_tokens=4)
    assert state_of(context, model_id)[0].status == "running"
    _guards_another_model(context, model_id, tmp_path)


def _guards_another_model(context: Context, classifier: str, tmp_path: Path) -> None:
    """A model whose content filter asks the classifier answers what that lets pass, and nothing once it is gone."""
    guarded = a_model(context, None, "guarded", str(small_base(tmp_path / "base")))

    def deploy_with(label: str, threshold: float) -> None:
        check = {"model": "fine-tuned/labels", "label": label, "threshold": threshold}
        deploy(context, guarded, Deploy.model_validate({"filter": {"rules": [], "classifiers": [check]}}))

    with pytest.raises(InputError, match="its labels are good, bad"):
        deploy_with("worst", 0.5)
    deploy_with("bad", 1.0)
    assert ask(guarded, PROMPTS[0], max_tokens=8)[0]["finish_reason"] == "length"
    deploy_with("bad", 1e-6)
    with pytest.raises(BlockedError):
        ask_for_error(guarded)
    launch.undeploy(context.settings, classifier, None)
    with pytest.raises(UnavailableError, match="nothing passes without it"):
        ask_for_error(guarded)
    with pytest.raises(ConflictError, match="is not deployed"):
        deploy_with("bad", 1.0)
    launch.undeploy(context.settings, guarded, None)


def ask_for_error(model_id: str) -> None:
    """Ask, and raise the error of ours that the replica raised."""
    try:
        ask(model_id, PROMPTS[0], max_tokens=8)
    except Exception as error:
        raise own_error(error) or error from error


def test_concurrent_requests_share_batches_and_get_what_they_would_get_alone(
    endpoint: dict[str, Any], model_id: str
) -> None:
    alone = [ask(model_id, prompt, max_tokens=16)[0] for prompt in PROMPTS]
    handle = handle_of(model_id)
    asked = [handle.generate.remote({"inputs": [p], "parameters": {"max_tokens": 16}}) for p in PROMPTS * 2]
    together = [response.result(timeout_s=60)["outputs"][0] for response in asked]
    assert together == alone * 2
    assert max(handle.describe.remote().result(timeout_s=10)["batches"]) > 1
    assert ask(model_id, *PROMPTS, max_tokens=16) == alone


def test_an_adapter_answers_on_its_bases_endpoint(
    context: Context, endpoint: dict[str, Any], model_id: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    before = ask(model_id, PROMPTS[0], max_tokens=16)
    base, _ = load_model(folders["tuned"])
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    dataset = small_dataset(context, {"train": {"alpha": 1}})
    run = small_run(context, dataset, tmp_path / "adapter", folders["tuned"], method="lora")
    request = {"inputs": PROMPTS, "parameters": {"max_tokens": 16}, "adapter": run.id}
    outputs = handle_of(model_id).generate.remote(request).result(timeout_s=60)["outputs"]
    model, tokenizer = load_model(folders["tuned"], adapter=tmp_path / "adapter")
    expected = Generator(model, tokenizer).generate(PROMPTS, max_new_tokens=16)
    assert [output["text"] for output in outputs] == [answer.text for answer in expected]
    assert outputs[0] != before[0] and ask(model_id, PROMPTS[0], max_tokens=16) == before
    described = handle_of(model_id).describe.remote().result(timeout_s=10)
    assert described["adapters"]["loaded"] == 1
    with pytest.raises(Exception, match="not an adapter"):
        whole = small_run(context, dataset, folders["tuned"], folders["base"])
        handle_of(model_id).generate.remote(request | {"adapter": whole.id}).result(timeout_s=60)


def test_a_stream_gives_the_text_of_the_whole_answer(endpoint: dict[str, Any], model_id: str) -> None:
    for parameters in ({"max_tokens": 20}, {"max_tokens": 20, "temperature": 0.8, "seed": 5}):
        request = {"inputs": [PROMPTS[1]], "parameters": parameters}
        pieces = list(handle_of(model_id, stream=True).stream.remote(request))
        whole = ask(model_id, PROMPTS[1], **parameters)[0]
        assert "".join(piece.get("text", "") for piece in pieces) == whole["text"]
        assert pieces[-1] == {
            "done": True,
            "usage": {key: whole[key] for key in ("prompt_tokens", "completion_tokens")},
            "finish_reason": whole["finish_reason"],
        }


def test_a_seed_makes_samples_repeatable_also_among_others(endpoint: dict[str, Any], model_id: str) -> None:
    first = ask(model_id, PROMPTS[0], PROMPTS[0], max_tokens=16, temperature=1.0, seed=3)
    handle = handle_of(model_id)
    others = [
        handle.generate.remote({"inputs": [p], "parameters": {"temperature": 1.0, "max_tokens": 8}}) for p in PROMPTS
    ]
    again = ask(model_id, PROMPTS[0], PROMPTS[0], max_tokens=16, temperature=1.0, seed=3)
    assert again == first and first[0]["text"] != first[1]["text"]
    for other in others:
        other.result(timeout_s=60)


def test_a_conversation_uses_the_chat_template(
    endpoint: dict[str, Any], model_id: str, folders: dict[str, Path]
) -> None:
    messages = [{"role": "user", "content": "def read_rows"}]
    request = {"messages": messages, "parameters": {"max_tokens": 8}}
    answer = handle_of(model_id).generate.remote(request).result(timeout_s=60)["outputs"][0]
    model, tokenizer = load_model(folders["tuned"])
    generator = Generator(model, tokenizer)
    assert answer["text"] == generator.generate([generator.chat(messages)], max_new_tokens=8)[0].text


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(endpoint: dict[str, Any], model_id: str) -> None:
    with pytest.raises(InputError, match=rf"takes \d+ tokens; this model's context is {CONTEXT}"):
        ask(model_id, code(1, 400), max_tokens=4)
    with pytest.raises(InputError, match=r"takes \d+ tokens"):
        list(handle_of(model_id, stream=True).stream.remote({"inputs": [code(1, 400)]}))


def test_a_long_prompt_is_read_beside_the_event_loop_and_only_as_far_as_it_may_fit() -> None:
    reader = PromptReader(load_tokenizer(BUILTIN_FOLDER / "tiny"), CONTEXT)
    long = Request(inputs=("\U0001f600" * 900_000,))
    gaps: list[float] = []

    async def ask() -> None:
        reading = asyncio.ensure_future(reader.read(long, "text"))
        while not reading.done():
            began = time.monotonic()
            assert await reader.read(Request(inputs=("def f",)), "text") == [reader.short.prompt_ids("def f")]
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - began)
        with pytest.raises(InputError, match=r"takes more than 400000 tokens"):
            await reading

    asyncio.run(ask())
    assert len(gaps) > 10 and sorted(gaps)[len(gaps) // 2] < 0.1
    with pytest.raises(InputError):
        read_request({"messages": [{"role": "user", "content": "x", "tools": [{"a": "x" * 1_000_000}]}]})


@pytest.mark.parametrize(
    ("request_", "location"),
    [
        ({"inputs": ["a"], "parameters": {"temperature": -1}}, "parameters.temperature"),
        ({"inputs": ["a"], "parameters": {"temperature": float("nan")}}, "parameters.temperature"),
        ({"inputs": ["a"], "parameters": {"top_k": 3}}, "parameters.top_k"),
        ({"inputs": ["a"], "parameters": {"max_tokens": 0}}, "parameters.max_tokens"),
        ({"inputs": ["a"], "parameters": {"stop": [""]}}, "parameters"),
        ({"inputs": ["a"] * 65}, "inputs"),
        ({"inputs": ["secret words"], "messages": [{"role": "robot", "content": "secret words"}]}, "messages.0.role"),
        ({}, ""),
    ],
)
def test_a_wrong_request_is_one_clear_error_without_the_users_text(request_: dict[str, Any], location: str) -> None:
    with pytest.raises(InputError) as caught:
        read_request(request_)
    assert location in [problem.loc for problem in caught.value.problems]
    assert "secret" not in str(caught.value)


def test_wrong_parameters_are_refused_by_the_endpoint(endpoint: dict[str, Any], model_id: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        ask(model_id, "def", temperature=99)
    with pytest.raises(InputError, match="max_tokens"):
        ask(model_id, "def", max_tokens=CONTEXT + 1)
    with pytest.raises(InputError, match="takes one input"):
        list(handle_of(model_id, stream=True).stream.remote({"inputs": ["a", "b"]}))


def test_too_many_requests_are_turned_away_and_the_others_answered(
    context: Context, endpoint: dict[str, Any], model_id: str
) -> None:
    from ray.serve.exceptions import BackPressureError

    handle = handle_of(model_id)
    request = {"inputs": [PROMPTS[0]], "parameters": {"max_tokens": 16, "temperature": 1.0, "seed": 1}}
    asked = [handle.generate.remote(request) for _ in range(60)]
    answered = refused = 0
    for response in asked:
        try:
            response.result(timeout_s=120)
            answered += 1
        except BackPressureError:
            refused += 1
    assert answered >= 8 and refused >= 1 and answered + refused == 60


def test_a_caller_that_goes_away_stops_the_generation(endpoint: dict[str, Any], model_id: str) -> None:
    handle = handle_of(model_id)
    pieces = handle_of(model_id, stream=True).stream.remote({"inputs": [PROMPTS[0]], "parameters": {"max_tokens": 50}})
    next(iter(pieces))
    pieces.cancel()
    asked = handle.generate.remote({"inputs": [PROMPTS[0]], "parameters": {"max_tokens": 50}})
    asked.cancel()
    assert ask(model_id, PROMPTS[0], max_tokens=2)


def test_another_configuration_replaces_the_endpoint_without_a_gap(
    context: Context, endpoint: dict[str, Any], model_id: str
) -> None:
    failures, answers, stopped = [], [], threading.Event()

    def keep_asking() -> None:
        while not stopped.is_set():
            try:
                answers.append(ask(model_id, PROMPTS[0], max_tokens=2))
            except Exception as error:
                failures.append(error)
            time.sleep(0.05)

    before = handle_of(model_id).describe.remote().result()["pid"]
    thread = threading.Thread(target=keep_asking, daemon=True)
    thread.start()
    try:
        deploy(context, model_id, Deploy(max_concurrent=4, max_queued=16))
    finally:
        stopped.set()
        thread.join()
    assert not failures and len(answers) > 1
    assert handle_of(model_id).describe.remote().result()["pid"] != before


def test_a_version_that_cannot_be_loaded_keeps_the_old_one_serving(context: Context, folders: dict[str, Path]) -> None:
    dataset = small_dataset(context, {"train": {"alpha": 1}})
    run = small_run(context, dataset, folders["tuned"], folders["base"], name="to-break")
    own = a_model(context, run.id, "to-break")
    deploy(context, own, Deploy())
    good = ask(own, PROMPTS[0], max_tokens=8)
    key = f"{prefix_of(run.id)}/weights/model.safetensors"
    weights = context.artifacts.storage.read(key)
    context.artifacts.storage.write(key, b"not a model")
    with pytest.raises(UnavailableError, match="could not be loaded"):
        deploy(context, own, Deploy(max_concurrent=3))
    row, deployed = state_of(context, own)
    assert row.status == "failed" and row.error and deployed
    assert ask(own, PROMPTS[0], max_tokens=8) == good
    context.artifacts.storage.write(key, weights)
    deploy(context, own, Deploy(max_concurrent=3))
    assert state_of(context, own)[0].status == "running"
    launch.undeploy(context.settings, own, None)


def test_a_model_that_cannot_be_loaded_leaves_no_endpoint(context: Context) -> None:
    from ray import serve

    draft = context.artifacts.draft("run", {"weights": "broken"})
    draft.write("weights/model.safetensors", b"not a model")
    own = a_model(context, draft.commit(details={"method": "full", "base_model": draft.id}).id, "broken")
    with pytest.raises(UnavailableError, match="could not be loaded"):
        deploy(context, own, Deploy())
    row, deployed = state_of(context, own)
    assert row.status == "failed" and not deployed
    assert f"model-{own}" not in serve.status().applications
    with pytest.raises(NotFoundError, match="no-such-model"):
        deploy(context, "no-such-model", Deploy())
    with pytest.raises(NotFoundError, match="run-0000"):
        deploy(context, a_model(context, "run-0000000000000000", "missing"), Deploy())


def test_a_base_model_can_be_served_and_taken_away(context: Context, folders: dict[str, Path]) -> None:
    own = a_model(context, None, "the-base", base=str(folders["base"]))
    deploy(context, own, Deploy())
    assert ask(own, PROMPTS[0], max_tokens=4)
    launch.undeploy(context.settings, own, None)
    row, deployed = state_of(context, own)
    assert row.status == "stopped" and not deployed
    with pytest.raises(ConflictError, match="is not deployed"):
        launch.undeploy(context.settings, own, None)


def test_restore_serves_again_what_was_served(context: Context, endpoint: dict[str, Any], model_id: str) -> None:
    from ray import serve

    serve.delete(f"model-{model_id}")
    assert restore(context.settings) == {model_id: "running"}
    assert ask(model_id, PROMPTS[0], max_tokens=2)


@pytest.fixture
def engine(folders: dict[str, Path]) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(Generator(*load_model(folders["tuned"])))
    yield engine
    engine.close()


def slowly(engine: TransformersEngine, seconds: float = 0.02) -> list[int]:
    """Let every step of an engine take its time; the number of answers under way before each."""
    scheduler, sizes = engine.generator.scheduler, []
    step = scheduler.step

    def slow_step() -> list[Answer]:
        sizes.append(len(scheduler.running) + len(scheduler.prompts) + len(scheduler.waiting))
        time.sleep(seconds)
        return step()

    scheduler.step = slow_step  # type: ignore[method-assign]
    return sizes


def test_callers_share_steps_and_those_that_go_away_leave_at_once(engine: TransformersEngine) -> None:
    sizes = slowly(engine)
    ids = [engine.generator.prompt_ids(prompt) for prompt in PROMPTS]

    async def scene() -> tuple[list[Any], int]:
        gone = asyncio.create_task(engine.generate(ids[0], Options(50)))
        stays = asyncio.create_task(engine.generate(ids[1], Options(10)))
        async with aclosing(engine.stream(ids[2], Options(50))) as pieces:
            assert isinstance(await anext(pieces), str)
            late = asyncio.create_task(engine.generate(ids[3], Options(6, temperature=0.5, seed=1)))
            gone.cancel()
        results = await asyncio.gather(gone, stays, late, return_exceptions=True)
        await asyncio.sleep(0.1)
        return results, engine.describe()["reserved_tokens"]

    results, reserved = asyncio.run(scene())
    assert isinstance(results[0], asyncio.CancelledError) and reserved == 0
    alone = Generator(engine.generator.model, engine.generator.tokenizer)
    assert results[1] == alone.generate([PROMPTS[1]], max_new_tokens=10)[0]
    assert results[2] == alone.generate([PROMPTS[3]], max_new_tokens=6, temperature=0.5, seed=1)[0]
    assert max(sizes) >= 3 and len(sizes) < 30 and engine.generator.forward.pool.reserved == 0


def test_of_many_streams_each_gets_its_first_text_at_once_and_then_what_has_gathered(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(engine)
    monkeypatch.setattr("soldiom_ray.deploy.engine.ANSWER_SECONDS", 3600.0)
    monkeypatch.setattr("soldiom_ray.deploy.engine.LONGEST_SECONDS", 3600.0)
    ids = engine.generator.prompt_ids(PROMPTS[0])

    async def listen(*, gathers: bool) -> tuple[list[Any], Any]:
        *pieces, whole = [piece async for piece in engine.stream(ids, Options(12), gathers=gathers)]
        return pieces, whole

    async def scene(streams: int) -> list[tuple[list[Any], Any]]:
        return await asyncio.gather(*(listen(gathers=number > 0) for number in range(streams)))

    [alone] = asyncio.run(scene(1))
    for together in (asyncio.run(scene(FEW_ANSWERS)), asyncio.run(scene(FEW_ANSWERS + 2))):
        assert all(whole == alone[1] and "".join(pieces) == whole.text for pieces, whole in together)
        assert together[0][0] == alone[0]
    assert len(alone[0]) > 3 and all(len(pieces) < len(alone[0]) for pieces, _ in together[1:])


def test_more_tokens_than_the_engine_can_queue_are_refused(engine: TransformersEngine) -> None:
    slowly(engine)
    limit = QUEUED_SHARE * engine.generator.forward.pool.positions

    async def scene() -> None:
        first = asyncio.create_task(engine.generate([5], Options(20)))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match=f"the engine takes {limit}"):
            await engine.generate([5], Options(limit))
        assert (await first).completion_tokens

    asyncio.run(scene())


def test_a_failed_step_is_told_to_its_callers_and_the_engine_goes_on(engine: TransformersEngine) -> None:
    step = engine.generator.scheduler.step

    def broken() -> list[Answer]:
        engine.generator.scheduler.step = step  # type: ignore[method-assign]
        raise RuntimeError("out of memory")

    engine.generator.scheduler.step = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(engine.generate([5], Options(4)))
    assert asyncio.run(engine.generate([5], Options(4))).completion_tokens


def test_a_step_that_does_not_end_makes_the_engine_unhealthy(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soldiom_ray.deploy.engine.WEDGED_SECONDS", 0.1)
    slowly(engine, 0.4)

    async def scene() -> None:
        engine.check()
        call = asyncio.create_task(engine.generate([5], Options(1)))
        await asyncio.sleep(0.25)
        with pytest.raises(UnavailableError, match="step has taken"):
            engine.check()
        await call
        await asyncio.sleep(0.05)
        engine.check()

    asyncio.run(scene())
    engine.close()
    engine._thread.join(5)
    with pytest.raises(UnavailableError, match="has ended"):
        engine.check()
