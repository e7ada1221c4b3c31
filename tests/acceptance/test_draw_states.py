"""Every state of the drawing app's pages: empty, loading, failing, away and back, very full, and those of its use.

All on the stand of tests/support/pages_stand.py, whose processes are really stopped, killed and started again. Each
state is looked at by `shots`: 390 and 1280 pixels, light and dark, accessible, never wider than the window. With
TEST_SCREENSHOTS=/tmp/shots the pictures are kept there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pipeline import starter
from tests.support.browser import browser, faults, open_page
from tests.support.pages_stand import LONG_NAMES, VISITOR, Stand, doodles, shots
from tests.support.pages_stand_full import photos

PAGES = {"draw": "#/", "upload": "#/upload", "receipts": "#/receipts", "history": "#/history"}
ALONE_MS = 30_000  # within which a page comes back by itself

# Of a library that DVC uses, when the stand is filled.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")


class Scene:
    """The stand, brought into a state only when it is not in it already."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self._state = "empty"

    def be(self, state: str) -> Stand:
        ways: dict[str, Callable[[], None]] = {
            "empty": lambda: None,
            "no champion": lambda: self.stand.add_models(answering=False),
            "ready": self.stand.add_models,
            "full": self.stand.fill,
        }
        if state != self._state:
            self.stand.empty()
            ways[state]()
            self._state = state
        return self.stand


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Stand(tmp_path_factory.mktemp("stand")) as stand:
        yield Scene(stand)


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


@pytest.fixture
def tabs(page: Page) -> Callable[[Stand], dict[str, Page]]:
    """Every page of the app at once, so that what takes a while is waited for once."""

    def open_all(stand: Stand) -> dict[str, Page]:
        opened = {}
        for name, address in PAGES.items():
            tab = page.context.new_page()
            tab.__dict__["faults"] = []
            tab.on("pageerror", lambda error: page.__dict__["faults"].append(f"{error}"))
            tab.goto(f"{stand.pages.url}/{address}", wait_until="commit")
            opened[name] = tab
        return opened

    return open_all


def no_faults(found: list[str]) -> None:
    assert not found, "\n".join(found)


def sketch(page: Page, category: str, number: int = 0) -> None:
    """One of the drawings that the stand's model was made from, stroke by stroke."""
    rng = np.random.default_rng([3, starter.CATEGORIES.index(category)])
    strokes = [starter.draw(category, rng) for _ in range(number + 1)][-1]
    points = np.concatenate(strokes)
    low, size = points.min(axis=0), np.ptp(points, axis=0).max()
    sheet = page.locator("canvas").first
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    assert box is not None
    for stroke in strokes:
        placed = (stroke - low) / size * box["width"] * 0.8 + box["width"] * 0.1
        page.mouse.move(box["x"] + placed[0][0], box["y"] + placed[0][1])
        page.mouse.down()
        for x, y in placed[1:]:
            page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.up()


def answered(page: Page) -> str:
    expect(page.get_by_role("button", name="Right", exact=True)).to_be_visible()
    return page.locator(".draw-word").inner_text().strip()


# Empty.


def test_without_any_model_every_page_says_what_is_missing(
    scene: Scene, tabs: Callable[[Stand], dict[str, Page]]
) -> None:
    found = []
    for name, tab in tabs(scene.be("empty")).items():
        title = "No receipts yet" if name == "receipts" else "There is no model yet"
        expect(tab.get_by_text(title)).to_be_visible()
        found += shots(tab, f"{name}-no-model")
    no_faults(found)


def test_a_model_without_a_version_can_be_drawn_for_and_says_that_it_cannot_answer_yet(
    scene: Scene, page: Page
) -> None:
    stand = scene.be("no champion")
    page.goto(stand.pages.url)
    sketch(page, "cat")
    expect(page.get_by_role("alert")).to_contain_text("No answer")
    no_faults(shots(page, "draw-no-champion"))


def test_with_nothing_recorded_the_pages_lead_to_the_first_drawing(
    scene: Scene, tabs: Callable[[Stand], dict[str, Page]]
) -> None:
    opened = tabs(scene.be("ready"))
    expect(opened["draw"].get_by_text("Waiting for your pen")).to_be_visible()
    expect(opened["upload"].get_by_text("Drop pictures here")).to_be_visible()
    expect(opened["receipts"].get_by_role("link", name="Draw something")).to_be_visible()
    expect(opened["history"].get_by_role("link", name="Draw something")).to_be_visible()
    no_faults([fault for name, tab in opened.items() for fault in shots(tab, f"{name}-nothing-yet")])


# Loading, failing, away and back.


def test_while_the_gateway_thinks_every_page_keeps_its_place_and_then_shows_all(
    scene: Scene, tabs: Callable[[Stand], dict[str, Page]]
) -> None:
    stand = scene.be("ready")
    found = []
    with stand.gateway.frozen():
        opened = tabs(stand)
        for name, tab in opened.items():
            expect(tab.locator(".loading").first).to_be_attached()
            found += shots(tab, f"{name}-loading")
    for tab in opened.values():
        expect(tab.locator(".loading")).to_have_count(0)
        expect(tab.locator("h1")).to_be_visible()
    no_faults(found)


@pytest.mark.parametrize("service", ["gateway", "database"])
def test_a_page_that_cannot_be_loaded_says_so_and_comes_back_by_itself(
    scene: Scene, page: Page, tabs: Callable[[Stand], dict[str, Page]], service: str
) -> None:
    stand = scene.be("ready")
    stand.visit(page.context)  # of somebody unknown there would be no receipts to look for
    found = []
    with getattr(stand, service).away():
        opened = tabs(stand)
        for name, tab in opened.items():
            expect(tab.get_by_role("alert")).to_contain_text("could not be loaded")
            found += shots(tab, f"{name}-{service}-away")
    for tab in opened.values():
        expect(tab.get_by_role("alert")).to_have_count(0, timeout=ALONE_MS)
        expect(tab.locator("h1")).to_be_visible()
    no_faults(found)


@pytest.mark.parametrize("service", ["model_server", "gateway"])
def test_a_drawing_that_gets_no_answer_stays_and_is_asked_again(
    scene: Scene, page: Page, service: str
) -> None:
    stand = scene.be("ready")
    page.goto(stand.pages.url)
    expect(page.get_by_text("Waiting for your pen")).to_be_visible()
    with getattr(stand, service).away():
        sketch(page, "cat")
        expect(page.get_by_role("alert")).to_contain_text("asked again by itself")
        expect(page.locator(".correct-chip").first).to_be_visible()
        found = shots(page, f"draw-open-{service}-away")
    answered(page)
    no_faults(found)


def test_a_correction_is_kept_while_nobody_takes_it_and_is_sent_later(scene: Scene, page: Page) -> None:
    stand = scene.be("ready")
    page.goto(stand.pages.url)
    sketch(page, "house")
    answered(page)
    with stand.database.away():
        page.locator(".correct-chip").first.click()
        expect(page.get_by_text("Safe in this browser.")).to_be_visible()
        found = shots(page, "draw-unsent", full_page=False)
        page.get_by_role("link", name="Receipts").click()
        expect(page.get_by_text("What you said waits in this browser")).to_be_visible()
        found += shots(page, "receipts-unsent", full_page=False)
    expect(page.locator(".receipts-row")).to_have_count(1, timeout=ALONE_MS)
    no_faults(found)


def test_an_open_page_says_that_it_is_not_live_and_when_it_is_again(scene: Scene, page: Page) -> None:
    stand = scene.be("ready")
    page.goto(f"{stand.pages.url}/#/receipts")
    expect(page.locator(".stale[data-state=live]")).to_be_visible()
    with stand.viewer.away():
        expect(page.locator(".stale[data-state=stale]")).to_be_visible()
        found = shots(page, "receipts-stale")
    expect(page.locator(".stale[data-state=live]")).to_be_visible(timeout=ALONE_MS)
    no_faults(found)


# Use.


def test_a_drawing_its_answer_and_every_way_to_say_what_it_is(scene: Scene, page: Page) -> None:
    stand = scene.be("ready")
    page.goto(stand.pages.url)
    sketch(page, "flower")
    assert answered(page) == "flower"
    found = shots(page, "draw-answered")
    box = page.get_by_placeholder("Find or add a category")
    box.fill("clokk")
    expect(page.get_by_role("option", name=re.compile("Did you mean clock"))).to_be_visible()
    found += shots(page, "draw-near-name")
    box.fill("")
    page.get_by_role("button", name="Right", exact=True).press("Enter")
    expect(page.get_by_role("article", name="Receipt of a correction")).to_contain_text("waits for the next")
    expect(
        page.locator(".draw-say:focus-within")
    ).to_be_attached()  # though the button that had the focus is gone
    found += shots(page, "draw-confirmed")
    no_faults(found)


def test_the_guides_steps_from_one_correction_to_a_run(scene: Scene, page: Page) -> None:
    """No run ends on the stand: what comes after is photographed in test_pages.py."""
    stand = scene.be("ready")
    page.goto(stand.pages.url)
    sketch(page, "flower")
    answered(page)
    box = page.get_by_placeholder("Find or add a category")
    box.fill("sunflower")
    page.get_by_role("option", name=re.compile("Add sunflower")).click()
    guide = page.get_by_role("region", name="Try this: see it learn")
    expect(guide.get_by_role("button", name=re.compile("Add .* sample corrections"))).to_be_visible()
    expect(page.get_by_role("article")).to_contain_text("waits for the next")
    found = shots(page, "draw-corrected")
    guide.get_by_role("button", name=re.compile("Add .* sample corrections")).press("Enter")
    expect(guide).to_contain_text(re.compile("sample corrections of sunflower are in"))
    found += shots(page, "draw-guide-samples")
    guide.get_by_role("button", name="Retrain now").press("Enter")
    expect(guide.locator(".lights-stages")).to_be_visible()
    expect(page.locator(".guide:focus-within")).to_be_attached()
    found += shots(page, "draw-guide-queued")
    no_faults(found)


# Beside the place for it: a browser left to itself would show the file in the place of the page.
DROP_ON_THE_HEADING = """bytes => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
    const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector("h1").dispatchEvent(drop);
    return drop.defaultPrevented;
}"""


PASTE = """bytes => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
}"""


def test_uploads_good_unreadable_and_many(scene: Scene, page: Page, tmp_path: Path) -> None:
    stand = scene.be("ready")
    pixels, labels = doodles()
    chosen = [tmp_path / f"{labels[i]}, drawn on paper and scanned ({i}).png" for i in range(0, 400, 33)]
    for i, path in zip(range(0, 400, 33), chosen, strict=True):
        Image.fromarray(255 - pixels[i]).resize((280, 280)).save(path)
    broken = tmp_path / "holiday video that somebody renamed.png"
    broken.write_bytes(b"not a picture")
    cut_off = tmp_path / "cut-off.jpg"
    Image.fromarray(pixels[0]).save(tmp_path / "whole.jpg")
    cut_off.write_bytes((tmp_path / "whole.jpg").read_bytes()[:200])
    page.goto(f"{stand.pages.url}/#/upload")
    page.get_by_label("Pictures").set_input_files([chosen[0], broken, cut_off])
    expect(page.get_by_text("2 files cannot be read")).to_be_visible()
    expect(page.get_by_role("button", name="Right", exact=True)).to_be_visible()
    found = shots(page, "upload-mixed")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="No, it is …").click()
    expect(page.locator(".correct-chip").first).to_be_visible()
    found += shots(page, "upload-correcting")
    page.locator(".correct-chip").nth(1).click()
    expect(page.get_by_role("article", name="Receipt of a correction")).to_contain_text("waits for the next")
    found += shots(page, "upload-corrected")
    page.get_by_label("Pictures").set_input_files(chosen[1:-2])
    page.evaluate(PASTE, list(chosen[-2].read_bytes()))
    assert page.evaluate(DROP_ON_THE_HEADING, list(chosen[-1].read_bytes()))
    expect(page.get_by_text(f"{len(chosen)} of {len(chosen)} pictures answered")).to_be_visible()
    found += shots(page, "upload-many")
    no_faults(found)


def test_photos_are_uploaded_not_drawn(scene: Scene, page: Page, tmp_path: Path) -> None:
    stand = scene.be("ready")
    page.goto(f"{stand.pages.url}/#/?model=photos")
    expect(page.get_by_text("The model “photos” looks at photos, not at drawings")).to_be_visible()
    found = shots(page, "draw-photos-model")
    page.get_by_role("link", name="Upload a photo").click()
    files = [tmp_path / f"IMG_{2_041 + i}.jpg" for i in range(2)]
    for path, photo in zip(files, photos(), strict=False):
        Image.fromarray(photo).resize((640, 480), Image.Resampling.BICUBIC).save(path)
    page.get_by_label("Pictures").set_input_files(files)
    expect(page.get_by_role("button", name="Right", exact=True)).to_have_count(2)
    found += shots(page, "upload-photos")
    with stand.model_server.away():
        page.get_by_label("Pictures").set_input_files(files[:1])
        expect(page.get_by_text("No answer")).to_be_visible()
        found += shots(page, "upload-no-answer")
        page.get_by_role("button", name="Ask again").scroll_into_view_if_needed()
    no_faults(found)


def test_addresses_that_lead_nowhere(scene: Scene, page: Page) -> None:
    stand = scene.be("ready")
    found = []
    for name, address, told in (
        ("receipt-not-there", "#/receipts/01a1c7e0-0000-7000-8000-000000000000", "There is no such receipt"),
        ("model-not-there", "#/?model=mushrooms", "There is no model named “mushrooms”"),
        ("page-not-there", "#/nothing", "There is no such page"),
    ):
        page.goto(f"{stand.pages.url}/{address}")
        expect(page.get_by_text(told).first).to_be_visible()
        found += shots(page, name)
    no_faults(found)


# Very full.


def receipts_of(stand: Stand) -> list[dict[str, Any]]:
    """The visitor's and those of a new category, with their sentences."""
    with httpx.Client(base_url=stand.gateway.url, cookies={"emend_actor": VISITOR}, timeout=30) as client:
        listed = client.get("/corrections", params={"mine": "true", "limit": 200}).json()["items"]
        new = client.get("/corrections", params={"label": LONG_NAMES[2], "status": "accepted"}).json()[
            "items"
        ]
        return [client.get(item["receipt"]).json() for item in [*listed, *new]]


def as_visitor(stand: Stand, page: Page) -> BrowserContext:
    stand.visit(page.context)
    return page.context


def test_very_full_pages(scene: Scene, page: Page) -> None:
    stand = scene.be("full")
    as_visitor(stand, page)
    page.goto(stand.pages.url)
    expect(page.locator(".draw-can")).to_contain_text("and 330 more")
    found = shots(page, "draw-full")
    sketch(page, "rainbow")
    answered(page)
    found += shots(page, "draw-full-answered")
    box = page.get_by_placeholder("Find or add a category")
    box.fill("a")
    expect(page.locator(".category-box-menu li").nth(8)).to_be_visible()
    found += shots(page, "draw-full-names")
    box.fill("Donaudampfschifffahrtsgesellschaftskapitänsmütze")
    page.locator(".category-box-menu li").first.click()
    expect(page.get_by_role("article")).to_contain_text("waits for the next")
    found += shots(page, "draw-full-corrected")
    page.goto(f"{stand.pages.url}/#/history")
    expect(page.locator(".history-row").nth(5)).to_be_visible()
    found += shots(page, "history-full", full_page=False)
    page.goto(f"{stand.pages.url}/#/history?corrected=yes")
    expect(page.locator(".history-row ins").nth(3)).to_be_visible()
    found += shots(page, "history-full-corrected", full_page=False)
    page.goto(f"{stand.pages.url}/#/history?label=cat&version=1")
    expect(page.get_by_text("No answer matches these filters")).to_be_visible()
    found += shots(page, "history-nothing-like-that")
    page.goto(f"{stand.pages.url}/#/receipts")
    expect(page.locator(".receipts-row").nth(5)).to_be_visible()
    found += shots(page, "receipts-full", full_page=False)
    no_faults(found)


STEPS = {
    "waits": "Received: it waits",
    "in-dataset": "the next version will be trained on it",
    "new-category": "more training image",
    "now-right": "was trained on it and gets it right",
    "still-wrong": "was trained on it and s",
    "exam": "exam question",
    "set-aside": "Set aside for a person",
    "damaged": "damaged or cut off",
    "rejected": "left it out for good",
    "relabelled": "gave the image another label",
    "agreed": "A person looked at it and agreed",
    "leaving": "Taken back: it is in dataset version",
    "withdrawn": "Taken back: nothing was trained on it",
    "taken-out": "is in no dataset version from",
    "said-before": "already, with this label",
}


def test_every_step_of_a_receipt(scene: Scene, page: Page) -> None:
    stand = scene.be("full")
    as_visitor(stand, page)
    known = receipts_of(stand)
    found = []
    for name, words in STEPS.items():
        receipt = next((each for each in known if words in each["sentence"]), None)
        if receipt is None:
            found.append(f"no receipt says {words!r}")
            continue
        page.goto(f"{stand.pages.url}/#/receipts/{receipt['correction_id']}")
        expect(page.locator(".receipt-sentence")).to_contain_text(words)
        found += shots(page, f"receipt-{name}")
    page.get_by_role("link", name="My receipts").click()
    page.locator(".receipts-row").first.click()
    no_faults(found)


def test_taking_a_correction_back_asks_first(scene: Scene, page: Page) -> None:
    stand = scene.be("full")
    as_visitor(stand, page)
    receipt = next(each for each in receipts_of(stand) if each["status"] == "accepted")
    page.goto(f"{stand.pages.url}/#/receipts/{receipt['correction_id']}")
    page.get_by_role("button", name="Take this correction back").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    found = shots(page, "receipt-take-back", full_page=False)
    page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
    expect(page.locator(".receipt-sentence")).to_contain_text("Taken back")
    no_faults(found + shots(page, "receipt-taken-back"))
