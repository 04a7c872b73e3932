"""The specialists: what each domain can be asked, and its answers."""

import asyncio
import json
import logging
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soldiom_ray import registry
from soldiom_ray.api import endpoints
from soldiom_ray.api.answers import Asked
from soldiom_ray.api.auth import AppMetrics, AppSettings, Caller, CurrentCaller, GuardedRoute, needs
from soldiom_ray.api.metrics import RequestMetrics
from soldiom_ray.api.routes.datasets import find_index
from soldiom_ray.db import models
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Model
from soldiom_ray.domains.hosting import Address, address_of, served_by
from soldiom_ray.domains.outputs import output_of
from soldiom_ray.domains.specialist_answers import (
    answer_by_rule,
    answer_of_label,
    answer_of_passages,
    answer_of_text,
    check_input,
    checked,
    envelope,
    only_text,
    picture_of,
    prompt_of,
)
from soldiom_ray.domains.specialists import Capability, Pack, find_capability, find_pack, packs
from soldiom_ray.errors import BlockedError, BusyError, ConflictError, NotFoundError, Problem, TooLargeError, own_error
from soldiom_ray.records import SEARCH_APPLICATION
from soldiom_ray.settings import Settings

router = APIRouter(route_class=GuardedRoute, tags=["specialists"])
logger = logging.getLogger(__name__)

SHORT_CHARACTERS = 50_000
"""A rule reads so much in some milliseconds; longer inputs go to a process of their own."""
RULE_SECONDS = 60.0
RUN_PROGRAMS = frozenset({"repair_code"})
"""Rules that run programs in the sandbox, which takes long however short the input is."""
RULES_AT_ONCE = 2
RULES_WAITING = 16

_waiting: list[int] = []
_rules: list[asyncio.Semaphore] = []


@router.get("/api/specialists", openapi_extra=needs("viewer"))
def list_specialists(caller: CurrentCaller, settings: AppSettings) -> dict[str, Any]:
    """The domains with their notices, models and capabilities, each with the schemas of its input and output. Those
    that `soldiom new-domain` made are of the tenant "default"."""
    items = []
    with open_session(settings, reach="asked") as session:
        for pack in packs(caller.tenant).values():
            sources = {"models": {"__all__": {"collect"}}}  # a home's own pack has folders of its machine there
            shown = pack.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=sources)
            for model in shown["models"].values():
                rows, _ = models.list_models(session, caller.tenant, model["family"], name=model["name"], limit=50)
                rows.sort(key=partial(_far, caller))
                served = next((row for row in rows if served_by(session, row)), None)
                model["versions"] = len(rows)
                model["deployed"] = served.id if served else None
            items.append({"id": pack.name, **shown})
    return {"items": items, "next": None}


@router.post("/api/specialists/{domain}/{capability}", openapi_extra=needs("user"))
async def ask_specialist(
    domain: str,
    capability: str,
    body: Annotated[dict[str, Any], Body(description="the capability's input; its schema: GET /api/specialists")],
    caller: CurrentCaller,
    settings: AppSettings,
    metrics: AppMetrics,
    model: Annotated[str | None, Query(max_length=256, description="another model than the domain's newest")] = None,
) -> Response:
    """An answer that obeys the capability's output schema, with the domain's notice: `{output, model, notice, …}`. 409
    where the model that answers is not made or not deployed."""
    pack = find_pack(domain, caller.tenant)
    asked = find_capability(pack, capability)
    value = await run_in_threadpool(check_input, asked, body)
    match asked.by.kind:
        case "rule":
            answered = await _answer_by_rule(domain, capability, value, apart=asked.by.rule in RUN_PROGRAMS)
            return Response(answered, media_type="application/json")
        case "retrieve":
            answer = await _retrieve(asked, value, caller, settings)
            given = envelope(pack, capability, checked(asked, value, answer))
        case _:
            given = await _ask_model(pack, capability, value, model, caller, settings, metrics)
    return Response(json.dumps(given), media_type="application/json")


async def _ask_model(
    pack: Pack,
    name: str,
    value: dict[str, Any],
    model: str | None,
    caller: Caller,
    settings: Settings,
    metrics: RequestMetrics,
) -> dict[str, Any]:
    asked = pack.capabilities[name]
    model_id, address, notices = await run_in_threadpool(_model, settings, pack, asked, model, caller)
    request: dict[str, Any] = {"inputs": [prompt_of(asked, value)]}
    if asked.by.picture:
        request = {"images": [picture_of(asked, value)], "heat_map": "heat_map" in asked.output["properties"]}
    if asked.by.kind == "generate":
        messages = [{"role": "system", "content": asked.by.system}] if asked.by.system else []
        if messages:
            request = {"messages": [*messages, {"role": "user", "content": request["inputs"][0]}]}
        request["parameters"] = {"max_tokens": asked.by.max_tokens, "temperature": 0.0}
        if only_text(asked) is None:
            schema = {"name": name, "schema": asked.output, "strict": True}
            request["parameters"]["response_format"] = {"type": "json_schema", "json_schema": schema}
    call = Asked(settings, metrics, caller, model_id, None, address=address)
    output = (await call.ask(request))[0]
    asked_for = {} if asked.by.picture else value
    await call.store([asked_for], [output_of(output)])  # counted, and not stored: it has no form of training
    if output.get("finish_reason") == "content_filter":
        raise BlockedError(
            f"The content filter of model {model_id} has withheld the answer.",
            remedy="ask for something else",
            problems=[Problem("output", each["category"]) for each in output["filter"]],
        )
    answer = (
        answer_of_text(asked, output["text"])
        if "text" in output
        else answer_of_label(output["output"], asked.by.labels)
    )
    given = envelope(pack, name, checked(asked, value, answer), model_id, notices)
    cut = output.get("finish_reason") == "length" or bool(output.get("truncated"))
    return given | ({"cut_off": True} if cut else {})


def _model(
    settings: Settings, pack: Pack, capability: Capability, model: str | None, caller: Caller
) -> tuple[str, Address, list[str]]:
    """(id, address, notices) of the model that answers: the one that is named, else the newest of the domain's for
    which an endpoint answers. ConflictError where none is; NotFoundError for a name that the tenant does not have."""
    declared = pack.models[str(capability.by.model)]
    with open_session(settings, reach="asked") as session:
        if model is not None:
            rows = [models.get(session, model, caller.tenant)]
        else:
            rows, _ = models.list_models(session, caller.tenant, declared.family, name=declared.name, limit=50)
            rows.sort(key=partial(_far, caller))
        served = next((row for row in rows if served_by(session, row)), None)
        if served is not None:
            return served.id, address_of(session, served), registry.notices(served)
        if not rows:
            raise ConflictError(
                f"The model {declared.registered} of domain {pack.name} has not been made.",
                remedy=f"make it: `soldiom run domain:{pack.name} --model {capability.by.model} --data FOLDER`",
            )
        raise ConflictError(
            f"The model {rows[0].id} ({declared.registered}) is not deployed.",
            remedy=f"deploy it: POST /api/models/{rows[0].id}/deploy or `soldiom deploy {rows[0].id}`",
        )


def _far(caller: Caller, model: Model) -> tuple[bool, bool]:
    """Of several users' models of one name the caller's own come first, then those that are shared."""
    return model.owner != caller.user, not model.shared


async def _retrieve(
    capability: Capability, value: dict[str, Any], caller: Caller, settings: Settings
) -> dict[str, Any]:
    try:
        _, artifact = await run_in_threadpool(find_index, settings, value.get("index"), caller)
    except NotFoundError as error:
        if value.get("index"):
            raise
        raise ConflictError(
            "There is no index to look in.",
            remedy="make one of your documents: `soldiom prepare FILES`, then `soldiom embed DATASET`",
        ) from error
    number, filters = capability.by.passages, dict[str, str]()
    passages = await endpoints.call(SEARCH_APPLICATION, "search", value["question"], number, artifact, filters, "dense")
    return answer_of_passages(capability, passages)


async def _answer_by_rule(domain: str, capability: str, value: dict[str, Any], *, apart: bool = False) -> str:
    """The rule's answer as JSON. A short input is read by a thread; a long one, and each with `apart`, by another
    process, so that neither the interpreter's lock nor the time that it takes is the API's. BusyError where many wait
    for that."""
    arguments = (domain, capability, value)
    short = sum(len(text) for text in value.values() if isinstance(text, str)) <= SHORT_CHARACTERS
    if short and not apart and not any(isinstance(each, list | dict) for each in value.values()):
        return await run_in_threadpool(answer_by_rule, *arguments)
    if len(_waiting) >= RULES_WAITING:
        raise BusyError(f"{RULES_WAITING} long texts are being read already.", retry_after_seconds=10)
    if not _rules:
        _rules.append(asyncio.Semaphore(RULES_AT_ONCE))
    _waiting.append(1)
    try:
        async with _rules[0]:
            return await _run_apart(*arguments)
    finally:
        _waiting.pop()


async def _run_apart(domain: str, capability: str, value: dict[str, Any]) -> str:
    """`answer_by_rule` in a Ray worker that is ended after RULE_SECONDS; in a thread where Ray does not run."""
    import ray

    if not ray.is_initialized():
        return await run_in_threadpool(answer_by_rule, domain, capability, value)
    task = ray.remote(answer_by_rule).options(num_cpus=0, max_retries=0, name=f"rule-{capability}")
    answer = task.remote(domain, capability, value)
    try:
        async with asyncio.timeout(RULE_SECONDS):
            return str(await answer)
    except TimeoutError as error:
        raise TooLargeError(
            f"The input was not read within {RULE_SECONDS:.0f} s.", remedy="send it in parts"
        ) from error
    except Exception as error:
        raise own_error(error) or error from error
    finally:
        ray.cancel(answer, force=True)
