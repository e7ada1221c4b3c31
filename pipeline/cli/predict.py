"""`emend predict`: what the live version says of image files, however many there are."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from core.settings import settings
from pipeline import cli
from pipeline.bulk import IMAGES_A_REQUEST, MOST_IMAGES

if TYPE_CHECKING:
    from pipeline.bulk.answers import Row, Writer
    from pipeline.bulk.files import Found
    from pipeline.bulk.questions import Asked

LINES_SHOWN = 20
LABELS_SHOWN = 10
ERRORS_NAMED = 5
STANDARD_OUTPUT = "-"


Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|DIR",
        exists=True,
        readable=False,
        help="PNG, JPEG and WebP files, and folders of them.",
    ),
]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, help="This version instead of the live one.")
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE.parquet|FILE.csv|-",
        help="Where the answers go; - is standard output, as CSV.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Recursive = Annotated[bool, typer.Option("--recursive/--no-recursive", help="Also folders in folders.")]
BatchOption = Annotated[
    int, typer.Option("--batch", min=1, max=MOST_IMAGES, help="How many images are sent in one request.")
]
Record = Annotated[
    bool, typer.Option("--record/--draft", help="Keep the answers in the history, as if people had asked.")
]


@dataclass
class Tally:
    """What was answered so far. first: the first lines, and the first errors."""

    began: float = field(default_factory=time.monotonic)
    answered: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    versions: set[int | None] = field(default_factory=set)
    first: list[Row] = field(default_factory=list)
    first_errors: list[Row] = field(default_factory=list)
    errors: int = 0

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if len(self.first) < LINES_SHOWN:
                self.first.append(row)
            if row.label is None:
                self.errors += 1
                if len(self.first_errors) < ERRORS_NAMED:
                    self.first_errors.append(row)
            else:
                self.answered += 1
                self.labels[row.label] += 1
                self.versions.add(row.version)

    @property
    def files(self) -> int:
        return self.answered + self.errors

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        return self.files / max(self.seconds, 1e-3)


@cli.app.command()
def predict(
    paths: Paths,
    model: cli.ModelOption = "doodles",
    version: VersionOption = None,
    output: OutputOption = None,
    force: Force = False,
    recursive: Recursive = True,
    batch: BatchOption = IMAGES_A_REQUEST,
    record: Record = False,
) -> None:
    """Ask the running gateway about image files: any number of them.

    One line a file: file, label, confidence, version, prediction_id, error, probabilities (JSON). A file that cannot
    be answered has its error there and stops nothing. Without --output the first lines and a summary are shown.

    Ends with 0 when every file was answered, 1 when some were not, 2 for wrong usage.

    Example: emend predict ~/pictures --model photos --output answers.parquet
    """
    from pipeline.bulk.questions import Asked

    if record and version is not None:
        raise typer.BadParameter(
            "only answers of the live version can be kept; leave out --version", param_hint="--record"
        )
    path = None if output in (None, STANDARD_OUTPUT) else _checked(Path(output or ""), force)
    tally = Tally()
    with _broken_off(path, tally), _destination(path, output, force) as writer:
        asked = Asked(model, version, record)
        _ask([os.fspath(each) for each in paths], asked, batch, recursive, path, writer, tally)
    _report(tally, path, output, model)
    if tally.errors:
        raise typer.Exit(1)


@contextmanager
def _broken_off(path: Path | None, tally: Tally) -> Iterator[None]:
    """Whatever ends the work before its end, it is told what is kept of it. Raises Exit, NotAnswered, CannotWrite."""
    from pipeline.bulk.answers import CannotWrite
    from pipeline.bulk.questions import NotAnswered

    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError) as exc:
        cli.say(f"stopped. {_so_far(path, tally)}")
        raise typer.Exit(130 if isinstance(exc, KeyboardInterrupt) else 143) from None
    except NotAnswered as exc:
        raise NotAnswered(f"{exc.message}. {_so_far(path, tally)}" if tally.files else exc.message) from exc
    except CannotWrite as exc:
        raise CannotWrite(f"{exc.message}. {_so_far(path, tally)}") from exc


def _checked(path: Path, force: bool) -> Path:
    """Raises BadParameter for what cannot be an output."""
    from pipeline.bulk.answers import FORMATS, partial

    def refused(why: str) -> typer.BadParameter:
        return typer.BadParameter(why, param_hint="--output")

    if path.suffix.lower() not in FORMATS:
        raise refused(f"'{path}' ends neither in .parquet nor in .csv")
    if not path.parent.is_dir():
        raise refused(f"there is no folder '{path.parent}'")
    if path.is_dir():
        raise refused(f"'{path}' is a folder")
    if path.exists() and not force:
        raise refused(f"'{path}' exists; --force replaces it")
    if partial(path).exists() and not force:
        raise refused(
            f"'{partial(path)}' is there, of one that was broken off or is still at work; --force replaces it"
        )
    return path


def _destination(path: Path | None, output: str | None, force: bool) -> AbstractContextManager[Writer | None]:
    from pipeline.bulk.answers import Csv, Output, writing

    if path is not None:
        return writing(path, replace=force)
    if output == STANDARD_OUTPUT:
        return nullcontext(Output("standard output", lambda: Csv(sys.stdout.buffer)))
    return nullcontext(None)


def _ask(
    named: list[str],
    asked: Asked,
    images_a_request: int,
    recursive: bool,
    path: Path | None,
    writer: Writer | None,
    tally: Tally,
) -> None:
    from pipeline.bulk.files import batches, walk
    from pipeline.bulk.questions import BYTES_BESIDE_IMAGES, ask_all

    def found() -> Iterator[Found]:
        return walk(named, recursive=recursive, leave_out=_own_files(path))

    said: list[str] = []

    def waiting(why: str) -> None:
        if said[-1:] != [why]:
            said[:] = [why]
            cli.say(f"waiting for the gateway: {why}")

    most_bytes = settings().max_body_bytes - BYTES_BESIDE_IMAGES
    with _progress(found) as progress:

        def take(rows: list[Row]) -> None:
            if writer is not None:
                writer.write(rows)
            tally.add(rows)
            progress(tally)

        todo = batches(found(), images_a_request, most_bytes)
        asyncio.run(ask_all(settings().api_url, todo, asked, images_a_request, take=take, waiting=waiting))


def _own_files(path: Path | None) -> set[tuple[int, int]]:
    """What is being written, and what it replaces: they may lie in a folder that is asked about."""
    from pipeline.bulk.answers import partial

    own = set()
    for each in () if path is None else (path, partial(path)):
        with suppress(OSError):
            own.add((each.stat().st_dev, each.stat().st_ino))
    return own


@contextmanager
def _progress(found: Callable[[], Iterator[Found]]) -> Iterator[Callable[[Tally], None]]:
    """On a terminal, with how many there are as soon as they are counted; nothing elsewhere."""
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    if cli.err.width >= 80:
        columns = [SpinnerColumn(), BarColumn(20), *columns[1:], TimeRemainingColumn()]
    ended = threading.Event()
    with Progress(*columns, console=cli.err, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("files", total=None, note="")

        def count() -> None:
            total = 0
            for _ in found():
                total += 1
                if ended.is_set():
                    return
            bars.update(task, total=total)

        if not bars.disable:
            threading.Thread(target=count, daemon=True).start()

        def progress(tally: Tally) -> None:
            not_answered = f", {tally.errors:,} not answered" if tally.errors else ""
            bars.update(task, completed=tally.files, note=f"{tally.rate:,.0f} a second{not_answered}")

        try:
            yield progress
        finally:
            ended.set()


def _so_far(path: Path | None, tally: Tally) -> str:
    """What is kept of work that was broken off."""
    from pipeline.bulk.answers import partial

    lines = cli.counted(tally.files, "file")
    if path is None:
        return f"Answered so far: {lines}"
    if tally.files == 0:
        return "Nothing was written"
    return f"What was answered so far, {lines}, is in {partial(path)}"


def _report(tally: Tally, path: Path | None, output: str | None, model: str) -> None:
    console = cli.err if output == STANDARD_OUTPUT else cli.out
    if output is None and tally.files:
        console.print(_first_lines(tally))
        console.print()
    for row in tally.first_errors:
        said = f"{_shown(row.file)}: {_shown(row.error or '')}"
        cli.err.print(f"[yellow]not answered[/yellow] {said}", soft_wrap=True)
    if tally.errors > len(tally.first_errors):
        told = (
            "; with --output the column error says why" if output is None else "; the column error says why"
        )
        cli.err.print(f"… and {tally.errors - len(tally.first_errors):,} more{told}")
    for line in _summary(tally, path, model):
        console.print(line, soft_wrap=True)


def _first_lines(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("label", "confidence", "version"):
        table.add_column(heading, overflow="fold", justify="left" if heading == "label" else "right")
    for row in tally.first:
        if row.label is None:
            table.add_row(_shown(row.file), "[yellow]not answered[/yellow]")
        else:
            version = "-" if row.version is None else str(row.version)
            table.add_row(_shown(row.file), _shown(row.label), cli.percent(row.confidence), version)
    return table


def _summary(tally: Tally, path: Path | None, model: str) -> Iterator[str]:
    if not tally.files:
        yield "there are no files to ask about; hidden ones are passed over"
        return
    if tally.labels:
        most = tally.labels.most_common(LABELS_SHOWN)
        more = len(tally.labels) - len(most)
        yield ", ".join(f"{_shown(label)} {count:,}" for label, count in most) + (
            f" and {cli.counted(more, 'more label')}" if more else ""
        )
    versions = ", ".join(sorted(str(version) for version in tally.versions if version is not None))
    by = f" by {escape(model)} version {versions}" if versions else ""
    where = f"; {_shown(str(path))}" if path is not None else ""
    files = "file" if tally.files == 1 else "files"
    yield (
        f"{tally.answered:,} of {tally.files:,} {files} answered{by}, {tally.seconds:.1f} s, "
        f"{tally.rate:,.0f} a second{where}"
    )


def _shown(text: str) -> str:
    """On a terminal: a file's name may hold line breaks and colours."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
