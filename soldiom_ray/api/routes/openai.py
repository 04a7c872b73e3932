"""OpenAI's protocol, so that its clients work with deployed models. Errors have OpenAI's `error` beside the members
that they have everywhere."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soldiom_ray.api import endpoints
from soldiom_ray.api.answers import Asked
from soldiom_ray.api.auth import AppMetrics, AppSettings, Caller, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.events import DONE, event, respond
from soldiom_ray.api.openai import (
    ChatBody,
    CompletionBody,
    EmbeddingsBody,
    call_delta,
    chat_choice,
    chat_finish,
    chat_logprobs,
    completion_choice,
    completion_logprobs,
    embeddings_answer,
    new_answer,
    usage,
)
from soldiom_ray.api.routes.inference import EVENTS, DeployedModel, chat_model
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Model
from soldiom_ray.domains.builtin_models import MINILM
from soldiom_ray.domains.exchanges import question_of
from soldiom_ray.domains.hosting import address_of
from soldiom_ray.errors import ConflictError, NotFoundError
from soldiom_ray.records import SEARCH_APPLICATION
from soldiom_ray.settings import Settings

router = APIRouter(route_class=GuardedRoute, tags=["openai"])
CHAT, TEXT = "chat.completion", "text_completion"
EMBEDDERS = (MINILM, f"sentence-transformers/{MINILM}")
EMBEDDER = {"id": MINILM, "object": "model", "created": 0, "owned_by": "builtin"}


@router.get("/v1/models", openapi_extra=needs("viewer"))
async def list_models(caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """The models that answer, newest first: those that are deployed, adapters whose base is, and the one that embeds
    texts."""
    return {"object": "list", "data": [*await run_in_threadpool(_deployed, settings, caller), EMBEDDER]}


@router.get("/v1/models/{model:path}", openapi_extra=needs("viewer"))
async def get_model(model: str, caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """One deployed model, by its id or `family/name`, or the one that embeds texts."""
    if model in EMBEDDERS:
        return EMBEDDER
    return await run_in_threadpool(_model, settings, model, caller)


@router.post("/v1/chat/completions", response_model=dict[str, Any], responses=EVENTS, openapi_extra=needs("user"))
async def chat(
    body: ChatBody, caller: CurrentCaller, settings: AppSettings, metrics: AppMetrics
) -> dict[str, Any] | Response:
    """The next turn of a conversation; with `stream` as server-sent events."""
    model = await run_in_threadpool(chat_model, settings, body.model, caller)
    count = body.n or 1
    form = "chat" if count == 1 else None
    asked = Asked(settings, metrics, caller, model.id, form, body.user, model.address)
    if body.stream:
        return respond(_chat_events(asked, model, body), openai=True)
    answers = await asyncio.gather(*(asked.ask(body.request(index)) for index in range(count)))
    outputs = [answer[0] for answer in answers]
    choices = [chat_choice(index, output) for index, output in enumerate(outputs)]
    shared, used = new_answer(CHAT, body.model), usage(outputs, count)
    await _store(asked, shared, body.request(), outputs[0], used)
    return {**shared, "choices": choices, "usage": used, **model.notices}


@router.post("/v1/completions", response_model=dict[str, Any], responses=EVENTS, openapi_extra=needs("user"))
async def complete(
    body: CompletionBody, caller: CurrentCaller, settings: AppSettings, metrics: AppMetrics
) -> dict[str, Any] | Response:
    """Continuations of texts as they are, without a chat template; with `stream` as server-sent events."""
    model = await run_in_threadpool(chat_model, settings, body.model, caller)
    request, count = body.request(), body.n or 1
    form = "text" if count == len(body.prompt) == 1 else None
    asked = Asked(settings, metrics, caller, model.id, form, body.user, model.address)
    if body.stream:
        return respond(_completion_events(asked, model, body, request), openai=True)
    answers = await asyncio.gather(*(asked.ask(body.request(index)) for index in range(count)))
    outputs = [answer[place] for place in range(len(body.prompt)) for answer in answers]
    choices = [completion_choice(index, output) for index, output in enumerate(outputs)]
    shared, used = new_answer(TEXT, body.model), usage(outputs, count)
    await _store(asked, shared, request, outputs[0], used)
    return {**shared, "choices": choices, "usage": used, **model.notices}


@router.post("/v1/embeddings", response_model=dict[str, Any], openapi_extra=needs("user"))
async def embed(body: EmbeddingsBody) -> dict[str, Any]:
    """Vectors of length one of the model that indexes are made with, by their cosines."""
    if body.model not in EMBEDDERS:
        raise NotFoundError(f"No model {body.model!r} embeds texts here.", remedy=f"ask for {MINILM}")
    answer = await endpoints.call(SEARCH_APPLICATION, "embed", body.input)
    return embeddings_answer(body, answer["vectors"], answer["tokens"])


async def _store(
    asked: Asked,
    shared: Mapping[str, Any],
    request: Mapping[str, Any],
    output: Mapping[str, Any],
    used: Mapping[str, Any],
) -> None:
    """Store an answer under the id that its client sees. Several choices share one id, so they are not stored."""
    answer_id = str(shared["id"]).partition("-")[2]
    stored = {"output": output["text"], "finish_reason": output["finish_reason"], "usage": used}
    await asked.store([question_of(asked.form, request)], [stored], answer_id)


async def _chat_events(asked: Asked, model: DeployedModel, body: ChatBody) -> AsyncIterator[bytes]:
    """Chunks of a chat; of a call first its name, then its arguments piece by piece."""
    shared = new_answer(CHAT, body.model, chunk=True)

    def chunk(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
        return event({**shared, "choices": [{"index": 0, "delta": dict(delta), "finish_reason": finish, **more}]})

    yield chunk({"role": "assistant", "content": ""})
    calls, texts, request = False, list[str](), body.request()
    async for part in asked.stream(request):
        if call := part.get("tool_call"):
            calls = True
            yield chunk({"tool_calls": [call_delta(call)]})
            continue
        if not part.get("done"):
            if not texts:
                asked.note_first_text()
            texts.append(part["text"])
            yield chunk({"content": part["text"]})
            continue
        await _store(asked, shared, request, {**part, "text": "".join(texts)}, usage([part["usage"]]))
        logprobs = {"logprobs": chat_logprobs(part)} if body.logprobs else {}
        yield chunk({}, chat_finish(part["finish_reason"], calls=calls), **logprobs)
        if body.stream_options and body.stream_options.include_usage:
            yield event({**shared, "choices": [], "usage": usage([part["usage"]]), **model.notices})
    yield DONE


async def _completion_events(
    asked: Asked, model: DeployedModel, body: CompletionBody, request: dict[str, Any]
) -> AsyncIterator[bytes]:
    """Chunks of a continuation."""
    shared = new_answer(TEXT, body.model)

    def chunk(text: str, finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}
        return event({**shared, "choices": [choice]})

    texts: list[str] = []
    async for part in asked.stream(request):
        if not part.get("done"):
            if not texts:
                asked.note_first_text()
            texts.append(part["text"])
            yield chunk(part["text"])
            continue
        await _store(asked, shared, request, {**part, "text": "".join(texts)}, usage([part["usage"]]))
        yield chunk("", part["finish_reason"], completion_logprobs(part))
        if body.stream_options and body.stream_options.include_usage:
            yield event({**shared, "choices": [], "usage": usage([part["usage"]]), **model.notices})
    yield DONE


def _deployed(settings: Settings, caller: Caller) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    with open_session(settings, reach="asked") as session:
        while True:
            page, cursor = models.list_models(session, caller.tenant, cursor=cursor, limit=200)
            found += [_described(row) for row in page if _answers_now(session, row)]
            if cursor is None:
                return found


def _model(settings: Settings, model: str, caller: Caller) -> dict[str, Any]:
    with open_session(settings, reach="asked") as session:
        row = models.get_served(session, model, caller.tenant, random.random)
        if not _answers_now(session, row):
            raise NotFoundError(f"Model {row.id} is not deployed.", remedy=f"run `soldiom deploy {row.id}`")
        return _described(row)


def _answers_now(session: Session, row: Model) -> bool:
    try:
        address_of(session, row)
    except ConflictError:
        return False
    return True


def _described(row: Any) -> dict[str, Any]:
    created = int(row.created_at.timestamp())
    return {"id": row.id, "object": "model", "created": created, "owned_by": f"{row.family}/{row.name}"}
