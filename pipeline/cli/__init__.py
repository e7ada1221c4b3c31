"""The `emend` command line. It talks to the database and the homes directly, like the services do; what puts a version
live or tries it out asks the model server too, and `emend predict` the gateway alone.

A file a subject; here is what they share. Heavy imports stand inside the commands, so that `emend --help` is quick.

Exit codes: 0 done; 1 it failed, and why is on standard error; 2 wrong usage; 3 the run was halted (too little
new data); 4 the gate rejected the new version; 5 the run was interrupted or cancelled.
"""

from __future__ import annotations

import getpass
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from core import __version__
from core.errors import EmendError
from core.redaction import redacted
from core.settings import settings

app: typer.Typer = typer.Typer(
    name="emend",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # as markdown, "<category>/<image>" would lose its words
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# In a pipe or a file there is no width to fit into: tables are not cut.
out: Console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err: Console = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Which model.", envvar="EMEND_DEFAULT_MODEL")]
RunId = Annotated[int, typer.Argument(metavar="RUN", help="The run's number, as `emend runs` shows it.")]

Shown = tuple[str, Callable[[dict[str, Any]], str]]  # its heading, and what it shows of a row


def main() -> None:
    """The console script: errors on purpose are one line, not a traceback."""
    _log_warnings_only()
    try:
        app()
    except EmendError as exc:
        err.print(f"[red]error:[/red] {escape(redacted(exc.message))}", soft_wrap=True, markup=True)
        raise SystemExit(1) from exc


def _log_warnings_only() -> None:
    """On standard error; a command says itself what it did."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print Emend's version.")
    ] = False,
) -> None:
    """An image classifier that gets better from its users' corrections."""


def say(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        err.print(line, soft_wrap=True, markup=False)


def who() -> str:
    return f"{getpass.getuser()} (emend)"


@contextmanager
def counting(what: str) -> Iterator[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    with Progress(console=err, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task(what, total=None)

        def progress(done: int) -> None:
            bars.update(task, completed=done)

        yield progress


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(columns: list[Shown], rows: list[dict[str, Any]]) -> Table:
    """Only what people wrote is broken into lines, and nothing is cut."""
    made = Table(box=None, pad_edge=False)
    for heading, _ in columns:
        whole = heading not in ("model", "label", "by", "what", "why")
        most = 16 if heading == "model" and narrow() else None
        made.add_column(heading, no_wrap=whole, overflow="fold", max_width=most)
    for row in rows:
        made.add_row(*(shown(row) for _, shown in columns))
    return made


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say_who_waits_for_a_person(model: str, number: int) -> None:
    """number: of its corrections, set aside by runs."""
    if number:
        out.print(
            f"{counted(number, 'correction')} of {escape(model)} {'waits' if number == 1 else 'wait'} for a person to "
            f"decide: {escape(settings().viewer_url)}/corrections, or `emend corrections --status quarantined --model "
            f"{escape(model)}`"
        )


def narrow() -> bool:
    """Too narrow for every column of the long lists."""
    return out.width < 110


def when(moment: str) -> str:
    """moment: ISO 8601 in UTC."""
    return (moment[5:16] if narrow() else moment[:19]).replace("T", " ")


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


# In the order of `emend --help`. Here at the end, since each of them takes from above what it shares.
for subject in ("start", "upkeep", "predict", "runs", "versions", "corrections", "reproduction", "imports"):
    import_module(f"pipeline.cli.{subject}")
