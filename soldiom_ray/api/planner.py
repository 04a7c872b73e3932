"""Plans of trainings: made by another process, because the planner loads torch and reads the dataset."""

import asyncio
import json
import os
import sys
from typing import Any

from soldiom_ray.db import datasets
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.names import pin, with_bases
from soldiom_ray.domains.references import is_local_path
from soldiom_ray.domains.schema import Recipe
from soldiom_ray.errors import BusyError, DeniedError, InputError, Problem, SoldiomError, TooLargeError
from soldiom_ray.records import RUN_ID
from soldiom_ray.settings import HOME_TENANT, Settings, job_environment

PLAN_SECONDS = 300.0
PLANS_AT_ONCE = 1
"""Each loads torch, some 500 MB."""
PLANS_WAITING = 8

_slots: list[asyncio.Semaphore] = []
_waiting: list[int] = []


def planner_request(settings: Settings, recipe: Recipe, tenant: str) -> dict[str, Any]:
    """What the planner is asked for a recipe that its author may name: ids of the tenant's own things in place of
    names. InputError where the recipe trains nothing."""
    if recipe.train is None:
        raise InputError("Only a training has a plan.", problems=[Problem("train", "is missing")])
    with open_session(settings) as session:
        pinned = with_bases(session, pin(session, recipe, tenant), tenant)
        dataset = datasets.get(session, recipe.dataset, tenant).artifact_id if recipe.dataset else None
    train = pinned.train or recipe.train
    base = train.base_model
    local = not base or base.startswith("builtin/") or RUN_ID.fullmatch(base) or is_local_path(base)
    if not local and tenant != HOME_TENANT:  # the planner reads the Hub with the home's own token and cache
        raise DeniedError(
            f"Plans with models of the Hub are made for the tenant {HOME_TENANT!r} only.",
            remedy="start the training: it says the same before its first step",
        )
    return {"train": train.model_dump(mode="json"), "dataset": dataset, "cluster": {}}


async def make_plan(settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """The planner's answer. BusyError where several wait for theirs, TooLargeError where it takes too long."""
    if len(_waiting) >= PLANS_WAITING:
        raise BusyError(f"{PLANS_WAITING} plans are being made already.", retry_after_seconds=20)
    if not _slots:
        _slots.append(asyncio.Semaphore(PLANS_AT_ONCE))
    _waiting.append(1)
    try:
        async with _slots[0]:
            answer = await _ask_planner(settings, json.dumps(request).encode())
    finally:
        _waiting.pop()
    if "error" in answer:
        raise SoldiomError.from_dict(answer["error"])
    return answer


async def _ask_planner(settings: Settings, request: bytes) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "soldiom_ray.train.planning"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **job_environment(settings)},
    )
    try:
        async with asyncio.timeout(PLAN_SECONDS):
            output, _ = await process.communicate(request)
    except TimeoutError as error:
        raise TooLargeError(
            f"No plan was made within {PLAN_SECONDS:.0f} s.",
            remedy="start the training: it says what it needs before its first step",
        ) from error
    finally:
        if process.returncode is None:  # timed out, or whoever asked has gone
            process.kill()
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError as error:
        raise SoldiomError(
            "The planner ended without an answer.", remedy="start the training: its log says why"
        ) from error
    return answer
