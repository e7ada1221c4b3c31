"""Finding and reading image files: any number, any name, whatever lies among them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.images import encode_png
from pipeline.bulk import files
from pipeline.bulk.files import Found, Question

PNG = encode_png(np.arange(784, dtype=np.uint8).reshape(28, 28))
MOST_BYTES = 100_000


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return root


def found(*paths: Path, recursive: bool = True) -> dict[str, str | None]:
    """Error of each, by path below the first."""
    listed = list(files.walk(map(str, paths), recursive=recursive))
    known = {os.path.relpath(each.path, paths[0]): each.error for each in listed}
    assert len(known) == len(listed)
    return known


def read(path: Path | str, most_bytes: int = MOST_BYTES) -> Question:
    ((question,),) = files.batches([Found(str(path))], 48, most_bytes)
    return question


# Finding


def test_files_of_folders_in_folders_are_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder_of(tmp_path, "1.png", "a/2.png", "a/b/3.png", ".DS_Store", ".git/4.png", "notes.txt")
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == dict.fromkeys(["1.png", "a/2.png", "a/b/3.png", "notes.txt"])
    assert found(tmp_path, recursive=False) == dict.fromkeys(["1.png", "notes.txt"])


def test_what_is_named_is_asked_about_hidden_or_not(tmp_path: Path) -> None:
    named = folder_of(tmp_path, ".1.png") / ".1.png"
    assert [each.path for each in files.walk([str(named), str(named)], recursive=True)] == [str(named)] * 2


def test_links_to_folders_are_errors_and_no_loop_is_entered(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.png", "elsewhere/2.png")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "there").symlink_to("../elsewhere")
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "file").symlink_to("1.png")
    listed = found(tmp_path)
    assert {name for name, error in listed.items() if error is None} == {
        "a/1.png", "a/file", "a/self", "elsewhere/2.png",
    }  # fmt: skip
    assert "links are not followed" in str(listed["a/up"])
    assert "links are not followed" in str(listed["a/there"])
    (tmp_path / "entry").symlink_to("elsewhere")
    assert [Path(each.path).name for each in files.walk([str(tmp_path / "entry")], recursive=True)] == [
        "2.png"
    ]


def test_a_folder_that_cannot_be_listed_is_told_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, "closed/1.png", "open/2.png")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):  # permissions mean nothing to root
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found(tmp_path) == {
        "closed": "is a folder that cannot be listed: Permission denied",
        "open/2.png": None,
    }


def test_what_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder_of(tmp_path, "1.png", "answers.partial.csv")
    own = (tmp_path / "answers.partial.csv").stat()
    listed = files.walk([str(tmp_path)], recursive=True, leave_out={(own.st_dev, own.st_ino)})
    assert [Path(each.path).name for each in listed] == ["1.png"]


def test_a_folder_is_listed_while_it_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the names of a long folder nor those of a wide tree are held."""
    folder_of(tmp_path, *(f"{a}/{b}.png" for a in range(20) for b in range(20)))
    taken, real = [0], os.scandir

    class Counting:
        def __init__(self, path: str) -> None:
            self._entries = real(path)

        def __next__(self) -> os.DirEntry[str]:
            taken[0] += 1
            return next(self._entries)

        def close(self) -> None:
            self._entries.close()

    monkeypatch.setattr(os, "scandir", Counting)
    walked = files.walk([str(tmp_path)], recursive=True)
    for _ in range(10):
        next(walked)
    assert taken[0] == 11  # a folder, and ten files of it
    walked.close()  # type: ignore[attr-defined]


# Reading


def test_a_file_is_read_as_base64(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "1.png") / "1.png"
    assert read(path) == Question(str(path), base64.b64encode(PNG))


def test_a_name_that_is_no_utf_8_is_read(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(PNG)
    (listed,) = files.walk([str(tmp_path)], recursive=True)
    assert listed.path == path
    assert read(listed.path).image == base64.b64encode(PNG)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "is empty"),
        (b"hello", "is no PNG, JPEG or WebP image"),
        (bytes(784), "is no PNG, JPEG or WebP image"),  # the gateway would take it for raw pixels
        (PNG + bytes(MOST_BYTES), "has more than 0.1 MB"),
        (bytes(MOST_BYTES), "is no PNG, JPEG or WebP image"),
    ],
)
def test_what_cannot_be_asked_about_has_its_error(data: bytes, error: str, tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(data)
    question = read(path)
    assert question.image is None
    assert question.error is not None
    assert question.error.startswith(error)


def test_files_that_vanish_cannot_be_read_or_are_no_files_have_their_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "self").symlink_to("self")
    assert read(tmp_path / "gone.png").error == "is gone, or a link to nothing"
    assert read(tmp_path / "pipe").error == "is no regular file"
    assert read(tmp_path / "self").error == "cannot be read: Too many levels of symbolic links"

    def closed(path: str, _: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", closed)
    assert read(tmp_path / "1.png").error == "cannot be read: Permission denied"


def test_a_batch_has_at_most_so_many_files_and_bytes(tmp_path: Path) -> None:
    folder_of(tmp_path, *(f"{number}.png" for number in range(10)))
    (tmp_path / "notes.txt").write_text("hello")
    size_bytes = len(base64.b64encode(PNG))

    def lengths(most_files: int, most_bytes: int) -> list[int]:
        return [
            len(batch)
            for batch in files.batches(files.walk([str(tmp_path)], recursive=True), most_files, most_bytes)
        ]

    assert lengths(4, MOST_BYTES) == [4, 4, 3]
    assert lengths(48, size_bytes * 3) in ([3, 3, 4, 1], [3, 4, 3, 1], [4, 3, 3, 1], [3, 3, 3, 2])
    assert sum(lengths(48, size_bytes * 3)) == 11


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "1.png") / "1.png"
    taken = [0]

    def endless() -> Iterator[Found]:
        while True:
            taken[0] += 1
            yield Found(str(path))

    made = files.batches(endless(), 48, MOST_BYTES * 10)
    for _ in range(3):
        assert len(next(made)) == 48
    assert taken[0] == 3 * 48 + 1
