"""Runs: start, follow, go on, end, look at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from core.errors import Conflict
from pipeline import cli

EXIT_OF = {"succeeded": 0, "halted": 3, "rejected": 4, "interrupted": 5, "cancelled": 5}
COLOURS = {
    "succeeded": "green", "running": "cyan", "queued": "cyan", "failed": "red", "rejected": "yellow",
    "halted": "yellow", "interrupted": "magenta", "cancelled": "magenta",
}  # fmt: skip


@cli.app.command()
def run(
    model: cli.ModelOption = "doodles",
    force: Annotated[
        bool, typer.Option("--force", help="Also with little new data. Never past the gate.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    as_json: cli.AsJson = False,
) -> None:
    """Start a run: take in what waits, retrain, prove, promote."""
    from pipeline import first_start, models, runs

    models.require(model)
    if model == first_start.MODEL and first_start.is_to_come():
        raise Conflict(
            f"version 1 of {model} is still to come: `emend up` draws its starter doodles and trains it; try again "
            "when Emend is up"
        )
    run_id = runs.request_run(model, requested_by=cli.who(), force=force)
    _follow_or_tell(run_id, 0, wait, as_json)


@cli.app.command()
def resume(
    run_id: cli.RunId,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    as_json: cli.AsJson = False,
) -> None:
    """Go on with a run that failed or was interrupted, from the first stage not finished."""
    from pipeline import runs
    from pipeline.follow import latest_event

    seen = latest_event(run_id)
    runs.request_resume(run_id, requested_by=cli.who())
    _follow_or_tell(run_id, seen, wait, as_json)


@cli.app.command()
def cancel(run_id: cli.RunId) -> None:
    """End a run; it can be resumed."""
    from pipeline import runs

    runs.request_cancel(run_id, requested_by=cli.who())
    cli.out.print(f"run {run_id} ends as soon as its stage has been stopped")


@cli.app.command("runs")
def list_runs(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: cli.AsJson = False,
) -> None:
    """List the latest runs."""
    from pipeline import models, runs

    if model is not None:
        models.require(model)
    found = runs.list_runs(model, limit=limit)
    if as_json:
        cli.print_json(found)
        return
    columns: list[cli.Shown] = [
        ("run", lambda r: str(r["run_id"])),
        ("model", lambda r: escape(r["model"])),
        ("trigger", lambda r: r["trigger"]),
        ("status", lambda r: _coloured(r["status"])),
        ("new", lambda r: "-" if r["new_images"] is None else str(r["new_images"])),
        ("version", lambda r: str(r["version"] or "-")),
        ("seconds", lambda r: f"{sum(map(_seconds, r['stages'])):.1f}"),
        ("what", lambda r: escape(_without_status(r["status"], r["message"]))),
    ]
    if cli.narrow():
        columns = [c for c in columns if c[0] not in ("trigger", "new", "seconds")]
    cli.out.print(cli.table(columns, found) if found else "no runs yet; `emend run` starts one")


@cli.app.command()
def show(run_id: cli.RunId, as_json: cli.AsJson = False) -> None:
    """Show a run: stages, durations, figures, verdict."""
    from pipeline import runs
    from pipeline.follow import figures_in_words

    found = runs.show_run(run_id)
    if as_json:
        cli.print_json(found)
        return
    cli.out.print(
        f"run {run_id} of {escape(found['model'])}: {_coloured(found['status'])}  ({found['trigger']})"
    )
    if found["message"]:
        cli.out.print(escape(_without_status(found["status"], found["message"])), soft_wrap=True)
    table = Table("stage", "status", "seconds", "figures", box=None, pad_edge=False)
    for stage in found["stages"]:
        figures = ", ".join(figures_in_words(stage["name"], stage["figures"]))
        table.add_row(stage["name"], _coloured(stage["status"]), f"{_seconds(stage):.1f}", escape(figures))
    cli.out.print(table)
    print_advice(found)
    if found["mlflow_url"]:
        cli.out.print(f"MLflow: {escape(found['mlflow_url'])}", soft_wrap=True)


def _follow_or_tell(run_id: int, seen: int, wait: bool, as_json: bool) -> None:
    from core import receipts
    from core.database import session
    from pipeline import runs
    from pipeline.follow import follow, sentence

    if not wait:
        if as_json:
            cli.print_json({"run_id": run_id})
        else:
            cli.out.print(f"run {run_id} is queued; `emend show {run_id}` tells how it goes")
        return
    if not as_json:
        cli.out.print(f"run {run_id}")
    try:
        for event in follow(run_id, after=seen):
            line = sentence(event)
            if line is not None and not as_json:
                cli.out.print(line, soft_wrap=True, markup=False)
    except KeyboardInterrupt:
        cli.say(f"run {run_id} goes on; `emend cancel {run_id}` ends it")
        raise typer.Exit(130) from None
    found = runs.show_run(run_id)
    if as_json:
        cli.print_json(found)
    else:
        told = _without_status(found["status"], found["message"])
        cli.out.print(f"{_coloured(found['status'])}: {escape(told)}", soft_wrap=True)
        print_advice(found)
        with session() as db:
            cli.say_who_waits_for_a_person(found["model"], receipts.set_aside(db, found["model"]))
    raise typer.Exit(EXIT_OF.get(found["status"], 1))


def print_advice(run: dict[str, Any]) -> None:
    """What to do when the gate refused a model's first version: there is nothing live to go back to."""
    from core import receipts
    from core.database import session

    with session() as db:
        if run["status"] != "rejected" or receipts.champion_version(db, run["model"]) is not None:
            return
    of = escape(run["model"])
    cli.out.print(
        f"Next: more images of each category (`emend import folder DIRECTORY --model {of}`), then "
        f"`emend run --model {of}`. What the gate asks of a first version: docs/gate.md",
        soft_wrap=True,
    )


def _without_status(status: str, message: str | None) -> str:
    """A verdict begins with its own "Rejected: ", which need not stand beside the status again."""
    text = message or ""
    start = f"{status}: "
    return text[len(start) :] if text.lower().startswith(start) else text


def _seconds(stage: dict[str, Any]) -> float:
    """So far, of one that runs."""
    if stage["duration_seconds"] is None and stage["status"] == "running":
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stage["started_at"])).total_seconds())
    return stage["duration_seconds"] or 0.0


def _coloured(state: str) -> str:
    return f"[{COLOURS.get(state, 'default')}]{state}[/]"
