"""MLflow's scoring protocol for a model of one uint8 tensor, plus raw pixels.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#local-inference-server-spec

Takes what `mlflow models serve` takes for such a signature (tried against MLflow 3.17):

    {"inputs": [image, …]}   {"inputs": {"pixels": [image, …]}}
    {"instances": [image, …]}   {"instances": [{"pixels": image}, …]}
    {"dataframe_split": {"columns": ["pixels"], "data": [[flat image], …]}}
    {"dataframe_records": [{"pixels": flat image}, …]}

and `application/octet-stream`: the pixels themselves, uint8, N*H*W*C bytes in C order. On purpose stricter in
one thing: the stock server cuts fractions off, so that an image scaled to 0..1 becomes a blank one; here it
is a bad request. The answer is byte for byte the stock server's, or with `Accept: application/octet-stream` the
figures themselves: float32, N*C of them, little-endian.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from serving.errors import BadAnswer, BadRequest, UnsupportedContentType

RAW = "application/octet-stream"
INPUT = "pixels"
OUTPUT = "probabilities"

MOST_IMAGES = 256
# 256 photos of 32x32x3 as JSON are 4.5 MB.
MOST_BODY_BYTES = 5 * 1024 * 1024

Pixels = NDArray[np.uint8]
Shape = tuple[int, ...]


def parse(body: bytes, content_type: str, shape: Shape) -> Pixels:
    """The images of a request: (N, *shape) uint8, 1 <= N <= MOST_IMAGES. Raises BadRequest."""
    mime_type, _, parameters = content_type.partition(";")
    kind = mime_type.strip().lower()
    if kind == RAW:
        return _counted(_raw(body, shape))
    if kind == "application/json":
        if parameters.strip().lower().replace('"', "") not in ("", "charset=utf-8"):
            raise UnsupportedContentType("the scoring server only supports UTF-8")
        return _counted(_json(body, shape))
    raise UnsupportedContentType(
        "Content-Type must be application/json (MLflow's scoring protocol) or application/octet-stream (raw pixels)"
    )


def render(probabilities: NDArray[np.float32], *, raw: bool = False) -> bytes:
    """(N, C) float32 as the stock server writes it; raises BadAnswer when a figure is not finite.

    raw: the bytes, whatever they are. Who asks so checks each image's answer: a bad one costs no neighbour its own.
    """
    if raw:
        return probabilities.astype("<f4", copy=False).tobytes()
    if not np.isfinite(probabilities).all():
        raise BadAnswer(
            "the model answered with figures that are not finite; nothing is wrong with the request"
        )
    return json.dumps({"predictions": {OUTPUT: probabilities.tolist()}}).encode()


def parse_payload(payload: object, shape: Shape) -> Pixels:
    """The images of a decoded JSON body. Raises BadRequest."""
    if not isinstance(payload, dict):
        raise BadRequest(f"{_ONE_FIELD}; received a {_json_type(payload)}")
    fields = [field for field in _FIELDS if field in payload]
    if len(fields) != 1:
        raise BadRequest(f"{_ONE_FIELD}; received {len(fields)} of them")
    return _FIELDS[fields[0]](payload[fields[0]], shape)


def _raw(body: bytes, shape: Shape) -> Pixels:
    image_bytes = math.prod(shape)
    if len(body) % image_bytes:
        raise BadRequest(
            f"{len(body)} bytes are no whole number of images of {_sized(shape)} = {image_bytes} bytes"
        )
    return np.frombuffer(body, np.uint8).reshape(-1, *shape)


def _json(body: bytes, shape: Shape) -> Pixels:
    # Counted before parsing: "[],[],[],…" takes 25 times its size in memory. A pixel has one comma, a record few.
    if body.count(b",") > MOST_IMAGES * (math.prod(shape) + 8):
        raise BadRequest(
            f"a request takes 1 to {MOST_IMAGES} images of {_sized(shape)}; this has more values"
        )
    try:
        payload = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"the body is not valid JSON: {_without_content(exc)}") from exc
    return parse_payload(payload, shape)


def _inputs(value: object, shape: Shape) -> Pixels:
    return _tensor(_column(value) if isinstance(value, dict) else value, shape)


def _instances(value: object, shape: Shape) -> Pixels:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = [_column(row) for row in value]
    return _tensor(value, shape)


def _dataframe_split(value: object, shape: Shape) -> Pixels:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise BadRequest('"dataframe_split" must be an object with "columns" and "data"')
    if value.get("columns") != [INPUT]:
        raise BadRequest(f'"columns" must be ["{INPUT}"], each cell one flat list of an image\'s pixels')
    rows = value["data"]
    if not all(isinstance(row, list) and len(row) == 1 for row in rows):
        raise BadRequest('each row of "data" must have one cell')
    return _flat([row[0] for row in rows], shape)


def _dataframe_records(value: object, shape: Shape) -> Pixels:
    if not isinstance(value, list):
        raise BadRequest('"dataframe_records" must be a list of records')
    return _flat([_column(row) for row in value], shape)


_FIELDS: dict[str, Callable[[object, Shape], Pixels]] = {
    "inputs": _inputs,
    "instances": _instances,
    "dataframe_split": _dataframe_split,
    "dataframe_records": _dataframe_records,
}
_ONE_FIELD = f"the body must be a JSON object with exactly one of {', '.join(_FIELDS)}"


def _column(row: object) -> object:
    if not isinstance(row, dict) or INPUT not in row:
        raise BadRequest(f'named input must be an object with "{INPUT}"')
    return row[INPUT]


def _tensor(value: object, shape: Shape) -> Pixels:
    pixels = _numbers(value)
    if pixels.shape[1:] != shape:
        raise BadRequest(f"images must be {_sized(shape)} each, as (N, {_sized(shape)}); got {pixels.shape}")
    return _bytes(pixels)


def _flat(rows: list[Any], shape: Shape) -> Pixels:
    pixels = _numbers(rows)
    if pixels.shape[1:] != (math.prod(shape),):
        raise BadRequest(f"each cell must be one flat list of {math.prod(shape)} pixels")
    return _bytes(pixels).reshape(-1, *shape)


def _numbers(value: object) -> NDArray[np.float64]:
    if not isinstance(value, list):
        raise BadRequest(f"expected a list of images, got a {_json_type(value)}")
    try:
        # A fixed dtype: left to guess, one long string among many would make them all that long.
        return np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise BadRequest("the images must be lists of numbers, all of one size") from exc


def _bytes(pixels: NDArray[np.float64]) -> Pixels:
    # NaN compares false, so it fails here too.
    if not ((pixels >= 0) & (pixels <= 255) & (np.floor(pixels) == pixels)).all():
        raise BadRequest("pixels must be whole numbers from 0 to 255")
    return pixels.astype(np.uint8)


def _counted(pixels: Pixels) -> Pixels:
    if not 1 <= len(pixels) <= MOST_IMAGES:
        raise BadRequest(f"a request takes 1 to {MOST_IMAGES} images, got {len(pixels)}")
    return pixels


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_content(exc: Exception) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg} at character {exc.pos}"
    if isinstance(exc, UnicodeDecodeError):
        return "not UTF-8"
    return "too deeply nested" if isinstance(exc, RecursionError) else "a number that is not one"


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _sized(shape: Shape) -> str:
    return "x".join(str(side) for side in shape)
