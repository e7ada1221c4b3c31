"""`emend predict` as a process, with a real gateway, model server and database."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import Prediction
from core.images import encode_png
from tests.support import tiny_model
from tests.support.gateway import World, world_of_two_models

ROOT = Path(__file__).parents[2]
GOOD = 300
WAIT_SECONDS = 20


@pytest.fixture(scope="module")
def world(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of_two_models(postgres, tmp_path_factory.mktemp("gateway")) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """The label of each drawing that is one, by file name."""
    pixels = tiny_model.images(GOOD, seed=5)
    best = tiny_model.answer(tiny_model.graph(1), pixels).argmax(axis=1)
    return {f"{number}.png": tiny_model.CATEGORIES[label] for number, label in enumerate(best)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred drawings in folders, and eight files that are none."""
    root = tmp_path_factory.mktemp("drawings")
    for number, pixels in enumerate(tiny_model.images(GOOD, seed=5)):
        place = root / ("", "a", "a/b")[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_png(pixels))
    whole = (root / "0.png").read_bytes()
    for number in range(5):
        (root / "a" / f"cut-{number}.png").write_bytes(whole[: 300 + number])
    (root / "notes.txt").write_text("hello")
    (root / "raw.bin").write_bytes(bytes(784))
    (root / "up").symlink_to(".")
    (root / ".hidden.png").write_bytes(whole)
    return root


def environment(world: World, **others: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EMEND_")}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "EMEND_API_URL": world.gateway.url,
        "COLUMNS": "90",
        **others,
    }


def predict(world: World, *arguments: str | Path, **others: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pipeline.cli", "predict", *map(str, arguments)]
    return subprocess.run(
        command,
        env=environment(world, **others),
        cwd=world.data_dir,
        capture_output=True,
        timeout=60,
        check=False,
    )


def csv_rows(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


def recorded(world: World) -> int:
    with Session(world.engine) as db:
        return db.scalar(select(func.count()).select_from(Prediction)) or 0


def labels(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {Path(row["file"]).name: row["label"] for row in rows if row["label"]}


def test_a_folder_is_answered_into_parquet_and_what_is_broken_is_named(
    world: World, folder: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "answers.parquet"
    before = recorded(world)
    done = predict(world, folder, "--output", path, "--batch", "32")
    assert done.returncode == 1, done.stderr.decode()
    table = pq.read_table(path)
    assert [str(kind) for kind in table.schema.types] == [
        "string", "string", "double", "int32", "string", "string", "string",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert len(rows) == GOOD + 8
    assert labels(rows) == expected
    errors = {Path(row["file"]).name: row["error"] for row in rows if row["error"]}
    assert set(errors) == {*(f"cut-{number}.png" for number in range(5)), "notes.txt", "raw.bin", "up"}
    assert "damaged or cut off" in errors["cut-0.png"]
    assert "no PNG, JPEG or WebP" in errors["raw.bin"]
    answered = next(row for row in rows if row["label"])
    probabilities = json.loads(answered["probabilities"])
    assert list(probabilities) == list(tiny_model.CATEGORIES)
    assert probabilities[answered["label"]] == answered["confidence"]
    assert (answered["version"], answered["prediction_id"]) == (1, None)
    assert b"300 of 308 files answered by doodles version 1" in done.stdout
    assert b"and 3 more; the column error says why" in done.stderr
    time.sleep(0.5)  # longer than the history waits before it writes
    assert recorded(world) == before
    assert list(tmp_path.iterdir()) == [path]
    again = predict(world, folder, "--output", path)
    assert again.returncode == 2
    assert b"--force replaces it" in again.stderr
    assert predict(world, folder / "0.png", "--output", path, "--force").returncode == 0
    assert pq.read_table(path).num_rows == 1


def test_standard_output_is_csv_and_nothing_else(
    world: World, folder: Path, expected: dict[str, str]
) -> None:
    done = predict(world, folder, "--output", "-", "--no-recursive")
    assert done.returncode == 1
    rows = csv_rows(done.stdout)
    assert labels(rows) == {name: label for name, label in expected.items() if (folder / name).exists()}
    assert len(rows) == 100 + 3
    assert b"100 of 103 files answered" in done.stderr


def test_recorded_answers_are_in_the_history(world: World, folder: Path) -> None:
    before = recorded(world)
    done = predict(world, folder / "0.png", folder / "3.png", "--record", "--output", "-")
    assert done.returncode == 0, done.stderr.decode()
    ids = {row["prediction_id"] for row in csv_rows(done.stdout)}
    assert len(ids - {""}) == 2
    deadline = time.monotonic() + WAIT_SECONDS
    while recorded(world) < before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_version_is_asked_by_its_number_and_no_answer_is_kept(world: World, folder: Path) -> None:
    before = recorded(world)
    done = predict(world, folder / "0.png", "--version", "1", "--output", "-")
    assert done.returncode == 0, done.stderr.decode()
    (row,) = csv_rows(done.stdout)
    assert (row["version"], row["prediction_id"]) == ("1", "")
    assert recorded(world) == before


def test_a_full_standard_output_is_an_error_and_one_that_was_closed_is_not_worth_a_word(
    world: World, folder: Path
) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "predict", str(folder), "--output", "-"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, env=environment(world), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert b"error: cannot write standard output: No space left on device" in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, env=environment(world), stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_without_an_output_the_first_lines_and_a_summary_are_shown(world: World, folder: Path) -> None:
    done = predict(world, folder)
    shown = done.stdout.decode().splitlines()
    assert shown[0].split() == ["file", "label", "confidence", "version"]
    assert shown[21] == ""
    assert "300 of 308 files answered by doodles version 1" in shown[-1]
    assert max(map(len, shown)) <= 200


def test_names_of_any_bytes_are_answered(world: World, folder: Path, tmp_path: Path) -> None:
    drawing = (folder / "0.png").read_bytes()
    for name in (b"caf\xe9.png", b'new\nline,\r"[red].png', "für.png".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(drawing)
    done = predict(world, tmp_path, "--output", "-")
    assert done.returncode == 0, done.stderr.decode()
    assert {Path(row["file"]).name for row in csv_rows(done.stdout)} == {
        "caf\\xe9.png", "new\nline,\r\"[red].png", "für.png",
    }  # fmt: skip
    shown = predict(world, tmp_path)
    assert shown.returncode == 0, shown.stderr.decode()
    assert 'new\\nline,\\r"[red].png' in shown.stdout.decode()


def test_an_output_in_the_folder_that_is_asked_about_is_no_question(
    world: World, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes((folder / "0.png").read_bytes())
    for arguments in ([], ["--force"]):
        done = predict(world, tmp_path, "--output", tmp_path / "answers.csv", *arguments)
        assert done.returncode == 0, done.stderr.decode()
        assert len(csv_rows((tmp_path / "answers.csv").read_bytes())) == 1


def test_an_empty_folder_is_answered_with_a_heading(world: World, tmp_path: Path) -> None:
    done = predict(world, tmp_path, "--output", tmp_path / "answers.csv")
    assert done.returncode == 0
    assert b"there are no files to ask about" in done.stdout
    assert csv_rows((tmp_path / "answers.csv").read_bytes()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "answers.xlsx"], "neither in .parquet nor in .csv"),
        (["--output", "nowhere/answers.csv"], "there is no folder"),
        (["--batch", "65"], "equal to 64"),
        (["--record", "--version", "1"], "only answers of the live version can be kept"),
        (["nowhere"], "does not exist"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    world: World, folder: Path, arguments: list[str], told: str
) -> None:
    done = predict(world, folder, *arguments)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.decode().split())


def test_a_gateway_that_is_away_or_knows_no_such_model_is_an_error_and_leaves_no_file(
    world: World, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "answers.csv"
    away = predict(world, folder, "--output", path, EMEND_API_URL="http://127.0.0.1:9")
    unknown = predict(world, folder, "--output", path, "--model", "dodles")
    assert (away.returncode, unknown.returncode) == (1, 1)
    assert b"error: nobody listens at http://127.0.0.1:9; start it with `make up`" in away.stderr
    assert b"there is no model 'dodles'" in unknown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_answered_before_ctrl_c_is_kept_and_said(
    sent: signal.Signals, code: int, world: World, folder: Path, tmp_path: Path
) -> None:
    drawings = tmp_path / "drawings"
    drawings.mkdir()
    for number in range(3_000):
        os.link(folder / "0.png", drawings / f"{number}.png")
    partial = tmp_path / "answers.partial.csv"
    command = [sys.executable, "-m", "pipeline.cli", "predict", str(drawings), "--batch", "1"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "answers.csv")],
        env=environment(world),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + WAIT_SECONDS
        while not partial.exists() or partial.stat().st_size < 1_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(sent)
        _, said = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == code, said.decode()
    rows = csv_rows(partial.read_bytes())
    assert 0 < len(rows) < 3_000
    assert f"stopped. What was answered so far, {len(rows)} files, is in {partial}" in said.decode()
    assert not (tmp_path / "answers.csv").exists()


def test_larger_images_share_requests_by_their_bytes(world: World, tmp_path: Path) -> None:
    """A gateway takes 10 MB at once: no request has more, however many images it might hold."""
    noise = np.random.default_rng(0)
    for number in range(12):
        pixels = noise.integers(0, 256, (700, 700, 3), dtype=np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode_png(pixels))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 15_000_000
    done = predict(world, tmp_path, "--model", "photos")
    assert done.returncode == 0, done.stderr.decode()
    assert b"12 of 12 files answered by photos version 1" in done.stdout
