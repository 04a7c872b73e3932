"""Inference with deployed models. Responses have `watermark`, null where the deployment marks no text, and the `id` by
which feedback names the answer, null for one that is not stored."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from soldiom_ray import batches, launch
from soldiom_ray.api import endpoints
from soldiom_ray.api.answers import Asked
from soldiom_ray.api.auth import MULTIPART, AppMetrics, AppSettings, Caller, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.bodies import ANSWERED_AT_ONCE, BatchBody, InferenceBody, Parameters, WatermarkBody
from soldiom_ray.api.call_stream import CallEvents, function_call
from soldiom_ray.api.events import DONE, event, respond
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.exchanges import form_of, question_of
from soldiom_ray.domains.hosting import Address, address_of
from soldiom_ray.domains.outputs import output_of, total_usage, usage_of
from soldiom_ray.domains.tasks import CHAT_TASKS, SEQ2SEQ
from soldiom_ray.errors import BlockedError, InputError, Problem, SoldiomError, TooLargeError
from soldiom_ray.settings import Settings

router = APIRouter(route_class=GuardedRoute, tags=["inference"])

PICTURE_FORM = {
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        }
    }
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}


@router.post(
    "/api/inference/{model_id:path}/batch",
    response_model=dict[str, Any],
    responses={202: {"description": "More than 64 inputs: a job answers them", "content": {"application/json": {}}}},
    openapi_extra=needs("user"),
)
async def infer_batch(
    model_id: str,
    body: BatchBody,
    caller: CurrentCaller,
    settings: AppSettings,
    metrics: AppMetrics,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any] | Response:
    """Answers in the order of `inputs`; one that failed has an `error` in its place. More than 64 inputs are answered
    by a job: status 202, and the job with its `url` and, once it has completed, where its `result` is. The same
    `Idempotency-Key` gives the same job."""
    model = await run_in_threadpool(deployed_model, settings, model_id, caller)
    if len(body.inputs) > ANSWERED_AT_ONCE:
        return await run_in_threadpool(_batch_job, settings, caller, model.id, body, idempotency_key)
    asked = Asked(settings, metrics, caller, model.id, model.form(raw=body.raw), body.user_id, model.address)
    return await _answer_each(model, asked, body.inputs, {**_request(body.parameters), "raw": body.raw})


def _batch_job(
    settings: Settings, caller: Caller, model_id: str, body: BatchBody, idempotency_key: str | None
) -> Response:
    with open_session(settings, reach="asked") as session:
        model = models.get(session, model_id, caller.tenant)
    job = launch.launch_batch(
        settings,
        model,
        {"inputs": list(body.inputs), "raw": body.raw, **_request(body.parameters)},
        tenant=caller.tenant,
        owner=caller.user,
        user_id=body.user_id or caller.name,
        as_admin=caller.may("admin"),
        idempotency_key=idempotency_key,
    )
    shown = batches.as_dict(job)
    return JSONResponse(shown, 202, {"Location": shown["url"]})


@router.post(
    "/api/inference/{model_id:path}",
    response_model=dict[str, Any],
    responses=EVENTS,
    openapi_extra=needs("user", requestBody=PICTURE_FORM, **{MULTIPART: "image"}),
)
async def infer(
    model_id: str, body: InferenceBody, caller: CurrentCaller, settings: AppSettings, metrics: AppMetrics
) -> dict[str, Any] | Response:
    """One answer, or of several texts those of /batch; of a classifier `output` is `{label, scores, abstained}`. With
    `stream` server-sent events of `{text}`, one with `finish_reason` and `usage`, and `[DONE]`.
    `notices` are those that the licences of base and data want shown with answers, where there are some.
    Calls of `tools` obey their schemas and are in `tool_calls`; in a stream each is an event of its own, with its
    `index`, once it is complete. A question that the model's content filter blocks is a problem (422); an answer that
    it blocks is empty or ends with the `finish_reason` content_filter, and `filter` says what was found."""
    model = await run_in_threadpool(deployed_model, settings, model_id, caller)
    request = _request(body.parameters)
    form = model.form(raw=body.raw) if body.image is None else None
    form = "chat" if form and body.messages is not None else form
    asked = Asked(settings, metrics, caller, model.id, form, body.user_id, model.address)
    if isinstance(body.input, tuple):
        return await _answer_each(model, asked, _few(body.input), request | {"raw": body.raw})
    if body.messages is not None:
        messages = [message.model_dump(exclude_defaults=True, exclude_none=True) for message in body.messages]
        messages[0] |= {"tools": list(body.tools)} if body.tools else {}
        request["messages"] = messages
    elif body.image is not None:
        request |= {"images": [_picture_for(model, body.image)], "raw": body.raw}
    else:
        request |= {"inputs": [body.input], "raw": body.raw}
    question = question_of(asked.form, request)
    if body.tools:
        request["parameters"]["tool_choice"] = "auto"
    if body.stream and model.streams:
        return respond(_event_stream(asked, model, question, request))
    request |= {"stream": True} if body.stream else {}
    outputs = await asked.ask(request)
    output = {"watermark": None, **output_of(outputs[0])}
    [answer_id] = await asked.store([question], [output])
    calls = [function_call(call["name"], call["arguments"]) for call in outputs[0].get("tool_calls") or ()]
    return {
        **output,
        **({"tool_calls": calls} if calls else {}),
        "id": answer_id,
        "model": model.id,
        **model.notices,
    }


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """`task` is what the model was trained for, `prompt_format` how it is asked, where that is known; `address` says
    whose endpoint answers."""

    id: str
    task: str | None
    address: Address
    prompt_format: str | None = None

    @property
    def notices(self) -> dict[str, list[str]]:
        """What its answers hold besides: what the licences of base and data want said with them."""
        return {"notices": list(self.address.notices)} if self.address.notices else {}

    @property
    def streams(self) -> bool:
        """Whether it generates text token by token."""
        return self.task is None or self.task in CHAT_TASKS

    def form(self, *, raw: bool) -> str | None:
        """In which form its questions are stored; None for those that are not: pictures."""
        return form_of(self.task, self.prompt_format, raw=raw)


def chat_model(settings: Settings, model_id: str, caller: Caller) -> DeployedModel:
    """A deployed model that continues texts; InputError for another task, and errors of `deployed_model`."""
    model = deployed_model(settings, model_id, caller)
    if not model.streams:
        raise InputError(
            f"Model {model.id} was trained for {model.task}; it generates no text.",
            remedy=f'ask it with `{{"input": ...}}`: POST /api/inference/{model.id}',
            problems=[Problem("body.model", f"is a model for {model.task}")],
        )
    return model


def deployed_model(settings: Settings, model_id: str, caller: Caller) -> DeployedModel:
    """NotFoundError when it is another tenant's, or another user's and neither shared nor deployed; errors of
    `address_of`."""
    with open_session(settings, reach="asked", reads=True) as session:
        model = models.get_served(session, model_id, caller.tenant, random.random)
        address = address_of(session, model)
        return DeployedModel(model.id, models.task_of(model), address, model.lineage.get("prompt_format"))


def _few(inputs: tuple[str, ...]) -> tuple[str, ...]:
    if len(inputs) > ANSWERED_AT_ONCE:
        raise TooLargeError(
            f"`input` may hold {ANSWERED_AT_ONCE} texts; this one holds {len(inputs)}.",
            remedy="send them as `inputs` to /batch beside this address, where a job answers them",
        )
    return inputs


async def _answer_each(
    model: DeployedModel, asked: Asked, inputs: Sequence[str], request: dict[str, Any]
) -> dict[str, Any]:
    """Answers in the order of the inputs, together with one call; where that is refused for one of them, each by
    itself."""
    try:
        outputs = [output_of(output) for output in await asked.ask(request | {"inputs": list(inputs)})]
    except (InputError, BlockedError):
        if not model.streams and len(inputs) > 1:
            raise  # the endpoint has refused the request as a whole; inputs have errors of their own
        tasks = [_generate_one(asked, request | {"inputs": [text]}) for text in inputs]
        outputs = list(await asyncio.gather(*tasks))
    questions = [question_of(asked.form, {"inputs": inputs}, place) for place in range(len(inputs))]
    ids = await asked.store(questions, outputs)
    outputs = [output | {"id": answer_id} for output, answer_id in zip(outputs, ids, strict=True)]
    marks = [output["watermark"] for output in outputs if output.get("watermark")]
    mark = {"scheme": marks[0]["scheme"], "tokens": sum(each["tokens"] for each in marks)} if marks else None
    answer = {"outputs": outputs, "model": model.id, "usage": total_usage(outputs), "watermark": mark}
    return answer | model.notices


@router.post("/api/watermark/detect", openapi_extra=needs("user"))
async def detect_watermark(body: WatermarkBody, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """Whether a text bears the watermark of a deployed model: `verdict` is watermarked, not_found, or inconclusive for
    a text too short to tell; `p_value` is how likely a text without it has as high a score. not_found proves nothing:
    what was answered at temperature 0 or rewritten bears none."""
    model = await run_in_threadpool(chat_model, settings, body.model, caller)
    detection = await endpoints.call(model.address.application, "detect_watermark", body.text)
    return {**detection, "model": model.id}


def _picture_for(model: DeployedModel, image: bytes) -> bytes:
    """The picture; InputError for a model that is known to read none."""
    if model.task in (None, *CHAT_TASKS, SEQ2SEQ):
        raise InputError(
            f"Model {model.id} generates text; it reads no picture.",
            remedy='ask it with `{"input": "a text"}`',
            problems=[Problem("body.image", "does not apply")],
        )
    return image


def _request(parameters: Parameters) -> dict[str, Any]:
    """Only what the caller named: the rest is the endpoint's, whose task may know no such parameter."""
    named = parameters.model_fields_set
    return {"parameters": parameters.model_dump(mode="json", include=named, exclude_none=True, by_alias=True)}


async def _generate_one(asked: Asked, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return output_of((await asked.ask(request))[0])
    except SoldiomError as error:
        return {"error": error.to_problem()}


async def _event_stream(
    asked: Asked, model: DeployedModel, question: Mapping[str, Any], request: dict[str, Any]
) -> AsyncIterator[bytes]:
    """The endpoint's chunks as events, each call as one when it is complete. The last one, with the counts, also gets
    the model, the answer's id and the total."""
    texts: list[str] = []
    calls = CallEvents()
    async for chunk in asked.stream(request):
        if chunk.get("text"):
            if not texts:
                asked.note_first_text()
            texts.append(str(chunk["text"]))
        if chunk.get("done"):
            for call in calls.end():
                yield event(call)
            closing = {"finish_reason": chunk.get("finish_reason"), "usage": usage_of(chunk["usage"])}
            [answer_id] = await asked.store([question], [{"output": "".join(texts), **closing}])
            closing |= {"filter": chunk["filter"]} if chunk.get("filter") else {}
            closing |= {"id": answer_id, "model": asked.model_id, "watermark": chunk.get("watermark")}
            yield event(closing | model.notices)
        elif "tool_call" in chunk:
            for call in calls.add(chunk["tool_call"]):
                yield event(call)
        else:
            yield event(chunk)
    yield DONE
