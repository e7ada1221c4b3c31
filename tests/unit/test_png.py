"""Which PNG files hold nothing but the pixels that the model saw, and so go to the history as they came."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.images import InputSpec, decode_png, encode_png, from_bytes
from core.png import SIGNATURE

DOODLE = InputSpec("L", 28, 28, drawing=True)
PHOTO = InputSpec("RGB", 32, 32)
HEAD = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)

LARGE_HEAD = struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes = b"", checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", found)


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks)


ROWS = bytes(32 * (1 + 3 * 32))
DATA = chunk(b"IDAT", zlib.compress(ROWS))
END = chunk(b"IEND")


@pytest.mark.parametrize(
    ("data", "spec"),
    [
        (encoded(noise(32, 32, 3)), PHOTO),
        (encoded(np.zeros((32, 32, 3), np.uint8), optimize=True), PHOTO),
        (encode_png(noise(28, 28) // 2), DOODLE),
        (png(chunk(b"IHDR", HEAD), DATA, END), PHOTO),
        (png(chunk(b"IHDR", HEAD), chunk(b"IDAT", DATA[8:20]), chunk(b"IDAT", DATA[20:-4]), END), PHOTO),
    ],
)
def test_a_file_of_nothing_but_the_pixels_is_kept(data: bytes, spec: InputSpec) -> None:
    decoded = from_bytes(data, spec)
    assert decoded.png == data
    assert np.array_equal(decode_png(data), decoded.pixels)


def hiding(secret: bytes) -> Sequence[tuple[str, bytes]]:
    """Ways to have it in a file that Pillow reads."""
    head = chunk(b"IHDR", HEAD)
    return [
        ("a text", png(head, chunk(b"tEXt", b"Comment\0" + secret), DATA, END)),
        ("EXIF", png(head, chunk(b"eXIf", Image.Exif().tobytes() + secret), DATA, END)),
        ("a kind of its own", png(head, chunk(b"prVt", secret), DATA, END)),
        ("behind the rows", png(head, chunk(b"IDAT", zlib.compress(ROWS + secret)), END)),
        ("behind the stream", png(head, chunk(b"IDAT", zlib.compress(ROWS) + secret), END)),
        ("in a chunk behind the stream", png(head, DATA, chunk(b"IDAT", secret), END)),
        ("in the end", png(head, DATA, chunk(b"IEND", secret))),
        ("behind the end", png(head, DATA, END) + secret),
        ("in a chunk behind the end", png(head, DATA, END, chunk(b"IDAT", secret), END)),
        ("in the header", png(chunk(b"IHDR", HEAD + secret), DATA, END)),
        ("in a checksum", png(head, chunk(b"IDAT", DATA[8:-4], 0x73656372), END)),
    ]


@pytest.mark.parametrize(("where", "data"), hiding(b"<script>"))
def test_a_file_that_hides_something_is_not_kept(where: str, data: bytes) -> None:
    decoded = from_bytes(data, PHOTO)
    assert decoded.png is None
    assert not decoded.pixels.any()


@pytest.mark.parametrize(
    ("data", "spec"),
    [
        (encoded(255 - noise(28, 28) // 4), DOODLE),  # on light paper: the model sees it turned
        (encoded(noise(33, 32, 3)), PHOTO),
        (encoded(noise(32, 32)), PHOTO),
        (encoded(noise(32, 32, 4)), PHOTO),
        (encoded(noise(32, 32, 3), "JPEG"), PHOTO),
        (encoded(noise(32, 32, 3), "WEBP", lossless=True), PHOTO),
        (noise(32, 32, 3).tobytes(), PHOTO),
        # What decoders read in more than one way.
        (png(chunk(b"IHDR", HEAD), chunk(b"IHDR", HEAD), DATA, END), PHOTO),
        (
            png(
                chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)),
                chunk(b"IHDR", HEAD),
                DATA,
                END,
            ),
            PHOTO,
        ),
    ],
)
def test_what_is_not_the_pixels_as_they_are_is_not_kept(data: bytes, spec: InputSpec) -> None:
    assert from_bytes(data, spec).png is None
