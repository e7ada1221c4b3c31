"""The command line: what people wrote is shown as they wrote it."""

from __future__ import annotations

import sys
from unittest.mock import patch

import pytest

from core.database import LedgerAction, LedgerEntry, LedgerOutcome, Model, session
from pipeline import cli


def emend(*arguments: str) -> None:
    with patch.object(sys, "argv", ["emend", *arguments]):
        cli.main()


@pytest.mark.usefixtures("emend_environment")
def test_a_reason_that_looks_like_markup_is_shown_as_it_was_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with session() as db:
        db.add(Model(name="doodles", params={}))
        db.flush()
        for reason in ("[/oops]", "[bold]cat"):
            db.add(
                LedgerEntry(
                    model="doodles",
                    action=LedgerAction.rollback,
                    version=1,
                    actor="[red]me",
                    reason=reason,
                    outcome=LedgerOutcome.done,
                )
            )
    with pytest.raises(SystemExit) as ended:
        emend("ledger")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for written in ("[/oops]", "[bold]cat", "[red]me"):
        assert written in shown


@pytest.mark.usefixtures("emend_environment")
def test_an_error_that_looks_like_markup_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        emend("ledger", "--model", "[/oops]")
    assert ended.value.code == 1
    assert "there is no model '[/oops]'" in capsys.readouterr().err
