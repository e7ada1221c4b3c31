"""Every page of the run viewer in every state: nothing there, loading, failing, stale, very full; each kind of run;
each question that is asked before something changes. Real processes, killed and stopped; pictures in TEST_SCREENSHOTS.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from sqlalchemy import text

from core.registry import Registry
from tests.support.browser import browser, faults, layout_shift, open_page, watch_layout
from tests.support.mlflow_server import MlflowServer
from tests.support.pages_stand import DOODLES, Stand, shots

# dvc's own, from its dependency pygtrie
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")

LIST_PAGES = {"runs": "#/", "versions": "#/versions", "corrections": "#/corrections"}
MOST_SHIFT = 0.02  # of each page while it loads
LOG_LINES = 100_000
COME_BACK_SECONDS = 30.0
STALE_WITHIN_MS = 30_000  # silence is noticed after 20 s (ui/shared/live.ts)
LIVE_AGAIN_WITHIN_MS = 20_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("viewer")) as started:
        yield started


@pytest.fixture(scope="module")
def full(stand: Stand) -> Stand:
    """The tests that need nothing, or next to nothing, come before those that use it."""
    stand.fill()
    return stand


@pytest.fixture
def show(chromium: Browser, stand: Stand) -> Iterator[Callable[..., Page]]:
    """Opens an address of the viewer in a context of its own; no page may have had an error at the end."""
    opened: list[Page] = []

    def open_at(address: str, *, width: int = 1280) -> Page:
        page = open_page(chromium, width=width)
        watch_layout(page)
        opened.append(page)
        page.goto(f"{stand.viewer.url}/{address}")
        expect(page.locator("h1")).to_be_visible()
        return page

    yield open_at
    found = [fault for page in opened for fault in faults(page)]
    for page in opened:
        page.context.close()
    assert not found, "\n".join(found)


def loaded(page: Page) -> None:
    """Nothing is being loaded, and nothing new was asked for in the last third of a second."""
    page.evaluate("globalThis.asked = {count: -1, at: 0}")
    page.wait_for_function(
        """() => {
            const count = performance.getEntriesByType("resource").length;
            const isQuiet = count === asked.count && document.querySelector(".loading") === null;
            if (!isQuiet) globalThis.asked = {count, at: performance.now()};
            return isQuiet && performance.now() - asked.at > 300;
        }"""
    )


def try_again(page: Page) -> None:
    """Presses it as long as it is there: what asks by itself may have been faster."""
    deadline = time.monotonic() + COME_BACK_SECONDS
    while (button := page.get_by_role("button", name="Try again").first).is_visible():
        assert time.monotonic() < deadline, page.get_by_role("alert").all_inner_texts()
        with contextlib.suppress(PlaywrightTimeout):
            button.click(timeout=500)
    expect(page.get_by_role("alert")).to_have_count(0)


def whole(page: Page) -> Page:
    """For a picture of the whole page: also the images that are not in sight yet."""
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    return page


def newest_runs(stand: Stand) -> list[int]:
    """Newest first."""
    answer = httpx.get(f"{stand.viewer.url}/pipeline_runs", params={"model": DOODLES, "limit": 20})
    return [run["run_id"] for run in answer.json()["runs"]]


def run_like(stand: Stand, status: str) -> int:
    answer = httpx.get(f"{stand.viewer.url}/pipeline_runs", params={"model": DOODLES, "status": status})
    run_id: int = answer.json()["runs"][0]["run_id"]
    return run_id


def change(stand: Stand, statement: str, **values: Any) -> None:
    with stand.database.engine() as engine, engine.begin() as connection:
        connection.execute(text(statement), values)


# Nothing there.


def test_without_any_model_each_page_says_what_will_be_there(stand: Stand, show: Callable[..., Page]) -> None:
    found = []
    for name, address in LIST_PAGES.items():
        page = show(address)
        expect(page.locator(".state-title").first).to_be_visible()
        loaded(page)
        found += shots(page, f"{name}-no-model")
    page = show("#/runs/7")
    expect(page.get_by_text("There is no run 7")).to_be_visible()
    found += shots(page, "run-unknown")
    page = show("#/nowhere")
    found += shots(page, "nowhere")
    assert not found, "\n".join(found)


def test_before_the_first_version_each_page_says_what_comes_next(
    stand: Stand, show: Callable[..., Page]
) -> None:
    stand.add_models(answering=False)
    found = []
    for name, address in LIST_PAGES.items():
        page = show(address)
        loaded(page)
        found += shots(page, f"{name}-no-version")
    for tab in ("waiting", "decided"):
        page = show(f"#/corrections?show={tab}")
        expect(page.locator(".state-title")).to_be_visible()
        found += shots(page, f"corrections-{tab}-empty")
    page = show("#/versions?model=poems")
    expect(page.get_by_text(re.compile("no model.*poems"))).to_be_visible()
    found += shots(page, "versions-unknown-model")
    assert not found, "\n".join(found)


# Loading, failing, stale.


def test_while_the_database_is_silent_pages_wait_and_then_come_without_a_jump(
    full: Stand, show: Callable[..., Page]
) -> None:
    evaluated = newest_runs(full)[1]
    pages = LIST_PAGES | {"run": f"#/runs/{evaluated}"}
    found: list[str] = []
    for width in (1280, 390):
        with full.database.frozen():
            opened = {name: show(address, width=width) for name, address in pages.items()}
            for page in opened.values():
                expect(page.locator(".loading").first).to_be_visible()
        for name, page in opened.items():
            loaded(page)
            shift, moved = layout_shift(page)
            found += [f"{name} {width}: moved by {shift:.3f}: {moved}"] if shift >= MOST_SHIFT else []
    with full.database.frozen():
        for name, address in pages.items():
            found += shots(show(address), f"{name}-loading")
    assert not found, "\n".join(found)


def test_pages_come_without_a_jump(full: Stand, show: Callable[..., Page]) -> None:
    running, evaluated, failed, *_ = newest_runs(full)
    pages = LIST_PAGES | {f"run {number}": f"#/runs/{number}" for number in (running, evaluated, failed)}
    pages |= {tab: f"#/corrections?show={tab}" for tab in ("waiting", "decided")}
    found = []
    for width in (1280, 390):
        for name, address in pages.items():
            page = show(address, width=width)
            loaded(page)
            shift, moved = layout_shift(page)
            found += [f"{name} {width}: moved by {shift:.3f}: {moved}"] if shift >= MOST_SHIFT else []
    assert not found, "\n".join(found)


def test_pages_say_what_fails_and_come_back(full: Stand, show: Callable[..., Page]) -> None:
    evaluated = newest_runs(full)[1]
    failing = {
        "runs": ("#/", "The models could not be loaded"),
        "versions": ("#/versions", "The models could not be loaded"),
        "corrections": ("#/corrections", "The models could not be loaded"),
        "run": (f"#/runs/{evaluated}", "The run could not be loaded"),
    }
    found: list[str] = []
    with full.database.away():
        opened = {name: show(address) for name, (address, _) in failing.items()}
        for name, page in opened.items():
            expect(page.get_by_text(failing[name][1])).to_be_visible()
            expect(page.get_by_text("the database does not answer").first).to_be_visible()
            found += shots(page, f"{name}-database-away")
    for page in opened.values():
        try_again(page)
        loaded(page)
    with full.gateway.away():
        page = show("#/versions")
        expect(page.get_by_text("The ledger could not be loaded")).to_be_visible()
        expect(page.get_by_role("heading", name="Version 60", exact=True)).to_be_visible()
        found += shots(page, "versions-gateway-away")
        other = show("#/corrections")
        expect(other.get_by_text("The corrections could not be loaded")).to_be_visible()
        found += shots(other, "corrections-gateway-away")
    for opened_page in (page, other):
        try_again(opened_page)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_an_open_page_says_that_it_is_old_and_mends_itself(
    full: Stand, show: Callable[..., Page], how: str
) -> None:
    evaluated = newest_runs(full)[1]
    opened = {name: show(address) for name, address in LIST_PAGES.items()}
    opened["run"] = show(f"#/runs/{evaluated}")
    for page in opened.values():
        expect(page.locator('.stale[data-state="live"]')).to_be_visible()
        loaded(page)
    found: list[str] = []
    with full.viewer.away() if how == "killed" else full.viewer.frozen():
        for name, page in opened.items():
            expect(page.get_by_text("Not live: what you see may be old")).to_be_visible(
                timeout=STALE_WITHIN_MS
            )
            if how == "killed":
                found += shots(page, f"{name}-stale", full_page=False)
        change(full, "update models set promotion_paused_at = now() where name = 'doodles'")
    try:
        for page in opened.values():
            expect(page.locator('.stale[data-state="live"]')).to_be_visible(timeout=LIVE_AGAIN_WITHIN_MS)
        expect(opened["runs"].get_by_text("Promotion is paused").first).to_be_visible()
    finally:
        change(full, "update models set promotion_paused_at = null")
    assert not found, "\n".join(found)


# Very full.


def test_very_full_pages_are_whole(full: Stand, show: Callable[..., Page]) -> None:
    found: list[str] = []
    page = show("#/")
    loaded(page)
    found += shots(page, "runs-full", full_page=False)
    page.get_by_label("State").select_option("failed")
    expect(page.locator(".runs-row").first).to_contain_text("Failed")
    page.mouse.wheel(0, 100_000)
    expect(page.locator(".runs-row")).not_to_have_count(0)
    found += shots(page, "runs-filtered-end", full_page=False)
    page = show("#/versions")
    loaded(page)
    expect(page.locator(".timeline li").first).to_be_visible()
    found += shots(page, "versions-full")
    for tab in ("aside", "waiting", "decided"):
        page = show(f"#/corrections?show={tab}")
        loaded(page)
        expect(page.locator(".tile").first).to_be_visible()
        found += shots(page, f"corrections-{tab}-full", full_page=False)
    assert not found, "\n".join(found)


def test_a_set_aside_correction_is_decided_and_is_then_the_first_of_the_decided(
    full: Stand, show: Callable[..., Page]
) -> None:
    page = show("#/corrections")
    tiles = page.locator(".tile-choice")
    tiles.first.click()
    expect(page.get_by_text("1 chosen")).to_be_visible()
    found = shots(page, "corrections-chosen", full_page=False)
    page.get_by_role("button", name="Relabel").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What does it show?").fill("a brand new thing")
    found += shots(page, "corrections-relabel", full_page=False)
    dialog.get_by_role("button", name="Relabel as a brand new thing").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Choose all").click()
    page.get_by_role("button", name=re.compile("^Reject")).click()
    expect(page.get_by_role("dialog")).to_contain_text("They stay out for good")
    found += shots(page, "corrections-reject-many", full_page=False)
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Decided").click()
    expect(page.locator(".tile").first).to_contain_text("as a brand new thing")
    found += shots(page, "corrections-decided-now", full_page=False)
    assert not found, "\n".join(found)


# Kinds of run.


def test_every_kind_of_run_says_what_became_of_it(full: Stand, show: Callable[..., Page]) -> None:
    _, evaluated, failed, rejected, *_ = newest_runs(full)
    said = {
        evaluated: ("promoted", re.compile("^Promoted")),
        failed: ("failed", re.compile("the loss became NaN")),
        rejected: ("rejected", re.compile("^Rejected")),
        run_like(full, "cancelled"): ("cancelled", re.compile("Cancelled by anna")),
        run_like(full, "interrupted"): ("interrupted", re.compile("was interrupted")),
        run_like(full, "halted"): ("halted", re.compile("a run needs 10")),
    }
    found: list[str] = []
    for number, (name, sentence) in said.items():
        page = show(f"#/runs/{number}")
        loaded(page)
        expect(page.get_by_text(sentence).first).to_be_visible()
        if name == "failed":
            expect(
                page.get_by_text("became NaN in epoch 3; a lower train.learning_rate helps")
            ).to_be_visible()
        found += shots(whole(page), f"run-{name}")
    assert not found, "\n".join(found)


def test_a_run_under_way_shows_a_hundred_thousand_lines_and_its_curve(
    full: Stand, show: Callable[..., Page]
) -> None:
    running = newest_runs(full)[0]
    log = full.data_dir / "logs" / "runs" / str(running) / "train.log"
    with log.open("a") as output:
        output.writelines(
            f"\x1b[32mstep\x1b[0m {number}: loss 0.{number % 997:03d}\n" for number in range(LOG_LINES)
        )
    page = show(f"#/runs/{running}")
    loaded(page)
    expect(page.get_by_text(f"step {LOG_LINES - 1}:")).to_be_visible()
    with log.open("a") as output:
        output.write("\x1b[33mone more line\x1b[0m that came while the page was open\n")
    expect(page.get_by_text("that came while the page was open")).to_be_visible()
    expect(page.get_by_text("Epoch 3 of 8")).to_be_visible()
    expect(page.get_by_text(re.compile("About [^ ]+.* of training left"))).to_be_visible()
    expect(page.get_by_text("In this epoch: CPU")).to_be_visible()
    expect(page.locator(".uplot canvas")).to_be_visible()
    found = shots(page, "run-running")
    page.get_by_role("searchbox").fill("step 51234:")
    expect(page.get_by_text("step 51234:")).to_be_visible()
    found += shots(page, "run-running-searched")
    assert not found, "\n".join(found)


def test_a_run_that_waits_its_turn_says_so(full: Stand, show: Callable[..., Page]) -> None:
    change(
        full,
        "insert into runs (model, trigger, requested_by, status) values ('photos', 'manual', 'anna', 'queued')",
    )
    try:
        number = httpx.get(f"{full.viewer.url}/pipeline_runs", params={"limit": 1}).json()["runs"][0][
            "run_id"
        ]
        page = show(f"#/runs/{number}")
        loaded(page)
        expect(page.get_by_text(re.compile("It waits to begin"))).to_be_visible()
        found = shots(page, "run-queued")
    finally:
        change(full, "delete from runs where status = 'queued'")
    assert not found, "\n".join(found)


def test_a_run_that_retention_cleaned_says_what_is_gone(full: Stand, show: Callable[..., Page]) -> None:
    old = next(run for run in newest_runs_with_version(full) if run["version"] == 58)
    change(full, "update runs set weights_removed_at = now() where id = :id", id=old["run_id"])
    page = show(f"#/runs/{old['run_id']}")
    loaded(page)
    expect(page.get_by_text("(weights removed)")).to_be_visible()
    expect(page.get_by_text("cleanup keeps the newest runs")).to_be_visible()
    found = shots(whole(page), "run-cleaned")
    assert not found, "\n".join(found)


def newest_runs_with_version(stand: Stand) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{stand.viewer.url}/pipeline_runs",
        params={"model": DOODLES, "status": ["succeeded", "rejected"], "limit": 100},
    )
    return [run for run in answer.json()["runs"] if run["version"] is not None]


# Questions and refusals.


def test_every_button_asks_before_it_changes_something(full: Stand, show: Callable[..., Page]) -> None:
    running, _, failed, *_ = newest_runs(full)
    found: list[str] = []

    def ask(page: Page, button: str, name: str, said: str, keep: str = "Cancel") -> None:
        page.get_by_role("button", name=button, exact=True).first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(said)
        found.extend(shots(page, name, full_page=False))
        dialog.get_by_role("button", name=keep, exact=True).click()
        expect(dialog).to_have_count(0)

    change(full, "update models set promotion_paused_at = now() where name = 'doodles'")
    try:
        page = show("#/")
        ask(page, "Retrain now: photos", "ask-retrain", "compares it with version 1")
        ask(page, "Roll back: doodles", "ask-roll-back", "no request is lost meanwhile")
        ask(page, "Resume promotion of doodles", "ask-resume-promotion", "goes live by itself again")
        blocked = page.get_by_role("button", name="Retrain now: doodles")
        expect(blocked).to_have_attribute("aria-disabled", "true")
        expect(page.get_by_text(re.compile(f"Run {running} is under way"))).to_be_visible()
    finally:
        change(full, "update models set promotion_paused_at = null")
    page = show(f"#/runs/{running}")
    ask(page, "Cancel", "ask-cancel", "no correction is lost", keep="Let it go on")
    page = show(f"#/runs/{failed}")
    expect(page.get_by_text(f"Run {running} came later: start a new one instead")).to_be_visible()
    page = show("#/")
    loaded(page)
    assert not found, "\n".join(found)


def test_a_failed_run_that_is_the_last_can_be_resumed(full: Stand, show: Callable[..., Page]) -> None:
    change(
        full,
        "insert into runs (model, trigger, requested_by, status, message, finished_at) values "
        "('photos', 'manual', 'anna', 'failed', 'stage ''ingest'' exited with code 1', now())",
    )
    try:
        page = show("#/?model=photos")
        page.get_by_role("button", name="Resume", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text("It goes on")
        found = shots(page, "ask-resume", full_page=False)
    finally:
        change(full, "delete from runs where model = 'photos' and message like 'stage ''ingest''%'")
    assert not found, "\n".join(found)


def test_two_versions_side_by_side(full: Stand, show: Callable[..., Page]) -> None:
    page = show("#/versions?a=59&b=60")
    expect(page.get_by_text("Right on the holdout when made", exact=True)).to_be_visible()
    expect(page.locator("#side-by-side .loading")).to_have_count(0)
    assert not shots(whole(page), "versions-compare")


@pytest.fixture
def with_mlflow(full: Stand, tmp_path: Path) -> Iterator[MlflowServer]:
    """A real registry that has the stand's versions; gateway and viewer ask it."""
    with MlflowServer(tmp_path / "mlflow") as mlflow:
        register(mlflow.url, versions=60, champion=60, previous=59)
        before = {}
        for service in (full.gateway, full.viewer):
            before[service] = service.environment["MLFLOW_TRACKING_URI"]
            service.environment["MLFLOW_TRACKING_URI"] = mlflow.url
            service.restart()
        yield mlflow
        for service, address in before.items():
            service.environment["MLFLOW_TRACKING_URI"] = address
            service.restart()


def register(url: str, *, versions: int, champion: int, previous: int) -> None:
    """Rows without files: nothing here loads a version."""
    with httpx.Client(base_url=f"{url}/api/2.0/mlflow", timeout=30) as mlflow:
        mlflow.post("/registered-models/create", json={"name": DOODLES}).raise_for_status()
        for _ in range(versions):
            made = {"name": DOODLES, "source": "s3://nowhere/model"}
            mlflow.post("/model-versions/create", json=made).raise_for_status()
    with Registry(url) as registry:
        registry.set_alias(DOODLES, "champion", champion)
        registry.set_alias(DOODLES, "previous", previous)


def test_a_promotion_while_mlflow_is_away_says_so_and_does_nothing_by_half(
    full: Stand, with_mlflow: MlflowServer, show: Callable[..., Page]
) -> None:
    def ledger() -> list[dict[str, Any]]:
        answer = httpx.get(f"{full.gateway.url}/models/{DOODLES}/promotions", params={"limit": 3})
        found: list[dict[str, Any]] = answer.json()["promotions"]
        return found

    page = show("#/versions")
    loaded(page)
    before = ledger()
    page.get_by_role("button", name="Promote version 57").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill("it was better on our own drawings")
    found = shots(page, "ask-promote", full_page=False)
    with_mlflow.stop()
    dialog.get_by_role("button", name="Promote version 57").click()
    expect(dialog.get_by_role("alert")).to_contain_text("MLflow does not answer")
    found += shots(page, "promote-mlflow-away", full_page=False)
    assert ledger() == before
    dialog.get_by_role("button", name="Cancel").click()
    page.reload()
    expect(page.get_by_text("MLflow does not answer just now: nothing can be put live")).to_be_visible()
    expect(page.get_by_role("button", name="Promote version 57")).to_have_attribute("aria-disabled", "true")
    found += shots(page, "versions-mlflow-away")
    assert not found, "\n".join(found)
