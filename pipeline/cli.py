"""The `emend` command line. It talks to the database and the homes directly, like the services do.

Exit codes: 0 done; 1 it failed, and why is on standard error; 2 wrong usage; 3 the run was halted (too little
new data); 4 the gate rejected the new version; 5 the run was interrupted or cancelled.
"""

from __future__ import annotations

import getpass
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

from core import __version__, objects
from core.errors import ConfigurationError, Conflict, EmendError
from core.redaction import redacted
from core.settings import settings

app = typer.Typer(
    name="emend",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # as markdown, "<category>/<image>" would lose its words
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
imports = typer.Typer(
    help="Take in many images at once: the next run learns from them.", no_args_is_help=True
)
app.add_typer(imports, name="import")

# In a pipe or a file there is no width to fit into: tables are not cut.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Which model.", envvar="EMEND_DEFAULT_MODEL")]
MlflowDatabase = Annotated[
    str | None,
    typer.Option(
        "--mlflow-database",
        envvar="MLFLOW_BACKEND_STORE_URI",
        show_default=False,
        help="Address of MLflow's database, when it is not the embedded one.",
    ),
]
WithoutMlflow = Annotated[bool, typer.Option("--without-mlflow", help="Leave MLflow's database out.")]
RunId = Annotated[int, typer.Argument(metavar="RUN", help="The run's number, as `emend runs` shows it.")]

Shown = tuple[str, Callable[[dict[str, Any]], str]]  # its heading, and what it shows of a row

EXIT_OF = {"succeeded": 0, "halted": 3, "rejected": 4, "interrupted": 5, "cancelled": 5}
COLOURS = {
    "succeeded": "green", "running": "cyan", "queued": "cyan", "failed": "red", "rejected": "yellow",
    "halted": "yellow", "interrupted": "magenta", "cancelled": "magenta",
}  # fmt: skip


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


@app.command()
def version() -> None:
    """Print Emend's version."""
    out.print(__version__)


@app.command()
def up() -> None:
    """Start everything: drawing page, viewer, gateway, model server, orchestrator, MLflow, PostgreSQL.

    The first start makes starter drawings and trains version 1 of `doodles`. Ctrl-C stops everything; starting
    again continues where it was.
    """
    from pipeline import first_start, supervisor

    chosen = settings()
    with supervisor.single_instance(chosen.data_dir):
        watching = supervisor.Supervisor(chosen, _say)
        signal.signal(signal.SIGTERM, watching.request_stop)
        signal.signal(signal.SIGINT, watching.request_stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, watching.request_stop)  # the terminal was closed
        try:
            watching.start()
        except BaseException:
            watching.stop()  # PostgreSQL may run already; the error is all that there is to say
            raise
        try:
            _first_start(watching)
            watching.wait_until_ready(180)
            if first_start.has_champion() and not watching.answers(
                f"{chosen.model_server_urls[0]}/health", 30
            ):
                _say("no version answers yet; `emend doctor` says why")
            if not watching.stopping:
                _print_addresses()
                _print_resumable()
            watching.serve()
        finally:
            try:
                _say("stopping")
            finally:
                watching.stop()
            _say("everything is stopped; `make up` goes on from here")


@app.command()
def prepare() -> None:
    """Get servers of your own ready: migrate the database, make the bucket. Then start the services.

    For deployments of several machines or containers; `emend up` does it by itself. Can be repeated.
    """
    from pipeline import mirror, supervisor, workspace

    supervisor.migrate(settings().database_url)
    _say("the database has its tables")
    mirror.prepare(settings().data_dir, _say, workspace.push)
    store = objects.store()
    _say("there is no object store" if store is None else f"{store.where} can be written")


@app.command()
def storage() -> None:
    """Check the object store (STORAGE_URL), make its bucket, and send what only this disk has.

    The first start with a STORAGE_URL does it too. While a run works, wait for its end.
    """
    from pipeline import mirror, runs, workspace

    store = objects.store()
    if store is None:
        raise ConfigurationError("there is no object store: set STORAGE_URL (.env.example)")
    active = runs.active_run()
    if active is not None:
        raise Conflict(f"run {active} is at work; `emend storage` when it has ended")
    mirror.prepare(settings().data_dir, _say, workspace.push)
    sent = mirror.send_missing(settings().data_dir, _say, workspace.push)
    out.print(f"{store.where} answers and can be written; sent {_counted(sent, 'file')}")


@app.command("backup")
def back_up(
    destination: Annotated[
        str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="Where backups are kept; made if new.")
    ],
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep so many backups there, this one included; else all.")
    ] = None,
    mlflow_database: MlflowDatabase = None,
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Back up databases, homes and MLflow's files, while everything runs.

    Only what is new there is copied. Ends with 0 when the backup is whole.
    """
    from pipeline import backup

    chosen = settings()
    urls = backup.database_urls(chosen, mlflow_database, without_mlflow=without_mlflow)
    with backup.place_at(destination, to_write=True) as place, _counting("files") as progress:
        made = backup.back_up(
            place, chosen.data_dir, urls, keep=keep, say=_say, progress=lambda done, _: progress(done)
        )
    manifest = made.manifest
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    for name in manifest.missing_pictures:
        err.print(f"[yellow]no picture[/yellow] of a correction that waits: {escape(name)}", soft_wrap=True)
    if as_json:
        _print_json(
            {
                "backup": manifest.id,
                "created_at": manifest.created_at,
                "files": len(manifest.files),
                "size_bytes": size_bytes,
                "new_files": made.new_files,
                "new_bytes": made.new_bytes,
                "removed": made.removed,
                "seconds": round(made.seconds, 3),
                "held_seconds": round(made.held_seconds, 3),
                "missing_pictures": manifest.missing_pictures,
            }
        )
        return
    given_up = f"; gave up {_counted(len(made.removed), 'older backup')}" if made.removed else ""
    out.print(
        f"backup {manifest.id} in {escape(place.where)}: {_counted(len(manifest.files), 'file')}, "
        f"{size_bytes / 1e6:.1f} MB, of which new {made.new_bytes / 1e6:.1f} MB with the databases; "
        f"{made.seconds:.1f} s{given_up}",
        soft_wrap=True,
    )


@app.command()
def restore(
    source: Annotated[
        str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="Where `emend backup` wrote to.")
    ],
    into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The data folder; else EMEND_DATA_DIR.")
    ] = None,
    which: Annotated[str | None, typer.Option("--backup", help="Not the newest but this one.")] = None,
    only_check: Annotated[
        bool, typer.Option("--check", help="Only read the backup and compare its hashes.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, after a question.")] = False,
    mlflow_database: MlflowDatabase = None,
    without_mlflow: WithoutMlflow = False,
) -> None:
    """Make a deployment from a backup: into an empty data folder and empty databases, with Emend stopped.

    Nothing is changed before all of the backup was read and found whole.
    """
    import tempfile

    from pipeline import backup
    from pipeline import restore as restoring

    chosen = settings()
    data_dir = (into or chosen.data_dir).absolute()
    with backup.place_at(source, to_write=False) as place, _counting("files") as progress:
        if only_check:
            manifest = restoring.chosen(place, which)
            with tempfile.TemporaryDirectory(prefix="emend-") as work:
                restoring.check(place, manifest, Path(work), lambda done, _: progress(done))
            out.print(f"backup {manifest.id} of {manifest.created_at[:19]} UTC is whole")
            return
        elsewhere = chosen.database_url_setting is not None
        urls = (
            backup.database_urls(chosen, mlflow_database, without_mlflow=without_mlflow) if elsewhere else {}
        )
        planned = restoring.plan(place, which, data_dir, urls)
    if planned.in_the_way:
        what = " and ".join(planned.in_the_way)
        if not force:
            raise Conflict(f"{what} already in use; --force replaces it, after a question")
        told = "A folder's files are kept aside, a database's tables are dropped."
        typer.confirm(f"Replace {what} by backup {planned.manifest.id}? {told}", abort=True)
    with backup.place_at(source, to_write=False) as place, _counting("files") as progress:
        aside = restoring.restore(place, planned, say=_say, progress=lambda done, _: progress(done))
    if aside is not None:
        _say(f"what was there before is in {aside}; remove it when all is well")
    same = data_dir == chosen.data_dir.absolute()
    told = "`emend up`" if same else f"`emend up` with EMEND_DATA_DIR={escape(str(data_dir))}"
    out.print(
        f"restored backup {planned.manifest.id} into {escape(str(data_dir))}; {told} goes on from there",
        soft_wrap=True,
    )


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show which services answer, and each model's live version."""
    from pipeline import overview

    found = overview.overview()
    if as_json:
        _print_json(found)
    else:
        services = Table("service", Column("address", overflow="fold"), "state", box=None, pad_edge=False)
        for service in found["services"]:
            state = "[green]answers[/green]" if service["answers"] else "[red]does not answer[/red]"
            services.add_row(service["name"], escape(service["url"]), state)
        out.print(services)
        columns: list[Shown] = [
            ("model", lambda m: escape(m["name"])),
            ("version", lambda m: str(m["champion"] or "none")),
            ("holdout", lambda m: _percent(m["holdout_accuracy"])),
            ("dataset", lambda m: str(m["dataset_version"] or "-")),
            ("waiting", _waiting),
            ("promotion", lambda m: "paused (rollback)" if m["promotion_paused"] else "automatic"),
        ]
        out.print()
        out.print(_table(columns, found["models"]))
    if not all(service["answers"] for service in found["services"]):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this deployment: one line a check, and what to do. Exits 1 when something is wrong."""
    from pipeline import doctor as examining

    checks = examining.examine()
    if as_json:
        _print_json({"well": not examining.is_wrong(checks), "checks": [each.as_json() for each in checks]})
    else:
        colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
        for check in checks:
            state = f"[{colours[check.state]}]{check.state:<7}[/]"
            advice = f" [bold]→ {escape(check.advice)}[/bold]" if check.advice else ""
            out.print(f"{state} {escape(check.name)}: {escape(check.said)}{advice}", soft_wrap=True)
    if examining.is_wrong(checks):
        raise typer.Exit(1)


@imports.command("quickdraw")
def import_quickdraw(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIRECTORY", help="Folder with <category>.npy or <category>.ndjson files."),
    ],
    model: ModelOption = "doodles",
    categories: Annotated[str | None, typer.Option(help="Only these, comma-separated: cat,dog.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many of each category.")] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="First fetch the categories' first rows (--limit) into DIRECTORY."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import drawings of the Quick, Draw! data set, from its own files."""
    from pipeline import first_start, models
    from pipeline import imports as importing

    if model != first_start.MODEL:  # which `emend up` makes, perhaps only in a moment
        models.require(model)
    chosen = [c.strip() for c in categories.split(",") if c.strip()] if categories else None
    with _counting("images") as progress:
        if download:
            from pipeline.starter import CATEGORIES

            importing.download_quickdraw(
                directory, chosen or list(CATEGORIES), limit or 3_000, progress=progress
            )
        staged = models.stage(
            model,
            "doodles",
            lambda home, spec: importing.stage_quickdraw(
                directory, home, spec, categories=chosen, limit=limit, progress=progress
            ),
        )
    _take_in(model, staged, as_json)


@imports.command("folder")
def import_folder(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTORY", exists=True, help="Folder, or tar, of <category>/<image> (PNG, JPEG, WebP)."
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Which model; made if new.")],
    preset: Annotated[
        str | None,
        typer.Option(help="What a new model starts from: doodles (28x28 grey), photos (32x32 colour)."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Recorded with every image.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import a folder or tar of images, one sub-folder a category."""
    from pipeline import imports as importing
    from pipeline import models, workspace

    if preset is not None and preset not in workspace.PRESETS:
        raise typer.BadParameter(f"one of {', '.join(workspace.PRESETS)}", param_hint="--preset")
    if preset is not None and models.exists(model):
        raise typer.BadParameter(
            f"{model} exists already; its params.yaml says what it sees", param_hint="--preset"
        )
    with _counting("images") as progress:
        staged = models.stage(
            model,
            preset or models.preset_of(model),
            lambda home, spec: importing.stage_folder(
                directory, home, spec, licence=licence, progress=progress
            ),
        )
    _take_in(model, staged, as_json)


@app.command()
def run(
    model: ModelOption = "doodles",
    force: Annotated[
        bool, typer.Option("--force", help="Also with little new data. Never past the gate.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Start a run: take in what waits, retrain, prove, promote."""
    from pipeline import first_start, models, runs

    models.require(model)
    if model == first_start.MODEL and first_start.is_to_come():
        raise Conflict(
            f"version 1 of {model} is still to come: `emend up` draws its starter doodles and trains it; try again "
            "when Emend is up"
        )
    run_id = runs.request_run(model, requested_by=_who(), force=force)
    _follow_or_tell(run_id, 0, wait, as_json)


@app.command()
def resume(
    run_id: RunId,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that failed or was interrupted, from the first stage not finished."""
    from pipeline import runs
    from pipeline.follow import latest_event

    seen = latest_event(run_id)
    runs.request_resume(run_id, requested_by=_who())
    _follow_or_tell(run_id, seen, wait, as_json)


@app.command()
def cancel(run_id: RunId) -> None:
    """End a run; it can be resumed."""
    from pipeline import runs

    runs.request_cancel(run_id, requested_by=_who())
    out.print(f"run {run_id} ends as soon as its stage has been stopped")


@app.command("runs")
def list_runs(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest runs."""
    from pipeline import models, runs

    if model is not None:
        models.require(model)
    found = runs.list_runs(model, limit=limit)
    if as_json:
        _print_json(found)
        return
    columns: list[Shown] = [
        ("run", lambda r: str(r["run_id"])),
        ("model", lambda r: escape(r["model"])),
        ("trigger", lambda r: r["trigger"]),
        ("status", lambda r: _coloured(r["status"])),
        ("new", lambda r: "-" if r["new_images"] is None else str(r["new_images"])),
        ("version", lambda r: str(r["version"] or "-")),
        ("seconds", lambda r: f"{sum(map(_seconds, r['stages'])):.1f}"),
        ("what", lambda r: escape(_without_status(r["status"], r["message"]))),
    ]
    if _narrow():
        columns = [c for c in columns if c[0] not in ("trigger", "new", "seconds")]
    out.print(_table(columns, found) if found else "no runs yet; `emend run` starts one")


@app.command()
def show(run_id: RunId, as_json: AsJson = False) -> None:
    """Show a run: stages, durations, figures, verdict."""
    from pipeline import runs
    from pipeline.follow import figures_in_words

    found = runs.show_run(run_id)
    if as_json:
        _print_json(found)
        return
    out.print(f"run {run_id} of {escape(found['model'])}: {_coloured(found['status'])}  ({found['trigger']})")
    if found["message"]:
        out.print(escape(_without_status(found["status"], found["message"])), soft_wrap=True)
    table = Table("stage", "status", "seconds", "figures", box=None, pad_edge=False)
    for stage in found["stages"]:
        figures = ", ".join(figures_in_words(stage["name"], stage["figures"]))
        table.add_row(stage["name"], _coloured(stage["status"]), f"{_seconds(stage):.1f}", escape(figures))
    out.print(table)
    _print_advice(found)
    if found["mlflow_url"]:
        out.print(f"MLflow: {escape(found['mlflow_url'])}", soft_wrap=True)


@app.command()
def rollback(
    model: ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "rolled back by hand",
    as_json: AsJson = False,
) -> None:
    """End the shadow or canary under way; else put the previous version back, and pause automatic promotion until
    `emend promotion-resume`."""
    from pipeline import models, runs

    models.require(model)
    done = runs.rollback(model, actor=_who(), reason=reason)
    if as_json:
        _print_json(done)
    elif done["ended_trial"]:
        out.print(
            f"the {done['ended_trial']} of {escape(model)}, version {done['replaced_version']}, is over; version "
            f"{done['version']} stays live. Another `emend rollback` would put the version before it back"
        )
    else:
        out.print(
            f"{escape(model)} version {done['version']} is live again, {done['replaced_version']} is not. Automatic "
            f"promotion is paused: `emend promotion-resume --model {escape(model)}` allows it again"
        )


@app.command()
def promote(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    model: ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "promoted by hand",
    as_json: AsJson = False,
) -> None:
    """Put a version live by hand, whatever the gate said of it. Automatic promotion stays as it is."""
    from pipeline import models, runs

    models.require(model)
    done = runs.promote(model, number, actor=_who(), reason=reason)
    if as_json:
        _print_json(done)
    else:
        instead = f", {done['replaced_version']} is not" if done["replaced_version"] is not None else ""
        out.print(f"{escape(model)} version {done['version']} is live{instead}")


@app.command()
def shadow(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    percent: Annotated[int, typer.Option(min=1, max=100, help="Of the images, by their names.")] = 100,
    model: ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "asked for by hand",
    as_json: AsJson = False,
) -> None:
    """Ask a version about copies of images, and compare its answers with the live version's. Nobody sees them."""
    _start_trial("shadow", model, number, percent, reason, as_json)


@app.command()
def canary(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    percent: Annotated[int, typer.Option(min=1, max=100, help="Of the images, by their names.")] = 10,
    model: ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "asked for by hand",
    as_json: AsJson = False,
) -> None:
    """Let a version answer a share of the images. It goes back by itself when it fails or is far slower."""
    _start_trial("canary", model, number, percent, reason, as_json)


def _start_trial(kind: str, model: str, number: int, percent: int, reason: str, as_json: bool) -> None:
    from core.database import TrialKind
    from pipeline import models, runs

    models.require(model)
    started = runs.start_trial(
        model, number, kind=TrialKind(kind), percent=percent, actor=_who(), reason=reason
    )
    if as_json:
        _print_json(started)
    else:
        out.print(
            f"version {number} of {escape(model)} is a {kind} on {percent} % of the images: `emend trials` shows how "
            f"it does, `emend promote {number}` puts it live, `emend rollback` ends it"
        )


@app.command("trials")
def list_trials(model: ModelOption = "doodles", as_json: AsJson = False) -> None:
    """List shadows and canaries: how often they agreed with the live version, errors, how long answers took."""
    from pipeline import models, runs

    models.require(model)
    found = runs.list_trials(model)
    if as_json:
        _print_json(found)
        return
    columns: list[Shown] = [
        ("kind", lambda t: t["kind"]),
        ("version", lambda t: f"{t['version']} beside {t['champion']}"),
        ("images", lambda t: f"{t['images']} of {t['percent']} %"),
        ("agree", lambda t: "" if t["agreement"] is None else f"{100 * t['agreement']:.1f} %"),
        ("errors", lambda t: f"{t['errors']}, {t['champion_errors']}"),
        (
            "p95",
            lambda t: "" if t["p95_ms"] is None else f"{t['p95_ms']:g}, {t['champion_p95_ms'] or 0:g} ms",
        ),
        ("since (UTC)", lambda t: _when(t["started_at"])),
        (
            "outcome",
            lambda t: (
                "under way" if t["outcome"] is None else escape(f"{t['outcome']}: {t['ended_because']}")
            ),
        ),
    ]
    out.print(_table(columns, found))


@app.command("promotion-resume")
def promotion_resume(model: ModelOption = "doodles") -> None:
    """Allow automatic promotion again after a rollback."""
    from pipeline import models, runs

    models.require(model)
    runs.resume_promotion(model, actor=_who())
    out.print(f"runs of {escape(model)} may promote again")


@app.command()
def ledger(model: ModelOption = "doodles", as_json: AsJson = False) -> None:
    """List promotions and rollbacks: when, which version, by whom, why."""
    from pipeline import models, runs

    models.require(model)
    found = runs.ledger(model)
    if as_json:
        _print_json(found)
        return
    columns: list[Shown] = [
        ("when (UTC)", lambda e: _when(e["opened_at"])),
        (
            "what",
            lambda e: e["action"] if e["outcome"] == "done" else f"{e['action']}, {e['outcome'] or 'open'}",
        ),
        ("version", lambda e: str(e["version"])),
        ("instead of", lambda e: str(e["replaced_version"] or "-")),
        ("by", lambda e: escape(e["actor"])),
        ("why", lambda e: escape(e["reason"])),
    ]
    if _narrow():
        columns = [c for c in columns if c[0] != "instead of"]
    out.print(_table(columns, found))


@app.command()
def corrections(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model's.")] = None,
    state: Annotated[
        str | None, typer.Option("--status", help="accepted, merged, exam, quarantined, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest corrections, what became of them, and whether the live version gets them right."""
    from pipeline import models, overview

    if model is not None:
        models.require(model)
    found = overview.corrections(model, state, limit)
    if as_json:
        _print_json(found)
        return
    columns: list[Shown] = [
        ("when (UTC)", lambda c: _when(c["received_at"])),
        ("model", lambda c: escape(c["model"])),
        ("label", lambda c: escape(c["label"])),
        ("status", lambda c: c["status"]),
        ("dataset", lambda c: str(c["dataset_version"] or "-")),
        ("right", lambda c: {True: "yes", False: "no", None: "-"}[c["live_correct"]]),
        ("id", lambda c: c["correction_id"]),
    ]
    if _narrow():
        one_model = len({c["model"] for c in found}) == 1
        columns = [c for c in columns if c[0] != "dataset" and not (one_model and c[0] == "model")]
    out.print(
        _table(columns, found) if found else "no corrections yet; the README's walk shows how to send one"
    )


@app.command()
def withdraw(
    correction: Annotated[UUID, typer.Argument(metavar="ID", help="As `emend corrections` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Take a correction back: one that waits at once, one in a dataset with the next run."""
    from core import receipts, withdrawal
    from core.database import session

    with session() as db:
        withdrawal.withdraw(db, [correction], settings().data_dir)
    found = receipts.receipt(correction)
    if as_json:
        _print_json(found)
    else:
        out.print(escape(found["sentence"]), soft_wrap=True)


@app.command("samples-withdraw")
def samples_withdraw(model: ModelOption = "doodles", as_json: AsJson = False) -> None:
    """Take all sample corrections of a model back."""
    from core import withdrawal
    from core.database import session
    from pipeline import models

    models.require(model)
    with session() as db:
        done = withdrawal.withdraw_samples(db, model, settings().data_dir)
    if as_json:
        _print_json({"withdrawn": done.at_once, "by_the_next_run": done.by_the_next_run})
    else:
        out.print(f"{_counted(done.at_once, 'sample')} withdrawn, {done.by_the_next_run} by the next run")


@app.command()
def reproduce(
    run_id: RunId,
    keep: Annotated[Path | None, typer.Option(help="Work in this folder and leave it there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a run out elsewhere, run `dvc repro`, and compare weights and graph bit for bit."""
    from pipeline import reproduction

    found = reproduction.reproduce(run_id, keep, _say)
    if as_json:
        _print_json(found)
    else:
        for name, same in found["same"].items():
            out.print(f"{escape(name)}: {'[green]the same[/green]' if same else '[red]differs[/red]'}")
        if all(found["same"].values()):
            out.print(f"[green]reproduced[/green]: run {run_id} gives the same bits again")
        else:
            out.print(
                f"[red]not reproduced[/red]: run {run_id} gives other bits here. Same bits need the same kind of "
                "processor, number of threads and requirements.lock",
                soft_wrap=True,
            )
    if not all(found["same"].values()):
        raise typer.Exit(1)


def _first_start(watching: Any) -> None:
    """With progress; returns early when a stop is requested."""
    from pipeline import first_start, runs
    from pipeline.follow import follow, sentence

    def gone() -> bool:
        watching.look()
        return bool(watching.stopping)

    initial = first_start.prepare(_say, watching.while_looking)
    while initial is not None:
        run_id = initial.run_id
        goes_on = "going on with" if initial.after else "training"
        _say(f"{goes_on} version 1 in run {run_id}, through the same pipeline as any later run")
        for event in follow(run_id, after=initial.after, gone=gone):
            line = sentence(event)
            if line is not None:
                _say(line)
            elif event.stage is None and event.message and event.status not in ("queued", "running"):
                _say(event.message)
        if not watching.stopping:
            _print_advice(runs.show_run(run_id))
        # Its orchestrator was killed, just now or before this start: go on.
        again = not watching.stopping and first_start.was_interrupted(run_id)
        initial = first_start.prepare(_say, watching.while_looking) if again else None


def _follow_or_tell(run_id: int, seen: int, wait: bool, as_json: bool) -> None:
    from pipeline import runs
    from pipeline.follow import follow, sentence

    if not wait:
        if as_json:
            _print_json({"run_id": run_id})
        else:
            out.print(f"run {run_id} is queued; `emend show {run_id}` tells how it goes")
        return
    if not as_json:
        out.print(f"run {run_id}")
    try:
        for event in follow(run_id, after=seen):
            line = sentence(event)
            if line is not None and not as_json:
                out.print(line, soft_wrap=True, markup=False)
    except KeyboardInterrupt:
        _say(f"run {run_id} goes on; `emend cancel {run_id}` ends it")
        raise typer.Exit(130) from None
    found = runs.show_run(run_id)
    if as_json:
        _print_json(found)
    else:
        told = _without_status(found["status"], found["message"])
        out.print(f"{_coloured(found['status'])}: {escape(told)}", soft_wrap=True)
        _print_advice(found)
    raise typer.Exit(EXIT_OF.get(found["status"], 1))


def _take_in(model: str, staged: Any, as_json: bool) -> None:
    from pipeline import models

    models.take_in(model, staged)
    if as_json:
        _print_json(
            {
                "import_id": staged.id,
                "model": model,
                "images": staged.images,
                "categories": dict(staged.categories),
                "bad": [{"name": b.name, "reason": b.reason} for b in staged.bad],
                "bad_count": staged.bad_count,
                "contradictions": [{"name": c.name, "reason": c.reason} for c in staged.contradictions],
                "contradiction_count": staged.contradiction_count,
            }
        )
        return
    for label, count in sorted(staged.categories.items()):
        out.print(f"  {label:<20} {count:>8}", markup=False)
    _name_first(staged.bad, staged.bad_count, 20, "[yellow]left out[/yellow] ")
    if staged.contradiction_count:
        came = _counted(staged.contradiction_count, "image")
        err.print(f"  {came} came again under another label; the first label stays:")
        _name_first(staged.contradictions, staged.contradiction_count, 5)
    out.print(
        f"{_counted(staged.images, 'image')} staged for {escape(model)}, {staged.bad_count} left out; "
        f"`emend run --model {escape(model)}` learns from them",
        soft_wrap=True,
    )


def _name_first(files: Any, count: int, most: int, before: str = "") -> None:
    """files: named ones, perhaps fewer than there are: `count`."""
    for each in files[:most]:
        err.print(f"  {before}{escape(f'{each.name}: {each.reason}')}", soft_wrap=True)
    if count > most:
        err.print(f"  … and {count - most} more; --json lists them")


def _print_addresses() -> None:
    chosen = settings()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("draw", escape(chosen.ui_url), "draw, upload, correct: begin here")
    table.add_row("gateway", escape(chosen.api_url), escape(f"how to ask it: {chosen.api_url}/docs"))
    table.add_row("viewer", escape(chosen.viewer_url), "runs, versions, corrections")
    table.add_row("MLflow", escape(chosen.mlflow_display_url), "versions and training curves")
    table.add_row("model server", escape(", ".join(chosen.model_server_urls)), "what the gateway asks")
    out.print()
    out.print("[bold]Emend is up.[/bold]")
    out.print(table)
    out.print(
        f"\nNext: open {escape(chosen.ui_url)} and draw. `emend status` in another terminal; Ctrl-C stops everything."
    )


def _print_resumable() -> None:
    from pipeline import overview

    for run in overview.interrupted_runs():
        of = escape(run["model"])
        out.print(
            f"run {run['run_id']} of {of} was interrupted: `emend resume {run['run_id']}` goes on",
            soft_wrap=True,
        )


@contextmanager
def _counting(what: str) -> Iterator[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    with Progress(console=err, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task(what, total=None)

        def progress(done: int) -> None:
            bars.update(task, completed=done)

        yield progress


def _say(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        err.print(line, soft_wrap=True, markup=False)


def _who() -> str:
    return f"{getpass.getuser()} (emend)"


def _seconds(stage: dict[str, Any]) -> float:
    """So far, of one that runs."""
    if stage["duration_seconds"] is None and stage["status"] == "running":
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stage["started_at"])).total_seconds())
    return stage["duration_seconds"] or 0.0


def _print_advice(run: dict[str, Any]) -> None:
    """What to do when the gate refused a model's first version: there is nothing live to go back to."""
    from core import receipts
    from core.database import session

    with session() as db:
        if run["status"] != "rejected" or receipts.champion_version(db, run["model"]) is not None:
            return
    of = escape(run["model"])
    out.print(
        f"Next: more images of each category (`emend import folder DIRECTORY --model {of}`), then "
        f"`emend run --model {of}`. What the gate asks of a first version: docs/gate.md",
        soft_wrap=True,
    )


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _coloured(state: str) -> str:
    return f"[{COLOURS.get(state, 'default')}]{state}[/]"


def _without_status(status: str, message: str | None) -> str:
    """A verdict begins with its own "Rejected: ", which need not stand beside the status again."""
    text = message or ""
    start = f"{status}: "
    return text[len(start) :] if text.lower().startswith(start) else text


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _narrow() -> bool:
    """Too narrow for every column of the long lists."""
    return out.width < 110


def _when(moment: str) -> str:
    """moment: ISO 8601 in UTC."""
    return (moment[5:16] if _narrow() else moment[:19]).replace("T", " ")


def _waiting(model: dict[str, Any]) -> str:
    corrections = _counted(model["waiting_corrections"], "correction")
    return f"{corrections}, {_counted(model['waiting_imports'], 'import')}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _table(columns: list[Shown], rows: list[dict[str, Any]]) -> Table:
    """Only what people wrote is broken into lines, and nothing is cut."""
    table = Table(box=None, pad_edge=False)
    for heading, _ in columns:
        whole = heading not in ("model", "label", "by", "what", "why")
        most = 16 if heading == "model" and _narrow() else None
        table.add_column(heading, no_wrap=whole, overflow="fold", max_width=most)
    for row in rows:
        table.add_row(*(shown(row) for _, shown in columns))
    return table


if __name__ == "__main__":
    main()
