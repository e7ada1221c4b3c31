"""Runs say which request asked for them, and whether their weights were removed by retention."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("request_id", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("weights_removed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "weights_removed_at")
    op.drop_column("runs", "request_id")
