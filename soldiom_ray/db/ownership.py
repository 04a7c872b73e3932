"""Who sees what: the one rule, and the filter that puts it on every query.

What a user makes is that user's, and private until it is shared with the tenant. What the command line makes has no
owner: it is the tenant's, and so shared. An admin sees all of the tenant. A model that is deployed can be asked by each
user of its tenant (`asked`). A request acts as its caller and a job as whoever started it: `act_as` is called before
either opens a session, and from then on a query finds nothing else, whatever it asks for. Where neither was said, as on
the command line and in the API's own threads, all is seen.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, case, event, or_, select
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from soldiom_ray.db.tables import Answer, Dataset, Evaluation, Feedback, Job, Model, UserInput, Watch
from soldiom_ray.errors import DeniedError
from soldiom_ray.records import TENANTS_OWN, WATCHER

Reach = Literal["own", "asked", "all"]
"""What a session finds: what its reader owns and what is shared ("own"), deployed models besides ("asked"), or what all
tenants have ("all": for what has to count or keep what nobody may see)."""
READER, REACH = "reader", "reach"
"""In a session's `info`."""
EVERYTHING = {REACH: "all"}
"""Execution options of a single query that counts or keeps what nobody may see."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: the user of a key, or the subject of a login's token."""

    tenant: str
    user: str
    is_admin: bool


NOBODY = Reader("", "", is_admin=False)

_reader: ContextVar[Reader | None] = ContextVar("reader", default=None)


def act_as(reader: Reader | None) -> None:
    """Sessions that are opened from here on, in this request or job, are this reader's."""
    _reader.set(reader)


def current_reader() -> Reader | None:
    """Whose the sessions are that are opened here; None: the operator's."""
    return _reader.get()


def reader_of_job(job: Job) -> Reader:
    """The rights of whoever started a job."""
    return Reader(job.tenant, job.owner, job.as_admin or job.owner in (*TENANTS_OWN, WATCHER))


def belongs_to(owner: str) -> dict[str, Any]:
    """The columns of what this owner makes."""
    return {"owner": "", "shared": True} if owner in TENANTS_OWN else {"owner": owner, "shared": False}


def is_tenants(row: Any) -> bool:
    """Whether something is nobody's but the tenant's."""
    return (row.owner or "") in TENANTS_OWN


def may_change(session: Session, row: Any) -> bool:
    """Whether the session's reader may change something that it sees: its owner, an admin, or, of what is the
    tenant's, whoever has the role."""
    reader: Reader | None = session.info.get(READER)
    return reader is None or reader.is_admin or is_tenants(row) or row.owner == reader.user


def is_seen(session: Session, row: Any) -> bool:
    """Whether the session's reader sees something whole, and not only because it is deployed."""
    return bool(row.shared) or may_change(session, row)


def check_change(session: Session, row: Any, name: str) -> None:
    """DeniedError where the session's reader may not change it."""
    if not may_change(session, row):
        raise DeniedError(
            f"{name} is shared by another user, who alone may change it.", remedy="ask its owner, or an admin"
        )


def share(session: Session, row: Any, name: str, *, shared: bool) -> None:
    """Let all of the tenant see something, or its owner and admins alone. DeniedError for others than those."""
    check_change(session, row, name)
    reader: Reader | None = session.info.get(READER)
    if is_tenants(row) and reader is not None and not reader.is_admin:
        raise DeniedError(f"{name} is the tenant's: an admin alone may hide it.", remedy="ask an admin")
    row.shared = shared
    session.flush()


def own_first(session: Session, table: type[Dataset] | type[Model]) -> list[ColumnElement[Any]]:
    """An order in which a reader's own things come before the tenant's, and those before other users': two users may
    give the same name."""
    reader: Reader | None = session.info.get(READER)
    user = reader.user if reader is not None else ""
    return [case((table.owner == user, 0), (table.owner == "", 1), else_=2)]


@lru_cache(maxsize=4096)
def _criteria(reader: Reader, reach: Reach) -> tuple[Any, ...]:
    """What rows of each table a reader sees."""
    tables: tuple[type[Any], ...] = (Job, Dataset, Model, UserInput, Evaluation, Answer, Feedback, Watch)
    rules: dict[type[Any], ColumnElement[bool]] = {table: table.tenant == reader.tenant for table in tables}
    if not reader.is_admin:
        rules = {table: and_(rule, _visible(table, reader, reach)) for table, rule in rules.items()}
    return tuple(with_loader_criteria(table, rule, include_aliases=True) for table, rule in rules.items())


def _visible(table: type[Any], reader: Reader, reach: Reach) -> ColumnElement[bool]:
    model, feedback = Model.__table__.c, Feedback.__table__.c
    its_own = model.owner.in_((reader.user, *TENANTS_OWN))
    of_own_models = select(model.id).where(model.tenant == reader.tenant, its_own)
    if table is Answer:
        return or_(Answer.owner == reader.user, Answer.model_id.in_(of_own_models))
    if table is Feedback:  # and none on a model that another shares: it holds what users asked
        return Feedback.model_id.in_(of_own_models)
    shown: Sequence[ColumnElement[bool]] = (model.owner == reader.user, model.shared.is_(True))
    of_shown_models = select(model.id).where(model.tenant == reader.tenant, or_(*shown))
    if table is Watch:
        return Watch.model_id.in_(of_shown_models)
    rule = or_(table.owner == reader.user, table.shared.is_(True))
    if table is Model and reach == "asked":
        return or_(rule, Model.deployed.is_(True))
    if table is Evaluation:
        return or_(rule, Evaluation.model_id.in_(of_shown_models))
    if table is UserInput:  # accepted feedback's examples are whose the model is
        examples = select(feedback.input_id).where(feedback.model_id.in_(of_own_models), feedback.input_id.is_not(None))
        return or_(rule, UserInput.id.in_(examples))
    return rule


@event.listens_for(Session, "do_orm_execute")
def _restrict(state: ORMExecuteState) -> None:
    reader: Reader | None = state.session.info.get(READER)
    reach: Reach = state.execution_options.get(REACH) or state.session.info.get(REACH, "own")
    if reader is None or reach == "all" or not state.is_select or state.is_column_load:
        return
    state.statement = state.statement.options(*_criteria(reader, reach))
