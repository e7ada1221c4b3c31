"""The viewer's overview and its list of runs, over HTTP against a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import text

from core.database import (
    Category,
    CategoryState,
    Correction,
    CorrectionStatus,
    LedgerAction,
    LedgerEntry,
    LedgerOutcome,
    Model,
    Run,
    RunStatus,
    Trigger,
    Version,
    engine,
    session,
)
from core.settings import settings
from pipeline import runs
from pipeline.workspace import PRESETS
from tests.support.http_server import http_client
from viewer import overview, schemas
from viewer.app import create_app

PARAMS: dict[str, Any] = yaml.safe_load(PRESETS["doodles"].read_text())
PARAMS["ingest"]["min_new_images"] = 10
PARAMS["triggers"] = {"cron": "0 3 * * *", "corrections": 50}


@pytest.fixture
def client(emend_environment: dict[str, str]) -> Iterator[httpx.Client]:
    with session() as db:
        db.add(Model(name="doodles", params=PARAMS, created_at=datetime(2026, 1, 1, tzinfo=UTC)))
        db.add(Model(name="photos", params=PARAMS | {"triggers": {"cron": None, "corrections": None}}))
    with http_client(create_app()) as client:
        yield client


def add_run(model: str = "doodles", status: RunStatus = RunStatus.succeeded, **fields: Any) -> int:
    with session() as db:
        run = Run(model=model, requested_by="test", status=status, **({"trigger": Trigger.manual} | fields))
        db.add(run)
        db.flush()
        return run.id


def add_correction(number: int, status: CorrectionStatus, reviewed: bool = False) -> None:
    with session() as db:
        if db.get(Category, ("doodles", 0)) is None:
            db.add(Category(model="doodles", id=0, name="cat", key="cat", state=CategoryState.active))
            db.flush()
        db.add(
            Correction(
                id=f"00000000-0000-7000-8000-{number:012d}",
                model="doodles",
                image_sha256=f"{number:064x}",
                category_id=0,
                label="cat",
                actor="a",
                request_sha256="r",
                status=status,
                reviewed_at=datetime.now(UTC) if reviewed else None,
            )
        )


# The overview.


def test_the_overview_says_what_waits_what_is_live_and_when_the_schedule_fires(client: httpx.Client) -> None:
    for number in range(4):
        add_correction(number, CorrectionStatus.accepted)
    add_correction(4, CorrectionStatus.quarantined)
    add_correction(5, CorrectionStatus.quarantined, reviewed=True)
    made = add_run()
    active = add_run(status=RunStatus.running)
    closed = datetime(2026, 11, 21, 9, 31, tzinfo=UTC)
    with session() as db:
        db.add(
            Version(
                model="doodles",
                version=2,
                run_id=made,
                dataset_version=1,
                category_ids=[0],
                figures={"holdout_accuracy": 0.9},
            )
        )
        db.add(
            LedgerEntry(
                model="doodles",
                action=LedgerAction.promote,
                version=2,
                replaced_version=1,
                actor="run 1",
                reason="better",
                outcome=LedgerOutcome.done,
                closed_at=closed,
            )
        )
    told = client.get("/overview").json()
    schemas.Overview.model_validate(told)
    doodles, photos = told["models"]
    assert doodles["champion"] == {"version": 2, "since": closed.isoformat(), "holdout_accuracy": 0.9}
    assert (doodles["previous"], photos["previous"]) == (1, None)
    assert doodles["last_run"] == client.get(f"/pipeline_runs/{active}").json()
    assert photos["last_run"] is None
    waiting = doodles["waiting"]
    assert (waiting["corrections"], waiting["missing_for_a_run"], waiting["missing_for_the_trigger"]) == (
        4,
        6,
        46,
    )
    assert (doodles["schedule"]["cron"], doodles["schedule"]["timezone"]) == ("0 3 * * *", "UTC")
    next_at = datetime.fromisoformat(doodles["schedule"]["next_at"])
    assert next_at > datetime.now(UTC)
    assert (next_at.hour, next_at.minute) == (3, 0)
    assert (doodles["active_run"], doodles["quarantined"]) == (active, 1)
    assert (photos["champion"], photos["schedule"], photos["active_run"]) == (None, None, None)
    assert photos["run_estimate"] is None
    assert told["ui_url"] == f"http://127.0.0.1:{settings().ui_port}/"
    assert client.get("/runs/overview").json() == told


def test_the_overview_knows_whether_the_orchestrator_answers(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    Thread(target=server.serve_forever).start()
    monkeypatch.setenv("EMEND_ORCHESTRATOR_PORT", str(server.server_port))
    settings.cache_clear()
    monkeypatch.setattr(overview, "ALIVE_SECONDS", 0)
    try:
        assert client.get("/overview").json()["orchestrator_alive"] is True
    finally:
        server.shutdown()
        server.server_close()
    assert client.get("/overview").json()["orchestrator_alive"] is False


# The list.


def test_runs_are_filtered_by_status_and_trigger(client: httpx.Client) -> None:
    failed = add_run(status=RunStatus.failed)
    nightly = add_run(status=RunStatus.halted, trigger=Trigger.schedule)
    good = add_run("photos")

    def listed(**query: Any) -> list[int]:
        return [run["run_id"] for run in client.get("/pipeline_runs", params=query).json()["runs"]]

    assert listed() == [good, nightly, failed]
    assert listed(status="failed") == [failed]
    assert listed(status=["failed", "halted"]) == [nightly, failed]
    assert listed(trigger="schedule") == [nightly]
    assert listed(status="failed", trigger="schedule") == []
    assert listed(model="doodles", trigger="manual") == [failed]
    assert listed(status=["failed", "halted"], limit=1, before=nightly) == [failed]
    for wrong in ({"status": "lost"}, {"trigger": "moon"}, {"state": "failed"}):
        assert client.get("/pipeline_runs", params=wrong).status_code == 400, wrong


def fill(count: int) -> None:
    """Runs as they are after training: nine stages, figures, a verdict."""
    figures = ", ".join(f'"figure_{n}": {n / 7:.6f}' for n in range(25))
    reasons = '{"name": "r", "passed": true, "sentence": "no category falls significantly", "figures": {}}'
    verdict = (
        f'{{"promoted": true, "sentence": "{"s" * 120}", "reasons": [{reasons}], "figures": {{{figures}}}}}'
    )
    with engine().begin() as db:
        db.execute(
            text(
                "insert into runs (model, trigger, requested_by, status, verdict, finished_at, started_at) "
                "select 'doodles', 'manual', 'test', 'succeeded', cast(:verdict as jsonb), now(), now() "
                "from generate_series(1, :count)"
            ),
            {"count": count, "verdict": verdict},
        )
        for position, stage in enumerate(runs.STAGES):
            db.execute(
                text(
                    "insert into stages (run_id, name, position, status, started_at, finished_at, "
                    "duration_seconds, figures) select id, :stage, :position, 'succeeded', now(), now(), 1.5, "
                    '\'{"new_images": 40, "seconds": 1.5}\' from runs'
                ),
                {"stage": stage, "position": position},
            )


def test_a_page_of_500_of_1000_runs_is_as_the_schema_says_and_comes_quickly(client: httpx.Client) -> None:
    fill(1_000)
    page = client.get("/pipeline_runs?limit=500")
    told = schemas.RunsPage.model_validate(page.json())
    assert (len(told.runs), len(told.runs[0].stages)) == (500, 9)
    assert told.next_before == told.runs[-1].run_id
    assert client.get(f"/pipeline_runs/{told.runs[0].run_id}").json() == page.json()["runs"][0]
    assert told.runs[:5] == [schemas.Run.model_validate(run) for run in runs.list_runs(limit=5)]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        client.get("/pipeline_runs?limit=500")
        seconds.append(time.perf_counter() - started)
    print(f"500 of 1,000 runs: {1000 * min(seconds):.0f} ms, {len(page.content) / 1e3:.0f} kB")
    assert min(seconds) < 0.5  # ten times what was measured: other work may share the machine
