"""Which version is live: by hand, after a trial, and what the ledger says of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from pipeline import cli

Percent = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="Share of the images, 1 to 100; the same image always meets the same version.",
    ),
]


@cli.app.command()
def rollback(
    model: cli.ModelOption = "doodles",
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Take back this version only; fails when it is neither live nor tried out."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "rolled back by hand",
    as_json: cli.AsJson = False,
) -> None:
    """End the shadow or canary under way; else put the previous version back, and pause automatic promotion until
    `emend promotion-resume`."""
    from pipeline import models, runs

    models.require(model)
    done = runs.rollback(model, actor=cli.who(), reason=reason, version=version)
    if as_json:
        cli.print_json(done)
    elif done["ended_trial"]:
        cli.out.print(
            f"the {done['ended_trial']} of {escape(model)}, version {done['replaced_version']}, is over; version "
            f"{done['version']} stays live. `emend rollback --model {escape(model)} --version {done['version']}` would "
            "put the version before it back"
        )
    else:
        cli.out.print(
            f"{escape(model)} version {done['version']} is live again, {done['replaced_version']} is not. Automatic "
            f"promotion is paused: `emend promotion-resume --model {escape(model)}` allows it again"
        )


@cli.app.command()
def promote(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    model: cli.ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "promoted by hand",
    as_json: cli.AsJson = False,
) -> None:
    """Put a version live by hand, whatever the gate said of it. Automatic promotion stays as it is."""
    from pipeline import models, runs

    models.require(model)
    done = runs.promote(model, number, actor=cli.who(), reason=reason)
    if as_json:
        cli.print_json(done)
    else:
        instead = f", {done['replaced_version']} is not" if done["replaced_version"] is not None else ""
        cli.out.print(f"{escape(model)} version {done['version']} is live{instead}")


@cli.app.command()
def shadow(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    percent: Percent = None,
    model: cli.ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "asked for by hand",
    as_json: cli.AsJson = False,
) -> None:
    """Ask a version about copies of images, and compare its answers with the live version's. Nobody sees them.

    All images unless --percent says otherwise.
    """
    _start_trial("shadow", model, number, percent, reason, as_json)


@cli.app.command()
def canary(
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    percent: Percent = None,
    model: cli.ModelOption = "doodles",
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "asked for by hand",
    as_json: cli.AsJson = False,
) -> None:
    """Let a version answer a share of the images. It goes back by itself when it fails far more often or is far slower
    than the live one.

    A tenth of the images unless --percent says otherwise.
    """
    _start_trial("canary", model, number, percent, reason, as_json)


def _start_trial(kind: str, model: str, number: int, percent: int | None, reason: str, as_json: bool) -> None:
    from core.database import TrialKind
    from pipeline import models, runs

    models.require(model)
    started = runs.start_trial(
        model, number, kind=TrialKind(kind), percent=percent, actor=cli.who(), reason=reason
    )
    if as_json:
        cli.print_json(started)
    else:
        cli.out.print(
            f"version {number} of {escape(model)} is a {kind} on {started['percent']} % of the images: "
            f"`emend trials --model {escape(model)}` shows how it does, "
            f"`emend promote {number} --model {escape(model)}` puts it live, "
            f"`emend rollback --model {escape(model)} --version {number}` ends it"
        )


@cli.app.command("trials")
def list_trials(model: cli.ModelOption = "doodles", as_json: cli.AsJson = False) -> None:
    """List shadows and canaries: how often they agreed with the live version, errors, how long answers took."""
    from pipeline import models, runs

    models.require(model)
    found = runs.list_trials(model)
    if as_json:
        cli.print_json(found)
        return
    columns: list[cli.Shown] = [
        ("kind", lambda t: t["kind"]),
        ("version", lambda t: f"{t['version']} beside {t['champion']}"),
        ("share", lambda t: f"{t['percent']} %"),
        ("images", lambda t: str(t["images"])),
        ("agree", lambda t: cli.percent(t["agreement"])),
        ("errors (live)", lambda t: f"{t['errors']} ({t['champion_errors']})"),
        ("p95 ms (live)", lambda t: f"{_ms(t['p95_ms'])} ({_ms(t['champion_p95_ms'])})"),
        ("since (UTC)", lambda t: cli.when(t["started_at"])),
        (
            "outcome",
            lambda t: (
                "under way" if t["outcome"] is None else escape(f"{t['outcome']}: {t['ended_because']}")
            ),
        ),
    ]
    cli.out.print(cli.table(columns, found))


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:g}"


@cli.app.command("promotion-resume")
def promotion_resume(model: cli.ModelOption = "doodles") -> None:
    """Allow automatic promotion again after a rollback."""
    from pipeline import models, runs

    models.require(model)
    runs.resume_promotion(model, actor=cli.who())
    cli.out.print(f"runs of {escape(model)} may promote again")


@cli.app.command()
def ledger(model: cli.ModelOption = "doodles", as_json: cli.AsJson = False) -> None:
    """List promotions and rollbacks: when, which version, by whom, why."""
    from pipeline import models, runs

    models.require(model)
    found = runs.ledger(model)
    if as_json:
        cli.print_json(found)
        return
    columns: list[cli.Shown] = [
        ("when (UTC)", lambda e: cli.when(e["opened_at"])),
        (
            "what",
            lambda e: e["action"] if e["outcome"] == "done" else f"{e['action']}, {e['outcome'] or 'open'}",
        ),
        ("version", lambda e: str(e["version"])),
        ("instead of", lambda e: str(e["replaced_version"] or "-")),
        ("by", lambda e: escape(e["actor"])),
        ("why", lambda e: escape(e["reason"])),
    ]
    if cli.narrow():
        columns = [c for c in columns if c[0] != "instead of"]
    cli.out.print(cli.table(columns, found))
