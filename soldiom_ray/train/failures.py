"""What a worker says of an exception that it did not expect, and whether trying again is of any use."""

import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from soldiom_ray.errors import Problem, SoldiomError
from soldiom_ray.records import new_id

MESSAGE_CHARACTERS, TRACEBACK_CHARACTERS = 1000, 4000
PLACES = 3
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
"""Of an object in memory, as in `<_io.BytesIO object at 0x7f3c>`: it differs each time."""

COLLECTIVE = re.compile(r"gloo|nccl|connection (closed|reset) by peer", re.IGNORECASE)
"""In messages of exchanges between ranks that failed: most often because another rank is gone."""


@dataclass(frozen=True)
class WorkerFailure:
    """One unexpected exception of one worker."""

    exception: str
    """Its type's name."""
    message: str
    places: tuple[Problem, ...]
    """The last frames of its traceback, innermost last."""
    traceback: str
    checkpoint_step: int | None
    """Step of the newest checkpoint when it failed, 0 where there is none; None: the storage did not say."""
    id: str = field(default_factory=new_id)

    def __str__(self) -> str:
        return f"{self.exception}: {self.message}" if self.message else self.exception

    def repeats(self, earlier: "WorkerFailure") -> bool:
        """Whether an earlier attempt failed with the same type and message, and no checkpoint was made since. A failed
        exchange between ranks does not count: it follows from what happened to another rank."""
        return (
            self.id != earlier.id
            and not COLLECTIVE.search(str(self))
            and str(self) == str(earlier)
            and self.checkpoint_step is not None
            and self.checkpoint_step == earlier.checkpoint_step
        )

    def to_error(self) -> SoldiomError:
        """What the user sees after the second time: type and places. The message may hold a user's text, so it stays in
        the job's log."""
        resumes = f"it goes on from step {self.checkpoint_step}" if self.checkpoint_step else "it begins anew"
        return SoldiomError(
            f"The training failed twice in a row with {self.exception}.",
            problems=self.places,
            remedy=f"`soldiom jobs logs JOB` has its message and traceback; mend the cause, then run again: {resumes}",
        )


class WorkerFailedError(Exception):
    """Raised by a worker in place of an exception that it did not expect: unlike that, it can always be pickled."""

    def __init__(self, failure: WorkerFailure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return str(self.failure)


def describe(error: BaseException, checkpoint_step: int | None) -> WorkerFailure:
    """A failure to report. Call it where the exception is handled."""
    frames = traceback.extract_tb(error.__traceback__)[-PLACES:]
    places = (Problem(f"{_short(frame.filename)}:{frame.lineno}", f"in {frame.name}") for frame in frames)
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    message = ADDRESS.sub("0x...", str(error))[:MESSAGE_CHARACTERS]
    return WorkerFailure(type(error).__name__, message, tuple(places), text, checkpoint_step)


def repeated(failures: Iterable[WorkerFailure], earlier: Iterable[WorkerFailure]) -> WorkerFailure | None:
    """The failure of a group of workers that is the same as one of the group before; None where there is none."""
    before = list(earlier)
    return next((failure for failure in failures if any(failure.repeats(other) for other in before)), None)


def _short(filename: str) -> str:
    """A file's path without the folder of its environment."""
    _, _, below = filename.rpartition("/site-packages/")
    return below if below != filename else "/".join(Path(filename).parts[-3:])
