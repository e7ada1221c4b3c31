"""docker-compose.yml, run for real: first start, the loop, every container killed in turn, down and up again.

    make test-compose

Ten minutes of two cores once the images are built; needs root on Debian and 30 GB of disk.

Images of others are stand-ins from Debian's packages under their names (base_images.py); Grafana and pgAdmin are left
out. The tests follow one another: each goes on where the one before left.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import onnx
import pytest

from pipeline import starter
from tests.compose.deployment import BLANK, OURS, ROOT, Deployment, encode
from tests.compose.engine import CommandFailed, engine_environment

pytestmark = pytest.mark.timeout(3600)

SMALL = ("ui", "gateway", "serving", "viewer")
LONG_RUNNING = (
    *("postgres", "minio", "mlflow", "serving", "gateway", "viewer", "ui", "orchestrator", "nginx"),
    *("prometheus", "node-exporter"),
)
# Without them nothing can answer a prediction.
ON_THE_WAY = ("nginx", "serving")
# The stand-ins of these start as root and leave it, as upstream's do.
BEGIN_AS_ROOT = ("postgres", "minio")
# A gate that says yes to whatever fixes a correction: what is tested is what comes after.
LENIENT_GATE = {
    "margin_points": 100.0,
    "generated_margin_points": 100.0,
    "category_alpha": 1e-6,
    "new_category_recall_floor": 0.0,
}
KEPT_PATHS = ("/api/pipeline_runs", "/api/corrections?limit=200", "/api/models/doodles/promotions")
BRIEF_TRAINING = {"warm_epochs": 1, "min_steps": 20}
EDIT_PARAMS = f"""
import pathlib, yaml
path = pathlib.Path("/data/doodles/params.yaml")
params = yaml.safe_load(path.read_text())
params["gate"] |= {LENIENT_GATE!r}
params["train"] |= {BRIEF_TRAINING!r}
path.write_text(yaml.safe_dump(params))
"""


@pytest.fixture(scope="module")
def drawings() -> list[tuple[bytes, str]]:
    """Drawings that no starter set has, and what they are: one for each correction that a test wants to make."""
    images, labels = starter.generate(12, 4321)
    return [(image.tobytes(), label) for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def igloos() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "examples" / "igloos").glob("*.png"))]


# --- What is built and started


def test_without_secrets_nothing_starts_and_the_message_says_what_to_do(
    deployment: Deployment, tmp_path: Path
) -> None:
    for name in ("docker-compose.yml", "deploy"):
        (tmp_path / name).symlink_to(deployment.folder / name)
    done = subprocess.run(
        ["docker", "compose", "--project-directory", tmp_path, "config"],
        env=engine_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "make secrets" in done.stderr


def test_images_of_services_are_small_and_no_image_runs_as_root(deployment: Deployment) -> None:
    sizes_megabytes = {name: deployment.image(name)["Size"] / 1e6 for name in OURS}
    assert all(sizes_megabytes[name] < 600 for name in SMALL), sizes_megabytes
    assert {deployment.image(name)["Config"]["User"] for name in OURS} == {"emend"}


def test_make_compose_up_says_where_to_go(deployment: Deployment) -> None:
    for place in ("/", "/runs/", "/docs", "/mlflow/"):
        assert f" {deployment.url}{place}\n" in deployment.said


def test_every_service_is_healthy_and_the_setup_ended_well(deployment: Deployment) -> None:
    containers = deployment.containers()
    assert {each.service for each in containers} == {*LONG_RUNNING, "setup"}
    assert [each.exit_code for each in containers if each.service == "setup"] == [0]
    for service in ("gateway", "viewer"):
        assert len([each for each in containers if each.service == service]) == 2
    running = [each for each in containers if each.service != "setup"]
    assert {each.name: (each.state, each.health) for each in running} == {
        each.name: ("running", "healthy") for each in running
    }
    assert {each.name: each.restarts for each in running if each.restarts} == {}


def test_only_nginx_is_published_and_only_here(deployment: Deployment) -> None:
    published = {each.service: each.published for each in deployment.containers() if each.published}
    assert published == {"nginx": (f"127.0.0.1:{deployment.port}",)}


def test_root_file_systems_hold_and_nobody_is_root(deployment: Deployment) -> None:
    running = [each for each in deployment.containers() if each.service != "setup"]
    assert {each.service for each in running if not each.read_only} == set(BEGIN_AS_ROOT)
    for each in running:
        if each.service in BEGIN_AS_ROOT:
            continue
        assert deployment.exec(each, "id", "-u").strip() != "0", each.name
        with pytest.raises(CommandFailed, match="Read-only file system"):
            deployment.exec(each, "sh", "-c", "echo x > /written")
        if each.service not in ("nginx", "prometheus", "node-exporter"):
            with pytest.raises(CommandFailed):
                deployment.exec(each, "sh", "-c", "echo x > /app/written")


# --- The loop, through nginx


def test_pages_documentation_and_version_1_are_there(deployment: Deployment) -> None:
    for path in ("/", "/runs/"):
        page = deployment.api.get(path)
        assert page.status_code == 200
        assert "<script" in page.text
    assert "openapi" in deployment.api.get("/docs").text
    answer = deployment.predict(BLANK).json()
    assert (answer["model"], answer["version"]) == ("doodles", 1)
    assert set(answer["probabilities"]) == set(starter.CATEGORIES)
    assert deployment.run(1)["status"] == "succeeded"


def test_what_changes_something_and_what_is_for_few_asks_for_the_password(deployment: Deployment) -> None:
    for path in ("/api/pipeline_runs", "/api/models/doodles/rollback"):
        assert deployment.api.post(path, json={}).status_code == 401, path
    assert deployment.api.get("/mlflow/").status_code == 401
    assert "MLflow" in deployment.admin.get("/mlflow/").text
    found = deployment.admin.get("/mlflow/api/2.0/mlflow/registered-models/get", params={"name": "doodles"})
    assert found.json()["registered_model"]["name"] == "doodles"
    assert httpx.get(deployment.url + "/", headers={"Host": "elsewhere.example"}).status_code == 421


def test_corrections_through_both_gateways_become_a_version_that_gets_them_right(
    deployment: Deployment, igloos: list[bytes]
) -> None:
    assert deployment.predict(igloos[0]).json()["label"] != "igloo"
    said = [deployment.correct(image, "igloo") for image in igloos]
    for gateway in deployment.containers("gateway"):
        metrics = deployment.exec(
            gateway,
            "python",
            "-c",
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())",
        )
        acknowledged = [line for line in metrics.splitlines() if line.startswith("emend_corrections_total{")]
        assert acknowledged, f"{gateway.name} was asked for none of {len(said)} corrections"
    assert "waits for the next run" in deployment.receipt(said[0])["sentence"]

    deployment.exec(deployment.containers("orchestrator")[0], "python", "-c", EDIT_PARAMS)
    run = deployment.wait_for_run(deployment.start_run())
    assert run["status"] == "succeeded", run
    assert run["verdict"]["sentence"].startswith("Promoted: ")
    deployment.wait_until(
        lambda: deployment.predict(igloos[0]).json()["version"] == 2, 30, "version 2 answers"
    )
    receipts = [deployment.receipt(each) for each in said]
    learned = [receipt for receipt in receipts if receipt["split"] == "learned"]
    assert learned
    assert {tuple(receipt["trained_versions"]) for receipt in learned} == {(2,)}
    assert any(
        receipt["sentence"].startswith("Now right: version 2 was trained on it") for receipt in learned
    )


def test_the_object_store_has_corrections_datasets_and_versions(
    deployment: Deployment, igloos: list[bytes]
) -> None:
    store = deployment.containers("minio")[0]
    found = deployment.exec(store, "find", "/data/emend/production", "-type", "f").splitlines()
    pictures = [path for path in found if "/doodles/images/" in path]
    assert len(pictures) >= len(igloos)
    assert any(path.endswith("/doodles/home.bundle") for path in found)
    assert any("/doodles/.dvc/cache/" in path for path in found)
    assert any("/mlflow/artifacts/" in path and path.endswith("/model.onnx") for path in found)


def test_runs_have_logs_and_events_in_the_viewer(deployment: Deployment) -> None:
    log = deployment.api.get("/runs/pipeline_runs/2/stages/train/log")
    assert log.status_code == 200
    assert "epoch" in log.text
    with deployment.api.stream("GET", "/runs/events?after=0") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert next(events.iter_lines())


def test_prometheus_has_scraped_every_service(deployment: Deployment) -> None:
    expected = {
        "gateway": 2, "viewer": 2, "ui": 1, "serving": 1, "orchestrator": 1, "minio": 1, "nginx": 1, "node": 1,
        "prometheus": 1,
    }  # fmt: skip

    def up() -> dict[str, int]:
        found = deployment.query("sum by (job) (up)")
        return {
            sample["metric"]["job"]: int(sample["value"][1]) for sample in found if sample["value"][1] != "0"
        }

    deployment.wait_until(lambda: up() == expected, 90, f"scraped are {expected}")
    queries = (
        'emend_champion_version{model="doodles"} == 2',
        "sum(emend_predictions_total) > 0",
        "node_memory_MemAvailable_bytes > 0",
    )
    deployment.wait_until(lambda: all(map(deployment.query, queries)), 60, f"{queries} in Prometheus")
    deployment.figures += [
        f"memory of {name}: {megabytes:.0f} MB" for name, megabytes in sorted(deployment.memory().items())
    ]


def test_the_command_line_knows_the_deployment(deployment: Deployment) -> None:
    orchestrator = deployment.containers("orchestrator")[0]
    status = json.loads(deployment.exec(orchestrator, "emend", "status", "--json"))
    assert {each["name"]: each["answers"] for each in status["services"]} == {
        each["name"]: True for each in status["services"]
    }
    assert "Promoted" in deployment.exec(orchestrator, "emend", "show", "2")


def test_signed_links_give_a_versions_graph_and_a_runs_report_from_outside(deployment: Deployment) -> None:
    link = deployment.admin.get("/api/models/doodles/versions/2/link").json()["url"]
    assert link.startswith(f"{deployment.url}/")
    graph = httpx.get(link)
    assert graph.status_code == 200
    assert onnx.load_from_string(graph.content).graph.output
    report = httpx.get(deployment.admin.get("/api/pipeline_runs/2/report/link").json()["url"])
    assert report.json()["data"]["verdict"]["sentence"].startswith("Promoted: ")
    assert httpx.get(link.partition("?")[0]).status_code == 404
    assert deployment.api.get("/api/models/doodles/versions/2/link").status_code == 401


def test_connections_to_the_services_are_kept(deployment: Deployment) -> None:
    """As only a new nginx does."""
    settings = deployment.exec(deployment.containers("nginx")[0], "cat", "/tmp/nginx/nginx.conf")
    assert "names-kept.inc" in settings


# --- Bad days


@pytest.mark.parametrize(
    ("service", "wrong", "said"),
    [
        ("gateway", "DATABASE_URL=postgresql://emend:quite-wrong@postgres/emend", "password authentication failed"),
        ("setup", "DATABASE_URL=postgresql://emend:quite-wrong@postgres/emend", "password authentication failed"),
        ("setup", "AWS_SECRET_ACCESS_KEY=quite-wrong", "AWS_SECRET_ACCESS_KEY"),
        ("setup", "STORAGE_URL=s3://Not_A_Bucket/production", "Not_A_Bucket"),
        ("setup", "AWS_ENDPOINT_URL=http://nowhere:9000", "AWS_ENDPOINT_URL"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_said_by_name_at_the_start(
    deployment: Deployment, service: str, wrong: str, said: str
) -> None:
    command = {"gateway": ("timeout", "20", "python", "-m", "api"), "setup": ("emend", "prepare")}[service]
    with pytest.raises(CommandFailed) as raised:
        deployment.compose("run", "--rm", "--no-deps", "--env", wrong, service, *command)
    printed = str(raised.value).partition("exited with code")[2]
    assert said in printed
    assert wrong.partition("=")[0] in printed
    assert "quite-wrong" not in printed
    assert "Traceback" not in printed


def test_while_the_store_hangs_predictions_answer_and_corrections_are_refused(
    deployment: Deployment, drawings: list[tuple[bytes, str]]
) -> None:
    image, label = drawings.pop()
    with deployment.paused("minio"):
        assert deployment.predict(image).status_code == 200
        refused = deployment.api.post("/api/save-image/", json={"image": encode(image), "label": label})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"
    deployment.wait_until(lambda: bool(deployment.correct(image, label)), 60, "corrections are taken again")


def test_nobody_notices_that_prometheus_is_away(
    deployment: Deployment, drawings: list[tuple[bytes, str]]
) -> None:
    deployment.compose("stop", "prometheus")
    try:
        with deployment.somebody_asking() as statuses:
            assert deployment.correct(*drawings.pop())
            for path in ("/", "/runs/", "/api/pipeline_runs", "/api/models"):
                assert deployment.api.get(path).status_code == 200
        assert set(statuses) <= {200}
    finally:
        deployment.compose("up", "--detach", "--wait", "prometheus")


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_a_killed_container_comes_back_and_nothing_is_lost(
    deployment: Deployment, drawings: list[tuple[bytes, str]], service: str
) -> None:
    before, during, after = (drawings.pop() for _ in range(3))
    kept = deployment.correct(*before)
    with deployment.somebody_asking() as statuses:
        killed = deployment.kill(service)
        deployment.wait_for_restart(killed)
    if service not in ON_THE_WAY:
        assert statuses
        assert set(statuses) == {200}, statuses
    deployment.wait_until(
        lambda: deployment.predict(during[0]).status_code == 200,
        60,
        f"predictions after {service} was killed",
    )
    deployment.wait_until(
        lambda: bool(deployment.correct(*after)), 60, f"corrections after {service} was killed"
    )
    assert deployment.receipt(kept)["correction_id"] == kept
    assert deployment.predict(BLANK).json()["version"] == 2


def test_a_run_whose_orchestrator_is_killed_goes_on(
    deployment: Deployment, drawings: list[tuple[bytes, str]]
) -> None:
    for _ in range(10):
        deployment.correct(*drawings.pop())
    run_id = deployment.start_run()

    def trains() -> bool:
        stages = deployment.run(run_id)["stages"]
        return any(stage["name"] == "train" and stage["status"] == "running" for stage in stages)

    deployment.wait_until(trains, 300, "training")
    killed = deployment.kill("orchestrator")
    deployment.wait_for_restart(killed)
    assert deployment.wait_for_run(run_id)["status"] == "interrupted"
    assert deployment.admin.post(f"/api/pipeline_runs/{run_id}/resume").status_code == 202
    run = deployment.wait_for_run(run_id)
    assert run["status"] == "succeeded", run
    assert run["verdict"]["promoted"]


def test_down_and_up_again_keeps_everything(
    deployment: Deployment, drawings: list[tuple[bytes, str]]
) -> None:
    kept = deployment.correct(*drawings.pop())
    paths = (f"/api/corrections/{kept}", *KEPT_PATHS)
    asked = drawings.pop()[0]
    before = [deployment.api.get(path).json() for path in paths]
    answered = deployment.predict(asked).json()
    deployment.compose("down")
    assert deployment.containers() == []
    deployment.start_again()
    again = deployment.predict(asked).json()
    assert (again["version"], again["label"]) == (answered["version"], answered["label"])
    assert again["probabilities"] == pytest.approx(answered["probabilities"], abs=1e-5)
    assert [deployment.api.get(path).json() for path in paths] == before
    assert deployment.correct(*drawings.pop())


def test_a_backup_made_inside_is_restored_into_a_new_deployment(
    deployment: Deployment, drawings: list[tuple[bytes, str]], tmp_path: Path
) -> None:
    kept = deployment.correct(*drawings.pop())
    asked = drawings.pop()[0]
    before = [deployment.api.get(path).json() for path in KEPT_PATHS]
    answered = deployment.predict(asked).json()
    backups = tmp_path / "backups"
    backups.mkdir()
    backups.chmod(0o777)  # the user inside is none of this machine's
    inside = ("run", "--rm", "--no-deps", "--volume", f"{backups}:/backups", "orchestrator", "emend")
    made = json.loads(deployment.compose(*inside, "backup", "/backups", "--json"))
    assert made["missing_pictures"] == []

    deployment.compose("down", "--volumes")
    deployment.compose("up", "--detach", "--wait", "postgres", "minio")
    deployment.compose(*inside, "restore", "/backups")
    deployment.start_again()
    assert [deployment.api.get(path).json() for path in KEPT_PATHS] == before
    assert deployment.receipt(kept)["correction_id"] == kept
    assert deployment.api.get(f"/api/corrections/{kept}/image").status_code == 200
    again = deployment.predict(asked).json()
    assert (again["version"], again["label"]) == (answered["version"], answered["label"])
    link = deployment.admin.get(f"/api/models/doodles/versions/{again['version']}/link").json()["url"]
    assert httpx.get(link).status_code == 200
    report = f"/runs/pipeline_runs/{deployment.api.get(KEPT_PATHS[0]).json()['runs'][0]['run_id']}/report"
    assert deployment.api.get(report).status_code == 200
    assert deployment.correct(*drawings.pop())
