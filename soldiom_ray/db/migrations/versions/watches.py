"""What is used and how much may be, versions that are watched, and an index of feedback by the input made of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"

TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    counts = ("requests", "errors", "prompt_tokens", "completion_tokens", "bytes")
    op.create_table(
        "usage_hours",
        sa.Column("hour", TIME, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("model_id", sa.String(length=36), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in counts),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("device_seconds", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("hour", "tenant", "owner", "user_id", "model_id", name="pk_usage_hours"),
    )
    op.add_column("user_inputs", sa.Column("owner", sa.String(length=128), nullable=True))
    op.add_column("training_jobs", sa.Column("device_seconds", sa.Float(53), server_default="0", nullable=False))
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=140), nullable=False),
        sa.Column("resource", sa.String(length=16), nullable=False),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "subject", "resource", "period", name="pk_quotas"),
    )
    op.create_index("ix_usage_hours_tenant_hour", "usage_hours", ["tenant", "hour"], unique=False)
    op.create_index("ix_usage_hours_model_id_hour", "usage_hours", ["model_id", "hour"], unique=False)
    op.create_table(
        "version_watches",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=36), nullable=False),
        sa.Column("previous_id", sa.String(length=36), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ends_at", TIME, nullable=False),
        sa.Column("looked_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_version_watches_model_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["previous_id"], ["models.id"], name="fk_version_watches_previous_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_version_watches"),
        sa.UniqueConstraint("model_id", name="uq_version_watches_model_id"),
    )
    op.create_table(
        "drift",
        sa.Column("model_id", sa.String(length=36), nullable=False),
        sa.Column("last_answer", sa.String(length=36), nullable=False),
        sa.Column("questions", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("looked_at", TIME, nullable=True),
        sa.Column("noticed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_drift_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", name="pk_drift"),
    )
    op.create_index("ix_version_watches_status_id", "version_watches", ["status", "id"], unique=False)
    op.create_index("ix_feedback_input_id", "feedback", ["input_id"], unique=False)


def downgrade() -> None:
    # MySQL's foreign key of `input_id` needs an index; it makes one of its own again.
    op.drop_constraint("fk_feedback_input_id", "feedback", type_="foreignkey")
    op.drop_index("ix_feedback_input_id", table_name="feedback")
    op.create_foreign_key("fk_feedback_input_id", "feedback", "user_inputs", ["input_id"], ["id"], ondelete="SET NULL")
    op.drop_table("drift")
    op.drop_table("version_watches")
    op.drop_table("quotas")
    op.drop_column("training_jobs", "device_seconds")
    op.drop_column("user_inputs", "owner")
    op.drop_table("usage_hours")
