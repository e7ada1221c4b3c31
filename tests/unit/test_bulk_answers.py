"""Answers as Parquet and CSV: whole or named as what they are."""

from __future__ import annotations

import csv
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.bulk import answers
from pipeline.bulk.answers import COLUMNS, CannotWrite, Row, partial, readable, writing

CAT = Row("a/1.png", "cat", 0.75, 3, None, None, '{"cat":0.75,"dog":0.25}')
BROKEN = Row('b,\r"2".png', None, None, None, None, "is empty", None)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def break_off(path: Path, rows: list[Row], *, replace: bool = False) -> None:
    with suppress(KeyboardInterrupt), writing(path, replace=replace) as writer:
        writer.write(rows)
        raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_come_back_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"answers.{suffix}"
    with writing(path, replace=False) as writer:
        writer.write([CAT])
        assert not path.exists()
        writer.write([BROKEN])
    first, second = read(path)
    assert tuple(first) == COLUMNS
    assert (first["file"], first["label"], float(first["confidence"]), int(first["version"])) == (
        "a/1.png",
        "cat",
        0.75,
        3,
    )
    assert first["probabilities"] == CAT.probabilities
    assert (second["file"], second["error"], second["label"] or None) == (BROKEN.file, "is empty", None)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_no_answers_are_a_file_without_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"answers.{suffix}"
    with writing(path, replace=False):
        pass
    assert read(path) == []
    if suffix == "parquet":
        assert pq.read_schema(path).names == list(COLUMNS)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_was_written_before_it_was_broken_off_can_be_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"answers.{suffix}"
    break_off(path, [CAT, BROKEN])
    assert [row["file"] for row in read(partial(path))] == [CAT.file, BROKEN.file]
    assert list(tmp_path.iterdir()) == [partial(path)] == [tmp_path / f"answers.partial.{suffix}"]
    with pytest.raises(CannotWrite, match="File exists"), writing(path, replace=False):
        pass
    with writing(path, replace=True) as writer:
        writer.write([CAT])
    assert len(read(path)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stays_when_nothing_was_written(tmp_path: Path) -> None:
    break_off(tmp_path / "answers.csv", [])
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("mine")
    with pytest.raises(CannotWrite, match="File exists"), writing(path, replace=False):
        pass
    break_off(path, [CAT], replace=True)
    assert path.read_text() == "mine"


def test_parquet_is_written_in_row_groups_by_rows_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ROW_GROUP_ROWS", 10)
    path = tmp_path / "answers.parquet"
    with writing(path, replace=False) as writer:
        writer.write([CAT] * 25)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 5]
    monkeypatch.setattr(answers, "ROW_GROUP_BYTES", 3 * len(CAT.file + str(CAT.probabilities)))
    with writing(path, replace=True) as writer:
        writer.write([CAT] * 7)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 1]


def test_a_full_disk_is_no_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "answers.csv"
    with pytest.raises(CannotWrite, match="No space left"), writing(path, replace=False) as writer:
        writer.write([CAT])
    assert list(tmp_path.iterdir()) == [partial(path)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_nothing_stays_when_the_disk_is_full_from_the_start(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(answers.FORMATS, f".{suffix}", full)
    with (
        pytest.raises(CannotWrite, match="No space left"),
        writing(tmp_path / f"answers.{suffix}", replace=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_what_is_read_is_not_told_as_one_of_what_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="Input/output error") as raised,
        writing(tmp_path / "answers.csv", replace=False),
    ):
        raise OSError(errno.EIO, "Input/output error")
    assert not isinstance(raised.value, CannotWrite)


def test_a_name_that_is_no_utf_8_becomes_text() -> None:
    assert readable(os.fsdecode(b"caf\xe9/caf\xc3\xa9.png")) == "caf\\xe9/café.png"
