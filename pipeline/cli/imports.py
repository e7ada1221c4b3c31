"""Many images at once: `emend import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipeline import cli

imports = typer.Typer(
    help="Take in many images at once: the next run learns from them.", no_args_is_help=True
)
cli.app.add_typer(imports, name="import")


@imports.command("quickdraw")
def import_quickdraw(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIRECTORY", help="Folder with <category>.npy or <category>.ndjson files."),
    ],
    model: cli.ModelOption = "doodles",
    categories: Annotated[str | None, typer.Option(help="Only these, comma-separated: cat,dog.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many of each category.")] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="First fetch the categories' first rows (--limit) into DIRECTORY."),
    ] = False,
    as_json: cli.AsJson = False,
) -> None:
    """Import drawings of the Quick, Draw! data set, from its own files."""
    from pipeline import first_start, models
    from pipeline import imports as importing

    if model != first_start.MODEL:  # which `emend up` makes, perhaps only in a moment
        models.require(model)
    chosen = [c.strip() for c in categories.split(",") if c.strip()] if categories else None
    with cli.counting("images") as progress:
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
    as_json: cli.AsJson = False,
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
    with cli.counting("images") as progress:
        staged = models.stage(
            model,
            preset or models.preset_of(model),
            lambda home, spec: importing.stage_folder(
                directory, home, spec, licence=licence, progress=progress
            ),
        )
    _take_in(model, staged, as_json)


def _take_in(model: str, staged: Any, as_json: bool) -> None:
    from pipeline import models

    models.take_in(model, staged)
    if as_json:
        cli.print_json(
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
        cli.out.print(f"  {label:<20} {count:>8}", markup=False)
    _name_first(staged.bad, staged.bad_count, 20, "[yellow]left out[/yellow] ")
    if staged.contradiction_count:
        came = cli.counted(staged.contradiction_count, "image")
        cli.err.print(f"  {came} came again under another label; the first label stays:")
        _name_first(staged.contradictions, staged.contradiction_count, 5)
    cli.out.print(
        f"{cli.counted(staged.images, 'image')} staged for {escape(model)}, {staged.bad_count} left out; "
        f"`emend run --model {escape(model)}` learns from them",
        soft_wrap=True,
    )


def _name_first(files: Any, count: int, most: int, before: str = "") -> None:
    """files: named ones, perhaps fewer than there are: `count`."""
    for each in files[:most]:
        cli.err.print(f"  {before}{escape(f'{each.name}: {each.reason}')}", soft_wrap=True)
    if count > most:
        cli.err.print(f"  … and {count - most} more; --json lists them")
