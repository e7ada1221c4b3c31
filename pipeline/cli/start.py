"""Starting: `emend up`, what it prints, and `emend prepare` for deployments of several machines."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from core import __version__, objects
from core.settings import settings
from pipeline import cli


@cli.app.command()
def version() -> None:
    """Print Emend's version."""
    cli.out.print(__version__)


@cli.app.command()
def up() -> None:
    """Start everything: drawing page, viewer, gateway, model server, orchestrator, MLflow, PostgreSQL.

    The first start makes starter drawings and trains version 1 of `doodles`. Ctrl-C stops everything; starting
    again continues where it was.
    """
    from pipeline import first_start, supervisor

    chosen = settings()
    with supervisor.single_instance(chosen.data_dir):
        watching = supervisor.Supervisor(chosen, cli.say)
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
            if first_start.has_champion():
                _say_who_has_no_version(watching, chosen.model_server_urls)
            if not watching.stopping:
                _print_addresses()
                _print_resumable()
            watching.serve()
        finally:
            try:
                cli.say("stopping")
            finally:
                watching.stop()
            cli.say("everything is stopped; `make up` goes on from here")


@cli.app.command()
def prepare() -> None:
    """Get servers of your own ready: migrate the database, make the bucket. Then start the services.

    For deployments of several machines or containers; `emend up` does it by itself. Can be repeated.
    """
    from pipeline import mirror, supervisor, workspace

    supervisor.migrate(settings().database_url)
    cli.say("the database has its tables")
    mirror.prepare(settings().data_dir, cli.say, workspace.push)
    store = objects.store()
    cli.say("there is no object store" if store is None else f"{store.where} can be written")


def _first_start(watching: Any) -> None:
    """With progress; returns early when a stop is requested."""
    from pipeline import first_start, runs
    from pipeline.cli.runs import print_advice
    from pipeline.follow import follow, sentence

    def gone() -> bool:
        watching.look()
        return bool(watching.stopping)

    initial = first_start.prepare(cli.say, watching.while_looking)
    while initial is not None:
        run_id = initial.run_id
        goes_on = "going on with" if initial.after else "training"
        cli.say(f"{goes_on} version 1 in run {run_id}, through the same pipeline as any later run")
        for event in follow(run_id, after=initial.after, gone=gone):
            line = sentence(event)
            if line is not None:
                cli.say(line)
            elif event.stage is None and event.message and event.status not in ("queued", "running"):
                cli.say(event.message)
        if not watching.stopping:
            print_advice(runs.show_run(run_id))
        # Its orchestrator was killed, just now or before this start: go on.
        again = not watching.stopping and first_start.was_interrupted(run_id)
        initial = first_start.prepare(cli.say, watching.while_looking) if again else None


def _say_who_has_no_version(watching: Any, server_urls: Sequence[str]) -> None:
    until = time.monotonic() + 30
    for url in server_urls:
        if not watching.answers(f"{url}/health", max(1.0, until - time.monotonic())):
            cli.say(f"no version answers at {url} yet; `emend doctor` says why")


def _print_addresses() -> None:
    chosen = settings()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("draw", escape(chosen.ui_url), "draw, upload, correct: begin here")
    table.add_row("gateway", escape(chosen.api_url), escape(f"how to ask it: {chosen.api_url}/docs"))
    table.add_row("viewer", escape(chosen.viewer_url), "runs, versions, corrections")
    table.add_row("MLflow", escape(chosen.mlflow_display_url), "versions and training curves")
    table.add_row("model server", escape(", ".join(chosen.model_server_urls)), "what the gateway asks")
    cli.out.print()
    cli.out.print("[bold]Emend is up.[/bold]")
    cli.out.print(table)
    cli.out.print(
        f"\nNext: open {escape(chosen.ui_url)} and draw. `emend status` in another terminal; Ctrl-C stops everything."
    )


def _print_resumable() -> None:
    from pipeline import overview

    for run in overview.interrupted_runs():
        of = escape(run["model"])
        cli.out.print(
            f"run {run['run_id']} of {of} was interrupted: `emend resume {run['run_id']}` goes on",
            soft_wrap=True,
        )
