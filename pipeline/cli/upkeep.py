"""Looking after a deployment: what answers, what is wrong, the object store, backups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from core import objects
from core.errors import ConfigurationError, Conflict
from core.settings import settings
from pipeline import cli

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


@cli.app.command()
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
    mirror.prepare(settings().data_dir, cli.say, workspace.push)
    sent = mirror.send_missing(settings().data_dir, cli.say, workspace.push)
    cli.out.print(f"{store.where} answers and can be written; sent {cli.counted(sent, 'file')}")


@cli.app.command("backup")
def back_up(
    destination: Annotated[
        str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="Where backups are kept; made if new.")
    ],
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep so many backups there, this one included; else all.")
    ] = None,
    mlflow_database: MlflowDatabase = None,
    without_mlflow: WithoutMlflow = False,
    as_json: cli.AsJson = False,
) -> None:
    """Back up databases, homes and MLflow's files, while everything runs.

    Only what is new there is copied. Ends with 0 when the backup is whole.
    """
    from pipeline import backup

    chosen = settings()
    urls = backup.database_urls(chosen, mlflow_database, without_mlflow=without_mlflow)
    with backup.place_at(destination, to_write=True) as place, cli.counting("files") as progress:
        made = backup.back_up(
            place, chosen.data_dir, urls, keep=keep, say=cli.say, progress=lambda done, _: progress(done)
        )
    manifest = made.manifest
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    for name in manifest.missing_pictures:
        cli.err.print(
            f"[yellow]no picture[/yellow] of a correction that waits: {escape(name)}", soft_wrap=True
        )
    if as_json:
        cli.print_json(
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
    given_up = f"; gave up {cli.counted(len(made.removed), 'older backup')}" if made.removed else ""
    cli.out.print(
        f"backup {manifest.id} in {escape(place.where)}: {cli.counted(len(manifest.files), 'file')}, "
        f"{size_bytes / 1e6:.1f} MB, of which new {made.new_bytes / 1e6:.1f} MB with the databases; "
        f"{made.seconds:.1f} s{given_up}",
        soft_wrap=True,
    )


@cli.app.command()
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
    with backup.place_at(source, to_write=False) as place, cli.counting("files") as progress:
        if only_check:
            manifest = restoring.chosen(place, which)
            with tempfile.TemporaryDirectory(prefix="emend-") as work:
                restoring.check(place, manifest, Path(work), lambda done, _: progress(done))
            cli.out.print(f"backup {manifest.id} of {manifest.created_at[:19]} UTC is whole")
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
    with backup.place_at(source, to_write=False) as place, cli.counting("files") as progress:
        aside = restoring.restore(place, planned, say=cli.say, progress=lambda done, _: progress(done))
    if aside is not None:
        cli.say(f"what was there before is in {aside}; remove it when all is well")
    same = data_dir == chosen.data_dir.absolute()
    told = "`emend up`" if same else f"`emend up` with EMEND_DATA_DIR={escape(str(data_dir))}"
    cli.out.print(
        f"restored backup {planned.manifest.id} into {escape(str(data_dir))}; {told} goes on from there",
        soft_wrap=True,
    )


@cli.app.command()
def status(as_json: cli.AsJson = False) -> None:
    """Show which services answer, and each model's live version."""
    from pipeline import overview

    found = overview.overview()
    if as_json:
        cli.print_json(found)
    else:
        services = Table("service", Column("address", overflow="fold"), "state", box=None, pad_edge=False)
        for service in found["services"]:
            state = "[green]answers[/green]" if service["answers"] else "[red]does not answer[/red]"
            services.add_row(service["name"], escape(service["url"]), state)
        cli.out.print(services)
        columns: list[cli.Shown] = [
            ("model", lambda m: escape(m["name"])),
            ("version", lambda m: str(m["champion"] or "none")),
            ("holdout", lambda m: cli.percent(m["holdout_accuracy"])),
            ("dataset", lambda m: str(m["dataset_version"] or "-")),
            ("waiting", _waiting),
            ("promotion", lambda m: "paused (rollback)" if m["promotion_paused"] else "automatic"),
        ]
        cli.out.print()
        cli.out.print(cli.table(columns, found["models"]))
        for model in found["models"]:
            _say_what_is_under_way(model)
            cli.say_who_waits_for_a_person(model["name"], model["quarantined"])
    if not all(service["answers"] for service in found["services"]):
        raise typer.Exit(1)


@cli.app.command()
def doctor(as_json: cli.AsJson = False) -> None:
    """Check this deployment: one line a check, and what to do. Exits 1 when something is wrong."""
    from pipeline import doctor as examining

    checks = examining.examine()
    if as_json:
        cli.print_json(
            {"well": not examining.is_wrong(checks), "checks": [each.as_json() for each in checks]}
        )
    else:
        colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
        for check in checks:
            state = f"[{colours[check.state]}]{check.state:<7}[/]"
            advice = f" [bold]→ {escape(check.advice)}[/bold]" if check.advice else ""
            cli.out.print(f"{state} {escape(check.name)}: {escape(check.said)}{advice}", soft_wrap=True)
    if examining.is_wrong(checks):
        raise typer.Exit(1)


def _say_what_is_under_way(model: dict[str, Any]) -> None:
    from pipeline import first_start

    name, run = escape(model["name"]), model["active_run"]
    if run is not None:
        does = "is under way" if model["champion"] else "trains its first version"
        at = f"stage {run['stage']}" if run["stage"] else run["status"]
        cli.out.print(f"run {run['run_id']} of {name} {does} ({at}): `emend show {run['run_id']}` says more")
    elif model["name"] == first_start.MODEL and first_start.is_to_come():
        cli.out.print(
            f"version 1 of {name} is still to come: `emend up` draws its starter doodles and trains it"
        )


def _waiting(model: dict[str, Any]) -> str:
    corrections = cli.counted(model["waiting_corrections"], "correction")
    return f"{corrections}, {cli.counted(model['waiting_imports'], 'import')}"
