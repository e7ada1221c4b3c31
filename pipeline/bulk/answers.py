"""What was answered, a row a file: as Parquet or CSV, written as it comes, named when it is whole.

Until then it is `<name>.partial.<suffix>`. What was written so far stays there when the work is broken off, and can be
read.
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import BinaryIO, Protocol

from core.errors import EmendError

ROW_GROUP_ROWS = 8_192
ROW_GROUP_BYTES = 16_000_000  # of text: with 1,000 categories a row has some 20,000


@dataclass(frozen=True)
class Row:
    """file: see `readable`. version: None also when a stock model server answers. probabilities: JSON."""

    file: str
    label: str | None
    confidence: float | None
    version: int | None
    prediction_id: str | None
    error: str | None
    probabilities: str | None


COLUMNS = tuple(field.name for field in fields(Row))


class CannotWrite(EmendError):
    code = "cannot_write"


class Writer(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class Csv:
    """RFC 4180, in UTF-8, with a heading."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._write([COLUMNS])

    def write(self, rows: Sequence[Row]) -> None:
        self._write([astuple(row) for row in rows])

    def _write(self, lines: Sequence[tuple[object, ...]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows(lines)
        self._file.write(text.getvalue().encode())
        self._file.flush()

    def close(self) -> None:
        self._file.flush()


class Parquet:
    """In row groups, each held in memory until it is full."""

    def __init__(self, file: BinaryIO) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"confidence": pa.float64(), "version": pa.int32()}
        self._schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[Row] = []
        self._size_bytes = 0

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.append(row)
            self._size_bytes += len(row.file) + len(row.probabilities or "") + len(row.error or "")
            if len(self._rows) >= ROW_GROUP_ROWS or self._size_bytes >= ROW_GROUP_BYTES:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        columns = zip(*map(astuple, self._rows), strict=True)
        arrays = [pa.array(c, kind) for c, kind in zip(columns, self._schema.types, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._size_bytes = [], 0

    def close(self) -> None:
        if self._rows:
            self._write_group()
        self._writer.close()


FORMATS: dict[str, Callable[[BinaryIO], Writer]] = {".parquet": Parquet, ".csv": Csv}


def partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class Output:
    """A writer that tells where it could not write. Raises CannotWrite; BrokenPipeError stays one, as of any program.

    rows: how many were written.
    """

    def __init__(self, where: object, make: Callable[[], Writer]) -> None:
        self.rows = 0
        self._where = where
        with told(where):
            self._writer = make()

    def write(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        with told(self._where):
            self._writer.write(rows)

    def close(self) -> None:
        with told(self._where):
            self._writer.close()


@contextmanager
def told(where: object) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever read it has enough
        raise
    except OSError as exc:
        raise CannotWrite(f"cannot write {where}: {exc.strerror or exc}") from exc


@contextmanager
def writing(path: Path, *, replace: bool) -> Iterator[Output]:
    """Renamed to `path` when the block ends well. Else `partial(path)` stays, unless nothing was written.

    replace: what lies there from before. Raises CannotWrite, also for what lies there otherwise.
    """
    unfinished = partial(path)
    with told(path):
        if not replace and path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        file = unfinished.open("wb" if replace else "xb")
    output = None
    try:
        output = Output(path, lambda: FORMATS[path.suffix.lower()](file))
        try:
            yield output
        finally:
            output.close()
        with told(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            unfinished.replace(path)
    except BaseException:
        with suppress(OSError):  # it is told already
            file.close()
        if output is None or output.rows == 0:
            unfinished.unlink(missing_ok=True)
        raise


def readable(path: str) -> str:
    """A path as text: bytes of it that are no UTF-8 as \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
