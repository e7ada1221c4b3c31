"""The history finds a seldom label or version without reading every day (bench/history.py)."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_predictions_label_id", "predictions", ["label", "id"])
    op.create_index("ix_predictions_version_id", "predictions", ["version", "id"])


def downgrade() -> None:
    op.drop_index("ix_predictions_version_id", table_name="predictions")
    op.drop_index("ix_predictions_label_id", table_name="predictions")
