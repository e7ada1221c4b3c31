"""A gateway as a real process, and a database that looks as if the pipeline had promoted versions."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
from sqlalchemy import Engine, create_engine, pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

import core.database
from core.database import (
    Category,
    CategoryState,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    RunStatus,
    Trigger,
    Version,
)
from tests.support import tiny_model
from tests.support.model_server import ModelServer
from tests.support.processes import free_port, stop_group, wait_for_http

ROOT = Path(__file__).parents[2]


def params(mode: str = "L", side: int = 28, *, min_images: int = 20, drawing: bool = False) -> dict[str, Any]:
    return {
        "input": {"mode": mode, "width": side, "height": side, "drawing": drawing},
        "ingest": {"min_new_images": 10},
        "merge": {"min_images": min_images, "near_duplicate_similarity": 0.985},
        "triggers": {"cron": None, "corrections": None},
    }


def add_model(
    engine: Engine,
    name: str = "doodles",
    categories: Sequence[str] = tiny_model.CATEGORIES,
    versions: Sequence[int] = (1,),
    given: dict[str, Any] | None = None,
) -> None:
    """The model, its active categories, and versions, each promoted by a run of its own."""
    with Session(engine) as db:
        db.add(Model(name=name, params=given or params()))
        db.flush()
        for number, category in enumerate(categories):
            db.add(
                Category(
                    model=name,
                    id=number,
                    name=category,
                    key=category,
                    aliases=[],
                    state=CategoryState.active,
                    images=120,
                    train_images=100,
                )
            )
        for number in versions:
            promote(db, name, number, list(range(len(categories))))
        db.commit()


def promote(db: Session, name: str, number: int, category_ids: list[int]) -> None:
    run = Run(
        model=name,
        trigger=Trigger.manual,
        requested_by="test",
        status=RunStatus.succeeded,
        finished_at=datetime.now(UTC),
    )
    db.add(run)
    db.flush()
    db.add(
        Version(
            model=name,
            version=number,
            run_id=run.id,
            dataset_version=number,
            category_ids=category_ids,
            figures={"holdout_accuracy": 0.9},
        )
    )
    db.add(
        LedgerEntry(
            model=name,
            action=LedgerAction.promote,
            version=number,
            run_id=run.id,
            actor="gate",
            reason="test",
            outcome=LedgerOutcome.done,
            closed_at=datetime.now(UTC),
        )
    )
    db.flush()


class GatewayProcess:
    """`python -m api` on a free port."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = directory / "gateway.log"
        self._directory = directory
        self._environment = {
            **environment,
            "PYTHONPATH": str(ROOT),
            "EMEND_API_PORT": self.url.rpartition(":")[2],
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api"],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,  # not the checkout: its .env is none of a test's business
                env=self._environment,
                start_new_session=True,
            )
        wait_for_http(f"{self.url}/healthz", self.process, self.log, 30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        stop_group(self.process)

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


def environment(database_url: str, data_dir: Path, serving_url: str, **others: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EMEND_")}
    return {
        **inherited,
        "DATABASE_URL": database_url,
        "EMEND_DATA_DIR": str(data_dir),
        "MODEL_SERVER_URLS": serving_url,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody answers there
        "LOG_FORMAT": "json",
        **others,
    }


def cache_version(directory: Path, number: int, model: Any, name: str = "doodles") -> None:
    """Into a model server's cache, so that it answers with it without any registry."""
    cache = directory / "serving"
    tiny_model.write_version(cache, number, model, name=name)
    (cache / name / "live").write_text(f"{number}\n")


@dataclass(frozen=True)
class World:
    gateway: GatewayProcess
    data_dir: Path
    engine: Engine


@contextmanager
def world_of_two_models(postgres: str, folder: Path) -> Iterator[World]:
    """Gateway, model server and database: doodles (28x28 grey) and photos (32x32 RGB), version 1 of each live."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=pool.NullPool)
    with server.connect() as connection:
        connection.execute(text(f"create database {name}"))
    url = make_url(postgres).set(database=name).render_as_string(hide_password=False)
    core.database.migrate(url)
    engine = create_engine(url)
    add_model(engine)
    add_model(engine, "photos", given=params("RGB", 32))
    cache_version(folder, 1, tiny_model.graph(1))
    cache_version(folder, 1, tiny_model.graph(2, tiny_model.PHOTO), "photos")
    with (
        ModelServer(folder, "http://127.0.0.1:9", "doodles") as model_server,
        GatewayProcess(folder, environment(url, folder / "data", model_server.url)) as gateway,
    ):
        model_server.wait_ready()
        yield World(gateway, folder / "data", engine)
    engine.dispose()
    with server.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))
