"""Corrections can be taken back by who made them, and decided by a person when they were set aside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATUSES_BEFORE = ("accepted", "quarantined", "merged", "exam", "superseded")
WAITING = sa.text("status = 'accepted'")


def upgrade() -> None:
    op.execute("alter type correction_status add value 'withdrawn'")
    review = postgresql.ENUM("accept", "relabel", "reject", name="correction_review", create_type=False)
    review.create(op.get_bind())
    op.add_column("corrections", sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("corrections", sa.Column("withdrawn_dataset_version", sa.Integer(), nullable=True))
    op.add_column("corrections", sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("corrections", sa.Column("reviewed_by", sa.Text(), nullable=True))
    op.add_column("corrections", sa.Column("review", review, nullable=True))
    op.add_column("corrections", sa.Column("review_of", sa.UUID(), nullable=True))
    op.create_foreign_key(
        op.f("fk_corrections_review_of"), "corrections", "corrections", ["review_of"], ["id"]
    )
    op.create_index(op.f("ix_corrections_review_of"), "corrections", ["review_of"])
    op.create_index(
        "ix_corrections_leaving",
        "corrections",
        ["model"],
        postgresql_where=sa.text("withdrawn_at is not null and status in ('merged', 'exam')"),
    )


def downgrade() -> None:
    """What was withdrawn becomes superseded: PostgreSQL takes no value out of an enum, so the type is made anew."""
    op.drop_index("ix_corrections_leaving", table_name="corrections")
    op.drop_index(op.f("ix_corrections_review_of"), table_name="corrections")
    op.drop_constraint(op.f("fk_corrections_review_of"), "corrections", type_="foreignkey")
    for column in (
        "review_of",
        "review",
        "reviewed_by",
        "reviewed_at",
        "withdrawn_dataset_version",
        "withdrawn_at",
    ):
        op.drop_column("corrections", column)
    op.execute("drop type correction_review")
    op.drop_index("ix_corrections_waiting", table_name="corrections")
    op.execute("alter table corrections alter column status type text")
    op.execute(
        "update corrections set status = 'superseded', reason = 'withdrawn' where status = 'withdrawn'"
    )
    op.execute("drop type correction_status")
    sa.Enum(*STATUSES_BEFORE, name="correction_status").create(op.get_bind())
    op.execute(
        "alter table corrections alter column status type correction_status using status::correction_status"
    )
    op.create_index(
        "ix_corrections_waiting", "corrections", ["model", "received_at"], postgresql_where=WAITING
    )
