"""Answers that are programs, run against the checks of their task in the sandbox."""

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

from soldiom_ray.errors import UnavailableError
from soldiom_ray.metrics.measurement import AnswerOutcome
from soldiom_ray.sandbox.run import run_program

log = logging.getLogger(__name__)

AT_ONCE = 2
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


def program_of(answer: str) -> str:
    """The program in an answer: its first fenced block, else the whole answer."""
    fenced = FENCED.search(answer)
    return fenced.group(1) if fenced else answer


def with_checks_run(
    answered: Mapping[str, AnswerOutcome],
    checks: Sequence[str],
    tries: Mapping[str, Sequence[Sequence[str]]] = MappingProxyType({}),
) -> dict[str, AnswerOutcome]:
    """The answers of every system with what passed, also of its `tries` [tries, answers]. Checks that the author's own
    program does not pass say nothing of a model; where this machine cannot confine a program, nothing is run and the
    log says why."""
    if not any(checks):
        return dict(answered)
    references = next(iter(answered.values())).references
    try:
        valid = _passed(references, checks)
        checks = [each if passed else "" for each, passed in zip(checks, valid, strict=True)]
        return {
            name: replace(each, passed=_passed(each.texts, checks), solved=_solved(tries.get(name, ()), checks))
            for name, each in answered.items()
        }
    except UnavailableError as error:
        log.warning("programs were not run", extra={"data": {"reason": error.what}})
        return dict(answered)


def _solved(tries: Sequence[Sequence[str]], checks: Sequence[str]) -> tuple[bool | None, ...]:
    """Whether one of the tries at each task passes; a task that is solved is not tried again."""
    solved: tuple[bool | None, ...] = ()
    for answers in tries:
        left = [check if not (solved and solved[place]) else "" for place, check in enumerate(checks)]
        passed = _passed(answers, left)
        solved = tuple(earlier or now for earlier, now in zip(solved, passed, strict=True)) if solved else passed
    return solved


def _passed(answers: Sequence[str], checks: Sequence[str]) -> tuple[bool | None, ...]:
    """Whether each program passes its checks; None where there are none."""

    def run(answer: str, check: str) -> bool | None:
        return run_program(program_of(answer), check).status == "passed" if check else None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(run, answers, checks))
