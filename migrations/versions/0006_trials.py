"""Trials: a shadow or a canary beside the champion. Who follows champions is woken when one begins or ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WAKING = (
    """
    create function wake_trial_followers() returns trigger language plpgsql as $$
    begin notify emend_promotions; return null; end $$
    """,
    """
    create trigger trials_wake after insert or update of ended_at on trials
    for each row execute function wake_trial_followers()
    """,
)


def upgrade() -> None:
    for action in ("shadow", "canary"):
        op.execute(f"alter type ledger_action add value '{action}'")
    counts = postgresql.ARRAY(sa.BigInteger())
    op.create_table(
        "trials",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("model", sa.Text(), sa.ForeignKey("models.name"), nullable=False),
        sa.Column("kind", sa.Enum("shadow", "canary", name="trial_kind"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("champion", sa.Integer(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Enum("promoted", "ended", "failed", name="trial_outcome")),
        sa.Column("ended_because", sa.Text()),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("images", "compared", "agreed", "errors", "champion_errors", "skipped")
        ),
        sa.Column("latencies", counts, server_default="{}", nullable=False),
        sa.Column("champion_latencies", counts, server_default="{}", nullable=False),
        sa.Column("latest", postgresql.JSONB(), server_default="[]", nullable=False),
        sa.CheckConstraint("percent between 1 and 100", name=op.f("ck_trials_percent")),
        sa.CheckConstraint("version <> champion", name=op.f("ck_trials_two_versions")),
        sa.CheckConstraint("(ended_at is null) = (outcome is null)", name=op.f("ck_trials_ended_somehow")),
    )
    op.create_index(
        "uq_trials_one_open_per_model",
        "trials",
        ["model"],
        unique=True,
        postgresql_where=sa.text("ended_at is null"),
    )
    op.create_index("ix_trials_model_id", "trials", ["model", "id"])
    for statement in WAKING:
        op.execute(statement)


def downgrade() -> None:
    """What the ledger says of trials goes with them: an enum's values cannot be taken away while they are used."""
    op.drop_table("trials")
    op.execute("drop function wake_trial_followers")
    op.execute("drop type trial_kind")
    op.execute("drop type trial_outcome")
    op.execute("alter table promotions disable trigger promotions_stay")
    op.execute("delete from promotions where action in ('shadow', 'canary')")
    op.execute("alter table promotions enable trigger promotions_stay")
    op.execute("alter type ledger_action rename to ledger_action_6")
    op.execute("create type ledger_action as enum ('promote', 'rollback')")
    op.execute("alter table promotions alter action type ledger_action using action::text::ledger_action")
    op.execute("drop type ledger_action_6")
