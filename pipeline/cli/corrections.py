"""Corrections: what became of them, and taking them back."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape

from core.settings import settings
from pipeline import cli


@cli.app.command()
def corrections(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model's.")] = None,
    state: Annotated[
        str | None, typer.Option("--status", help="accepted, merged, exam, quarantined, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: cli.AsJson = False,
) -> None:
    """List the latest corrections, what became of them, and whether the live version gets them right."""
    from pipeline import models, overview

    if model is not None:
        models.require(model)
    found = overview.corrections(model, state, limit)
    if as_json:
        cli.print_json(found)
        return
    columns: list[cli.Shown] = [
        ("when (UTC)", lambda c: cli.when(c["received_at"])),
        ("model", lambda c: escape(c["model"])),
        ("label", lambda c: escape(c["label"])),
        ("status", lambda c: c["status"]),
        ("dataset", lambda c: str(c["dataset_version"] or "-")),
        ("right", lambda c: {True: "yes", False: "no", None: "-"}[c["live_correct"]]),
        ("id", lambda c: c["correction_id"]),
    ]
    if cli.narrow():
        one_model = len({c["model"] for c in found}) == 1
        columns = [c for c in columns if c[0] != "dataset" and not (one_model and c[0] == "model")]
    cli.out.print(
        cli.table(columns, found) if found else "no corrections yet; the README's walk shows how to send one"
    )


def _correction_id(given: str) -> UUID:
    try:
        return UUID(given)
    except ValueError as exc:
        raise typer.BadParameter(
            f"{given!r} is no correction's id; `emend corrections` lists corrections with their ids"
        ) from exc


@cli.app.command()
def withdraw(
    correction: Annotated[
        UUID,
        typer.Argument(metavar="ID", help="As `emend corrections` shows it.", parser=_correction_id),
    ],
    as_json: cli.AsJson = False,
) -> None:
    """Take a correction back: one that waits at once, one in a dataset with the next run."""
    from core import receipts, withdrawal
    from core.database import Correction, session
    from core.errors import NotFound

    with session() as db:
        if db.get(Correction, correction) is None:
            raise NotFound(
                f"there is no correction {correction}; `emend corrections` lists those there are, with their ids"
            )
        withdrawal.withdraw(db, [correction], settings().data_dir)
    found = receipts.receipt(correction)
    if as_json:
        cli.print_json(found)
    else:
        cli.out.print(escape(found["sentence"]), soft_wrap=True)


@cli.app.command("samples-withdraw")
def samples_withdraw(model: cli.ModelOption = "doodles", as_json: cli.AsJson = False) -> None:
    """Take all sample corrections of a model back."""
    from core import withdrawal
    from core.database import session
    from pipeline import models

    models.require(model)
    with session() as db:
        done = withdrawal.withdraw_samples(db, model, settings().data_dir)
    if as_json:
        cli.print_json({"withdrawn": done.at_once, "by_the_next_run": done.by_the_next_run})
    else:
        cli.out.print(
            f"{cli.counted(done.at_once, 'sample')} withdrawn, {done.by_the_next_run} by the next run"
        )
