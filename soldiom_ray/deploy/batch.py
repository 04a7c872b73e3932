"""The inputs of a batch job, asked of the model's endpoint as single requests are, part by part. A part is stored once
it is answered, so that a job that takes the place of one that was killed asks only what is left."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soldiom_ray import batches, compute
from soldiom_ray.db import counts, models, quotas
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Job
from soldiom_ray.domains.decisions import refused_decisions, tell_blocked
from soldiom_ray.domains.exchanges import form_of, question_of, store_answers
from soldiom_ray.domains.hosting import Address, address_of
from soldiom_ray.domains.outputs import output_of, total_usage
from soldiom_ray.errors import BlockedError, BusyError, ConflictError, InputError, TooLargeError, UnavailableError
from soldiom_ray.records import new_id
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

UNDER_WAY = 2
"""Parts at once: one fills the places that the other one's answers leave. Other callers' requests join beside them."""
AWAY_SECONDS = 300.0
"""How long an endpoint may be busy or away before the job gives up; what was answered is kept."""
LOOK_SECONDS = 1.0
LONGEST_WAIT = 10.0
"""Seconds between two tries."""

logger = logging.getLogger(__name__)


def answer_batch(settings: Settings, job: Job, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Answer what a job asks; {inputs, errors, usage, notices}. Errors of a single input stand in its line of the
    result. CancelledError when `report` raises it; BusyError when a quota is used up, or the endpoint too busy for
    AWAY_SECONDS; InputError where every input of the first part is refused for the same reason."""
    return asyncio.run(_Batch(settings, job, report).answer())


class _Batch:
    def __init__(self, settings: Settings, job: Job, report: Callable[[float, str], None]) -> None:
        self.settings, self.job, self.report = settings, job, report
        self.storage, self.folder = open_storage(settings), str(job.config["folder"])
        self.request = batches.read_request(self.storage, self.folder)
        self.inputs: list[str] = self.request["inputs"]
        self.options = {"raw": self.request["raw"], "parameters": self.request["parameters"]}
        self.done = 0

    async def answer(self) -> dict[str, Any]:
        count = len(self.inputs)
        finished = batches.finished_parts(self.storage, self.folder)
        self.done = sum(len(self._part(number)) for number in finished)
        missing = iter([number for number in range(batches.part_count(count)) if number not in finished])
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                while len(running) < UNDER_WAY and (number := next(missing, None)) is not None:
                    self._check_quota()
                    running.add(asyncio.create_task(self._answer_part(number)))
                if not running:
                    return self._result()
                ended, running = await asyncio.wait(running, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
                self.report(self.done / count, f"{self.done} of {count} inputs are answered")
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _part(self, number: int) -> list[str]:
        return self.inputs[number * batches.PART : (number + 1) * batches.PART]

    async def _answer_part(self, number: int) -> None:
        texts, began = self._part(number), time.monotonic()
        outputs = await self._answers(texts, whole=number == 0)
        ids = await asyncio.to_thread(self._store, texts, outputs, time.monotonic() - began)
        outputs = [output | {"id": answer_id} for output, answer_id in zip(outputs, ids, strict=True)]
        first = number * batches.PART
        lines = [
            {"index": first + place, "input": text, **output}
            for place, (text, output) in enumerate(zip(texts, outputs, strict=True))
        ]
        batches.write_part(self.storage, self.folder, number, lines)
        self.done += len(texts)

    def _store(self, texts: Sequence[str], outputs: Sequence[Mapping[str, Any]], seconds: float) -> list[str | None]:
        """Ids of a part's answers, as those of single requests are: feedback can be joined to them, and all is
        counted."""
        config, usage = self.job.config, total_usage(outputs)
        decisions = [each for output in outputs for each in output.get("filter") or ()]
        with open_session(self.settings, reach="asked") as session:
            model = models.get(session, config["model"], self.job.tenant)
            form = form_of(models.task_of(model), model.lineage.get("prompt_format"), raw=self.request["raw"])
            counts.count_batch(
                session,
                model.id,
                decisions,
                {kind: usage[f"{kind}_tokens"] for kind in ("prompt", "completion")},
            )
            ids = store_answers(
                session,
                self.settings,
                [question_of(form, {"inputs": texts}, place) for place in range(len(texts))],
                outputs,
                [new_id() for _ in texts],
                form=form,
                seconds=seconds,
                alone=False,
                tenant=self.job.tenant,
                owner=self.job.owner,
                user_id=config["user_id"],
                model_id=model.id,
            )
        tell_blocked(
            self.settings,
            decisions,
            actor=self.job.owner,
            tenant=self.job.tenant,
            model_id=config["model"],
            asked_by={"job": self.job.id},
        )
        return ids

    async def _answers(self, texts: Sequence[str], *, whole: bool = False) -> list[dict[str, Any]]:
        """An output or an error for each text. With `whole`, what refuses all of several texts is raised: it is the
        request's fault."""
        try:
            return [output_of(output) for output in await self._ask(texts)]
        except (InputError, BlockedError, TooLargeError, BusyError) as error:
            why = error
        if len(texts) == 1:
            if isinstance(why, BusyError):
                raise why
            found = {"filter": refused_decisions(why)} if isinstance(why, BlockedError) else {}
            return [{"error": why.to_problem(), **found}]
        outputs = [(await self._answers([text]))[0] for text in texts]
        refused = {json.dumps(output.get("error"), sort_keys=True) for output in outputs}
        if whole and len(refused) == 1 and len(set(texts)) > 1 and isinstance(why, InputError):
            raise why
        return outputs

    async def _ask(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The endpoint's outputs. What is only busy or away is asked again; BusyError for several texts at once, which
        may be too many for the endpoint's memory."""
        began, wait = time.monotonic(), 0.2
        while True:
            try:
                return await self._call(texts)
            except (BusyError, UnavailableError, ConflictError) as error:
                if isinstance(error, BusyError) and len(texts) > 1:
                    raise
                if time.monotonic() - began > AWAY_SECONDS:
                    raise
                logger.info("the endpoint is asked again", extra={"data": {"why": type(error).__name__}})
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _call(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        from ray import serve
        from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

        address = self._address()
        adapter = {"adapter": address.adapter} if address.adapter else {}
        try:
            handle = await asyncio.to_thread(serve.get_app_handle, address.application)
            answer = await handle.generate.remote({"inputs": list(texts), **self.options, **adapter})
        except Exception as error:
            known = compute.serve_error(error, "endpoint", AWAY_SECONDS)
            if known is None and isinstance(error, DeploymentUnavailableError | RayServeException):
                known = UnavailableError("The model's endpoint does not run.", remedy="deploy it and start again")
            raise known or error from error
        outputs: list[dict[str, Any]] = answer["outputs"]
        return outputs

    def _address(self) -> Address:
        with open_session(self.settings, reach="asked") as session:
            return address_of(session, models.get(session, self.job.config["model"], self.job.tenant))

    def _check_quota(self) -> None:
        with open_session(self.settings) as session:
            user = self.job.config["user_id"]
            quotas.check(session, self.job.tenant, ("tokens", "bytes"), key_id=self.job.owner, user_id=user)

    def _result(self) -> dict[str, Any]:
        parts = batches.result_parts(self.storage, self.folder, len(self.inputs))
        lines = [json.loads(line) for part in parts for line in part.decode().split("\n") if line]
        result = {"inputs": len(lines), "errors": sum("error" in line for line in lines), "usage": total_usage(lines)}
        return result | {"notices": list(self._address().notices)}
