"""The content filter of an endpoint: requests before the model reads them, answers before anybody sees them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from soldiom_ray.deploy.requests import MAX_INPUTS
from soldiom_ray.domains.content_filter import ContentFilter
from soldiom_ray.errors import BlockedError, BusyError, Problem, UnavailableError, own_error
from soldiom_ray.records import application_name
from soldiom_ray.safety.content_filter import Decision, Filter, masked
from soldiom_ray.safety.stream import StreamFilter

Last = TypeVar("Last")
CLASSIFIER_SECONDS = 10.0
"""How long a classifier may take for the texts of one check; then nothing passes."""
BLOCKED = "content_filter"
"""Why an answer ended that the filter does not let pass, as OpenAI's protocol calls it."""

logger = logging.getLogger(__name__)
_handles: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in an answer that is streamed, and the number of its pieces up to there."""

    decisions: tuple[Decision, ...]
    pieces: int
    is_blocked: bool


class Guard:
    """Filters for a model as its deployment declares. `classifiers` are the models that it names, and their ids."""

    def __init__(self, model_id: str, declared: ContentFilter, classifiers: Mapping[str, str]) -> None:
        self.model_id = model_id
        self.filter = Filter(declared, ask_classifier, classifiers)

    async def request(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], list[Decision]]:
        """A request as the model may read it, and what was found in it. BlockedError when it may not."""
        reading = _Reading(self.filter)
        passed = dict(request)
        for name in ("inputs", "messages"):
            if request.get(name):
                passed[name] = await reading.passed(request[name], name)
        self._log(reading.decisions)
        if reading.problems:
            raise BlockedError(
                "The content filter of this model blocks the request; `errors` names where and why.",
                remedy="ask without it; whoever deploys the model decides what its filter blocks (`deploy.filter`)",
                problems=reading.problems,
            )
        return passed, list(reading.decisions)

    async def answers(
        self, outputs: Sequence[dict[str, Any]], found: Sequence[Decision], *, masks: bool = True
    ) -> list[dict[str, Any]]:
        """Answers as they may be seen, each with the decisions on it and those `found` in its request as `filter`. The
        text of one that is blocked is empty; log probabilities, which spell it, go with what is masked."""
        return [await self._answer(output, found, masks=masks) for output in outputs]

    async def _answer(self, output: dict[str, Any], found: Sequence[Decision], *, masks: bool) -> dict[str, Any]:
        if "error" in output:
            return output
        checked = await self.filter.check(output["text"], "output", masks=masks)
        self._log(checked.decisions)
        if checked.blocking or checked.masks:
            output = {name: value for name, value in output.items() if name != "logprobs"}
            output["text"] = "" if checked.blocking else masked(output["text"], checked.masks)
        if checked.blocking:
            output["finish_reason"] = BLOCKED
        decisions = as_dicts((*found, *checked.decisions))
        return output | ({"filter": decisions} if decisions else {})

    async def pieces(
        self, pieces: "AsyncGenerator[str | Last, None]", *, masks: bool
    ) -> "AsyncGenerator[str | Last | Findings, None]":
        """The pieces of an answer as they may be seen, the findings, and what ends the answer. After findings that
        block nothing follows, and the answer is not computed further."""
        guard, count = StreamFilter(self.filter, masks=masks), 0
        async with aclosing(pieces):
            async for piece in pieces:
                is_end = not isinstance(piece, str)
                ready = await (guard.add(piece) if isinstance(piece, str) else guard.end())
                count += not is_end
                if ready:
                    yield ready
                if is_end or guard.is_blocked:
                    self._log(guard.decisions)
                    yield Findings(tuple(guard.decisions), count, is_blocked=guard.is_blocked)
                if guard.is_blocked:
                    return
                if is_end:
                    yield piece

    def _log(self, decisions: Iterable[Decision]) -> None:
        for each in decisions:
            data = {"model": self.model_id, **asdict(each)}
            logger.warning("the content filter found something", extra={"data": data})


class _Reading:
    """A request on its way through the filter: what was found so far, and where what blocks it stands."""

    def __init__(self, content_filter: Filter) -> None:
        self._filter = content_filter
        self.decisions: dict[Decision, None] = {}
        self.problems: list[Problem] = []

    async def passed(self, value: Any, place: str, without: Collection[str] = ()) -> Any:
        """A value with every text in it checked. What a developer tells the model is no attempt to set it aside."""
        if isinstance(value, str):
            checked = await self._filter.check(value, "input", without=without)
            self.decisions |= dict.fromkeys(checked.decisions)
            self.problems += [Problem(place, each.category) for each in checked.blocking]
            return masked(value, checked.masks)
        if isinstance(value, Mapping):
            without = ("prompt_injection",) if value.get("role") == "system" else without
            return {
                name: member if name == "role" else await self.passed(member, f"{place}.{name}", without)
                for name, member in value.items()
            }
        if isinstance(value, list | tuple):
            return [await self.passed(each, f"{place}[{number}]", without) for number, each in enumerate(value)]
        return value


def as_dicts(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """Decisions as an answer tells them."""
    return [asdict(each) for each in decisions]


async def ask_classifier(model_id: str, texts: Sequence[str]) -> list[Mapping[str, float]]:
    """Each text's probability by label, from a classifier's endpoint; a text that it reads only in part is asked for in
    halves, and gets the higher of their probabilities. UnavailableError when it does not answer, BusyError when its
    queue is full."""
    answers: list[Mapping[str, Any]] = []
    for start in range(0, len(texts), MAX_INPUTS):
        answers += await _outputs(model_id, texts[start : start + MAX_INPUTS])
    scores: list[Mapping[str, float]] = []
    for text, answer in zip(texts, answers, strict=True):
        if answer.get("truncated") and len(text) > 1:
            middle = len(text) // 2
            halves = [half for half in (text[:middle], text[middle:]) if half.strip()]
            parts = await ask_classifier(model_id, halves)
            scores.append({label: max(part[label] for part in parts) for label in parts[0]})
        else:
            scores.append(answer["output"]["scores"])
    return scores


async def _outputs(model_id: str, texts: Sequence[str]) -> list[Mapping[str, Any]]:
    from ray import serve

    try:
        async with asyncio.timeout(CLASSIFIER_SECONDS):
            if model_id not in _handles:  # to find one asks Serve's controller
                _handles[model_id] = await asyncio.to_thread(serve.get_app_handle, application_name(model_id))
            answer: dict[str, Any] = await _handles[model_id].generate.remote({"inputs": list(texts)})
        return list(answer["outputs"])
    except Exception as error:
        _handles.pop(model_id, None)
        if isinstance(known := own_error(error), BusyError):
            raise known from error
        data = {"classifier": model_id, "type": type(error).__name__}
        logger.error("the content filter's classifier does not answer", extra={"data": data})
        raise UnavailableError(
            f"The content filter's classifier {model_id} does not answer, and nothing passes without it.",
            remedy=f"try again; whoever runs the server: `soldiom deploy {model_id}`, or deploy this model with another"
            " `filter`",
        ) from error
