"""Errors raised on purpose, one type per way of reacting.

Every error says what is wrong, the value that was met and the remedy. Its type decides the HTTP status (`status`), the
process exit code (`exit_code`) and the problem type of RFC 9457 (by `title`); nothing else maps one of them to another.
Between processes an error travels as `to_dict()`; to a client it goes as `to_problem()`. Values that may be secret or a
user's text are never put into an error.
"""

import difflib
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake of several in one input: where it stands, and what is wrong with it."""

    loc: str
    msg: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.loc}: {self.msg}" if self.loc else f"{where}{self.msg}"

    def to_dict(self) -> dict[str, Any]:
        """Its fields; `line` only where it is known."""
        return {"loc": self.loc, "msg": self.msg} | ({"line": self.line} if self.line else {})


class SoldiomError(Exception):
    """Root of all errors raised on purpose."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Internal error"

    def __init__(self, what: str, *, remedy: str = "", problems: Sequence[Problem] = ()) -> None:
        self.what = what
        self.remedy = remedy
        self.problems = tuple(problems)
        super().__init__(what, remedy, self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.to_dict()))

    def __str__(self) -> str:
        lines = [self.what, *(f"  {problem}" for problem in self.problems)]
        if self.remedy:
            lines.append(f"Remedy: {self.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The whole error as JSON can hold it: `type`, `what`, `problems`, `remedy`."""
        problems = [problem.to_dict() for problem in self.problems]
        return {"type": type(self).__name__, "what": self.what, "problems": problems, "remedy": self.remedy}

    @staticmethod
    def from_dict(members: Mapping[str, Any]) -> "SoldiomError":
        """The error that `to_dict` described; of a type that this version does not know, a SoldiomError."""
        known = {kind.__name__: kind for kind in _types()}
        return _rebuild(known.get(str(members.get("type")), SoldiomError), members)

    def to_problem(self) -> dict[str, Any]:
        """The error as the members of a problem of RFC 9457; `errors` and `remedy` only where it has some."""
        members = problem_members(self.status, self.title, self.what)
        if self.problems:
            members["errors"] = [problem.to_dict() for problem in self.problems]
        if self.remedy:
            members["remedy"] = self.remedy
        return members

    @staticmethod
    def from_problem(members: Mapping[str, Any]) -> "SoldiomError":
        """The error that a problem describes: of its `type` where that is one of ours, else of the first type that has
        its `status` (400 is 422's), else a SoldiomError."""
        urns = {problem_urn(kind.title): kind for kind in _types()}
        statuses: dict[object, type[SoldiomError]] = {kind.status: kind for kind in reversed(_types())}
        status = InputError.status if members.get("status") == 400 else members.get("status")
        kind = urns.get(str(members.get("type"))) or statuses.get(status, SoldiomError)
        what = members.get("detail") or members.get("title")
        return _rebuild(kind, {**members, "what": what, "problems": members.get("errors")})


def _types() -> list[type[SoldiomError]]:
    """The types of this module, in their order; not those that Ray derives from them to wrap an error in."""
    return [SoldiomError, *(kind for kind in SoldiomError.__subclasses__() if kind.__module__ == __name__)]


def _rebuild(kind: type[SoldiomError], members: Mapping[str, Any]) -> SoldiomError:
    problems = [
        Problem(str(entry.get("loc", "")), str(entry.get("msg", "")), entry.get("line"))
        for entry in members.get("problems") or ()
        if isinstance(entry, Mapping)
    ]
    error = kind(str(members.get("what") or kind.title), remedy=str(members.get("remedy") or ""), problems=problems)
    if isinstance(error, BusyError):
        error.retry_after_seconds = float(members.get("retry_after_seconds") or error.retry_after_seconds)
    return error


def problem_urn(title: str) -> str:
    """The problem type that goes with a title."""
    return f"urn:soldiom:problem:{title.lower().replace(' ', '-')}"


def problem_members(status: int, title: str, detail: str) -> dict[str, Any]:
    """The members that every problem of RFC 9457 has here."""
    return {"type": problem_urn(title), "title": title, "status": status, "detail": detail}


def own_error(error: BaseException) -> SoldiomError | None:
    """The error of ours that an exception is, or that Ray wraps (as `cause`) when it passes between processes."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SoldiomError):
        return cause
    return error if isinstance(error, SoldiomError) else None


def origin(error: BaseException) -> str:
    """Where in this package an exception arose, in this process or in the one that Ray passed it on from, such as
    `soldiom_ray/prepare/clean.py:41`; "" when none of its places is ours."""
    frames = "".join(traceback.format_tb(error.__traceback__)) + str(getattr(error, "traceback_str", ""))
    places = re.findall(r'File "[^"\n]*?(soldiom_ray/[\w/]+\.py)", line (\d+)', frames)
    return ":".join(places[-1]) if places else ""


def suggestion(word: str, known: Iterable[str], count: int = 1) -> str:
    """` Did you mean "…"?` with the known words that are nearest; "" when none is near."""
    close = difflib.get_close_matches(word, list(known), n=count)
    quoted = " or ".join(f'"{each}"' for each in close)
    return f" Did you mean {quoted}?" if close else ""


def format_location(location: Sequence[str | int]) -> str:
    """`("collect", 0, "path")` as `collect[0].path`, for `Problem.loc`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


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


class BlockedError(SoldiomError):
    """The content filter of a model lets a text not pass. Its problems name where the text stands, and what was
    found."""

    status, exit_code, title = 422, 2, "Content filter"


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

    def to_dict(self) -> dict[str, Any]:
        """The whole error, with `retry_after_seconds`."""
        return super().to_dict() | {"retry_after_seconds": self.retry_after_seconds}

    def to_problem(self) -> dict[str, Any]:
        """The error as a problem, with `retry_after_seconds` where no header can tell it."""
        return super().to_problem() | {"retry_after_seconds": self.retry_after_seconds}


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
