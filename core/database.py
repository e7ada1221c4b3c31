"""The database: tables, and how processes reach it.

The tables hold the invariants: states are enums, one active run per model is a partial unique index, the
ledger and the transitions refuse to be rewritten (triggers in migrations/). Schema changes go through Alembic;
a test compares `Base.metadata` with what the migrations make.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Connection,
    DateTime,
    Double,
    Engine,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from core.errors import Unavailable
from core.pool import MeasuredPool
from core.settings import settings

SCHEMA = "0006"  # the newest of migrations/versions, which not every image has; a test compares
OLDEST_SERVER = 14  # PostgreSQL's

EVENTS_CHANNEL = "emend_events"  # NOTIFY only wakes; rows say what happened
QUEUE_CHANNEL = "emend_queue"


class CategoryState(enum.StrEnum):
    pending = enum.auto()
    active = enum.auto()
    retired = enum.auto()


class CorrectionStatus(enum.StrEnum):
    accepted = enum.auto()
    quarantined = enum.auto()
    merged = enum.auto()  # in a dataset version, in its train split
    exam = enum.auto()  # in a dataset version, in validation or holdout: never trained on
    superseded = enum.auto()  # a duplicate, or relabelled by a later correction of the same image
    withdrawn = enum.auto()  # taken back: in no dataset version from now on


class Review(enum.StrEnum):
    """What a person decided of a correction that was set aside, or that waits."""

    accept = enum.auto()  # its label stands
    relabel = enum.auto()  # another label is right
    reject = enum.auto()  # it stays out for good


class ImportStatus(enum.StrEnum):
    staged = enum.auto()
    merged = enum.auto()


class RunStatus(enum.StrEnum):
    queued = enum.auto()
    running = enum.auto()
    succeeded = enum.auto()
    failed = enum.auto()
    interrupted = enum.auto()
    cancelled = enum.auto()
    halted = enum.auto()
    rejected = enum.auto()


class StageStatus(enum.StrEnum):
    running = enum.auto()
    succeeded = enum.auto()
    failed = enum.auto()
    interrupted = enum.auto()
    cancelled = enum.auto()
    halted = enum.auto()


class Trigger(enum.StrEnum):
    manual = enum.auto()
    schedule = enum.auto()
    threshold = enum.auto()
    initial = enum.auto()


class LedgerAction(enum.StrEnum):
    promote = enum.auto()
    rollback = enum.auto()
    shadow = enum.auto()  # the end of a trial that was not promoted
    canary = enum.auto()


class LedgerOutcome(enum.StrEnum):
    done = enum.auto()
    reverted = (
        enum.auto()
    )  # the model server did not answer with it in time, or its trial ended; champion is as before
    abandoned = enum.auto()  # interrupted before the alias moved


class TrialKind(enum.StrEnum):
    shadow = enum.auto()  # is asked about copies of images; nobody sees its answers
    canary = enum.auto()  # answers a share of the images


class TrialOutcome(enum.StrEnum):
    promoted = enum.auto()
    ended = enum.auto()  # by a person, or because another version became champion
    failed = enum.auto()  # beyond its bounds, see core/trials.py


ACTIVE_RUN = (RunStatus.queued, RunStatus.running)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        str: Text(),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text()),
        UUID: PG_UUID(),
        float: Double(),
        bytes: LargeBinary(),
    }


def _enum(kind: type[enum.StrEnum], name: str) -> Enum:
    return Enum(kind, name=name, values_callable=lambda e: [m.value for m in e])


class Model(Base):
    """A named classification task. params: its home's params.yaml as the latest run read it."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    params: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    promotion_paused_at: Mapped[datetime | None]  # after a rollback, until a person resumes it
    schedule_seen_at: Mapped[datetime] = mapped_column(
        server_default=func.now()
    )  # the last cron firing dealt with


class Category(Base):
    """id is permanent within the model; name is normalised; key is what spellings have in common."""

    __tablename__ = "categories"
    __table_args__ = (UniqueConstraint("model", "key"),)

    model: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str]
    key: Mapped[str]
    aliases: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[CategoryState] = mapped_column(_enum(CategoryState, "category_state"))
    images: Mapped[int] = mapped_column(
        Integer, server_default="0"
    )  # in the latest dataset version, all splits
    train_images: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Correction(Base):
    """An actor's statement about an image. Append-only but for what became of it: status and the fields after it.

    prediction_id has no foreign key: a correction may arrive before its prediction's history row is written.
    """

    __tablename__ = "corrections"
    __table_args__ = (
        ForeignKeyConstraint(["model", "category_id"], ["categories.model", "categories.id"]),
        UniqueConstraint("actor", "idempotency_key"),
        Index(
            "ix_corrections_waiting",
            "model",
            "received_at",
            postgresql_where=text("status = 'accepted'"),
        ),
        Index(
            "ix_corrections_leaving",
            "model",
            postgresql_where=text("withdrawn_at is not null and status in ('merged', 'exam')"),
        ),
        Index(
            "ix_corrections_set_aside",
            "model",
            "id",
            postgresql_where=text("status = 'quarantined' and reviewed_at is null"),
        ),
        Index(
            "ix_corrections_reviewed",
            "model",
            "reviewed_at",
            "id",
            postgresql_where=text("reviewed_at is not null"),
        ),
        Index("ix_corrections_model_image_sha256", "model", "image_sha256"),
        Index("ix_corrections_prediction_id", "prediction_id"),
        CheckConstraint("length(image_sha256) = 64", name="sha256"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str]
    image_sha256: Mapped[str]
    category_id: Mapped[int]
    label: Mapped[str]
    actor: Mapped[str]
    source: Mapped[str] = mapped_column(server_default="correction")  # or "sample", "review"
    prediction_id: Mapped[UUID | None]
    idempotency_key: Mapped[str | None]
    request_sha256: Mapped[str]
    status: Mapped[CorrectionStatus] = mapped_column(_enum(CorrectionStatus, "correction_status"))
    reason: Mapped[str | None]
    dataset_version: Mapped[int | None]
    withdrawn_at: Mapped[
        datetime | None
    ]  # asked for; in a dataset, it stays until the next run has taken it out
    withdrawn_dataset_version: Mapped[int | None]  # the first that is without it
    reviewed_at: Mapped[datetime | None]
    reviewed_by: Mapped[str | None]
    review: Mapped[Review | None] = mapped_column(_enum(Review, "correction_review"))
    review_of: Mapped[UUID | None] = mapped_column(
        ForeignKey("corrections.id"), index=True
    )  # the one reviewed
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def leaving(self) -> bool:
        """In a dataset version, until the next run has taken it out."""
        return self.withdrawn_at is not None and self.status in IN_DATASET


IN_DATASET = (CorrectionStatus.merged, CorrectionStatus.exam)


class Import(Base):
    """A staged shard: `file` is relative to the model's home."""

    __tablename__ = "imports"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"), index=True)
    file: Mapped[str]
    source: Mapped[str]  # "import" or "generated"
    images: Mapped[int]
    status: Mapped[ImportStatus] = mapped_column(_enum(ImportStatus, "import_status"))
    dataset_version: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Prediction(Base):
    """History, partitioned by day: the gateway makes partitions ahead and drops old ones (core/partitions.py)."""

    __tablename__ = "predictions"
    __table_args__ = (
        Index("ix_predictions_model_id", "model", "id"),
        Index("ix_predictions_label_id", "label", "id"),
        Index("ix_predictions_version_id", "version", "id"),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)  # UUIDv7
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[int | None]  # None: a stock model server answered
    label: Mapped[str]
    confidence: Mapped[float]
    probabilities: Mapped[dict[str, Any]]
    image_sha256: Mapped[str]
    pixels: Mapped[bytes]  # PNG of the model's input
    filename: Mapped[str | None]
    actor: Mapped[str | None]


class Run(Base):
    __tablename__ = "runs"
    __table_args__ = (
        Index(
            "uq_runs_one_active_per_model",
            "model",
            unique=True,
            postgresql_where=text("status in ('queued', 'running')"),
        ),
        Index("ix_runs_model_id", "model", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    trigger: Mapped[Trigger] = mapped_column(_enum(Trigger, "run_trigger"))
    force: Mapped[bool] = mapped_column(Boolean, server_default="false")
    requested_by: Mapped[str]
    request_id: Mapped[str | None]  # of the HTTP request that asked for it, or asked last to resume it
    status: Mapped[RunStatus] = mapped_column(_enum(RunStatus, "run_status"))
    message: Mapped[str | None]  # why it ended as it did, in one sentence
    cancel_requested: Mapped[bool] = mapped_column(Boolean, server_default="false")
    new_images: Mapped[int | None]
    dataset_version: Mapped[int | None]
    version: Mapped[int | None]  # the model version it registered
    verdict: Mapped[dict[str, Any] | None]
    mlflow_run_id: Mapped[str | None]
    weights_removed_at: Mapped[datetime | None]  # by retention, with its version in the registry
    requested_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Stage(Base):
    """The present state of a stage of a run; its history is in transitions."""

    __tablename__ = "stages"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger)
    status: Mapped[StageStatus] = mapped_column(_enum(StageStatus, "stage_status"))
    attempt: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    duration_seconds: Mapped[float | None]
    figures: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    message: Mapped[str | None]


class Transition(Base):
    """Append-only: every change of state of a run (stage is None) or of one of its stages, and training's figures."""

    __tablename__ = "transitions"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    model: Mapped[str]
    stage: Mapped[str | None]
    status: Mapped[str]
    message: Mapped[str | None]
    figures: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Version(Base):
    """A version in the registry, with what the database must know of it."""

    __tablename__ = "versions"

    model: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), unique=True)
    dataset_version: Mapped[int]
    category_ids: Mapped[list[int]] = mapped_column(ARRAY(Integer))  # what it can answer, in output order
    figures: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Outcome(Base):
    """Does a version get a correction right? Kept per version, so receipts survive a rollback."""

    __tablename__ = "outcomes"
    __table_args__ = (ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),)

    correction_id: Mapped[UUID] = mapped_column(ForeignKey("corrections.id"), primary_key=True)
    model: Mapped[str]
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    label: Mapped[str]
    correct: Mapped[bool]


class LedgerEntry(Base):
    """The promotions: an intent row written before the alias moves, closed once after."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"), index=True)
    action: Mapped[LedgerAction] = mapped_column(_enum(LedgerAction, "ledger_action"))
    version: Mapped[int]
    replaced_version: Mapped[int | None]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    actor: Mapped[str]  # who or what
    reason: Mapped[str]
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    outcome: Mapped[LedgerOutcome | None] = mapped_column(_enum(LedgerOutcome, "ledger_outcome"))
    closed_at: Mapped[datetime | None]


class Trial(Base):
    """A version asked beside the champion. What is counted is of images that both were asked about.

    percent: of the images, by their names. compared: of the images, those that both answered. Latencies: how many
    answers came within each of core/trials.py's bounds. latest: the counts of the latest images alone, see there.
    """

    __tablename__ = "trials"
    __table_args__ = (
        Index(
            "uq_trials_one_open_per_model",
            "model",
            unique=True,
            postgresql_where=text("ended_at is null"),
        ),
        Index("ix_trials_model_id", "model", "id"),
        CheckConstraint("percent between 1 and 100", name="percent"),
        CheckConstraint("version <> champion", name="two_versions"),
        CheckConstraint("(ended_at is null) = (outcome is null)", name="ended_somehow"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    kind: Mapped[TrialKind] = mapped_column(_enum(TrialKind, "trial_kind"))
    version: Mapped[int]
    champion: Mapped[int]  # that it is compared with
    percent: Mapped[int]
    started_by: Mapped[str]
    reason: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[TrialOutcome | None] = mapped_column(_enum(TrialOutcome, "trial_outcome"))
    ended_because: Mapped[str | None]
    images: Mapped[int] = mapped_column(BigInteger, server_default="0")
    compared: Mapped[int] = mapped_column(BigInteger, server_default="0")
    agreed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    errors: Mapped[int] = mapped_column(BigInteger, server_default="0")
    champion_errors: Mapped[int] = mapped_column(BigInteger, server_default="0")
    skipped: Mapped[int] = mapped_column(BigInteger, server_default="0")  # there was too much to do
    latencies: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    champion_latencies: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    latest: Mapped[list[dict[str, Any]]] = mapped_column(JSONB(), server_default="[]")


class SchemaMismatch(Unavailable):
    """The database's tables are an older or a newer Emend's."""

    code = "schema_mismatch"


_CONNECT_ARGS = {
    "connect_timeout": 3,
    "application_name": "emend",
    "options": "-c timezone=UTC",
    "tcp_user_timeout": 10_000,  # milliseconds; a host that vanished without a word is noticed
}


def make_engine(url: str, *, pool_size: int = 5) -> Engine:
    """Connections are tried before use, so a restarted database costs a reconnect, not an error."""
    return create_engine(
        url,
        poolclass=MeasuredPool,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # else an error's text, and so the log, holds pictures and labels
        connect_args=_CONNECT_ARGS,
    )


def dedicated_connection() -> Connection:
    """Outside the pool, in autocommit: for advisory locks, which end with it when it is closed."""
    alone = create_engine(engine().url, poolclass=NullPool, connect_args=_CONNECT_ARGS)
    return alone.connect().execution_options(isolation_level="AUTOCOMMIT")


_ASK_WHETHER_MIGRATED = "select to_regclass('alembic_version') is not null"
_ASK_SCHEMA = "select version_num from alembic_version"


@lru_cache(maxsize=1)
def engine() -> Engine:
    """Its first connection looks whose tables these are. A migration later on is for the next start."""
    made = make_engine(settings().database_url)
    known: list[bool] = []

    @event.listens_for(made, "connect")
    def check(connection: Any, _record: Any) -> None:
        if not known:
            with connection.cursor() as cursor:
                cursor.execute(_ASK_WHETHER_MIGRATED)
                migrated = cursor.fetchone()[0]
                if migrated:
                    cursor.execute(_ASK_SCHEMA)
                found = cursor.fetchone() if migrated else None
            connection.rollback()
            check_schema(found[0] if found else None)
            known.append(True)

    return made


def schema_of(url: str) -> str | None:
    """The newest migration that a database has had; None without any."""
    with create_engine(url, poolclass=NullPool, connect_args=_CONNECT_ARGS).connect() as connection:
        if not connection.scalar(text(_ASK_WHETHER_MIGRATED)):
            return None
        found: str | None = connection.scalar(text(_ASK_SCHEMA))
        return found


def check_schema(found: str | None) -> None:
    """found: what `alembic_version` says; None without. Raises SchemaMismatch that says what to do."""
    if found is None:
        raise SchemaMismatch("the database has no tables of Emend yet; `emend prepare` makes them")
    if found < SCHEMA:
        raise SchemaMismatch(
            f"the database's schema is {found}, of an older Emend; this one needs {SCHEMA}. Back up, then `emend "
            "prepare` brings it up to date"
        )
    if found > SCHEMA:
        raise SchemaMismatch(
            f"the database's schema is {found}, of a newer Emend; this one knows {SCHEMA}. Start the newer Emend, or "
            "restore the backup made before the upgrade: there is no way back"
        )


@contextmanager
def session() -> Iterator[Session]:
    """One transaction: committed when the block ends well. Raises Unavailable when the database is away."""
    try:
        # No sessionmaker: each makes a class of its own, which is garbage until Python's collector comes.
        with Session(engine(), expire_on_commit=False) as opened, opened.begin():
            yield opened
    except PoolTimeout as exc:
        raise Unavailable("all connections to the database are in use; try again in a moment") from exc
    except DBAPIError as exc:
        if isinstance(exc, OperationalError) or exc.connection_invalidated:
            raise Unavailable("the database does not answer; try again in a moment") from exc
        raise


def migrate(url: str) -> None:
    """Brings the schema to the newest revision. Safe to run by several processes: a lock orders them.

    Raises SchemaMismatch when it is a newer Emend's.
    """
    from alembic import command
    from alembic.config import Config

    found = schema_of(url)
    if found is not None and found > SCHEMA:
        check_schema(found)

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    config.attributes["url"] = url
    command.upgrade(config, "head")
