"""What content filters decided, as it is told: in the audit trail, without the text."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from soldiom_ray.db import audit
from soldiom_ray.db.engine import open_session
from soldiom_ray.errors import BlockedError, SoldiomError
from soldiom_ray.settings import Settings

logger = logging.getLogger(__name__)


def refused_decisions(error: BlockedError) -> list[dict[str, Any]]:
    """The decisions by which a request was refused."""
    found = dict.fromkeys(problem.msg for problem in error.problems)
    return [{"category": each, "side": "input", "action": "block"} for each in found]


def tell_blocked(
    settings: Settings,
    decisions: Sequence[Mapping[str, Any]],
    *,
    actor: str,
    tenant: str,
    model_id: str,
    asked_by: Mapping[str, str],
) -> None:
    """Make a row of the audit trail of those that blocked, if there are any."""
    blocked = sorted({(str(each["side"]), str(each["category"])) for each in decisions if each["action"] == "block"})
    if not blocked:
        return
    details = {**asked_by, "blocked": [{"side": side, "category": name} for side, name in blocked]}
    try:
        with open_session(settings) as session:
            audit.append(session, actor, "content filter", model_id, "deny", details, tenant)
    except SoldiomError as error:  # it is blocked all the same
        logger.warning("a blocked request is not in the trail", extra={"data": {"type": type(error).__name__}})
