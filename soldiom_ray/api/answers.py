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
from soldiom_ray.db.engine import open_session
from soldiom_ray.domains.decisions import refused_decisions, tell_blocked
from soldiom_ray.domains.exchanges import store_answers
from soldiom_ray.domains.hosting import Address
from soldiom_ray.errors import BlockedError
from soldiom_ray.records import application_name, new_id
from soldiom_ray.settings import Settings

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
            await self._note(refused_decisions(error))
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
            await self._note(refused_decisions(error))
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
        tell_blocked(
            self.settings,
            decisions,
            actor=self.caller.key_id,
            tenant=self.caller.tenant,
            model_id=self.model_id,
            asked_by={"key": self.caller.name},
        )

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
        with open_session(self.settings) as session:
            return store_answers(
                session,
                self.settings,
                questions,
                outputs,
                ids,
                form=self.form,
                seconds=seconds,
                tenant=self.caller.tenant,
                owner=self.caller.user,
                user_id=self.user_id or self.caller.name,
                model_id=self.model_id,
            )
