"""What tracking costs training: as the stage trains, and with no curve written, nothing sampled, nothing forwarded.

    python -m bench.tracking ../shared/data/quickdraw10 [--rounds 5] [--limit 1000] [--epochs 4]

Each round trains the same home twice, in turns, in processes of their own: once with `metrics.jsonl`, the sampler of
CPU, memory and GPU, and `pipeline/tracking.py` in this process forwarding to a real MLflow server, once with none of
these (the server idles). What an orchestrator writes to PostgreSQL for the viewer, a row an epoch, is not in it.
Prints each round, then as its last line one JSON object with medians:

- ratio: time of training with tracking, divided by that without. Its goal: 1.01 at most;
- cpu_ratio: the same of the training process's CPU time;
- in_training: what the process itself spent on it (each epoch's report, and the sampler's CPU), as a share of its time;
- beside: CPU of forwarding and of the MLflow server beyond what it takes idling, as a share of training's time.

Two trainings differ by several percent of themselves, also on cores that nothing else uses: `in_training` and `beside`
are then the better figures. Measured on 2026-11-30 on 2 cores of an AMD EPYC without AVX-512, nothing else at work,
torch 2.15, Python 3.11, five rounds by default (41 to 50 s a training): ratio 1.013 (rounds 0.97 to 1.08), cpu_ratio
0.98, in_training 0.0006, beside 0.006.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml

from core.images import encode_png, name_of, split_of
from core.machine import Sampler
from core.storage import write_json
from pipeline import dataset
from pipeline.dataset import Category
from pipeline.stages import StageRun, train
from pipeline.tracking import TrackedRun, Tracking
from pipeline.training.trainer import get_trainer
from pipeline.workspace import PRESETS
from tests.support.mlflow_server import MlflowServer

LIMIT = 1.01
MODEL = "doodles"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a folder of <category>.npy bitmaps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1000, help="drawings of each category")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train", choices=["tracked", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        print(json.dumps(train_here(given.source, given.run, is_tracked=given.train == "tracked")))
        return
    folder = Path(tempfile.mkdtemp(prefix="emend-bench-"))
    try:
        write_home(folder / MODEL, given.source, given.limit, given.epochs)
        with MlflowServer(folder / "mlflow") as mlflow:
            rounds = [measure(folder / MODEL, mlflow, number) for number in range(1, given.rounds + 1)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    medians = {
        name: round(statistics.median(each[name] for each in rounds), 4)
        for name in ("ratio", "cpu_ratio", "in_training", "beside", "seconds")
    }
    print(
        json.dumps(
            {
                "bench": "tracking",
                "rounds": given.rounds,
                "epochs": given.epochs,
                **medians,
                "limit": LIMIT,
                "within": medians["ratio"] <= LIMIT,
                "cores": os.cpu_count(),
                "load_average": round(os.getloadavg()[0], 1),
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    )


def measure(home: Path, mlflow: MlflowServer, number: int) -> dict[str, float]:
    """One training of each kind, the other first every second time."""
    kinds = ["tracked", "bare"] if number % 2 else ["bare", "tracked"]
    told = {kind: measure_one(home, mlflow, kind, 2 * number + place) for place, kind in enumerate(kinds)}
    tracked, bare = told["tracked"], told["bare"]
    figures = {
        "ratio": tracked["seconds"] / bare["seconds"],
        "cpu_ratio": tracked["cpu_seconds"] / bare["cpu_seconds"],
        "in_training": tracked["tracking_seconds"] / tracked["seconds"],
        "beside": tracked["beside_share"] - bare["beside_share"],
        "seconds": tracked["seconds"],
    }
    shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(f"round {number}: {shown}", file=sys.stderr)
    return figures


def measure_one(home: Path, mlflow: MlflowServer, kind: str, run_id: int) -> dict[str, float]:
    """In a process of its own, with this one in the orchestrator's place."""
    run = TrackedRun(run_id, MODEL, home / "runs" / str(run_id), datetime.now(UTC))
    run.folder.mkdir(parents=True)
    tracking = Tracking(mlflow.url, made=lambda *_: None)
    server, here = mlflow.cpu_seconds(), time.process_time()
    if kind == "tracked":
        tracking.follow(run, None)
    command = [sys.executable, "-m", "bench.tracking", str(home), "--train", kind, "--run", str(run_id)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, float] = json.loads(printed.splitlines()[-1])
    if kind == "tracked" and not tracking.flush(run_id, 60):
        raise RuntimeError(f"MLflow did not get the curve: {tracking.trouble(run_id)}")
    beside = mlflow.cpu_seconds() - server + time.process_time() - here
    tracking.close()
    return figures | {"beside_share": beside / figures["seconds"]}


def train_here(home: Path, run_id: int, *, is_tracked: bool) -> dict[str, float]:
    """What the stage does, without its export. tracking_seconds: what it spent on that."""
    train.warm_up()
    stage = StageRun(home, run_id)
    config = stage.params.train
    outputs = train.decide_outputs(dataset.read_categories(home), [])
    images = dataset.load(home, stage.params.input.spec, ("train", "validation"))
    data = train.training_data(images, outputs, config)
    trainer = get_trainer(config.trainer, config)
    curve, sampler, in_reports = (
        train.Curve(stage.folder / "metrics.jsonl"),
        CountedSampler(trainer.gpu_uuid),
        0.0,
    )

    def report(figures: dict[str, Any]) -> None:
        nonlocal in_reports
        started = time.perf_counter()
        curve.add(figures | sampler.take())
        in_reports += time.perf_counter() - started

    began, cpu_began = time.perf_counter(), time.process_time()
    if is_tracked:
        with sampler:
            trainer.fit(data, len(outputs), checkpoints=stage.folder / "checkpoints", report=report)
    else:
        trainer.fit(data, len(outputs), checkpoints=stage.folder / "checkpoints")
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "tracking_seconds": in_reports + sampler.thread_seconds,
    }


class CountedSampler(Sampler):
    """thread_seconds: CPU time of its thread, when it has ended."""

    thread_seconds = 0.0

    def _run(self) -> None:
        super()._run()
        self.thread_seconds = time.thread_time()


def write_home(home: Path, source: Path, limit: int, epochs: int) -> None:
    """Drawings as one shard, split as the product does, with the preset's parameters but for the epochs."""
    names = sorted(path.stem for path in source.glob("*.npy"))
    rows = []
    for category, name in enumerate(names):
        for pixels in np.load(source / f"{name}.npy", mmap_mode="r")[:limit].reshape(-1, 28, 28):
            sha256 = name_of(pixels)
            rows.append(
                {
                    "sha256": sha256,
                    "image": {"bytes": encode_png(np.ascontiguousarray(pixels)), "path": f"{sha256}.png"},
                    "label": name,
                    "category_id": category,
                    "split": split_of(sha256),
                    "source": "import",
                    "labelled_at": datetime(2026, 1, 1, tzinfo=UTC),
                }
            )
    (home / "dataset").mkdir(parents=True)
    dataset.write_shard(dataset.shard_path(home, 1), pa.Table.from_pylist(rows, dataset.SCHEMA))
    categories = [Category(number, name, "active") for number, name in enumerate(names)]
    write_json(home / "dataset" / "categories.json", dataset.categories_json(categories))
    params = yaml.safe_load(PRESETS["doodles"].read_text())
    params["train"]["epochs"] = epochs
    (home / "params.yaml").write_text(yaml.safe_dump(params))


if __name__ == "__main__":
    main()
