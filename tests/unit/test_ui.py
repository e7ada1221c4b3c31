"""What the pages take from Python is current: the services' OpenAPI, and the drawings both renderers are held to.

    .venv/bin/python -m tests.unit.test_ui      # writes ui/shared/api/*.json and ui/shared/drawing/fixtures.json anew

`cd ui && npm run api` does that and makes the types.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import api.app
import viewer.app
from core import trials
from core.database import CategoryState, CorrectionStatus, Run, RunStatus, Stage, StageStatus, Trigger
from core.drawing import render
from pipeline import runs, starter

UI = Path(__file__).parents[2] / "ui"
FIXTURES = UI / "shared" / "drawing" / "fixtures.json"
SERVICES = {"gateway": api.app, "viewer": viewer.app}
MOST_SCRIPT_BYTES = 200_000  # compressed, of a page
NOT_BUILT = "the pages are not built: run `make pages`"

Strokes = list[list[list[float]]]


@pytest.mark.parametrize("service", SERVICES)
def test_the_types_of_the_pages_are_the_services_own(service: str) -> None:
    kept = json.loads((UI / "shared" / "api" / f"{service}.json").read_text())
    assert kept == openapi(service), "run `npm run api` in ui/"


def test_a_run_has_the_fields_that_the_pages_know() -> None:
    now = datetime.now(UTC)
    stage = Stage(name="train", status=StageStatus.running, started_at=now)
    run = Run(id=1, model="doodles", trigger=Trigger.manual, status=RunStatus.running, requested_at=now)
    told = runs.as_json(run, [stage])
    text = (UI / "shared" / "runs.ts").read_text()
    assert len(_fields(text, "Run")) > 10
    assert set(_fields(text, "Run")) <= set(told)
    assert set(_fields(text, "StageOfRun")) <= set(told["stages"][0])
    stages = re.search(r"STAGES = \[(.*?)\]", text, re.DOTALL)
    assert stages is not None
    assert re.findall(r'"(\w+)"', stages[1]) == list(runs.STAGES)


def test_every_state_has_a_mark() -> None:
    text = (UI / "shared" / "components" / "StatusMark.tsx").read_text()
    marked = set(re.findall(r"^  (\w+): \[", text, re.MULTILINE))
    assert {*RunStatus, *StageStatus, *CorrectionStatus, *CategoryState} <= marked


@pytest.mark.parametrize(
    "name",
    ["MOST_EXCESS_ERRORS", "FEWEST_ERRORS", "MOST_TIMES_AS_SLOW", "SLOWER_BY_MS", "FEWEST_LATENCIES"],
)
def test_the_pages_know_a_canarys_bounds(name: str) -> None:
    found = re.search(rf"{name} = ([\d.]+);", (UI / "viewer" / "trials.ts").read_text())
    assert found is not None
    assert float(found[1]) == getattr(trials, name)


def test_the_pages_know_the_usual_share_of_a_trial() -> None:
    text = (UI / "viewer" / "parts" / "trying.tsx").read_text()
    found = re.search(r"USUAL_PERCENT.*= {(.*?)}", text)
    assert found is not None
    usual = {kind: int(share) for kind, share in re.findall(r"(\w+): (\d+)", found[1])}
    assert usual == trials.USUAL_PERCENT


def _fields(text: str, interface: str) -> list[str]:
    found = re.search(rf"interface {interface} {{(.*?)\n}}", text, re.DOTALL)
    assert found is not None
    return re.findall(r"^  (\w+):", found[1], re.MULTILINE)


def test_the_fixtures_of_the_renderer_are_current() -> None:
    kept = json.loads(FIXTURES.read_text())["drawings"]
    assert [each["name"] for each in kept] == [name for name, _ in drawings()]
    for each in kept:
        pixels = np.frombuffer(base64.b64decode(each["pixels"]), np.uint8).astype(int)
        drawn = render([np.array(stroke, float) for stroke in each["strokes"]]).ravel()
        # Another processor's last digit may be another.
        assert np.abs(pixels - drawn).max() <= 1, f"{each['name']}: run `npm run api` in ui/"


@pytest.mark.parametrize("page", ["draw", "viewer"])
def test_a_page_has_at_most_200_kb_of_script(page: str) -> None:
    scripts = list((UI / "dist" / page).rglob("*.js.gz"))
    assert scripts, NOT_BUILT
    assert sum(script.stat().st_size for script in scripts) <= MOST_SCRIPT_BYTES


@pytest.mark.parametrize("page", ["draw", "viewer"])
def test_a_page_loads_nothing_from_elsewhere(page: str) -> None:
    index = UI / "dist" / page / "index.html"
    assert index.exists(), NOT_BUILT
    text = index.read_text()
    assert "://" not in text
    assert "style=" not in text
    assert text.count("<script") == text.count('src="./')


@pytest.mark.parametrize("page", ["draw", "viewer"])
def test_a_page_names_what_is_in_public_from_the_root(page: str) -> None:
    """A relative address is a module to Vite, which warns that it cannot bundle theme.js."""
    text = (UI / page / "index.html").read_text()
    for file in (UI / "public").iterdir():
        assert f'"/{file.name}"' in text


def test_the_lock_file_names_no_address_and_every_platform() -> None:
    packages = json.loads((UI / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    missing = [
        optional
        for package in packages.values()
        for optional in package.get("optionalDependencies", {})
        if f"node_modules/{optional}" not in packages
    ]
    assert missing == []


def openapi(service: str) -> dict[str, Any]:
    made: dict[str, Any] = SERVICES[service].create_app().openapi()
    return made


def drawings() -> Iterator[tuple[str, Strokes]]:
    """Awkward ones by hand, made-up doodles, and scrawls: 200 and more."""
    yield from by_hand()
    rng = np.random.default_rng(7)
    for category in starter.CATEGORIES:
        for number in range(3):
            strokes = starter.draw(category, rng)
            yield f"{category} {number}", [np.round(stroke, 1).tolist() for stroke in strokes]
    for number in range(160):
        spread = float(rng.choice([0.5, 5, 40, 400]))
        points = [int(rng.integers(1, 14)) for _ in range(int(rng.integers(1, 6)))]
        yield (
            f"scrawl {number}",
            [np.round(rng.normal(0, spread, (count, 2)).cumsum(axis=0), 2).tolist() for count in points],
        )


def by_hand() -> Iterator[tuple[str, Strokes]]:
    square = [[0.0, 0.0], [255.0, 0.0], [255.0, 255.0], [0.0, 255.0], [0.0, 0.0]]
    angles = np.linspace(0, 2 * np.pi, 60)
    circle = np.round(np.stack([np.cos(angles), np.sin(angles)], axis=1), 4).tolist()
    yield "nothing", []
    yield "a dot", [[[5.0, 5.0]]]
    yield "a dot drawn thrice", [[[5.0, 5.0]], [[5.0, 5.0]], [[5.0, 5.0], [5.0, 5.0]]]
    yield "two dots", [[[0.0, 0.0]], [[3.0, 1.0]]]
    yield "dots that touch", [[[float(x), 0.0]] for x in range(0, 255, 16)]
    yield "a level line", [[[0.0, 3.0], [9.0, 3.0]]]
    yield "an upright line", [[[3.0, 0.0], [3.0, 9.0]]]
    yield "a slanted line", [[[0.0, 0.0], [255.0, 31.0]]]
    yield "there and back", [[[0.0, 0.0], [200.0, 90.0], [0.0, 0.0]]]
    yield "the same line twice", [[[0.0, 0.0], [200.0, 90.0]], [[0.0, 0.0], [200.0, 90.0]]]
    yield "points on the way", [np.round(np.linspace([0, 0], [200, 90], 41), 3).tolist()]
    yield "a cross", [[[0.0, 0.0], [10.0, 10.0]], [[0.0, 10.0], [10.0, 0.0]]]
    yield "an upright cross", [[[0.0, 5.0], [10.0, 5.0]], [[5.0, 0.0], [5.0, 10.0]]]
    yield "a square", [square]
    yield "a square twice", [square, square[::-1]]
    yield "a circle", [circle]
    yield "far off the canvas", [[[-9000.0, -4000.0], [-8000.0, -4500.0], [-8700.0, -3900.0]]]
    yield "very small", [[[0.001, 0.002], [0.004, 0.001], [0.002, 0.005]]]
    yield "many level lines", [[[0.0, float(y)], [255.0, float(y)]] for y in range(0, 256, 15)]
    yield (
        "a spiral",
        [np.round([[a * np.cos(a), a * np.sin(a)] for a in np.linspace(0, 40, 250)], 3).tolist()],
    )


def write() -> None:
    for service in SERVICES:
        text = json.dumps(openapi(service), indent=1, ensure_ascii=False, sort_keys=True)
        (UI / "shared" / "api" / f"{service}.json").write_text(text + "\n")
    made = [
        json.dumps(
            {
                "name": name,
                "strokes": strokes,
                "pixels": base64.b64encode(
                    render([np.array(stroke, float) for stroke in strokes]).tobytes()
                ).decode(),
            }
        )
        for name, strokes in drawings()
    ]
    FIXTURES.write_text('{"drawings": [\n' + ",\n".join(made) + "\n]}\n")


if __name__ == "__main__":
    write()
