"""Uploads kept once by their hash: locks, requests that may come twice, and who names which bytes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"

TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "locks",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_locks"),
    )
    op.create_table(
        "idempotent_requests",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("made", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotent_requests"),
    )
    op.create_index("ix_user_inputs_sha256", "user_inputs", ["sha256"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_user_inputs_sha256", table_name="user_inputs")
    op.drop_table("idempotent_requests")
    op.drop_table("locks")
