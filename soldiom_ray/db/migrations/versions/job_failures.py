"""The error that ended a job, whole: its type, problems and remedy beside the text."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("failure", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("training_jobs", "failure")
