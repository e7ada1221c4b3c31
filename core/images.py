"""Images: hostile bytes in, checked pixels out; their names and their split.

An image is named by the SHA-256 of mode, size and raw pixels as the model sees it, never of an encoder's
bytes, so one drawing saved as PNG or WebP is one image. `fit` is the only function that resizes.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from core.errors import InvalidImage
from core.png import chunks, holds_pixels_alone, size_of, write_grey

Pixels = NDArray[np.uint8]  # (H, W) for mode L, (H, W, 3) for mode RGB
Split = Literal["train", "validation", "holdout"]

# A phone's photo passes, a decompression bomb does not: decoding takes up to 300 MB at any of these. JPEG is shrunk
# while it is decoded, PNG takes 4 bytes a pixel, libwebp and Pillow together 20.
MAX_MEGAPIXELS = {"JPEG": 40, "PNG": 25, "WEBP": 13}
MAX_ORIGINAL_SIDE = 1024
PLAIN_PNG_PIXELS = 4096
# What is decoded where it came in; all else in a thread.
MOST_BYTES_AT_ONCE = 200_000  # of pixels: 64 raw photos of 32x32
MOST_FILES_AT_ONCE = 4  # 0.15 ms each
MOST_FILE_BYTES_AT_ONCE = 16_384
MOST_CHUNKS_AT_ONCE = 16
# Texts and colour profiles are not among them: a kilobyte of those unpacks to a megabyte.
PLAIN_CHUNKS = frozenset(
    (
        b"IHDR",
        b"PLTE",
        b"tRNS",
        b"IDAT",
        b"IEND",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"sBIT",
        b"bKGD",
        b"pHYs",
        b"tIME",
    )
)
FORMATS = tuple(
    # Named by their plugins: importing these three spares the first image Pillow's search through all of them.
    plugin.format
    for plugin in (PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile, WebPImagePlugin.WebPImageFile)
)


@dataclass(frozen=True)
class InputSpec:
    """What a model sees. mode: "L" (grey) or "RGB". drawing: ink on paper, see `_as_drawing`."""

    mode: Literal["L", "RGB"]
    width: int
    height: int
    drawing: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height, self.width) if self.mode == "L" else (self.height, self.width, 3)

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Decoded:
    """pixels: as the model sees it. original: the decoded upload (at most 1024 px), None when it is the same.

    png: the pixels as the file that came, when it holds nothing else.
    """

    pixels: Pixels
    original: Image.Image | None
    sha256: str
    png: bytes | None = None


def from_bytes(data: bytes, spec: InputSpec) -> Decoded:
    """Raw pixels when the length is exactly the model's input, else a PNG, JPEG or WebP file.

    Raises InvalidImage, which says what is wrong and never repeats the bytes.
    """
    if len(data) == spec.size_bytes and not looks_encoded(data):
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(spec.shape)
        return Decoded(pixels, None, name_of(pixels))
    return _decoded(data, open_image(data, spec), spec)


def decode_at_once(data: Sequence[bytes], spec: InputSpec) -> bool:
    """Whether `from_bytes` of all of them is done in about a millisecond, less than handing it to a thread would hold
    everybody up: raw pixels, and a few small plain PNG files of the model's size."""
    if len(data) == 1 and not looks_encoded(data[0]):  # by far the most
        return len(data[0]) == spec.size_bytes <= MOST_BYTES_AT_ONCE
    encoded = [each for each in data if looks_encoded(each)]
    return (
        len(data) * spec.size_bytes <= MOST_BYTES_AT_ONCE
        and len(encoded) <= MOST_FILES_AT_ONCE
        and len(encoded) * spec.size_bytes <= MOST_FILE_BYTES_AT_ONCE
        and all(len(each) == spec.size_bytes or each in encoded for each in data)
        and all(_is_small_and_plain(each, spec) for each in encoded)
    )


def _is_small_and_plain(data: bytes, spec: InputSpec) -> bool:
    """A PNG of the model's size in few bytes and chunks, none of which unpacks to more than the image."""
    if len(data) > 2 * spec.size_bytes + 1024:
        return False
    found = chunks(data, MOST_CHUNKS_AT_ONCE)
    return (
        found is not None
        and size_of(found[0][1]) == (spec.width, spec.height)
        and PLAIN_CHUNKS.issuperset(kind for kind, _ in found)
    )


def from_file(data: bytes, spec: InputSpec) -> Decoded:
    """A PNG, JPEG or WebP file. Raises InvalidImage."""
    return _decoded(data, open_image(data), spec)


def _decoded(data: bytes, original: Image.Image, spec: InputSpec) -> Decoded:
    pixels = fit(original, spec)
    same = _is_as_seen(original, spec)
    png = data if same and holds_pixels_alone(data, spec.mode, spec.width, spec.height) else None
    return Decoded(pixels, None if same else original, name_of(pixels), png)


def open_image(data: bytes, raw: InputSpec | None = None) -> Image.Image:
    """Decodes, applies EXIF orientation, strips metadata; mode L or RGB, longest side at most 1024 px.

    raw: what would have been taken as raw pixels too, for the advice when it is no image.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image)
        if image.format == "JPEG":  # decodes at a fraction of the cost when it will be shrunk anyway
            image.draft("RGB" if image.mode == "RGB" else None, (MAX_ORIGINAL_SIDE, MAX_ORIGINAL_SIDE))
        image.load()
        is_plain = image.mode in ("L", "RGB") and not image.info and max(image.size) <= MAX_ORIGINAL_SIDE
        plain = image.copy() if is_plain else ImageOps.exif_transpose(_flatten(image))
    except UnidentifiedImageError as exc:
        raise InvalidImage(_not_an_image(data, raw)) from exc
    # Pillow itself warns from 89 megapixels and raises from 179, both before it decodes.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise InvalidImage(
            f"image has more than {max(MAX_MEGAPIXELS.values())} megapixels; send a smaller one"
        ) from exc
    except InvalidImage:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others on damaged files.
    except Exception as exc:
        raise InvalidImage("image file is damaged or cut off; send the whole file") from exc
    plain.thumbnail((MAX_ORIGINAL_SIDE, MAX_ORIGINAL_SIDE), Image.Resampling.LANCZOS)
    plain.info = {}
    return plain


def fit(image: Image.Image, spec: InputSpec) -> Pixels:
    """The image as the model sees it: uint8 of `spec.shape`.

    Photos are cropped to the middle at the model's aspect, then area-averaged down. Drawings are turned to
    light ink on dark paper, cropped to their ink, and centred as the data set's own bitmaps are.
    """
    converted = image if image.mode == spec.mode else image.convert(spec.mode)
    if _is_as_seen(converted, spec):
        return np.asarray(converted, dtype=np.uint8)
    if spec.drawing:
        return _as_drawing(converted, spec)
    fitted = ImageOps.fit(converted, (spec.width, spec.height), method=Image.Resampling.BOX)
    return np.asarray(fitted, dtype=np.uint8)


def _is_as_seen(image: Image.Image, spec: InputSpec) -> bool:
    is_of_size = (image.mode, image.size) == (spec.mode, (spec.width, spec.height))
    return is_of_size and not (spec.drawing and _light_background(image))


def name_of(pixels: Pixels) -> str:
    """SHA-256, as 64 hex digits, over mode, size and raw pixels."""
    mode = "L" if pixels.ndim == 2 else "RGB"
    head = f"{mode} {pixels.shape[1]}x{pixels.shape[0]}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


NEAR_DUPLICATE = "nearly the same as image"  # how the reason begins of what `merge` keeps out of training


def split_of(sha256: str) -> Split:
    """80 % train, 10 % validation, 10 % holdout: a function of the name alone, so nothing ever crosses over."""
    bucket = int(sha256[:8], 16) % 10
    return "holdout" if bucket == 0 else "validation" if bucket == 1 else "train"


def encode_png(pixels: Pixels | Image.Image) -> bytes:
    if isinstance(pixels, np.ndarray) and pixels.ndim == 2 and pixels.size <= PLAIN_PNG_PIXELS:
        return write_grey(pixels)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # level 6 is 3 times slower for 5 % fewer bytes
    return buffer.getvalue()


def decode_png(data: bytes) -> Pixels:
    """Our own files, and uploads that hold such pixels alone; any other upload goes through `from_bytes`."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image, dtype=np.uint8)


def looks_encoded(data: bytes) -> bool:
    return data.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff")) or (
        data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    )


def _not_an_image(data: bytes, raw: InputSpec | None) -> str:
    said = f"{len(data)} bytes that are no PNG, JPEG or WebP image"
    if raw is None:
        return said
    return f"{said}; send one of these, or {raw.size_bytes} raw bytes ({raw.width}x{raw.height})"


def _check_size(image: Image.Image) -> None:
    limit = MAX_MEGAPIXELS[str(image.format)]
    if image.width * image.height > limit * 10**6:
        raise InvalidImage(
            f"{image.format} image is {image.width}x{image.height}, more than {limit} megapixels; send a smaller one"
        )


def _flatten(image: Image.Image) -> Image.Image:
    """L or RGB, shrunk by a whole number to at least twice MAX_ORIGINAL_SIDE; transparency becomes white paper.

    In tiles: conversions of the whole would hold it several times over.
    """
    factor = max(1, max(image.size) // (2 * MAX_ORIGINAL_SIDE))
    side = factor * max(1, MAX_ORIGINAL_SIDE // factor)
    tiles = (
        (x, y, min(x + side, image.width), min(y + side, image.height))
        for y in range(0, image.height, side)
        for x in range(0, image.width, side)
    )
    flat: Image.Image | None = None
    for box in tiles:
        tile = _flatten_tile(image.crop(box)).reduce(factor)
        if flat is None:
            flat = Image.new(tile.mode, (-(-image.width // factor), -(-image.height // factor)))
            flat.info = dict(image.info)  # the orientation is in there
        flat.paste(tile, (box[0] // factor, box[1] // factor))
    assert flat is not None  # no format has images without pixels
    return flat


def _flatten_tile(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, (255, 255, 255))
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat.convert("L") if image.mode in ("LA", "La") else flat
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def _light_background(image: Image.Image) -> bool:
    """True when the border's median is light: dark ink on paper."""
    a = np.asarray(image)
    border = np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]])
    return bool(np.median(border) > 127)


def _as_drawing(grey: Image.Image, spec: InputSpec) -> Pixels:
    """Inverted if light, cropped to its ink, longer side scaled to 26 of 28 pixels, centred."""
    ink = ImageOps.invert(grey) if _light_background(grey) else grey
    darkest, lightest = ink.getextrema()
    ink = ImageOps.autocontrast(ink, cutoff=(1, 0))
    mask = ink.point([0] * 64 + [255] * 192)
    box = mask.getbbox()
    if box is None or darkest == lightest:  # a sheet of one colour is no square of ink
        raise InvalidImage("image shows no drawing: it is all one tone")
    cropped = ink.crop(box)
    longest = round(max(spec.width, spec.height) * 26 / 28)
    ratio = longest / max(cropped.size)
    size = (max(1, round(cropped.width * ratio)), max(1, round(cropped.height * ratio)))
    scaled = _thicken(cropped, ratio, spec).resize(
        size, Image.Resampling.BOX if ratio < 1 else Image.Resampling.BICUBIC
    )
    paper = Image.new("L", (spec.width, spec.height), 0)
    paper.paste(scaled, ((spec.width - size[0]) // 2, (spec.height - size[1]) // 2))
    return np.asarray(paper, dtype=np.uint8)


def _thicken(drawing: Image.Image, ratio: float, spec: InputSpec) -> Image.Image:
    """Thin lines would fade when shrunk: spread them to about the 1.5 pixels the data set's lines have."""
    from PIL import ImageFilter

    reach = int(1.0 / ratio) if ratio < 0.5 else 0
    covered = float((np.asarray(drawing) > 63).mean())
    if reach < 2 or covered > 0.2:
        return drawing
    return drawing.filter(ImageFilter.MaxFilter(min(reach, 9) // 2 * 2 + 1))


def as_mode(value: str) -> Literal["L", "RGB"]:
    if value not in ("L", "RGB"):
        raise ValueError(f"mode {value!r} is neither L nor RGB")
    return cast(Literal["L", "RGB"], value)
