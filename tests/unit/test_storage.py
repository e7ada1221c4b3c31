"""Files are whole or absent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from core.errors import DiskFull
from core.storage import remove_empty_folders, replacing, write_durably, write_json


def test_a_file_written_durably_is_there_with_its_folders(tmp_path: Path) -> None:
    write_durably(tmp_path / "a" / "b" / "c.bin", b"content")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"content"
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c.bin"]


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"old")

    def write_half() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_same_value_gives_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": 1, "a": "ä"})
    write_json(tmp_path / "two.json", {"a": "ä", "b": 1})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_json_is_on_disk_before_anybody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_json(tmp_path / "result.json", {})
    assert synced == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_by_name(tmp_path: Path) -> None:
    def write_to_a_full_disk() -> None:
        # A real ENOSPC: /dev/full refuses every write.
        with replacing(tmp_path / "data.bin"), Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(DiskFull, match=r"no room to store data\.bin"):
        write_to_a_full_disk()
    assert list(tmp_path.iterdir()) == []


def test_only_empty_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    write_durably(tmp_path / "full" / "file", b"")
    remove_empty_folders(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["full"]
