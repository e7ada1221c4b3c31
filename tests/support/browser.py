"""A real browser on the real pages: Debian's chromium, driven by Playwright.

with browser() as chromium:
    page = open_page(chromium, width=390, dark=True)
    page.goto(stack.url("UI"))
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

AXE = Path(__file__).parents[2] / "ui" / "node_modules" / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# It must not ask for anything elsewhere; and as root it has no sandbox.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
TIMEOUT_MS = 20_000  # of every action and expectation: machines are busy, and services start again meanwhile


@contextmanager
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found is not None, "no chromium; `apt-get install chromium`"
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()


def open_page(chromium: Browser, *, width: int = 1280, dark: bool = False) -> Page:
    """In a context of its own: nothing is remembered from another. What went wrong is in `faults(page)`."""
    height = 844 if width < 600 else 800
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        has_touch=width < 600,
        reduced_motion="reduce",
    )
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"{error}"))
    page.on(
        "console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None
    )
    page.__dict__["faults"] = faults
    return page


def faults(page: Page) -> list[str]:
    """Exceptions of the page's script, and what its Content-Security-Policy stopped."""
    found: list[str] = page.__dict__["faults"]
    return found


def accessibility_faults(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA: rule, and the elements."""
    page.evaluate(AXE.read_text())  # not as a script element: the page's policy forbids those
    result: dict[str, Any] = page.evaluate(
        "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", WCAG
    )
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:160] for node in rule['nodes'][:3]]}"
        for rule in result["violations"]
    ]


_WATCH_LAYOUT = """
globalThis.layoutShifts = [];
const named = (node) => node?.nodeType === 1 ? `${node.tagName.toLowerCase()}.${node.className}` : "text";
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput, sources } of list.getEntries())
    if (!hadRecentInput) layoutShifts.push({ value, moved: sources.map(({ node }) => named(node)) });
}).observe({ type: "layout-shift", buffered: true });
"""


def watch_layout(page: Page) -> None:
    """From the next loading on. Before `page.goto`."""
    page.add_init_script(_WATCH_LAYOUT)


def layout_shift(page: Page) -> tuple[float, list[str]]:
    """Chromium's layout shifts since the page began to load, added up, and what moved.

    0.1 is what Web Vitals calls good, for the worst five seconds. https://web.dev/articles/cls
    """
    shifts: list[dict[str, Any]] = page.evaluate("layoutShifts")
    moved = [f"{shift['value']:.4f}: {', '.join(shift['moved'])}" for shift in shifts]
    return sum(shift["value"] for shift in shifts), moved
