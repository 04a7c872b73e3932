"""What batches add to the metrics of models, and answers of batches, which have no time of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "batch_counts",
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("model_id", sa.String(length=36), nullable=False),
        sa.Column("labels", sa.String(length=255), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("metric", "model_id", "labels", name="pk_batch_counts"),
    )
    op.alter_column("answers", "seconds", existing_type=sa.Float(53), nullable=True)


def downgrade() -> None:
    op.execute("UPDATE answers SET seconds = 0 WHERE seconds IS NULL")
    op.alter_column("answers", "seconds", existing_type=sa.Float(53), nullable=False)
    op.drop_table("batch_counts")
