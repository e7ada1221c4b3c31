"""How fast the pages are in a real browser, on a stand that is very full.

    python -m bench.pages [--only views,drawing,phone,history,runs,log]

Starts tests/support/pages_stand.py (real PostgreSQL, gateway, model server, viewer and pages' server; no orchestrator,
no MLflow), fills it with 100,000 predictions, 5,000 corrections, 1,200 runs and 345 categories, and asks Debian's
chromium (headless, software drawing). Prints as its last line one JSON object. What it measures:

    views      from the start of the navigation to the page's own content with nothing loading any more, by the page's
               own clock, looked at in every frame; seven times, each in a new browser context, whose cache is empty.
               And the compressed script that the page asked for. Here as below "busy" is processor time of the page's
               main thread, which other work on the machine makes no longer.
    drawing    five seconds of strokes by mouse at 1280 pixels while drafts are asked and answered: the times between
               frames (requestAnimationFrame).
    phone      the same by finger at 390 pixels, device scale 2, with the processor slowed down four times (Chromium's
               Emulation.setCPUThrottlingRate). No claim about any phone.
    history    wheel to the end of all rows; times of the pages' answers, elements in the page, script memory after a
               collection of garbage; then frames while scrolling about with everything loaded.
    runs       first view of 1,200 runs, change of a filter to the rows it leaves, frames while scrolling.
    log        a log of 100,000 lines: from the start of the navigation to its last line, and from a key to what is
               found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

from tests.support.browser import browser
from tests.support.pages_stand import Stand

TIMES = 7
DRAWING_SECONDS = 5.0
STROKE_SECONDS = 1.0
SCROLL_SECONDS = 4.0
LOG_LINES = 100_000
LATE_FRAME_MS = 20.0
PARTS = ("views", "drawing", "phone", "history", "runs", "log")

# Content of each page that is only there once its data is: every selector has to find something.
DRAW_VIEWS = {
    "draw": ("#/", ".draw-sheet canvas", ".draw-can"),
    "upload": ("#/upload", ".upload-drop"),
    "receipts": ("#/receipts", ".receipts-row"),
    "history": ("#/history", ".history-row .pixels"),
}
VIEWER_VIEWS = {
    "runs": ("#/", ".runs-row", ".runs-filters"),
    "run": ("#/runs/{run}", ".run-pictures", ".log-line", "canvas"),
    "versions": ("#/versions", ".versions-item", ".timeline"),
    "corrections": ("#/corrections", ".corrections-place"),
}

READY = """selectors => {
  const look = () => {
    const isThere = selectors.every(selector => document.querySelector(selector));
    if (isThere && !document.querySelector('.loading')) window.readyMs ??= performance.now();
    else requestAnimationFrame(look);
  };
  look();
}"""
FRAMES = """() => {
  const frames = window.frames_ms = [];
  let last = performance.now();
  const next = now => { frames.push(now - last); last = now; window.framing = requestAnimationFrame(next); };
  window.framing = requestAnimationFrame(next);
}"""
END_FRAMES = "() => { cancelAnimationFrame(window.framing); return window.frames_ms.slice(1); }"
SCRIPTS = """() => performance.getEntriesByType('resource').filter(({name}) => name.includes('.js'))
  .reduce((sum, {encodedBodySize}) => sum + encodedBodySize, 0)"""
ANSWERS = """() => {
  window.answers_ms = [];
  new PerformanceObserver(list => {
    for (const {name, responseEnd, startTime} of list.getEntries())
      if (name.includes('/predictions?') && !name.includes('limit=1&') && !name.endsWith('limit=1'))
        window.answers_ms.push(responseEnd - startTime);
  }).observe({type: 'resource'});
}"""
ELEMENTS = "document.querySelectorAll('*').length"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parts = parser.parse_args().only.split(",")
    found: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="emend-bench-") as folder, Stand(Path(folder)) as stand:
        stand.fill()
        run = newest_run(stand, "succeeded")
        write_long_log(stand, run)
        measurements: dict[str, Callable[[Browser], Any]] = {
            "views": lambda chromium: views(chromium, stand, run),
            "drawing": lambda chromium: drawing(chromium, stand, is_phone=False),
            "phone": lambda chromium: drawing(chromium, stand, is_phone=True),
            "history": lambda chromium: history(chromium, stand),
            "runs": lambda chromium: runs(chromium, stand),
            "log": lambda chromium: log(chromium, stand, run),
        }
        for part in parts:
            with browser() as chromium:  # one that has no history of its own
                found[part] = measurements[part](chromium)
            print(part, json.dumps(found[part]), flush=True)
    print(json.dumps(found))


def newest_run(stand: Stand, status: str) -> int:
    answer = httpx.get(f"{stand.viewer.url}/pipeline_runs", params={"status": status, "limit": 1})
    run: int = answer.json()["runs"][0]["run_id"]
    return run


def write_long_log(stand: Stand, run: int) -> None:
    """Of the stage `merge`, as a program with coloured words writes it; one line is unlike all others."""
    lines = [
        f"\x1b[2m12:{i // 60 % 60:02d}:{i % 60:02d}\x1b[0m \x1b[32mmerge\x1b[0m image {i}, of category {i % 345}"
        for i in range(LOG_LINES)
    ]
    lines[LOG_LINES // 3] = "\x1b[33mone of a kind\x1b[0m"
    (stand.data_dir / "logs" / "runs" / str(run) / "merge.log").write_text("\n".join(lines) + "\n")


# First views.


def views(chromium: Browser, stand: Stand, run: int) -> dict[str, Any]:
    found = {}
    for url, pages in ((stand.pages.url, DRAW_VIEWS), (stand.viewer.url, VIEWER_VIEWS)):
        for name, (address, *selectors) in pages.items():
            found[name] = view(chromium, stand, f"{url}/{address.format(run=run)}", selectors)
    return found


def view(chromium: Browser, stand: Stand, url: str, selectors: list[str]) -> dict[str, float]:
    seconds, busy_seconds, script_bytes = [], [], 0
    for _ in range(TIMES):
        context = new_context(chromium, stand)
        page = context.new_page()
        devtools = context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.add_init_script(f"({READY})({json.dumps(selectors)})")
        page.goto(url, wait_until="commit")
        seconds.append(until(page, "window.readyMs ?? null") / 1000)
        busy_seconds.append(measured(devtools, "TaskDuration"))
        script_bytes = page.evaluate(SCRIPTS)
        context.close()
    return {
        "median_seconds": round(statistics.median(seconds), 3),
        "slowest_seconds": round(max(seconds), 3),
        "busy_seconds": round(statistics.median(busy_seconds), 3),
        "script_kb": round(script_bytes / 1000, 1),
    }


def new_context(chromium: Browser, stand: Stand, **options: Any) -> BrowserContext:
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, **options)
    context.set_default_timeout(60_000)
    stand.visit(context)
    return context


def until(page: Page, expression: str, timeout_seconds: float = 60.0) -> Any:
    """What it is once it is neither null nor false. Playwright's own waiting needs an eval that the pages forbid."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        value = page.evaluate(expression)
        if value:
            return value
        page.wait_for_timeout(10)
    raise TimeoutError(f"{expression} stayed false for {timeout_seconds} s on {page.url}")


# Frames.


@contextmanager
def frames(page: Page, found: dict[str, float]) -> Iterator[None]:
    """Puts into `found` what became of the frames meanwhile."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    busy_seconds = measured(devtools, "TaskDuration")  # processor time: other work makes it no longer
    page.evaluate(FRAMES)
    yield
    ms: list[float] = page.evaluate(END_FRAMES)
    found |= {
        "fps": round(1000 * len(ms) / sum(ms), 1),
        "p95_ms": round(statistics.quantiles(ms, n=20)[-1], 1),
        "slowest_ms": round(max(ms), 1),
        "late_share": round(sum(each > LATE_FRAME_MS for each in ms) / len(ms), 4),
        "busy_ms": round(1000 * (measured(devtools, "TaskDuration") - busy_seconds) / len(ms), 1),
    }
    devtools.detach()


def measured(devtools: CDPSession, name: str) -> float:
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    value: float = next(each["value"] for each in metrics if each["name"] == name)
    return value


def drawing(chromium: Browser, stand: Stand, *, is_phone: bool) -> dict[str, Any]:
    if is_phone:
        context = chromium.new_context(
            viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True, is_mobile=True
        )
    else:
        context = new_context(chromium, stand)
    page = context.new_page()
    page.goto(f"{stand.pages.url}/#/")
    page.wait_for_selector(".draw-sheet canvas")
    page.wait_for_timeout(1_000)  # what a page does at its start is measured above
    statuses: Counter[int] = Counter()
    page.on("response", lambda answer: statuses.update([answer.status] * ("/invocations" in answer.url)))
    devtools = context.new_cdp_session(page)
    if is_phone:
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    found: dict[str, float] = {}
    with frames(page, found):
        found["moves"] = draw_for(page, devtools, is_phone=is_phone)
    found["answers"] = statuses[200]
    assert statuses[200] > DRAWING_SECONDS, f"drafts were not answered: {statuses}"
    context.close()
    return found


def draw_for(page: Page, devtools: CDPSession, *, is_phone: bool) -> int:
    """A curve that crosses the sheet again and again, the pen lifted once a second. Returns how many moves it took."""
    box = page.locator(".draw-sheet canvas").bounding_box()
    assert box is not None
    begin, moves, is_down, stroke = time.monotonic(), 0, False, 0
    pen = touch if is_phone else mouse
    while (since := time.monotonic() - begin) < DRAWING_SECONDS:
        x = box["x"] + box["width"] * (0.5 + 0.42 * math.sin(3.1 * since))
        y = box["y"] + box["height"] * (0.5 + 0.42 * math.sin(4.3 * since + 1))
        if is_down and since // STROKE_SECONDS > stroke:
            pen(devtools, "up", x, y)
            is_down, stroke = False, int(since // STROKE_SECONDS)
        pen(devtools, "move" if is_down else "down", x, y)
        is_down = True
        moves += 1
    pen(devtools, "up", box["x"], box["y"])
    return moves


def mouse(devtools: CDPSession, act: str, x: float, y: float) -> None:
    kind = {"down": "mousePressed", "move": "mouseMoved", "up": "mouseReleased"}[act]
    pressed = {"button": "left", "buttons": 0 if act == "up" else 1, "clickCount": 1}
    devtools.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pressed})


def touch(devtools: CDPSession, act: str, x: float, y: float) -> None:
    kind = {"down": "touchStart", "move": "touchMove", "up": "touchEnd"}[act]
    points = [] if act == "up" else [{"x": x, "y": y}]
    devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def scroll_about(page: Page) -> dict[str, float]:
    """Frames while the wheel turns, up and down by turns."""
    found: dict[str, float] = {}
    with frames(page, found):
        begin = time.monotonic()
        while (since := time.monotonic() - begin) < SCROLL_SECONDS:
            page.mouse.wheel(0, -160 if since % 2 < 1 else 160)
    return found


# Lists and logs.


def history(chromium: Browser, stand: Stand) -> dict[str, Any]:
    context = new_context(chromium, stand)
    page = context.new_page()
    page.add_init_script(f"({ANSWERS})()")
    page.goto(f"{stand.pages.url}/#/history")
    page.wait_for_selector(".history-row .pixels")
    page.mouse.move(640, 500)
    first = scroll_about(page)
    to_end: dict[str, float] = {}
    begin, most_elements = time.monotonic(), 0
    with frames(page, to_end):
        while "That is all" not in page.locator(".history-end").inner_text():
            for _ in range(10):
                page.mouse.wheel(0, 6_800)  # a hundred rows: nobody turns it faster
            most_elements = max(most_elements, page.evaluate(ELEMENTS))
            assert time.monotonic() - begin < 600, "the end did not come"
    to_end["seconds"] = round(time.monotonic() - begin, 1)
    answers_ms: list[float] = page.evaluate("window.answers_ms")
    devtools = context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    devtools.send("Performance.enable")
    found = {
        "rows": page.locator(".virtual li").last.get_attribute("aria-setsize"),
        "first_rows": first,
        "to_the_end": to_end,
        "all_loaded": scroll_about(page),
        "most_elements": most_elements,
        "heap_mb": round(measured(devtools, "JSHeapUsedSize") / 1e6, 1),
        "page_answers": len(answers_ms),
        "page_answer_median_ms": round(statistics.median(answers_ms), 1),
        "page_answer_slowest_ms": round(max(answers_ms), 1),
    }
    context.close()
    return found


def runs(chromium: Browser, stand: Stand) -> dict[str, Any]:
    found: dict[str, Any] = view(chromium, stand, f"{stand.viewer.url}/#/", [".runs-row", ".runs-filters"])
    context = new_context(chromium, stand)
    page = context.new_page()
    page.goto(f"{stand.viewer.url}/#/")
    page.wait_for_selector(".runs-row")
    filtered_ms = []
    state = page.get_by_label("State")
    for wanted, word in (("rejected", "Not promoted"), ("failed", "Failed"), ("halted", "Too little new")):
        changed = (
            "word => { window.changedMs = null; const begin = performance.now(); const look = () => {"
            " const rows = [...document.querySelectorAll('.runs-id')];"
            " if (rows.length > 0 && rows.every(row => row.textContent.includes(word)))"
            " window.changedMs = performance.now() - begin; else requestAnimationFrame(look); }; look(); }"
        )
        page.evaluate(changed, word)
        state.select_option(wanted)
        filtered_ms.append(until(page, "window.changedMs"))
    state.select_option("")
    page.mouse.move(640, 600)
    begin = time.monotonic()
    while page.locator(".runs-more").count() or page.evaluate(
        "document.documentElement.scrollHeight - scrollY - innerHeight > 2"
    ):
        page.mouse.wheel(0, 1_200)
        assert time.monotonic() - begin < 120, "the end did not come"
    found |= {
        "filter_median_ms": round(statistics.median(filtered_ms), 1),
        "filter_slowest_ms": round(max(filtered_ms), 1),
        "to_the_end_seconds": round(time.monotonic() - begin, 1),
        "rows": page.locator(".runs-table").get_attribute("aria-rowcount"),
        "elements": page.evaluate(ELEMENTS),
        "all_loaded": scroll_about(page),
    }
    context.close()
    return found


def log(chromium: Browser, stand: Stand, run: int) -> dict[str, Any]:
    opened, searched, steps = [], {"rare": [], "common": []}, []  # type: ignore[var-annotated]
    for _ in range(3):
        context = new_context(chromium, stand)
        page = context.new_page()
        begin = time.monotonic()
        page.goto(f"{stand.viewer.url}/#/runs/{run}?stage=merge", wait_until="commit")
        counted = "document.querySelector('.log-foot')?.textContent.includes('100,000 lines')"
        lines = "[...document.querySelectorAll('.log-line')]"
        last = f"{lines}.some(line => line.textContent.includes('image {LOG_LINES - 1},'))"
        until(page, f"{counted} && {last}")
        opened.append(time.monotonic() - begin)
        box = page.get_by_label("Search the log")
        for name, wanted in (("rare", "one of a kind"), ("common", "category 12")):
            box.fill(wanted[:-1])
            page.wait_for_timeout(700)
            page.evaluate(
                "wanted => { window.foundMs = null; const box = document.querySelector('.log-search input');"
                " box.addEventListener('input', () => { const begin = performance.now(); const look = () => {"
                " const marks = [...document.querySelectorAll('.log-line mark')];"
                " if (marks.some(mark => mark.textContent === wanted)) window.foundMs = performance.now() - begin;"
                " else requestAnimationFrame(look); }; look(); }, {once: true}); }",
                wanted,
            )
            box.press("End")
            box.type(wanted[-1])
            searched[name].append(until(page, "window.foundMs"))
        begin = time.monotonic()
        for _ in range(10):
            box.press("Enter")
        steps.append((time.monotonic() - begin) / 10)
        found = {"elements": page.evaluate(ELEMENTS)}
        page.locator(".log-pane").hover()
        found["scrolling"] = scroll_about(page)
        context.close()
    return {
        "open_median_seconds": round(statistics.median(opened), 2),
        "open_slowest_seconds": round(max(opened), 2),
        "search_one_line_ms": round(statistics.median(searched["rare"]), 1),
        "search_many_lines_ms": round(statistics.median(searched["common"]), 1),
        "next_found_ms": round(1000 * statistics.median(steps), 1),
        **found,
    }


if __name__ == "__main__":
    main()
