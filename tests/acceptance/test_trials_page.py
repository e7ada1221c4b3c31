"""The versions page while a version is tried out: started, looked at and ended in a browser; each state of its figures.

Real processes with a real MLflow; pictures in TEST_SCREENSHOTS.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text
from sqlalchemy.orm import Session

from core import trials
from core.database import Trial, TrialKind, TrialOutcome
from core.registry import Registry
from tests.support import tiny_model
from tests.support.browser import browser, faults, open_page
from tests.support.gateway import ROOT, add_model
from tests.support.mlflow_server import MlflowServer, mlflow_environment
from tests.support.pages_stand import DOODLES, Stand, shots

LIVE, TRIED, OTHER = 1, 2, 3
COUNTED_WITHIN_SECONDS = 30.0
ENDED = 20


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Three versions that can be loaded; the first is live."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as mlflow:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.support.tiny_model",
                mlflow.url,
                DOODLES,
                "good:1",
                "good:2",
                "good:3",
            ],
            cwd=ROOT,
            env=mlflow_environment(),
            check=True,
            capture_output=True,
        )
        with Registry(mlflow.url) as registry:
            registry.set_alias(DOODLES, "champion", LIVE)
            registry.set_alias(DOODLES, "previous", OTHER)
        with Stand(tmp_path_factory.mktemp("stand")) as started:
            with started.database.engine() as engine:
                add_model(engine, versions=(TRIED, OTHER, LIVE))
            for service in (started.model_server, started.gateway, started.viewer):
                service.environment["MLFLOW_TRACKING_URI"] = mlflow.url
                service.restart()
            yield started


@pytest.fixture
def page(chromium: Browser, stand: Stand) -> Iterator[Page]:
    """At the versions; nothing was ever tried out."""
    with stand.database.engine() as engine, engine.begin() as connection:
        connection.execute(text("delete from trials"))
    opened = open_page(chromium)
    opened.goto(f"{stand.viewer.url}/#/versions")
    expect(opened.get_by_text(f"Version {LIVE} is live")).to_be_visible()
    yield opened
    found = faults(opened)
    opened.context.close()
    assert not found, "\n".join(found)


def trial(
    number: int = 35, *, images: int, slowest_ms: int = 6, errors: int = 0, skipped: int = 0, **values: Any
) -> Trial:
    """number: they were started two hours after each other. slowest_ms: what half of its answers took."""
    began = datetime.now(UTC) - timedelta(days=3) + number * timedelta(hours=2)
    counted = asdict(
        trials.Counted(
            images=images,
            compared=images - errors,
            agreed=(images - errors) * 29 // 30,
            errors=errors,
            skipped=skipped,
            latencies=half_each(images, 3, slowest_ms),
            champion_latencies=half_each(images, 3, 6),
        )
    )
    return Trial(
        model=DOODLES,
        version=TRIED,
        champion=LIVE,
        percent=10,
        started_by="anna@example.org",
        reason="is it as good on this week's drawings?",
        started_at=began,
        ended_at=began + timedelta(hours=1) if "outcome" in values else None,
        latest=[counted],
        **counted,
        **values,
    )


def half_each(images: int, *answered_in_ms: int) -> list[int]:
    counted = trials.Counted().latencies
    for ms in answered_in_ms:
        counted[trials.LATENCY_BOUNDS_MS.index(ms)] += images // 2
    return counted


def keep(stand: Stand, *kept: Trial) -> None:
    with stand.database.engine() as engine, Session(engine) as db:
        db.add_all(kept)
        db.commit()


def ask(stand: Stand) -> None:
    with httpx.Client(base_url=stand.gateway.url, timeout=30) as client:
        for image in tiny_model.images(20):  # each by itself: a request goes the way of its first image
            body = {"image": base64.b64encode(image.tobytes()).decode()}
            client.post("/invocations/", json=body).raise_for_status()


def test_a_canary_is_started_looked_at_and_ended_on_the_page(stand: Stand, page: Page) -> None:
    expect(page.get_by_role("region", name="What is being tried out")).to_have_count(0)
    expect(page.get_by_role("button", name=f"Try out version {LIVE}")).to_have_count(0)
    page.get_by_role("button", name=f"Try out version {TRIED}").press("Enter")
    dialog = page.get_by_role("dialog")
    found = shots(page, "ask-shadow", full_page=False)
    dialog.get_by_role("radio", name="shadow").press("ArrowDown")
    dialog.get_by_label("Percent of the images").fill("50")
    expect(dialog).to_contain_text("always the same ones")
    found += shots(page, "ask-canary", full_page=False)
    dialog.get_by_role("button", name="Start the canary").press("Enter")

    panel = page.get_by_role("region", name="What is being tried out")
    expect(panel).to_contain_text(f"Version {TRIED} answers 50\u00a0% of the images")
    expect(page.get_by_role("button", name=f"Try out version {OTHER}")).to_have_attribute(
        "aria-disabled", "true"
    )
    found += shots(page, "versions-canary-begun")
    alike = panel.get_by_text("Same answer").locator("..")
    deadline = time.monotonic() + COUNTED_WITHIN_SECONDS
    while (
        "%" not in alike.inner_text()
    ):  # gateways hear of it a moment later, and the page asks every few seconds
        assert time.monotonic() < deadline, panel.inner_text()
        ask(stand)
        page.wait_for_timeout(500)

    page.get_by_role("button", name=f"Roll back: {DOODLES}").click()
    expect(dialog).to_contain_text(f"A rollback ends the canary of version {TRIED} first")
    found += shots(page, "ask-roll-back-canary", full_page=False)
    dialog.get_by_role("button", name="Cancel").click()
    panel.get_by_role("button", name=f"End the canary of version {TRIED}").click()
    dialog.get_by_role("textbox").fill("seen enough")
    found += shots(page, "ask-end-canary", full_page=False)
    dialog.get_by_role("button", name="End the canary").click()
    said = f"The canary of version {TRIED} has ended; version {LIVE} stays live"
    expect(page.get_by_text(said)).to_be_visible()
    expect(panel).to_have_count(0)
    expect(page.get_by_role("list", name="What was tried out, newest first")).to_contain_text("seen enough")
    ledger = page.get_by_role("list", name="The ledger, newest first")
    expect(ledger).to_contain_text(f"Version {TRIED} was tried out as a canary")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "said", "figures"),
    [
        ("early", "Too early to say", {"images": 40}),
        ("fine", "Fine", {"images": 123_456, "errors": 3, "skipped": 812}),
        ("near", "Near its bounds", {"images": 1_200, "slowest_ms": 16}),
        ("beyond", "Beyond its bounds", {"images": 1_200, "errors": 40, "kind": TrialKind.shadow}),
    ],
)
def test_figures_are_in_words_too(
    stand: Stand, page: Page, name: str, said: str, figures: dict[str, Any]
) -> None:
    keep(stand, trial(**{"kind": TrialKind.canary, **figures}))
    panel = page.get_by_role("region", name="What is being tried out")
    expect(panel).to_contain_text(said)  # within the time in which the page asks by itself
    assert not shots(page, f"versions-trial-{name}")


def test_of_many_that_have_ended_and_while_the_gateway_is_away(stand: Stand, page: Page) -> None:
    ends = [
        (TrialOutcome.ended, "seen enough"),
        (TrialOutcome.failed, "9 of 200 answers failed, of version 1 0: more than 2 % of difference"),
        (TrialOutcome.promoted, "version 2 was promoted"),
    ]
    for number in range(ENDED):
        outcome, because = ends[number % 3]
        kind = list(TrialKind)[number % 2]
        keep(stand, trial(number, images=600, kind=kind, outcome=outcome, ended_because=because))
    keep(stand, trial(images=1_200, kind=TrialKind.canary))
    ended = page.get_by_role("list", name="What was tried out, newest first").get_by_role("listitem")
    expect(ended).to_have_count(4)
    page.get_by_role("button", name=f"Show all {ENDED - 1}").click()  # the gateway gives the last twenty
    expect(ended).to_have_count(ENDED - 1)
    found = shots(page, "versions-trials-full")
    with stand.gateway.away():
        expect(page.get_by_text("these figures are from")).to_be_visible()
        expect(page.locator('.stale[data-state="live"]')).to_be_hidden()
        page.evaluate("scrollTo(0, 0)")
        found += shots(page, "versions-trial-old", full_page=False)
        page.reload()
        expect(page.get_by_text("What was tried out could not be loaded")).to_be_visible()
        expect(page.get_by_role("heading", name=f"Version {TRIED}", exact=True)).to_be_visible()
        expect(page.locator('.stale[data-state="live"]')).to_be_hidden()
        found += shots(page, "versions-trials-away")
    expect(page.get_by_role("region", name="What is being tried out")).to_be_visible()
    page.get_by_role("button", name="Try again").click()  # of the ledger, which does not ask by itself
    expect(page.locator('.stale[data-state="live"]')).to_be_visible()
    assert not found, "\n".join(found)
