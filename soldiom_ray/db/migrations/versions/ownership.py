"""Whose jobs, datasets, models, evaluations and inputs are, and whether all of their tenant see them. What is there
already is shared with its tenant, as it was."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

TABLES = ("training_jobs", "training_datasets", "models", "evaluations", "user_inputs")
WITHOUT_OWNER = ("training_datasets", "models", "evaluations")
OWNER = sa.String(length=128)
UNIQUE = {
    "training_jobs": ("idempotency_key",),
    "training_datasets": ("artifact_id",),
    "models": ("family", "name", "version"),
}


def upgrade() -> None:
    for table in WITHOUT_OWNER:
        op.add_column(table, sa.Column("owner", OWNER, server_default="", nullable=False))
        op.alter_column(table, "owner", existing_type=OWNER, existing_nullable=False, server_default=None)
    op.execute("UPDATE user_inputs SET owner = '' WHERE owner IS NULL")
    op.alter_column("user_inputs", "owner", existing_type=OWNER, nullable=False)
    for table in TABLES:
        _add_flag(table, "shared", sa.true())
    _add_flag("training_jobs", "as_admin", sa.false())
    op.add_column("training_jobs", sa.Column("account", OWNER, nullable=True))
    op.add_column("api_keys", sa.Column("owner", OWNER, nullable=True))
    for table, columns in UNIQUE.items():
        _replace_unique(table, ("tenant", *columns), ("tenant", "owner", *columns))
    op.add_column("idempotent_requests", sa.Column("owner", OWNER, server_default="", nullable=False))
    op.alter_column("idempotent_requests", "owner", existing_type=OWNER, existing_nullable=False, server_default=None)
    _replace_primary_key(("tenant", "owner", "key"))


def downgrade() -> None:
    jobs, datasets, models, requests = (
        sa.Table(name, sa.MetaData(), autoload_with=op.get_bind())
        for name in ("training_jobs", "training_datasets", "models", "idempotent_requests")
    )
    _each_repeated(jobs, "idempotency_key", lambda row: sa.update(jobs).values(idempotency_key=None))
    _each_repeated(datasets, "artifact_id", lambda row: sa.delete(datasets))
    _each_repeated(
        models, ("family", "name", "version"), lambda row: sa.update(models).values(name=f"{row.name[:90]}-{row.id}")
    )
    op.execute(sa.delete(requests).where(requests.c.owner != ""))
    _replace_primary_key(("tenant", "key"))
    op.drop_column("idempotent_requests", "owner")
    for table, columns in UNIQUE.items():
        _replace_unique(table, ("tenant", "owner", *columns), ("tenant", *columns))
    op.drop_column("api_keys", "owner")
    op.drop_column("training_jobs", "account")
    op.drop_column("training_jobs", "as_admin")
    for table in TABLES:
        op.drop_column(table, "shared")
    op.alter_column("user_inputs", "owner", existing_type=OWNER, nullable=True)
    for table in WITHOUT_OWNER:
        op.drop_column(table, "owner")


def _add_flag(table: str, name: str, of_present_rows: Any) -> None:
    op.add_column(table, sa.Column(name, sa.Boolean(), server_default=of_present_rows, nullable=False))
    op.alter_column(table, name, existing_type=sa.Boolean(), existing_nullable=False, server_default=None)


def _replace_unique(table: str, former: tuple[str, ...], latter: tuple[str, ...]) -> None:
    op.create_unique_constraint("_".join(("uq", table, *latter)), table, list(latter))
    op.drop_constraint("_".join(("uq", table, *former)), table, type_="unique")


def _replace_primary_key(columns: tuple[str, ...]) -> None:
    op.drop_constraint("pk_idempotent_requests", "idempotent_requests", type_="primary")
    op.create_primary_key("pk_idempotent_requests", "idempotent_requests", list(columns))


def _each_repeated(table: sa.Table, columns: str | tuple[str, ...], change: Callable[[Any], Any]) -> None:
    """Change each row that has, of another owner, the same values as an earlier one of its tenant."""
    names = ("tenant", *((columns,) if isinstance(columns, str) else columns))
    seen = set()
    for row in op.get_bind().execute(sa.select(table).order_by(table.c.id)).all():
        values = tuple(getattr(row, name) for name in names)
        if values in seen and None not in values:
            op.execute(change(row).where(table.c.id == row.id))
        seen.add(values)
