"""A look at each of several things that are watched."""

import logging
from collections.abc import Callable, Iterable

from soldiom_ray.errors import SoldiomError

logger = logging.getLogger(__name__)


def those_found(ids: Iterable[str], look_at: Callable[[str], bool]) -> list[str]:
    """The ids for which `look_at` finds something. Trouble with one is logged, and leaves no other unwatched."""
    found = []
    for each in ids:
        try:
            if look_at(each):
                found.append(each)
        except Exception as error:
            why = error.what if isinstance(error, SoldiomError) else type(error).__name__
            logger.warning("a look failed", extra={"data": {"at": each, "why": why}})
    return found
