"""Errors raised on purpose, one type per way of reacting.

Every error says what is wrong, the value that was met and the remedy. The doors turn a type into an HTTP status
(`status`) or a process exit code (`exit_code`). Values that may be secret or a user's text are never put into an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake of several in one input: where it stands, and what is wrong with it."""

    loc: str
    msg: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.loc}: {self.msg}" if self.loc else f"{where}{self.msg}"


class SoldiomError(Exception):
    """Root of all errors raised on purpose."""

    status = 500
    exit_code = 1
    title = "Internal error"

    def __init__(self, what: str, *, remedy: str = "", problems: Sequence[Problem] = ()) -> None:
        self.what = what
        self.remedy = remedy
        self.problems = tuple(problems)
        super().__init__(what, remedy, self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.remedy, self.problems))

    def __str__(self) -> str:
        lines = [self.what, *(f"  {problem}" for problem in self.problems)]
        if self.remedy:
            lines.append(f"Remedy: {self.remedy}")
        return "\n".join(lines)


def _rebuild(kind: type[SoldiomError], what: str, remedy: str, problems: tuple[Problem, ...]) -> SoldiomError:
    return kind(what, remedy=remedy, problems=problems)


class InputError(SoldiomError):
    """What the user gave cannot be used: a setting, a recipe, a body, a file."""

    status, exit_code, title = 422, 2, "Invalid input"


class UnauthenticatedError(SoldiomError):
    """No key, or a key that is unknown or revoked."""

    status, title = 401, "Not authenticated"


class DeniedError(SoldiomError):
    """The key is good, its role is not enough."""

    status, title = 403, "Not allowed"


class NotFoundError(SoldiomError):
    """The named thing does not exist, or belongs to another tenant."""

    status, title = 404, "Not found"


class ConflictError(SoldiomError):
    """The thing is in a state that forbids the request."""

    status, title = 409, "Conflict"


class TooLargeError(SoldiomError):
    """The input is larger than the limit."""

    status, exit_code, title = 413, 2, "Too large"


class BusyError(SoldiomError):
    """A rate limit or a full queue; trying again later can work."""

    status, title = 429, "Too many requests"

    def __init__(
        self, what: str, *, remedy: str = "", problems: Sequence[Problem] = (), retry_after_seconds: float = 1.0
    ) -> None:
        super().__init__(what, remedy=remedy, problems=problems)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(SoldiomError):
    """A service that is needed cannot be reached."""

    status, exit_code, title = 503, 3, "Service unavailable"


class StorageFullError(SoldiomError):
    """No space is left where something has to be written; nothing half-written is left behind."""

    status, title = 507, "Storage full"


class DamagedError(SoldiomError):
    """Stored bytes are not what was written: wrong hash, wrong key, cut short."""

    title = "Damaged data"


class CancelledError(SoldiomError):
    """The job was asked to stop."""

    status, title = 409, "Cancelled"
