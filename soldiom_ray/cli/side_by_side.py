"""Two models asked the same, their answers side by side on the terminal."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from soldiom_ray.cli.options import drop_unset
from soldiom_ray.cli.output import note, output_text, printable, say
from soldiom_ray.domains.tasks import IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION
from soldiom_ray.errors import ConflictError, InputError, NotFoundError, SoldiomError
from soldiom_ray.settings import HOME_TENANT, Settings, load_settings

if TYPE_CHECKING:
    from soldiom_ray.models.answerer import Asking

ENDPOINT, HERE = "endpoint", "this process"
Ask = Callable[[str], dict[str, Any]]


@dataclass(slots=True)
class Side:
    """One of the models. `model_id` is that of the registry, where it has one and an endpoint answers; else `run` or
    `base` is loaded. `answers` are those to the prompts, in their order."""

    name: str
    task: str | None = None
    model_id: str = ""
    run: str | None = None
    base: str = ""
    scores: str | None = None
    notices: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def where(self) -> str:
        """What answers."""
        return ENDPOINT if self.model_id else HERE

    @property
    def tokens_per_second(self) -> float | None:
        """Of all its answers; None for a classifier, and where none came."""
        tokens = sum(answer["usage"]["completion_tokens"] for answer in self.answers if "usage" in answer)
        seconds = sum(answer["seconds"] for answer in self.answers if "usage" in answer)
        return round(tokens / seconds, 1) if tokens and seconds else None

    def as_dict(self) -> dict[str, Any]:
        """The side as --json shows it."""
        shown = {"name": self.name, "where": self.where, "notices": self.notices, "answers": self.answers}
        return shown | {"tokens_per_second": self.tokens_per_second}


def ask_both(names: Sequence[str], prompts: Sequence[str], asking: "Asking") -> list[Side]:
    """Both models with their answers, one model after the other, so that neither slows the other one down. An error
    stands in place of the answer that it befell. NotFoundError or InputError for what is no model that reads texts."""
    settings = load_settings()
    sides = [_find(settings, name) for name in names]
    for side in sides:
        _answer(settings, side, prompts, asking)
    return sides


def show(sides: Sequence[Side], prompts: Sequence[str]) -> None:
    """Print the answers, those to one prompt beside each other, then speeds and notices."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for place, prompt in enumerate(prompts):
        if len(prompts) > 1:
            say(f"{'' if place == 0 else chr(10)}[{place + 1}] {prompt}")
        table = Table(box=None, pad_edge=False, expand=True, header_style="bold", padding=(0, 2, 0, 0))
        for side in sides:
            table.add_column(Text(printable(side.name)), ratio=1, overflow="fold")
        table.add_row(*(Text(printable(_text(side.answers[place]))) for side in sides))
        table.add_row(*(Text(_measured(side.answers[place]), style="dim") for side in sides))
        console.print(table)
    for side in sides:
        speed = f"{side.tokens_per_second} tokens/s" if side.tokens_per_second else "no tokens"
        say(f"{side.name}: {speed}, answered by {'its endpoint' if side.model_id else HERE}")
        for notice in side.notices:
            note(f"{side.name}: {notice}")
    if len({side.where for side in sides}) > 1:
        note("Speeds of an endpoint and of a model in this process are not those of the same place.")


def _find(settings: Settings, name: str) -> Side:
    """The model behind a name: of the registry, a run, or a base."""
    from soldiom_ray.db import models
    from soldiom_ray.db.engine import open_session
    from soldiom_ray.domains.hosting import address_of
    from soldiom_ray.domains.names import pin_base
    from soldiom_ray.licenses import compliance_of
    from soldiom_ray.records import RUN_ID

    with open_session(settings) as session:
        try:
            model = models.get_served(session, name, HOME_TENANT)
        except NotFoundError as error:
            try:
                base = pin_base(session, name, HOME_TENANT, "model")
            except InputError:
                raise error from None
            return Side(name, run=base) if RUN_ID.fullmatch(base) else Side(name, base=base)
        task = models.task_of(model)
        if task == IMAGE_CLASSIFICATION:
            raise InputError(f"Model {name} classifies pictures.", remedy="name models that read texts")
        title = f"{model.family}/{model.name}@{model.version}"
        try:
            address_of(session, model)
        except ConflictError:
            notices = list(compliance_of(model.name, model.lineage, model.license).notices)
            return Side(title, task, "", model.run_artifact, model.base_model or "", model.scores_artifact, notices)
        return Side(title, task, model.id)


def _answer(settings: Settings, side: Side, prompts: Sequence[str], asking: "Asking") -> None:
    """Let one model answer; what was loaded for it is gone afterwards."""
    ask = _at_endpoint(settings, side, asking) if side.model_id else _loaded(settings, side, asking)
    for prompt in prompts:
        side.answers.append(_timed(ask, prompt))
        side.notices += [text for text in side.answers[-1].pop("notices", ()) if text not in side.notices]


def _at_endpoint(settings: Settings, side: Side, asking: "Asking") -> Ask:
    from soldiom_ray.cli.client import call

    options: dict[str, Any] = {"raw": asking.raw, "parameters": drop_unset(**asdict(asking) | {"raw": None})}
    options = {} if side.task == TEXT_CLASSIFICATION else options  # it has nothing to choose

    def ask(text: str) -> dict[str, Any]:
        answer = call(settings, "POST", f"/api/inference/{side.model_id}", {"input": text} | options)
        return {name: answer[name] for name in ("output", "finish_reason", "usage", "notices") if name in answer}

    return ask


def _loaded(settings: Settings, side: Side, asking: "Asking") -> Ask:
    from soldiom_ray.artifacts import Artifacts
    from soldiom_ray.domains.outputs import output_of
    from soldiom_ray.models.answerer import load_answerer
    from soldiom_ray.storage import open_storage

    note(f"{side.name} is not deployed: it is loaded into this process.")
    artifacts = Artifacts(open_storage(settings))
    run = artifacts.get(side.run) if side.run else None
    scores = artifacts.find(side.scores) if side.scores else None
    answer = load_answerer(settings, artifacts, run, side.base, scores)
    return lambda text: output_of(answer(text, asking))


def _timed(ask: Ask, prompt: str) -> dict[str, Any]:
    began = time.monotonic()
    try:
        answer = ask(prompt)
    except SoldiomError as error:
        return {"error": error.to_problem()}
    return answer | {"seconds": round(time.monotonic() - began, 3)}


def _text(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"(error: {answer['error']['detail']})"
    return output_text(answer["output"]) or "(an empty answer)"


def _measured(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return ""
    tokens, seconds = answer["usage"]["completion_tokens"], answer["seconds"]
    return f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:.1f}/s" if tokens and seconds else f"{seconds:.2f} s"
