"""Answers of deployed models, and what users think of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"

TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=36), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("question", LONG_TEXT, nullable=False),
        sa.Column("output", LONG_TEXT, nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_answers_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
    )
    op.create_index("ix_answers_tenant_user_id_id", "answers", ["tenant", "user_id", "id"], unique=False)
    op.create_index("ix_answers_model_id_created_at", "answers", ["model_id", "created_at"], unique=False)
    op.create_index("ix_answers_created_at", "answers", ["created_at"], unique=False)
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("answer_id", sa.String(length=36), nullable=False),
        sa.Column("model_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("rating", sa.String(length=8), nullable=False),
        sa.Column("correction", LONG_TEXT, nullable=False),
        sa.Column("reason", LONG_TEXT, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reviewer", sa.String(length=128), nullable=True),
        sa.Column("reviewed_at", TIME, nullable=True),
        sa.Column("input_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name="fk_feedback_answer_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_feedback_model_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["input_id"], ["user_inputs.id"], name="fk_feedback_input_id", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint("answer_id", "user_id", name="uq_feedback_answer_id_user_id"),
    )
    op.create_index("ix_feedback_tenant_status_id", "feedback", ["tenant", "status", "id"], unique=False)
    op.create_index("ix_feedback_model_id_id", "feedback", ["model_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_table("feedback")
    op.drop_table("answers")
