"""How what a home stores is sealed, and sealing it with the newest key: objects in storage, texts in the database,
secrets of connections. Everything can be read meanwhile, since earlier keys open until they are taken away."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from soldiom_ray.db import audit, jobs, locks
from soldiom_ray.db.engine import open_session
from soldiom_ray.db.tables import Answer, Feedback, UserInput
from soldiom_ray.domains.secrets import reseal_secrets
from soldiom_ray.errors import ConflictError, InputError, NotFoundError
from soldiom_ray.records import COMMAND_LINE, now
from soldiom_ray.sealing import Seal, is_sealed_text, seal_by, seal_text, unseal_text
from soldiom_ray.services import applied
from soldiom_ray.settings import HOME_TENANT, Settings
from soldiom_ray.storage import open_storage

SEALED_COLUMNS: tuple[tuple[InstrumentedAttribute[str], str], ...] = (
    (UserInput.content, "user_inputs/{}"),
    (Answer.question, "answers/{}/question"),
    (Answer.output, "answers/{}/output"),
    (Feedback.correction, "feedback/{}/correction"),
    (Feedback.reason, "feedback/{}/reason"),
)
"""Columns of sealed texts, each with the name that its seal is bound to."""
ROWS_AT_ONCE = 200


def seals(settings: Settings) -> dict[str, dict[str, int]]:
    """How many objects in storage and texts in the database are sealed how: {objects, texts}, each by `Seal`."""
    storage = open_storage(settings)
    objects = Counter[str]()
    for key in storage.all_keys():
        with suppress(NotFoundError):
            objects[storage.seal_of(key)] += 1
    texts = Counter[str]()
    with open_session(settings) as session:
        for _, _, name, text in _texts(session):
            texts[_seal_of(text, name, settings.encryption_keys)] += 1
    return {"objects": dict(objects), "texts": dict(texts)}


def reseal(settings: Settings, report: Callable[[str], None]) -> dict[str, Any]:
    """Seal everything with the newest key; returns, by how it was sealed before, how many {objects, texts} there were,
    how many {secrets} of connections, and the `unreadable` names, which stay as they are. Called again it goes on.

    InputError without a key, ConflictError where the running home has other keys, or while jobs run: they write what
    they have read."""
    if not settings.encryption_keys:
        raise InputError("There is no encryption key.", remedy="set SOLDIOM_ENCRYPTION_KEY, then run `soldiom up`")
    if "SOLDIOM_ENCRYPTION_KEY" in applied.changes(settings):
        raise ConflictError(
            "The services of this home run with other keys: they could not read what is sealed anew.",
            remedy="run `soldiom up` with these keys first",
        )
    with open_session(settings) as session:
        why, remedy = "they may write what is being sealed", "seal once they have ended"
        jobs.refuse_during(session, None, now(), why=why, remedy=remedy)
    secrets = reseal_secrets(settings)
    objects, texts = Counter[str](), Counter[str]()
    unreadable: list[str] = []
    for name, seal_before in _reseal_objects(settings):
        objects[seal_before] += 1
        unreadable += [name] if seal_before == "unreadable" else []
        if objects.total() % 1000 == 0:
            report(f"{objects.total()} objects")
    for name, seal_before in _reseal_texts(settings):
        texts[seal_before] += 1
        unreadable += [name] if seal_before == "unreadable" else []
    counts: dict[str, Any] = {"objects": dict(objects), "texts": dict(texts), "secrets": secrets}
    with open_session(settings) as session:
        details = counts | {"unreadable": len(unreadable)}
        audit.append(session, COMMAND_LINE, "reseal", "storage and database", "allow", details, HOME_TENANT)
    return counts | {"unreadable": unreadable}


def _reseal_objects(settings: Settings) -> Iterator[tuple[str, Seal]]:
    storage = open_storage(settings)
    for key in storage.all_keys():
        # Raw bytes may be erased meanwhile, which holds the same lock.
        with open_session(settings) if key.startswith("raw/") else nullcontext() as session, suppress(NotFoundError):
            if session is not None:
                locks.hold(session, locks.of_content(key))
            yield key, storage.reseal(key)


def _reseal_texts(settings: Settings) -> Iterator[tuple[str, Seal]]:
    keys = settings.encryption_keys
    with open_session(settings) as session:
        pending = [(column, row_id, name) for column, row_id, name, _ in _texts(session)]
    for start in range(0, len(pending), ROWS_AT_ONCE):
        with open_session(settings) as session:
            for column, row_id, name in pending[start : start + ROWS_AT_ONCE]:
                table = column.class_
                text = session.scalars(select(column).where(table.id == row_id).with_for_update()).one_or_none()
                if not text:
                    continue
                if (seal_before := _seal_of(text, name, keys)) in ("earlier", "none"):
                    plain = unseal_text(text, name, keys) if seal_before == "earlier" else text
                    sealed = {column.key: seal_text(plain, name, keys)}
                    session.execute(update(table).where(table.id == row_id).values(sealed))
                yield name, seal_before


def _texts(session: Session) -> Iterator[tuple[InstrumentedAttribute[str], str, str, str]]:
    """(column, id, name, text) of everything in the database that is, or should be, sealed."""
    for column, form in SEALED_COLUMNS:
        query = select(column.class_.id, column).where(column != "")
        if column.class_ is UserInput:
            query = query.where(UserInput.input_type != "file")  # the content of a file lies in storage
        for row_id, text in session.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
            yield column, row_id, form.format(row_id), text


def _seal_of(text: str, name: str, keys: tuple[bytes, ...]) -> Seal:
    return seal_by(keys, lambda some: unseal_text(text, name, some)) if is_sealed_text(text) else "none"
