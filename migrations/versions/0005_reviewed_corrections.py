"""What is set aside, and what was decided last, are found without reading every correction (bench/history.py)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_corrections_set_aside",
        "corrections",
        ["model", "id"],
        postgresql_where=sa.text("status = 'quarantined' and reviewed_at is null"),
    )
    op.create_index(
        "ix_corrections_reviewed",
        "corrections",
        ["model", "reviewed_at", "id"],
        postgresql_where=sa.text("reviewed_at is not null"),
    )


def downgrade() -> None:
    op.drop_index("ix_corrections_reviewed", table_name="corrections")
    op.drop_index("ix_corrections_set_aside", table_name="corrections")
