"""The answers that the API gives, stored with their questions so that feedback can be joined to them."""

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from soldiom_ray.api import endpoints
from soldiom_ray.api.auth import Caller
from soldiom_ray.api.metrics import RequestMetrics
from soldiom_ray.db import answers, audit
from soldiom_ray.db.answers import Exchange
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.hosting import Address
from soldiom_ray.domains.outputs import USER_CHARACTERS, count_answers, text_of
from soldiom_ray.errors import BlockedError, SoldiomError
from soldiom_ray.records import application_name, new_id
from soldiom_ray.settings import Settings

STORED_CHARACTERS = 100_000
"""Of a question and of its answer; longer ones are not stored."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked which model, and when. `form` is the one of `db.answers.Exchange`; None where nothing is stored.
    `address` says whose endpoint answers, None that the model's own does."""

    settings: Settings
    metrics: RequestMetrics
    caller: Caller
    model_id: str
    form: str | None
    user_id: str | None = None
    address: Address | None = None
    began: float = field(default_factory=time.monotonic)

    async def ask(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The model's outputs for a request, with what its content filter has found counted. Errors as of
        `endpoints.call`, and BlockedError."""
        try:
            answer = await endpoints.call(self._application, "generate", self._addressed(request))
        except BlockedError as error:
            await self._note(_refused(error))
            raise
        outputs: list[dict[str, Any]] = answer["outputs"]
        for output in outputs:
            await self._note(output.get("filter") or ())
        return outputs

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The model's chunks for a request; counts and errors as of `ask`."""
        try:
            async for chunk in endpoints.stream(self._application, "stream", self._addressed(request)):
                await self._note(chunk.get("filter") or ())
                yield chunk
        except BlockedError as error:
            await self._note(_refused(error))
            raise

    @property
    def _application(self) -> str:
        return self.address.application if self.address else application_name(self.model_id)

    def _addressed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the adapter that answers it, where it is not the endpoint's own model."""
        adapter = self.address.adapter if self.address else None
        return {**request, "adapter": adapter} if adapter else dict(request)

    async def _note(self, decisions: Sequence[Mapping[str, Any]]) -> None:
        """Count what the content filter decided; what it blocked is also a row of the audit trail, without the text."""
        if not decisions:
            return
        self.metrics.filtered(self.model_id, decisions)
        if any(each["action"] == "block" for each in decisions):
            await run_in_threadpool(self._audit_block, decisions)

    def _audit_block(self, decisions: Sequence[Mapping[str, Any]]) -> None:
        blocked = sorted(
            {(str(each["side"]), str(each["category"])) for each in decisions if each["action"] == "block"}
        )
        details = {"key": self.caller.name, "blocked": [{"side": side, "category": name} for side, name in blocked]}
        try:
            with open_session(self.settings) as session:
                actor, tenant = self.caller.key_id, self.caller.tenant
                audit.append(session, actor, "content filter", self.model_id, "deny", details, tenant)
        except SoldiomError as error:  # it is blocked all the same
            logger.warning("a blocked request is not in the trail", extra={"data": {"type": type(error).__name__}})

    def note_first_text(self) -> None:
        """Count how long the first text of a stream took."""
        self.metrics.began(self.model_id, time.monotonic() - self.began)

    async def store(
        self, questions: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]], answer_id: str | None = None
    ) -> list[str | None]:
        """Ids of the answers, each to the question at its place, None for one that is not stored: an error, a long
        one, one that was withheld, one for a user of a long name, or a time of storing of 0 days. `answer_id` is the
        first one's. Outputs are those of the API."""
        seconds = time.monotonic() - self.began
        self.metrics.answered(self.model_id, seconds, [output.get("usage") or {} for output in outputs])
        ids = [answer_id or new_id(), *(new_id() for _ in outputs[1:])]
        try:
            return await run_in_threadpool(self._write, ids, questions, outputs, seconds)
        except Exception as error:  # whatever it is: the answer is there, and more than what may be said of it
            logger.warning("an answer was not stored", extra={"data": {"type": type(error).__name__}})
            return [None] * len(outputs)

    def _write(
        self,
        ids: Sequence[str],
        questions: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        seconds: float,
    ) -> list[str | None]:
        stored: list[str | None] = []
        nameless = len(self.user_id or "") > USER_CHARACTERS  # cut short it would be found for another user, or none
        with open_session(self.settings) as session:
            for answer_id, question, output in zip(ids, questions, outputs, strict=True):
                text = None if self.form is None or nameless or not self.settings.answer_days else text_of(output)
                if text is None or len(text) > STORED_CHARACTERS or len(str(question)) > STORED_CHARACTERS:
                    stored.append(None)
                    continue
                usage = output.get("usage") or {}
                answers.add(
                    session,
                    Exchange({"form": self.form, **question}, text),
                    self.settings.encryption_keys,
                    id=answer_id,
                    tenant=self.caller.tenant,
                    model_id=self.model_id,
                    owner=self.caller.user,
                    user_id=self.user_id or self.caller.name,
                    prompt_tokens=int(usage.get("prompt_tokens", 0)),
                    completion_tokens=int(usage.get("completion_tokens", 0)),
                    seconds=seconds,
                )
                stored.append(answer_id)
            count_answers(
                session,
                questions,
                outputs,
                tenant=self.caller.tenant,
                owner=self.caller.user,
                user_id=self.user_id or self.caller.name,
                model_id=self.model_id,
                seconds=seconds,
            )
        return stored


def _refused(error: BlockedError) -> list[dict[str, Any]]:
    """The decisions by which a request was refused."""
    found = dict.fromkeys(problem.msg for problem in error.problems)
    return [{"category": each, "side": "input", "action": "block"} for each in found]
