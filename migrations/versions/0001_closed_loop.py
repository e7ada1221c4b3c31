"""The closed loop: models, categories, corrections, predictions, runs, versions, the ledger.

The triggers keep what SQLAlchemy cannot say: transitions are append-only and wake their readers; a ledger
entry is closed once and never rewritten; a queued or cancelled run wakes the orchestrator.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ENUMS = (
    "category_state",
    "correction_status",
    "import_status",
    "run_status",
    "run_trigger",
    "stage_status",
    "ledger_action",
    "ledger_outcome",
)
FUNCTIONS = (
    "refuse_rewrite",
    "close_ledger_entry_once",
    "wake_event_readers",
    "wake_orchestrator",
)
TRIGGERS = (
    """
    create function refuse_rewrite() returns trigger language plpgsql as $$
    begin raise exception '% is append-only', tg_table_name; end $$
    """,
    """
    create trigger transitions_append_only before update or delete on transitions
    for each row execute function refuse_rewrite()
    """,
    """
    create trigger transitions_not_emptied before truncate on transitions
    for each statement execute function refuse_rewrite()
    """,
    """
    create trigger promotions_stay before delete on promotions
    for each row execute function refuse_rewrite()
    """,
    """
    create trigger promotions_not_emptied before truncate on promotions
    for each statement execute function refuse_rewrite()
    """,
    """
    create function close_ledger_entry_once() returns trigger language plpgsql as $$
    begin
        if old.outcome is not null
           or (old.id, old.model, old.action, old.version, old.actor, old.reason, old.opened_at)
              is distinct from
              (new.id, new.model, new.action, new.version, new.actor, new.reason, new.opened_at)
           or (old.replaced_version, old.run_id) is distinct from (new.replaced_version, new.run_id)
        then
            raise exception 'promotions is append-only: an entry is closed once, nothing else changes';
        end if;
        return new;
    end $$
    """,
    """
    create trigger promotions_close_once before update on promotions
    for each row execute function close_ledger_entry_once()
    """,
    """
    create function wake_event_readers() returns trigger language plpgsql as $$
    begin perform pg_notify('emend_events', new.id::text); return null; end $$
    """,
    """
    create trigger transitions_wake after insert on transitions
    for each row execute function wake_event_readers()
    """,
    """
    create function wake_orchestrator() returns trigger language plpgsql as $$
    begin perform pg_notify('emend_queue', new.id::text); return null; end $$
    """,
    """
    create trigger runs_wake after insert or update of status, cancel_requested on runs
    for each row execute function wake_orchestrator()
    """,
)


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("promotion_paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "schedule_seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("probabilities", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("image_sha256", sa.Text(), nullable=False),
        sa.Column("pixels", sa.LargeBinary(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", "created_at", name=op.f("pk_predictions")),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index("ix_predictions_model_id", "predictions", ["model", "id"], unique=False)
    op.create_table(
        "categories",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "aliases",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum("pending", "active", "retired", name="category_state"),
            nullable=False,
        ),
        sa.Column("images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("train_images", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_categories_model")),
        sa.PrimaryKeyConstraint("model", "id", name=op.f("pk_categories")),
        sa.UniqueConstraint("model", "key", name=op.f("uq_categories_model_key")),
    )
    op.create_table(
        "imports",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("status", sa.Enum("staged", "merged", name="import_status"), nullable=False),
        sa.Column("dataset_version", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_imports_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index(op.f("ix_imports_model"), "imports", ["model"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "trigger",
            sa.Enum("manual", "schedule", "threshold", "initial", name="run_trigger"),
            nullable=False,
        ),
        sa.Column("force", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "succeeded",
                "failed",
                "interrupted",
                "cancelled",
                "halted",
                "rejected",
                name="run_status",
            ),
            nullable=False,
        ),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("new_images", sa.Integer(), nullable=True),
        sa.Column("dataset_version", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("mlflow_run_id", sa.Text(), nullable=True),
        sa.Column(
            "requested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_runs_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_model_id", "runs", ["model", "id"], unique=False)
    op.create_index(
        "uq_runs_one_active_per_model",
        "runs",
        ["model"],
        unique=True,
        postgresql_where=sa.text("status in ('queued', 'running')"),
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("image_sha256", sa.Text(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), server_default="correction", nullable=False),
        sa.Column("prediction_id", sa.UUID(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "accepted",
                "quarantined",
                "merged",
                "exam",
                "superseded",
                name="correction_status",
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("dataset_version", sa.Integer(), nullable=True),
        sa.Column(
            "received_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("length(image_sha256) = 64", name=op.f("ck_corrections_sha256")),
        sa.ForeignKeyConstraint(
            ["model", "category_id"],
            ["categories.model", "categories.id"],
            name=op.f("fk_corrections_model_category_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
        sa.UniqueConstraint(
            "actor",
            "idempotency_key",
            name=op.f("uq_corrections_actor_idempotency_key"),
        ),
    )
    op.create_index(
        "ix_corrections_model_image_sha256",
        "corrections",
        ["model", "image_sha256"],
        unique=False,
    )
    op.create_index("ix_corrections_prediction_id", "corrections", ["prediction_id"], unique=False)
    op.create_index(
        "ix_corrections_waiting",
        "corrections",
        ["model", "received_at"],
        unique=False,
        postgresql_where=sa.text("status = 'accepted'"),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "action",
            sa.Enum("promote", "rollback", name="ledger_action"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("replaced_version", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "opened_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "outcome",
            sa.Enum("done", "reverted", "abandoned", name="ledger_outcome"),
            nullable=True,
        ),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_promotions_model")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_promotions_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.create_index(op.f("ix_promotions_model"), "promotions", ["model"], unique=False)
    op.create_table(
        "stages",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "running",
                "succeeded",
                "failed",
                "interrupted",
                "cancelled",
                "halted",
                name="stage_status",
            ),
            nullable=False,
        ),
        sa.Column("attempt", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column(
            "figures",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_stages_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_stages")),
    )
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column(
            "figures",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_transitions_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index(op.f("ix_transitions_run_id"), "transitions", ["run_id"], unique=False)
    op.create_table(
        "versions",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("dataset_version", sa.Integer(), nullable=False),
        sa.Column("category_ids", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_versions_model")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_versions_run_id")),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_versions")),
        sa.UniqueConstraint("run_id", name=op.f("uq_versions_run_id")),
    )
    op.create_table(
        "outcomes",
        sa.Column("correction_id", sa.UUID(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("correct", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["corrections.id"],
            name=op.f("fk_outcomes_correction_id"),
        ),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
            name=op.f("fk_outcomes_model_version"),
        ),
        sa.PrimaryKeyConstraint("correction_id", "version", name=op.f("pk_outcomes")),
    )
    for statement in TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("outcomes")
    op.drop_table("versions")
    op.drop_index(op.f("ix_transitions_run_id"), table_name="transitions")
    op.drop_table("transitions")
    op.drop_table("stages")
    op.drop_index(op.f("ix_promotions_model"), table_name="promotions")
    op.drop_table("promotions")
    op.drop_index(
        "ix_corrections_waiting",
        table_name="corrections",
        postgresql_where=sa.text("status = 'accepted'"),
    )
    op.drop_index("ix_corrections_prediction_id", table_name="corrections")
    op.drop_index("ix_corrections_model_image_sha256", table_name="corrections")
    op.drop_table("corrections")
    op.drop_index(
        "uq_runs_one_active_per_model",
        table_name="runs",
        postgresql_where=sa.text("status in ('queued', 'running')"),
    )
    op.drop_index("ix_runs_model_id", table_name="runs")
    op.drop_table("runs")
    op.drop_index(op.f("ix_imports_model"), table_name="imports")
    op.drop_table("imports")
    op.drop_table("categories")
    op.drop_index("ix_predictions_model_id", table_name="predictions")
    op.drop_table("predictions")
    op.drop_table("models")
    for kind in ENUMS:
        op.execute(f"drop type {kind}")
    for function in FUNCTIONS:
        op.execute(f"drop function {function}()")
