"""Training a run again, to compare bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline import cli


@cli.app.command()
def reproduce(
    run_id: cli.RunId,
    keep: Annotated[Path | None, typer.Option(help="Work in this folder and leave it there.")] = None,
    as_json: cli.AsJson = False,
) -> None:
    """Check a run out elsewhere, run `dvc repro`, and compare weights and graph bit for bit."""
    from pipeline import reproduction

    found = reproduction.reproduce(run_id, keep, cli.say)
    if as_json:
        cli.print_json(found)
    else:
        for name, same in found["same"].items():
            cli.out.print(f"{escape(name)}: {'[green]the same[/green]' if same else '[red]differs[/red]'}")
        if all(found["same"].values()):
            cli.out.print(f"[green]reproduced[/green]: run {run_id} gives the same bits again")
        else:
            cli.out.print(
                f"[red]not reproduced[/red]: run {run_id} gives other bits here. Same bits need the same kind of "
                "processor, number of threads and requirements.lock",
                soft_wrap=True,
            )
    if not all(found["same"].values()):
        raise typer.Exit(1)
