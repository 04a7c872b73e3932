"""Do the questions of users differ from what a served model was trained on? Every stored answer is looked at once, by
whichever process looks first; what is kept of its question are counts of hashed words in a classifier's weights.

A round plays each text of a sample of the training set once against a question. When the sample is used up, a new round
begins with a new classifier and a smaller share of the error, so that all rounds together keep to it.
"""

import json
import logging
import math
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from soldiom_ray.artifacts import Artifacts
from soldiom_ray.db import answers, drift, models
from soldiom_ray.db.engine import open_session
from soldiom_ray.metrics.two_sample import Features, Game, features
from soldiom_ray.monitor.looks import those_found
from soldiom_ray.records import now
from soldiom_ray.settings import Settings
from soldiom_ray.storage import open_storage

FALSE_ALARM = 0.01
"""The chance that a shift is noticed of a model whose questions are drawn as its training set was, over its life."""
REFERENCE_TEXTS = 4000
"""Of the training set, drawn once; also the pairs of a round."""
LEAST_TEXTS = 100
"""Below this a training set is compared with nothing."""
ANSWERS_PER_LOOK = 500
REMEMBERED_MODELS = 8

logger = logging.getLogger(__name__)
_references: "OrderedDict[str, list[Features]]" = OrderedDict()


@dataclass(frozen=True, slots=True)
class Round:
    """Which round is played, and the game in it."""

    number: int
    game: Game

    @property
    def needed(self) -> float:
        """The logarithm of the wealth at which a shift is noticed."""
        return -math.log(round_error(self.number))


def round_error(number: int) -> float:
    """What of FALSE_ALARM is spent on a round, from 0 up: the sum of all is FALSE_ALARM."""
    return FALSE_ALARM / ((number + 1) * (number + 2))


def look(settings: Settings) -> list[str]:
    """Look at what was asked since the last time; ids of models whose questions are found to differ now."""
    if not settings.answer_days:
        return []
    with open_session(settings) as session:
        served = [model.id for model in drift.watched(session)]
    return those_found(served, partial(_look_at, settings))


def _look_at(settings: Settings, model_id: str) -> bool:
    with open_session(settings) as session:
        row = drift.locked(session, model_id)
        new = drift.answers_after(session, model_id, row.last_answer, ANSWERS_PER_LOOK) if row else []
        if row is None or not new:
            return False
        reference = _reference(settings, session, model_id)
        if len(reference) < LEAST_TEXTS:
            row.figures = {"compared": False, "texts": len(reference)}
            row.last_answer = new[-1].id
            return False
        state = _round_of(row.state)
        for answer in new:
            exchange = answers.exchange_of(answer, settings.encryption_keys)
            state = _play(model_id, state, features(asked(exchange.question)), reference)
            if state.game.log_wealth >= state.needed:
                row.noticed_at = row.noticed_at or now()
                break
        row.last_answer, row.looked_at = new[-1].id, now()
        row.state = {"round": state.number, "game": state.game.to_dict()}
        row.questions += len(new)
        row.figures = _figures(state, reference)
        if row.noticed_at is None:
            return False
    logger.warning("questions differ from the training set", extra={"data": {"model": model_id} | row.figures})
    return True


def _play(model_id: str, state: Round, question: Features, reference: list[Features]) -> Round:
    if state.game.pairs >= len(reference):
        state = Round(state.number + 1, Game())
    order = _order(model_id, state.number, len(reference))
    state.game.play(question, reference[order[state.game.pairs]])
    return state


def asked(question: Mapping[str, Any]) -> str:
    """What a question is compared by: its text, of a conversation the last turn of the user."""
    if "messages" not in question:
        return str(question.get("input", ""))
    turns = [turn for turn in question["messages"] if turn.get("role") == "user"]
    return str((turns or question["messages"] or [{}])[-1].get("content") or "")


def _round_of(stored: Mapping[str, Any]) -> Round:
    return Round(int(stored["round"]), Game.from_dict(stored["game"])) if stored else Round(0, Game())


def _figures(state: Round, reference: list[Features]) -> dict[str, Any]:
    evidence = math.exp(min(30.0, state.game.best_log_wealth))
    return {
        "compared": True,
        "texts": len(reference),
        "round": state.number,
        "pairs": state.game.pairs,
        "evidence": round(evidence, 3),
        "needed": round(1 / round_error(state.number), 3),
    }


_orders: dict[tuple[str, int, int], list[int]] = {}


def _order(model_id: str, number: int, count: int) -> list[int]:
    """The order in which a round plays the texts of the sample: the same in every process."""
    key = (model_id, number, count)
    if key not in _orders:
        _orders.clear()
        order = list(range(count))
        random.Random(f"{model_id} {number}").shuffle(order)
        _orders[key] = order
    return _orders[key]


def _reference(settings: Settings, session: Session, model_id: str) -> list[Features]:
    """The sample of what a model was trained on, remembered by this process as features."""
    if model_id in _references:
        _references.move_to_end(model_id)
        return _references[model_id]
    dataset = models.get(session, model_id).dataset_id
    artifacts = Artifacts(open_storage(settings))
    manifest = artifacts.find(dataset) if dataset else None
    drawn, sample = random.Random(model_id), list[Features]()
    rows = artifacts.rows(manifest, "train/", ("text", "messages")) if manifest else ()
    for number, row in enumerate(rows):
        place = number if number < REFERENCE_TEXTS else drawn.randrange(number + 1)
        if place < REFERENCE_TEXTS:
            question = {"messages": json.loads(row["messages"])} if row["messages"] else {"input": row["text"]}
            sample[place : place + 1] = [features(asked(question))]
    _references[model_id] = sample
    if len(_references) > REMEMBERED_MODELS:
        _references.popitem(last=False)
    return sample
