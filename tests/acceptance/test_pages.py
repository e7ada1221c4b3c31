"""The pages in a real browser against every real process: a doodle's whole way, bad days, every page at every size.

Screenshots of every page are left in TEST_SCREENSHOTS, when that names a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline import starter
from tests.support.browser import accessibility_faults, browser, faults, open_page
from tests.support.kills import service, stopped
from tests.support.stack import RUN_SECONDS, Stack

ZIGZAG = [(60, 60), (330, 90), (80, 160), (340, 220), (90, 290), (330, 350), (60, 400)]
DRAW_PAGES = {"draw": "#/", "upload": "#/upload", "receipts": "#/receipts", "history": "#/history"}
VIEWER_PAGES = {"runs": "#/", "run": "#/runs/1", "versions": "#/versions", "corrections": "#/corrections"}
SIZES = [(390, True), (1280, False)]  # every state at every size: test_draw_states.py, test_viewer_states.py


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    opened = open_page(chromium)
    yield opened
    found = faults(opened)
    opened.context.close()
    assert not found, "\n".join(found)


def draw(page: Page, points: list[tuple[int, int]] = ZIGZAG) -> None:
    """One stroke, in pixels from the sheet's corner."""
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    scale = box["width"] / 480
    page.mouse.move(box["x"] + points[0][0] * scale, box["y"] + points[0][1] * scale)
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x * scale, box["y"] + y * scale, steps=8)
    page.mouse.up()


def answered(page: Page) -> str:
    """The label of the answer for the record."""
    expect(page.get_by_role("button", name="Right", exact=True)).to_be_visible()
    return page.locator(".draw-word").inner_text().strip()


def say_otherwise(page: Page) -> str:
    """Corrects it with the first other category; returns that."""
    chip = page.locator(".correct-chip").first
    label = chip.inner_text()
    chip.dblclick()  # once is enough, and twice no more than once
    return label


def test_every_page_is_whole_and_accessible_at_every_size(chromium: Browser, stack: Stack) -> None:
    for pixels, label in zip(*starter.generate(1, seed=3, processes=1), strict=True):
        if label in ("cat", "dog", "house"):
            stack.correct(pixels, label, headers={"Emend-Actor": "somebody"})
    found = []
    for width, dark in SIZES:
        for service_name, pages in (("UI", DRAW_PAGES), ("VIEWER", VIEWER_PAGES)):
            for name, address in pages.items():
                page = open_page(chromium, width=width, dark=dark)
                page.goto(f"{stack.url(service_name)}/{address}")
                expect(page.locator("h1")).to_be_visible()
                expect(page.locator(".loading")).to_have_count(0)
                expect(page.get_by_text(re.compile("could not be loaded"))).to_have_count(0)
                wide = page.evaluate(
                    "document.documentElement.scrollWidth > document.documentElement.clientWidth"
                )
                found += [f"{name} {width}: wider than the window"] if wide else []
                found += [f"{name} {width}: {fault}" for fault in accessibility_faults(page) + faults(page)]
                photograph(page, f"{name}-{width}-{'dark' if dark else 'light'}")
                page.context.close()
    assert not found, "\n".join(found)


def test_a_newcomer_sees_it_learn_from_one_doodle_and_takes_it_back(
    page: Page, chromium: Browser, stack: Stack
) -> None:
    """Draw, answer, correct, samples, retrain, stages, verdict, both versions, receipt, undo.

    In between gateway, model server and database are killed, and started again by their supervisor.
    """
    stack.api.post("/models/doodles/promotion/resume")
    # A gate that is content with little: whether so brief a training harms nothing else is luck.
    stack.edit_params(gate={"margin_points": 100.0, "generated_margin_points": 100.0, "category_alpha": 1e-6})
    page.goto(stack.url("UI"))
    draw(page)
    before = answered(page)
    label = say_otherwise(page)
    assert label != before
    receipt = page.get_by_role("article", name="Receipt of a correction")
    expect(receipt).to_contain_text("waits for the next run")
    receipt_page = receipt.get_by_role("link").first.get_attribute("href")

    service(stack, "api").kill()
    guide = page.get_by_role("region", name="Try this: see it learn")
    guide.get_by_role("button", name=re.compile(r"Add \d+ sample corrections")).click()
    expect(guide).to_contain_text(re.compile(rf"\d+ sample corrections of {label} are in"))
    live = stack.api.get("/models/doodles").json()["champion"]["version"]
    guide.get_by_role("button", name="Retrain now").click()
    expect(guide.locator(".lights-stages")).to_be_visible()
    service(stack, "serving").kill()
    expect(guide.locator(".guide-verdict")).to_contain_text("Promoted: ", timeout=RUN_SECONDS * 1_000)
    expect(guide.locator(".lights-stages")).to_have_attribute("aria-label", "9 of 9 stages done")
    run = stack.api.get("/pipeline_runs", params={"limit": 1}).json()["runs"][0]

    viewer = open_page(chromium)
    viewer.goto(f"{stack.url('VIEWER')}/#/runs/{run['run_id']}")
    expect(viewer.get_by_text(run["verdict"]["sentence"]).first).to_be_visible()
    expect(viewer.get_by_text(re.compile(r"What people corrected")).first).to_be_visible()
    assert faults(viewer) == []
    viewer.context.close()

    other = page.context.new_page()
    other.goto(f"{stack.url('UI')}/{receipt_page}")
    expect(other.get_by_text(f"Now right: version {run['version']} was trained on it")).to_be_visible()
    other.close()

    killed = postmaster(stack)
    killed.kill()
    stack.wait_until(lambda: postmaster_pid(stack) not in (None, killed.pid) and is_ready(stack), 60)
    guide.get_by_role("button", name="Undo promotion").click()
    expect(guide).to_contain_text(f"Version {live} is live")
    guide.get_by_role("button", name=f"Put version {run['version']} live again").click()
    expect(guide).not_to_contain_text("Not live any more")
    assert stack.api.get("/models/doodles").json()["champion"]["version"] == run["version"]
    guide.get_by_role("button", name="Undo promotion").click()
    expect(guide).to_contain_text(f"Version {live} is live")
    assert stack.api.get("/models/doodles").json()["champion"]["version"] == live
    guide.get_by_role("button", name="Remove all samples").click()
    expect(page.get_by_text(re.compile(r"The next run takes \d+ samples out of the dataset"))).to_be_visible()
    stack.api.post("/models/doodles/promotion/resume")


def test_a_correction_made_while_everything_is_away_arrives_once(page: Page, stack: Stack) -> None:
    """Gateway, model server and database, one after another, killed and back."""
    page.goto(stack.url("UI"))
    assert stack.supervisor_pid is not None
    supervisor = psutil.Process(stack.supervisor_pid)
    gone: tuple[Callable[[], psutil.Process], ...] = (
        lambda: service(stack, "api"),
        lambda: postmaster(stack),
    )
    for number, process in enumerate(gone):
        draw(page, [(x, y + 6 * number) for x, y in ZIGZAG])
        answered(page)
        with stopped(supervisor):  # so that it is away for as long as this test looks
            process().kill()
            say_otherwise(page)
            expect(page.get_by_text("Safe in this browser.")).to_be_visible()
        receipt = page.get_by_role("article", name="Receipt of a correction")
        expect(receipt).to_contain_text("waits for the next run", timeout=60_000)
        expect(page.get_by_text("Safe in this browser.")).to_have_count(0)
        page.get_by_role("button", name="Draw the next").click()
    with stopped(supervisor):
        service(stack, "serving").kill()
        draw(page)
        expect(page.get_by_role("alert")).to_contain_text("asked again by itself")
    answered(page)
    page.get_by_role("link", name="Receipts").click()
    expect(page.locator(".receipts-row")).to_have_count(len(gone))


def postmaster(stack: Stack) -> psutil.Process:
    found = postmaster_pid(stack)
    assert found is not None
    return psutil.Process(found)


def postmaster_pid(stack: Stack) -> int | None:
    """None while the database is not there, or writes it just now."""
    try:
        return int((stack.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    except (OSError, IndexError, ValueError):
        return None


def is_ready(stack: Stack) -> bool:
    """Gateway with model server and database, and MLflow with its own."""
    versions = httpx.get(f"{stack.url('VIEWER')}/models/doodles/versions")
    from_registry = versions.status_code == 200 and versions.json()["aliases_from"] == "registry"
    return from_registry and stack.api.get("/readyz").status_code == 200


def photograph(page: Page, name: str) -> None:
    folder = os.environ.get("TEST_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
