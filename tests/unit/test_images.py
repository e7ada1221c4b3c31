import io
import struct
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from core.errors import InvalidImage
from core.images import (
    MAX_ORIGINAL_SIDE,
    InputSpec,
    as_mode,
    decode_at_once,
    decode_png,
    encode_png,
    fit,
    from_bytes,
    from_file,
    name_of,
    open_image,
    split_of,
)

OPEN_AND_TELL_MEMORY = """
import re, sys
from pathlib import Path
from core.images import open_image
image = open_image(Path(sys.argv[1]).read_bytes())
# Not getrusage: what it says begins with the peak of the process that started this one.
print(*image.size, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
DOODLE = InputSpec("L", 28, 28, drawing=True)
PHOTO = InputSpec("RGB", 32, 32)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def png_of_size(width: int, height: int) -> bytes:
    """A valid header and far too little data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# --- what is accepted


def test_raw_bytes_of_the_models_size_are_its_pixels() -> None:
    pixels = noise(28, 28)
    decoded = from_bytes(pixels.tobytes(), DOODLE)
    assert np.array_equal(decoded.pixels, pixels)
    assert decoded.original is None
    assert decoded.sha256 == name_of(pixels)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_one_image_has_one_name_in_every_lossless_format(form: str, options: dict[str, object]) -> None:
    pixels = noise(32, 32, 3)
    decoded = from_bytes(encoded(Image.fromarray(pixels), form, **options), PHOTO)
    assert decoded.sha256 == name_of(pixels)
    assert decoded.original is None


def test_a_photo_is_cropped_to_the_middle_and_averaged_down() -> None:
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = 200  # the middle square
    decoded = from_bytes(encoded(Image.fromarray(wide)), PHOTO)
    assert (decoded.pixels == 200).all()
    assert decoded.original is not None
    assert decoded.original.size == (200, 64)


def test_a_large_photo_is_kept_at_1024_pixels() -> None:
    decoded = from_bytes(encoded(Image.new("RGB", (3000, 1500), (9, 99, 199)), "JPEG"), PHOTO)
    assert decoded.original is not None
    assert decoded.original.size == (MAX_ORIGINAL_SIDE, 512)


def test_a_photo_is_turned_upright_and_stripped() -> None:
    picture = Image.new("RGB", (64, 32), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    exif[0x010E] = "somebody's garden"
    opened = open_image(encoded(picture, "JPEG", exif=exif))
    assert opened.size == (32, 64)
    assert not opened.info
    assert b"garden" not in encode_png(opened)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_read(mode: str) -> None:
    grey = Image.fromarray(noise(40, 40))
    picture = Image.fromarray(noise(40, 40).astype(np.uint16) * 256) if mode == "I;16" else grey.convert(mode)
    assert from_bytes(encoded(picture), PHOTO).pixels.shape == (32, 32, 3)
    assert from_bytes(encoded(picture), InputSpec("L", 28, 28)).pixels.shape == (28, 28)


def test_transparency_becomes_white_paper() -> None:
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert (from_bytes(encoded(picture), PHOTO).pixels == 255).all()


def test_a_drawing_on_white_paper_is_inverted_cropped_and_centred() -> None:
    paper = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(paper).rectangle((250, 20, 330, 100), outline="black", width=9)
    pixels = from_bytes(encoded(paper), DOODLE).pixels
    rows, columns = np.flatnonzero(pixels.max(axis=1) > 60), np.flatnonzero(pixels.max(axis=0) > 60)
    assert (rows[0], rows[-1]) == (1, 26)
    assert (columns[0], columns[-1]) == (1, 26)
    assert pixels[14, 14] == 0


def test_a_doodle_of_the_right_size_is_left_as_it_is() -> None:
    drawing = np.zeros((28, 28), np.uint8)
    drawing[3:9, 4:6] = 255
    assert np.array_equal(from_bytes(encode_png(drawing), DOODLE).pixels, drawing)


def test_png_of_our_own_comes_back_the_same() -> None:
    for pixels in (noise(28, 28), noise(32, 32, 3)):
        assert np.array_equal(decode_png(encode_png(pixels)), pixels)


# --- what is refused


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (bytes(783), "784 raw bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG, JPEG or WebP"),
        (b"GIF89a" + bytes(900), "no PNG, JPEG or WebP"),
        (encoded(Image.new("RGB", (40, 40)), "BMP"), "no PNG, JPEG or WebP"),
        (encoded(Image.fromarray(noise(64, 64, 3)))[:-2000], "cut off"),
        (encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")[:-700], "cut off"),
        (encoded(Image.fromarray(noise(64, 64, 3)), "WEBP")[:-700], "cut off"),
        (png_of_size(200, 200), "cut off"),
        (png_of_size(7_000, 7_000), "megapixels"),
        (png_of_size(5_001, 5_000), "more than 25 megapixels"),
        (png_of_size(11_000, 11_000), "megapixels"),
        (png_of_size(60_000, 60_000), "megapixels"),
    ],
)
def test_what_is_no_whole_image_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidImage, match=says) as refused:
        from_bytes(data, DOODLE)
    assert len(refused.value.message) < 200


def test_raw_bytes_are_no_file() -> None:
    with pytest.raises(InvalidImage, match="784 bytes that are no") as refused:
        from_file(bytes(784), DOODLE)
    assert "raw" not in refused.value.message


@pytest.mark.parametrize("colour", ["white", "red", "grey"])
def test_an_empty_drawing_is_refused(colour: str) -> None:
    with pytest.raises(InvalidImage, match="one tone"):
        from_bytes(encoded(Image.new("RGB", (100, 100), colour)), DOODLE)


@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00", b"Exif\x00\x00II*\x00" + b"\x08" * 40]
)
def test_damaged_exif_is_a_damaged_image_at_worst(exif: bytes) -> None:
    data = encoded(Image.new("RGB", (40, 40)), "JPEG", exif=exif)
    with suppress(InvalidImage):
        assert from_bytes(data, PHOTO).pixels.shape == (32, 32, 3)


@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 600))
def test_damaged_files_are_refused_or_read(junk: bytes, form: str, at: int) -> None:
    whole = encoded(Image.fromarray(noise(20, 20, 3)), form)
    try:
        decoded = from_bytes(whole[:at] + junk + whole[at + len(junk) :], PHOTO)
    except InvalidImage:
        return
    assert decoded.pixels.shape == (32, 32, 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
@pytest.mark.parametrize(
    ("form", "mode", "size"),
    [
        ("PNG", "I;16", (5_000, 5_000)),
        ("PNG", "RGBA", (5_000, 5_000)),
        ("PNG", "P", (5_000, 5_000)),
        ("PNG", "RGBA", (1_000_000, 25)),
        ("WEBP", "RGBA", (3_600, 3_600)),
        ("JPEG", "RGB", (6_300, 6_300)),
        ("JPEG", "RGB", (60_000, 660)),
    ],
)
def test_a_small_file_of_many_pixels_takes_little_memory(
    form: str, mode: str, size: tuple[int, int], tmp_path: Path
) -> None:
    options = {"exif": upside_down()} | ({"transparency": 0} if mode == "P" else {})
    (tmp_path / "file").write_bytes(encoded(Image.new(mode, size), form, **options))
    command = [sys.executable, "-c", OPEN_AND_TELL_MEMORY, str(tmp_path / "file")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    width, height, megabytes = (int(word) for word in told.split())
    assert max(width, height) == MAX_ORIGINAL_SIDE
    assert megabytes < 330


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P", "1"])
def test_a_large_image_is_shrunk_the_same_in_tiles_as_at_once(mode: str) -> None:
    coarse = Image.fromarray(noise(30, 43))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(coarse.resize((4_300, 3_002))).astype(np.uint16) * 257)
    else:
        picture = coarse.resize((4_300, 3_002)).convert(mode)
    expected = picture if mode != "I;16" else coarse.resize((4_300, 3_002))
    expected = expected.convert("L" if mode in ("LA", "I;16", "1") else "RGB")
    expected.thumbnail((MAX_ORIGINAL_SIDE, MAX_ORIGINAL_SIDE), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(open_image(encoded(picture))), np.asarray(expected))


# --- names and splits


def test_names_tell_mode_and_size_apart() -> None:
    flat = np.zeros(6 * 4 * 3, np.uint8)
    shapes = [(6, 12), (12, 6), (6, 4, 3), (4, 6, 3)]
    assert len({name_of(flat.reshape(shape)) for shape in shapes}) == 4


def test_a_name_does_not_depend_on_memory_layout() -> None:
    pixels = noise(28, 30)
    assert name_of(np.asfortranarray(pixels)) == name_of(pixels)
    assert name_of(pixels[:, ::-1][:, ::-1]) == name_of(pixels)


@given(st.binary(min_size=32, max_size=32))
def test_a_split_is_a_function_of_the_name(digest: bytes) -> None:
    assert split_of(digest.hex()) == split_of(digest.hex())
    assert split_of(digest.hex()) in ("train", "validation", "holdout")


def test_splits_are_about_80_10_10() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5_000, 4, 4), dtype=np.uint8)
    counts = Counter(split_of(name_of(p)) for p in pixels)
    assert counts["train"] == pytest.approx(4_000, abs=120)
    assert counts["validation"] == pytest.approx(500, abs=90)
    assert counts["holdout"] == pytest.approx(500, abs=90)


def test_fit_turns_grey_to_colour_and_back() -> None:
    grey = Image.fromarray(noise(32, 32))
    assert fit(grey, PHOTO).shape == PHOTO.shape
    assert fit(Image.fromarray(noise(28, 28, 3)), InputSpec("L", 28, 28)).shape == (28, 28)


def test_a_spec_knows_its_size() -> None:
    assert (DOODLE.size_bytes, PHOTO.size_bytes) == (784, 3072)
    assert as_mode("RGB") == "RGB"
    with pytest.raises(ValueError, match="CMYK"):
        as_mode("CMYK")


def with_chunks(png: bytes, kind: bytes, body: bytes, count: int) -> bytes:
    """Put in after the header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + count * chunk + png[33:]


TEXT_BOMB = b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9)
SMALL = encoded(Image.fromarray(noise(28, 28)))


@pytest.mark.parametrize(
    ("data", "spec", "is_at_once"),
    [
        ([bytes(784)], DOODLE, True),
        ([bytes(784)] * 64, DOODLE, True),
        ([noise(32, 32, 3).tobytes()] * 64, PHOTO, True),
        ([encode_png(noise(28, 28))] * 4, DOODLE, True),
        ([SMALL, bytes(784)], DOODLE, True),
        ([encoded(Image.fromarray(noise(32, 32, 3)))] * 4, PHOTO, True),
        ([with_chunks(SMALL, b"pHYs", bytes(9), 1)], DOODLE, True),
        ([SMALL] * 5, DOODLE, False),
        ([bytes(224 * 224 * 3)] * 2, InputSpec("RGB", 224, 224), False),
        ([encoded(Image.fromarray(noise(224, 224, 3)))], InputSpec("RGB", 224, 224), False),
        ([bytes(783)], DOODLE, False),
        ([encoded(Image.fromarray(noise(29, 29)))], DOODLE, False),
        ([encoded(Image.fromarray(noise(28, 28)), "JPEG")], DOODLE, False),
        ([with_chunks(SMALL, b"zTXt", TEXT_BOMB, 1)], DOODLE, False),
        ([with_chunks(SMALL, b"iCCP", TEXT_BOMB, 1)], DOODLE, False),
        ([with_chunks(SMALL, b"IDAT", b"", 40)], DOODLE, False),
        ([SMALL + bytes(3000)], DOODLE, False),
        ([SMALL[:24]], DOODLE, False),
        ([with_chunks(SMALL, b"IHDR", struct.pack(">IIBBBBB", 4960, 4960, 1, 0, 0, 0, 0), 1)], DOODLE, False),
    ],
)
def test_only_what_is_decoded_in_a_moment_is_decoded_where_it_came_in(
    data: list[bytes], spec: InputSpec, is_at_once: bool
) -> None:
    assert decode_at_once(data, spec) == is_at_once
