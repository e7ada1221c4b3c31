import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.drawing import render
from core.images import InputSpec, decode_png, encode_png, name_of
from pipeline import dataset
from pipeline.imports import ImportFailed, StagedImport, stage_folder, stage_pixels, stage_quickdraw
from pipeline.imports import folder as folder_import
from pipeline.imports.staging import MAX_NAMED
from pipeline.near_duplicates import signatures

DOODLE = InputSpec("L", 28, 28, drawing=True)
PHOTO = InputSpec("RGB", 32, 32)


def drawings(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 784), dtype=np.uint8)


def picture(seed: int, size: tuple[int, int] = (40, 48), form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


def rows_of(home: Path, staged: StagedImport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(home / staged.file).to_pylist()
    return rows


def reasons(staged: StagedImport) -> dict[str, str]:
    return {bad.name: bad.reason for bad in staged.bad}


# --- Quick, Draw! bitmaps


def test_bitmaps_become_one_staged_shard(tmp_path: Path) -> None:
    cats, dogs = drawings(5), drawings(3, seed=1)
    np.save(tmp_path / "cat.npy", cats)
    np.save(tmp_path / "full_numpy_bitmap_dog.npy", dogs)
    seen: list[int] = []
    staged = stage_quickdraw(tmp_path, tmp_path / "home", DOODLE, progress=seen.append)
    assert staged.categories == {"cat": 5, "dog": 3}
    assert (staged.images, staged.source, staged.bad_count) == (8, "import", 0)
    assert seen[-1] == 8
    assert list((tmp_path / "home" / "imports").iterdir()) == [tmp_path / "home" / staged.file]
    rows = rows_of(tmp_path / "home", staged)
    assert np.array_equal(decode_png(rows[2]["image"]["bytes"]), cats[2].reshape(28, 28))
    assert rows[2]["sha256"] == name_of(cats[2].reshape(28, 28))
    assert rows[2]["licence"] == "CC BY 4.0, the Quick, Draw! Dataset, Google"
    assert {row["import_id"] for row in rows} == {staged.id}
    assert rows[2]["original"] is None
    assert rows[2]["signature"] == signatures(cats[2].reshape(1, 28, 28)).tobytes()
    schema = pq.read_schema(tmp_path / "home" / staged.file)
    assert schema.equals(dataset.SCHEMA)
    assert dataset.input_of(schema) == DOODLE


def test_limit_and_categories_choose_the_first_rows(tmp_path: Path) -> None:
    for name in ("cat", "dog", "bird"):
        np.save(tmp_path / f"{name}.npy", drawings(6))
    staged = stage_quickdraw(tmp_path, tmp_path / "home", DOODLE, categories=["Dog", "cat"], limit=2)
    assert staged.categories == {"cat": 2, "dog": 2}
    with pytest.raises(ImportFailed, match=r"no \.npy or \.ndjson file of fish"):
        stage_quickdraw(tmp_path, tmp_path / "home", DOODLE, categories=["cat", "fish"])


def test_files_that_are_no_bitmaps_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    np.save(tmp_path / "cat.npy", np.vstack([drawings(2), np.zeros((1, 784), np.uint8)]))
    np.save(tmp_path / "floats.npy", np.full((2, 784), np.nan))
    np.save(tmp_path / "shape.npy", np.zeros((2, 28, 28), np.uint8))
    np.save(tmp_path / "flat.npy", np.zeros(784, np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    whole = (tmp_path / "cat.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-900])
    (tmp_path / "text.npy").write_bytes(b"hello")
    (tmp_path / "nothing.npy").write_bytes(b"")
    (tmp_path / "huge.npy").write_bytes(whole.replace(b"(3, 784)", b"(9999999999, 784)", 1))
    (tmp_path / "..bad.npy").write_bytes(whole)
    (tmp_path / "a:b.npy").write_bytes(whole)
    staged = stage_quickdraw(tmp_path, tmp_path / "home", DOODLE)
    assert staged.categories == {"cat": 2}
    found = reasons(staged)
    assert found.keys() == {
        "cat.npy row 2",
        "floats.npy",
        "shape.npy",
        "flat.npy",
        "objects.npy",
        "short.npy",
        "text.npy",
        "nothing.npy",
        "huge.npy",
        "a:b.npy",
    }
    assert "expected uint8 (N, 784)" in found["floats.npy"]
    assert "U+003A" in found["a:b.npy"]
    assert staged.bad_count == 10


def test_bitmaps_are_fitted_to_another_input(tmp_path: Path) -> None:
    bitmaps = np.zeros((3, 784), np.uint8)
    bitmaps.reshape(3, 28, 28)[:, 4:20, 9:14] = 255
    np.save(tmp_path / "cat.npy", bitmaps)
    staged = stage_quickdraw(tmp_path, tmp_path, InputSpec("L", 56, 56, drawing=True))
    row = rows_of(tmp_path, staged)[0]
    assert decode_png(row["image"]["bytes"]).shape == (56, 56)
    assert np.array_equal(decode_png(row["original"]["bytes"]), bitmaps[0].reshape(28, 28))


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("a file")])
def test_nothing_to_import_is_said(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "there")
    with pytest.raises(ImportFailed, match="there"):
        stage_quickdraw(tmp_path / "there", tmp_path / "home", DOODLE)
    assert not list(tmp_path.glob("home/imports/*"))


def test_only_bad_files_leave_no_shard_behind(tmp_path: Path) -> None:
    (tmp_path / "cat.npy").write_bytes(b"hello")
    with pytest.raises(ImportFailed, match=r"cat\.npy: is no NumPy array"):
        stage_quickdraw(tmp_path, tmp_path / "home", DOODLE)
    assert not any((tmp_path / "home" / "imports").iterdir())


def test_real_drawings_are_staged(quickdraw: Path, tmp_path: Path) -> None:
    staged = stage_quickdraw(quickdraw, tmp_path, DOODLE, limit=200)
    assert staged.images == 2_000
    assert len(staged.categories) == 10
    first = np.load(quickdraw / "airplane.npy", mmap_mode="r")[0].reshape(28, 28)
    assert rows_of(tmp_path, staged)[0]["sha256"] == name_of(first)


# --- Quick, Draw! strokes


def test_strokes_are_drawn_by_the_one_renderer(tmp_path: Path) -> None:
    simplified = [[[0, 255], [0, 128]], [[10, 10, 90], [5, 70, 70]]]
    raw = [[[1.5, 300.25], [2.0, 400.0], [0, 16]]]
    lines = [json.dumps({"word": "cat", "drawing": d}) for d in (simplified, raw)]
    (tmp_path / "cat.ndjson").write_text("\n".join(lines) + "\n")
    staged = stage_quickdraw(tmp_path, tmp_path, DOODLE)
    rows = rows_of(tmp_path, staged)
    expected = render([np.array(s[:2], float).T for s in simplified])
    assert np.array_equal(decode_png(rows[0]["image"]["bytes"]), expected)
    assert staged.categories == {"cat": 2}


def test_lines_that_are_no_drawing_are_named(tmp_path: Path) -> None:
    good = json.dumps({"drawing": [[[0, 255], [0, 128]]]})
    lines = [
        good,
        "not json",
        "[]",
        "{}",
        '{"drawing": []}',
        '{"drawing": [[[1, 2], [3]]]}',
        '{"drawing": [[["a"], ["b"]]]}',
        '{"drawing": [[[NaN], [1]]]}',
        '{"drawing": [[[1e999], [1]]]}',
        '{"drawing": 7}',
        "[" * 100_000,
        json.dumps({"drawing": [[[1] * 20_000, [1] * 20_000]]}),
        "x" * 2_500_000,
        "\ufffd",
        good,
    ]
    (tmp_path / "cat.ndjson").write_text("\n".join(lines))
    staged = stage_quickdraw(tmp_path, tmp_path, DOODLE)
    assert staged.categories == {"cat": 2}
    assert sorted(reasons(staged)) == sorted(f"cat.ndjson line {n}" for n in range(2, 15))
    assert all(len(bad.reason) < 200 for bad in staged.bad)


def test_bitmaps_are_preferred_to_strokes_of_the_same_drawings(tmp_path: Path) -> None:
    np.save(tmp_path / "cat.npy", drawings(2))
    (tmp_path / "cat.ndjson").write_text(json.dumps({"drawing": [[[0, 9], [0, 9]]]}))
    staged = stage_quickdraw(tmp_path, tmp_path, DOODLE)
    assert staged.categories == {"cat": 2}
    assert reasons(staged) == {"cat.ndjson": "not read: cat.npy has the same drawings"}


# --- one image under two labels


def test_an_image_that_comes_again_under_another_label_is_counted_and_named(tmp_path: Path) -> None:
    shared = drawings(2)
    np.save(tmp_path / "cat.npy", shared)
    np.save(tmp_path / "dog.npy", np.vstack([drawings(1, seed=1), shared]))
    staged = stage_quickdraw(tmp_path, tmp_path / "home", DOODLE)
    assert staged.categories == {"cat": 2, "dog": 3}
    assert (staged.images, staged.bad_count, staged.contradiction_count) == (5, 0, 2)
    assert [c.name for c in staged.contradictions] == ["dog.npy row 1", "dog.npy row 2"]
    assert staged.contradictions[0].reason == "is dog here, but the same image came before as cat"


def test_one_label_spelt_twice_contradicts_nothing(tmp_path: Path) -> None:
    files = {"Cat/1.png": picture(1), "cat/2.png": picture(1), "cat/3.png": picture(1)}
    staged = stage_folder(tree(tmp_path / "p", files), tmp_path, PHOTO)
    assert (staged.images, staged.contradiction_count) == (3, 0)


# --- folders and tars


def tree(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


PICTURES = {
    "cat/1.png": picture(1),
    "cat/2.jpg": picture(2, form="JPEG"),
    "cat/.DS_Store": b"junk",
    "dog/1.webp": picture(3, form="WEBP"),
    "dog/small.png": picture(4, (32, 32)),
    "dog/cut.png": picture(5)[:200],
    "dog/vector.png": b"<svg/>",
    "dog/empty.jpg": b"",
    "top.png": picture(6),
    "train/bird/1.png": picture(7),
    "b<d/1.png": picture(8),
    "b<d/2.png": picture(9),
}
LEFT_OUT = {"dog/cut.png", "dog/vector.png", "dog/empty.jpg", "top.png", "b<d/"}


def test_a_folder_of_pictures_is_staged(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures", PICTURES)
    staged = stage_folder(root, tmp_path / "home", PHOTO, licence="CC0")
    assert staged.categories == {"bird": 1, "cat": 2, "dog": 2}
    assert reasons(staged).keys() == LEFT_OUT
    assert staged.bad_count == 6
    assert "files left out: 2" in reasons(staged)["b<d/"]
    assert reasons(staged)["dog/vector.png"] == "6 bytes that are no PNG, JPEG or WebP image"
    rows = rows_of(tmp_path / "home", staged)
    assert all(decode_png(row["image"]["bytes"]).shape == (32, 32, 3) for row in rows)
    assert [row["original"] is None for row in rows] == [False, False, False, True, False]
    assert {row["licence"] for row in rows} == {"CC0"}


def test_links_in_a_folder_are_named_not_followed(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures", {"cat/1.png": picture(1)})
    outside = tree(tmp_path / "outside", {"secret.png": picture(2)})
    (root / "cat" / "link.png").symlink_to(outside / "secret.png")
    (root / "cat" / "dangling.png").symlink_to("nowhere")
    (root / "dog").symlink_to(outside)
    os.mkfifo(root / "cat" / "pipe.png")
    staged = stage_folder(root, tmp_path, PHOTO)
    assert staged.categories == {"cat": 1}
    assert reasons(staged).keys() == {"cat/link.png", "cat/dangling.png", "cat/pipe.png", "dog"}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_tar_gives_what_the_folder_gives(tmp_path: Path, suffix: str) -> None:
    root = tree(tmp_path / "pictures", PICTURES)
    archive = tmp_path / f"pictures.{suffix}"
    with tarfile.open(archive, "w:gz" if suffix == "tar.gz" else "w") as tar:
        for name in sorted(PICTURES):
            tar.add(root / name, name)
    one = stage_folder(root, tmp_path / "home", PHOTO)
    other = stage_folder(archive, tmp_path / "home", PHOTO)
    assert other.categories == one.categories
    assert reasons(other) == reasons(one)
    names = [{row["sha256"] for row in rows_of(tmp_path / "home", staged)} for staged in (one, other)]
    assert names[0] == names[1]


def test_limit_and_categories_hold_for_folders(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": picture(i) for c in ("cat", "dog", "bird") for i in range(4)}
    staged = stage_folder(tree(tmp_path / "p", files), tmp_path, PHOTO, categories=["cat", "Dog"], limit=3)
    assert staged.categories == {"cat": 3, "dog": 3}


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def test_a_hostile_tar_does_nothing_but_be_named(tmp_path: Path) -> None:
    data = picture(1)
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as tar:
        for name in (
            "../../outside/1.png",
            "/etc/cat/1.png",
            "cat/../../dog/1.png",
            "lone.png",
            "cat/good.png",
        ):
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        tar.addfile(member("cat/link.png", tarfile.SYMTYPE, link="/etc/passwd"))
        tar.addfile(member("cat/hard.png", tarfile.LNKTYPE, link="cat/good.png"))
        tar.addfile(member("cat/device", tarfile.CHRTYPE))
        tar.addfile(member("cat/pipe", tarfile.FIFOTYPE))
        tar.addfile(member("..hid/x.png", size=len(data)), io.BytesIO(data))
        tar.addfile(member("con\x01trol/x.png", size=len(data)), io.BytesIO(data))
    before = set(tmp_path.rglob("*"))
    staged = stage_folder(archive, tmp_path / "home", PHOTO)
    assert staged.categories == {"cat": 1}
    assert staged.bad_count == 10
    assert all(bad.name.isprintable() for bad in staged.bad)
    assert set(tmp_path.rglob("*")) - before == {
        tmp_path / "home",
        tmp_path / "home" / "imports",
        tmp_path / "home" / staged.file,
    }


def test_a_picture_that_is_too_large_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_import, "MAX_FILE_BYTES", 20_000)
    files = {"cat/1.png": picture(1), "cat/2.png": picture(2, (200, 200))}
    root = tree(tmp_path / "p", files)
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(root, ".")
    for path in (root, tmp_path / "p.tar"):
        staged = stage_folder(path, tmp_path, PHOTO)
        assert staged.categories == {"cat": 1}
        assert "a picture may have 20000" in next(iter(reasons(staged).values()))


def test_a_cut_off_tar_gives_what_comes_before(tmp_path: Path) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for number in range(5):
            data = picture(number)
            tar.addfile(member(f"cat/{number}.png", size=len(data)), io.BytesIO(data))
    half = whole.getvalue()[: len(whole.getvalue()) // 2]
    for name, content in (("cut.tar", half), ("cut.tar.gz", gzip.compress(whole.getvalue())[:15_000])):
        (tmp_path / name).write_bytes(content)
        staged = stage_folder(tmp_path / name, tmp_path, PHOTO)
        assert 1 <= staged.categories["cat"] < 5
        assert "cut off" in " ".join(reasons(staged).values())


def test_a_tar_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(ImportFailed, match="is no tar"):
        stage_folder(tmp_path / "x.tar", tmp_path, PHOTO)
    with pytest.raises(ImportFailed, match="cannot read"):
        stage_folder(tmp_path / "nowhere.tar", tmp_path, PHOTO)


def test_a_bomb_in_a_tar_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_import, "EXPANSION_ALLOWED_BYTES", 100_000)
    data = picture(1)
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as tar:
        tar.addfile(member("cat/1.png", size=len(data)), io.BytesIO(data))
        tar.addfile(member("cat/zeros.bin", size=20_000_000), io.BytesIO(bytes(20_000_000)))
        tar.addfile(member("cat/2.png", size=len(data)), io.BytesIO(data))
    monkeypatch.setattr(folder_import, "MAX_FILE_BYTES", 1_000_000)
    staged = stage_folder(tmp_path / "bomb.tar.gz", tmp_path, PHOTO)
    assert staged.categories == {"cat": 1}
    assert any("expands more than" in reason for reason in reasons(staged).values())


def test_a_header_that_asks_for_much_memory_is_stopped(tmp_path: Path) -> None:
    header = member("x", tarfile.XHDTYPE, size=2**32).tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "pax.tar").write_bytes(header + bytes(100_000))
    with pytest.raises(ImportFailed, match="a header asks for"):
        stage_folder(tmp_path / "pax.tar", tmp_path, PHOTO)


def test_no_more_than_a_thousand_bad_files_are_named(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(member("cat/1.png", size=len(picture(1))), io.BytesIO(picture(1)))
        for number in range(MAX_NAMED + 50):
            tar.addfile(member(f"cat/x{number}.png"))
    staged = stage_folder(archive, tmp_path, PHOTO)
    assert (len(staged.bad), staged.bad_count) == (MAX_NAMED, MAX_NAMED + 50)


def test_many_files_are_shared_out_and_keep_their_order(tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    names = []
    with tarfile.open(archive, "w") as tar:
        for number in range(3 * folder_import.BATCH_FILES):
            pixels = np.full((32, 32, 3), number % 256, np.uint8)
            pixels[0, 0, 0] = number // 256
            data = encode_png(pixels)
            tar.addfile(member(f"c{number % 3}/{number}.png", size=len(data)), io.BytesIO(data))
            names.append(name_of(pixels))
    staged = stage_folder(archive, tmp_path, PHOTO)
    assert [row["sha256"] for row in rows_of(tmp_path, staged)] == names


# --- pixels, and staging itself


def test_pixels_are_staged_as_they_are(tmp_path: Path) -> None:
    bitmaps = drawings(4).reshape(-1, 28, 28)
    staged = stage_pixels(tmp_path, DOODLE, {"cat": bitmaps}, source="generated", licence="CC0")
    rows = rows_of(tmp_path, staged)
    assert [row["sha256"] for row in rows] == [name_of(b) for b in bitmaps]
    assert {row["source"] for row in rows} == {"generated"}


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "cat.npy", drawings(3_000))

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage_quickdraw(tmp_path, tmp_path / "home", DOODLE, progress=interrupt)
    assert not any((tmp_path / "home" / "imports").iterdir())


def test_originals_do_not_pile_up_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.imports.staging.FLUSH_BYTES", 20_000)
    files = {f"cat/{i}.png": picture(i, (64, 64)) for i in range(6)}
    staged = stage_folder(tree(tmp_path / "p", files), tmp_path, PHOTO)
    assert pq.ParquetFile(tmp_path / staged.file).num_row_groups > 2
    assert staged.images == 6
