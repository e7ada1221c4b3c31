"""The loop with an object store: a second gateway and a second viewer share nothing with the pipeline but it and the
database; while it hangs predictions answer, corrections are refused and runs wait.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import onnx
import pytest

from pipeline import starter
from pipeline.git import git
from tests.support.kills import stage, stopped
from tests.support.object_store import ObjectStore, object_store
from tests.support.processes import free_port, stop_group, wait_for_http
from tests.support.stack import Stack, encode, running_stack


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture(scope="module")
def stack(store: ObjectStore) -> Iterator[Stack]:
    impatient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with running_stack(environment=store.environment | impatient) as started:
        yield started


@contextmanager
def elsewhere(stack: Stack, module: str, port_setting: str, folder: Path) -> Iterator[httpx.Client]:
    """A service with a data folder of its own."""
    port = free_port()
    environment = stack.environment | {
        port_setting: str(port),
        "EMEND_DATA_DIR": str(folder / "data"),
        "DATABASE_URL": stack.database_url,
        "MLFLOW_TRACKING_URI": stack.url("MLFLOW"),
    }
    folder.mkdir(exist_ok=True)
    with (folder / f"{module}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_http(f"{url}/healthz", process, folder / f"{module}.log", 30)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client
    finally:
        stop_group(process)


def test_what_people_say_to_any_gateway_is_learned_and_seen_in_any_viewer(
    stack: Stack, store: ObjectStore, tmp_path: Path
) -> None:
    pixels, _ = starter.generate(3, seed=91, processes=1)
    with (
        elsewhere(stack, "api", "EMEND_API_PORT", tmp_path / "gateway") as gateway,
        elsewhere(stack, "viewer", "EMEND_VIEWER_PORT", tmp_path / "viewer") as viewer,
    ):
        kept = []
        for number, image in enumerate(pixels):
            ask = gateway if number % 2 else stack.api
            said = {"image": encode(image), "label": "cat"}
            answer = ask.post("/save-image/", json=said, headers={"Emend-Actor": "somebody"})
            assert answer.status_code == 201, answer.text
            kept.append(answer.json())
        twice = stack.api.post(
            "/save-image/",
            json={"image": encode(pixels[1]), "label": "cat"},
            headers={"Emend-Actor": "somebody"},
        )
        assert twice.headers["idempotent-replay"] == "true"  # one actor to both gateways: they share the salt
        in_store = store.names("doodles/images/")
        assert {Path(name).stem for name in in_store} >= {each["image_sha256"] for each in kept}
        assert list((tmp_path / "gateway" / "data").rglob("*.png")) == []
        for each in kept[:2]:
            shown = gateway.get(f"/corrections/{each['correction_id']}/image")
            assert shown.status_code == 200

        run = stack.finish(stack.start_run(force=True))
        assert run["status"] in ("succeeded", "rejected"), run["message"]
        assert stack.receipt(kept[1]["correction_id"])["status"] in ("merged", "exam")

        for path in (
            f"/pipeline_runs/{run['run_id']}/report",
            f"/pipeline_runs/{run['run_id']}/stages/train/log",
            f"/images/doodles/{kept[0]['image_sha256']}",
            "/models/doodles/compare?a=1&b=2",
        ):
            here, there = httpx.get(stack.url("VIEWER") + path, timeout=60), viewer.get(path)
            assert (here.status_code, there.status_code) == (200, 200), (path, there.text)
            assert there.content == here.content, path


def test_the_store_holds_what_would_make_the_home_again(
    stack: Stack, store: ObjectStore, tmp_path: Path
) -> None:
    bundle = tmp_path / "home.bundle"
    store.client().download_file("emend", "test/doodles/home.bundle", str(bundle))
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(bundle), "again")
    again = tmp_path / "again"
    assert git(again, "tag") == git(stack.home, "tag")
    assert git(again, "rev-parse", "HEAD") == git(stack.home, "rev-parse", "HEAD")
    names = set(store.names("doodles/.dvc/cache/"))
    for path in (stack.home / "dataset").glob("*.parquet"):
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        assert f"doodles/.dvc/cache/files/md5/{md5[:2]}/{md5[2:]}" in names
    assert any(name.endswith("/model.onnx") for name in store.names("mlflow/artifacts/"))
    assert "logs/runs/1/train.log" in store.names("logs/")


def test_links_give_a_versions_graph_and_a_runs_report(stack: Stack) -> None:
    link = stack.api.get("/models/doodles/versions/1/link").json()
    graph = httpx.get(link["url"])
    assert graph.status_code == 200
    assert 'filename="doodles-1.onnx"' in graph.headers["content-disposition"]
    assert onnx.load_from_string(graph.content).graph.output
    report = httpx.get(stack.api.get("/pipeline_runs/1/report/link").json()["url"]).json()
    assert report["data"]["verdict"]["sentence"]
    assert stack.api.get("/models/doodles/versions/99/link").status_code == 404


def test_while_the_store_hangs_predictions_answer_and_corrections_are_refused(
    stack: Stack, store: ObjectStore
) -> None:
    image = starter.generate(1, seed=92, processes=1)[0][0]
    with stopped(store.process):
        assert stack.predict(image)["label"]
        refused = stack.api.post("/save-image/", json={"image": encode(image), "label": "clock"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"
        assert refused.headers["retry-after"]
    assert stack.correct(image, "clock")["status"] == "accepted"


def test_a_run_waits_while_the_store_hangs_and_goes_on_when_it_answers(
    stack: Stack, store: ObjectStore
) -> None:
    for image in starter.generate(3, seed=93, processes=1)[0]:
        stack.correct(image, "clock")
    run = stack.start_run(force=True)
    with stopped(store.process):
        _wait_until_it_waits(stack, run, "version")
    with ExitStack() as hung:
        with stopped(stage(stack, "register", run)):  # it is warm before its turn
            stack.wait_for_stage(run, "register")
            hung.enter_context(stopped(store.process))
        _wait_until_it_waits(stack, run, "register")
    ended = stack.finish(run)
    assert ended["status"] in ("succeeded", "rejected"), ended["message"]
    assert [each["attempt"] for each in ended["stages"]] == [1] * len(ended["stages"])


def _wait_until_it_waits(stack: Stack, run: int, name: str) -> None:
    log = stack.data_dir / "logs" / "runs" / str(run) / f"{name}.log"
    stack.wait_until(lambda: log.exists() and "waiting: " in log.read_text(), 120)
