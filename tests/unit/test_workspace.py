"""A home: made whole, refused when it is not as it should be, repeated after being killed anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.registry import Version
from core.settings import settings
from core.storage import write_json
from pipeline import workspace
from pipeline.git import HomeLocked, WorkspaceError
from pipeline.stages import StageRun
from pipeline.stages.version import version
from pipeline.workspace import HomeChanged

# Of a library that DVC uses; the version stage, a process of its own, does not show it.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")
PARAMS = workspace.PRESETS["doodles"].read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMEND_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    workspace.create_home(tmp_path / "doodles", PARAMS)
    return tmp_path / "doodles"


def git(home: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=home, check=True, capture_output=True, text=True).stdout


def add_shard(home: Path, number: int) -> None:
    (home / "dataset" / f"images-{number:06d}.parquet").write_bytes(b"shard %d" % number)


def test_a_home_is_made_once_and_keeps_an_earlier_inbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMEND_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    home = tmp_path / "doodles"
    (home / "inbox" / "cat").mkdir(parents=True)
    (tmp_path / ".doodles.new" / ".git").mkdir(parents=True)  # of an attempt that was killed
    workspace.create_home(home, PARAMS)
    first = workspace.head(home)
    workspace.create_home(home, "other: 1\n")
    assert workspace.head(home) == first
    assert (home / "params.yaml").read_text() == PARAMS
    assert (home / "inbox" / "cat").is_dir()
    assert git(home, "status", "--porcelain") == ""


def test_a_dataset_version_is_a_commit_and_a_tag_and_knows_its_run(home: Path) -> None:
    assert workspace.latest_dataset_version(home) == 0
    assert workspace.run_of_dataset(home, 0) is None
    add_shard(home, 1)
    commit = workspace.record_dataset(home, 1, "dataset 1: 5 new images (run 7)")
    assert git(home, "rev-parse", "dataset-1").strip() == commit
    assert workspace.latest_dataset_version(home) == 1
    assert workspace.run_of_dataset(home, 1) == 7
    assert workspace.dataset_hash(home).endswith(".dir")


def test_recording_again_after_a_kill_between_commit_and_tag_gives_the_same_commit(home: Path) -> None:
    add_shard(home, 1)
    commit = workspace.record_dataset(home, 1, "dataset 1: 5 new images (run 7)")
    git(home, "tag", "--delete", "dataset-1")
    assert workspace.record_dataset(home, 1, "dataset 1: 5 new images (run 7)") == commit
    assert git(home, "rev-parse", "dataset-1").strip() == commit


def test_without_new_images_the_tag_stays_where_it_was(home: Path) -> None:
    add_shard(home, 1)
    first = workspace.record_dataset(home, 1, "dataset 1: 5 new images (run 7)")
    (home / "params.yaml").write_text(PARAMS.replace("keep_runs: 50", "keep_runs: 7"))
    second = workspace.record_dataset(home, 1, "still dataset 1 (run 8)", new=False)
    assert second != first
    assert git(home, "rev-parse", "dataset-1").strip() == first


def test_edited_parameters_are_welcome_other_changes_are_named(home: Path) -> None:
    (home / "params.yaml").write_text(PARAMS + "# mine\n")
    workspace.check_usable(home)
    (home / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(HomeChanged, match=r"dvc\.yaml changed in the home .*only params\.yaml may be edited"):
        workspace.check_usable(home)


def test_a_locked_home_is_refused_and_says_what_to_do(home: Path) -> None:
    lock = home / ".git" / "index.lock"
    lock.touch()
    with pytest.raises(HomeLocked, match=f"remove {lock}"):
        workspace.check_usable(home)
    add_shard(home, 1)
    with pytest.raises(HomeLocked, match="is locked"):  # taken after the check
        workspace.record_dataset(home, 1, "dataset 1 (run 1)")


def test_only_locks_made_since_the_killed_stage_began_are_removed(home: Path) -> None:
    began = time.time() - 10
    old, new, tag = (home / ".git" / name for name in ("index.lock", "HEAD.lock", "refs/tags/dataset-2.lock"))
    for lock in (old, new, tag):
        lock.touch()
    os.utime(old, (began - 5, began - 5))
    workspace.remove_leftover_locks(home, began)
    assert (old.exists(), new.exists(), tag.exists()) == (True, False, False)


def test_leftovers_of_a_killed_version_stage_are_removed(home: Path) -> None:
    for number in (1, 2):
        add_shard(home, number)
    (home / "dataset" / ".images-000002.parquet.1a2b3c4d.tmp").touch()
    workspace.remove_leftover_shards(home, 1)
    assert [path.name for path in (home / "dataset").iterdir()] == ["images-000001.parquet"]


def test_a_clone_has_the_files_of_its_tag(home: Path, tmp_path: Path) -> None:
    add_shard(home, 1)
    workspace.record_dataset(home, 1, "dataset 1 (run 1)")
    workspace.clone_at(home, "dataset-1", tmp_path / "copy")
    assert (tmp_path / "copy" / "dataset.dvc").read_text() == (home / "dataset.dvc").read_text()
    with pytest.raises(WorkspaceError, match="has no tag run-9"):
        workspace.clone_at(home, "run-9", tmp_path / "other")


def test_an_edit_of_the_parameters_during_a_run_is_the_next_runs(home: Path, tmp_path: Path) -> None:
    pinned = tmp_path / "run" / "params.yaml"
    pinned.parent.mkdir()
    pinned.write_text("run: 1\n")
    (home / "params.yaml").write_text("edited: 1\n")
    with workspace.pinned_params(home, pinned):
        assert (home / "params.yaml").read_text() == "run: 1\n"
    assert (home / "params.yaml").read_text() == "edited: 1\n"


def test_an_edit_comes_back_after_an_attempt_that_was_killed(home: Path, tmp_path: Path) -> None:
    pinned = tmp_path / "run" / "params.yaml"
    pinned.parent.mkdir()
    pinned.write_text("run: 1\n")
    # As a killed attempt leaves it: the run's own in place, the edit aside.
    (home / "params.yaml").write_text("run: 1\n")
    (pinned.parent / "params.edited.yaml").write_text("edited: 1\n")
    with workspace.pinned_params(home, pinned):
        assert (home / "params.yaml").read_text() == "run: 1\n"
    assert (home / "params.yaml").read_text() == "edited: 1\n"


def train(home: Path, run: int, base: bytes | None, model: bytes) -> None:
    """What a run leaves in its home, and its record."""
    (home / "base" / "version.json").write_text("{}")
    (home / "model").mkdir(exist_ok=True)
    for folder, weights in (("base", base), ("model", model)):
        (home / folder / "weights.safetensors").unlink(missing_ok=True)
        if weights is not None:
            (home / folder / "weights.safetensors").write_bytes(weights)
    (home / "model" / "categories.json").write_text("{}")
    for report in ("metrics.json", "verdict.json", "confusion.csv", "per_class.csv"):
        (home / "reports" / report).write_text(f"{run}\n")
    workspace.record_dataset(home, 1, f"dataset 1 (run {run})", new=run == 1)
    workspace.record_run(home, run, f"run {run}")


def recorded(home: Path) -> dict[str, str]:
    """The dependencies of the latest training, with their hashes."""
    lock = yaml.safe_load(git(home, "show", "HEAD:dvc.lock"))
    return {entry["path"]: entry["md5"] for entry in lock["stages"]["train"]["deps"]}


def test_a_file_of_given_weights_is_a_dependency_of_training(home: Path) -> None:
    add_shard(home, 1)
    given = home / "weights" / "given.pth"
    given.parent.mkdir()
    given.write_bytes(b"some")
    workspace.write_product(home, "weights/given.pth")
    train(home, 1, None, b"weights 1")
    first = recorded(home)
    assert set(first) == {"base", "dataset", "product.json", "weights/given.pth"}
    given.write_bytes(b"others")  # under the same name
    train(home, 2, None, b"weights 2")
    again = recorded(home)
    assert {path for path in first if first[path] != again[path]} == {"weights/given.pth"}


def test_a_run_names_the_file_of_weights_that_its_parameters_name(home: Path) -> None:
    (home / "given.pth").touch()
    params = yaml.safe_load(PARAMS)
    params["train"]["options"] = {"weights": "given.pth"}
    run = home / "runs" / "1"
    write_json(run / "manifest.json", {"dataset_version": 0, "champion_version": None})
    write_json(run / "merge.json", {"data": {"new_images": 0}})
    write_json(run / "categories.json", {})
    (run / "params.yaml").write_text(yaml.safe_dump(params))
    version(StageRun(home, 1))
    product = json.loads(git(home, "show", "dataset-1:product.json"))
    assert product[workspace.STARTS_FROM] == "given.pth"


class Versions:
    """A registry's: the tags of each; its files are empty but for the graph, which is the version's source."""

    def __init__(self, tags: dict[int, dict[str, str]], run: str = "m") -> None:
        self.tags = tags
        self.run = run
        self.downloads = 0

    def __call__(self, tracking_uri: str) -> Versions:
        return self

    def __enter__(self) -> Versions:
        return self

    def __exit__(self, *_: object) -> None: ...

    def version(self, name: str, version: int) -> Version:
        source = f"models:/{self.run}-{version}"
        return Version(name, version, source, "", self.tags[version], (), datetime(2026, 12, 1, tzinfo=UTC))

    def download(self, name: str, version: int, directory: Path) -> Version:
        self.downloads += 1
        (directory / "extra_files").mkdir(parents=True)
        (directory / "model.onnx").write_text(self.version(name, version).source)
        for file in ("weights.safetensors", "categories.json", "input.json"):
            (directory / "extra_files" / file).touch()
        return self.version(name, version)


def tags_of(home: Path, dataset_version: int) -> dict[str, str]:
    """What the registry says of a version that was trained on it."""
    found = workspace.dataset_hash(home, f"dataset-{dataset_version}")
    return {"emend.dataset_version": str(dataset_version), "emend.dataset_hash": found}


def bring_base(home: Path, run: int, champion: int) -> Any:
    """What base/ then says of itself, in the commit of a run with nothing new."""
    folder = home / "runs" / str(run)
    dataset_version = workspace.latest_dataset_version(home)
    write_json(
        folder / "manifest.json",
        {"dataset_version": dataset_version, "champion_version": champion, "model": "doodles"},
    )
    write_json(folder / "merge.json", {"data": {"new_images": 0}})
    (folder / "params.yaml").write_bytes((home / "params.yaml").read_bytes())
    (folder / "categories.json").write_bytes((home / "dataset" / "categories.json").read_bytes())
    version(StageRun(home, run))
    about = json.loads((home / "base" / "version.json").read_text())
    assert (home / "base" / "model.onnx").read_text() == about["source"]
    return {each: about[each] for each in ("version", "dataset_version")}


@pytest.fixture
def two_datasets(home: Path) -> Path:
    write_json(home / "dataset" / "categories.json", {})
    for number in (1, 2):
        add_shard(home, number)
        workspace.record_dataset(home, number, f"dataset {number}")
    return home


def test_base_says_which_dataset_the_champion_was_trained_on_also_after_a_rollback(
    two_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = two_datasets
    registry = Versions({3: tags_of(home, 1), 4: tags_of(home, 2), 5: tags_of(home, 2)})
    monkeypatch.setattr("pipeline.stages.version.Registry", registry)
    assert bring_base(home, 7, champion=4) == {"version": 4, "dataset_version": 2}
    assert bring_base(home, 8, champion=3) == {"version": 3, "dataset_version": 1}
    assert bring_base(home, 9, champion=3) == {"version": 3, "dataset_version": 1}
    assert registry.downloads == 2  # not again


def test_base_of_a_registry_that_was_made_anew_is_brought_again_though_its_number_is_the_same(
    two_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = two_datasets
    monkeypatch.setattr("pipeline.stages.version.Registry", Versions({3: tags_of(home, 1)}))
    assert bring_base(home, 7, champion=3) == {"version": 3, "dataset_version": 1}
    anew = Versions({3: tags_of(home, 2)}, run="another")
    monkeypatch.setattr("pipeline.stages.version.Registry", anew)
    assert bring_base(home, 8, champion=3) == {"version": 3, "dataset_version": 2}
    assert (home / "base" / "model.onnx").read_text() == "models:/another-3"


def test_base_of_an_older_emend_is_brought_again_and_dvc_sees_the_change(
    two_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = two_datasets
    registry = Versions({3: {}})
    monkeypatch.setattr("pipeline.stages.version.Registry", registry)
    bring_base(home, 7, champion=3)
    write_json(home / "base" / "version.json", {"version": 3})
    workspace.record_dataset(home, 2, "older", new=False)
    before = git(home, "show", "HEAD:base.dvc")
    registry.tags[3] = tags_of(home, 1)
    assert bring_base(home, 8, champion=3) == {"version": 3, "dataset_version": 1}
    assert git(home, "show", "HEAD:base.dvc") != before


@pytest.mark.parametrize(
    "tags",
    [
        {},  # registered by hand
        {"emend.dataset_version": "2", "emend.dataset_hash": "another.dir"},  # of a home that was made anew
        {"emend.dataset_version": "3", "emend.dataset_hash": "another.dir"},  # of one that went on
    ],
)
def test_base_does_not_take_another_homes_dataset_for_its_own(
    tags: dict[str, str], two_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.version.Registry", Versions({4: tags}))
    assert bring_base(two_datasets, 7, champion=4) == {"version": 4, "dataset_version": None}


@pytest.mark.parametrize("weights", [None, "download", "weights/gone.pth", "weights", "model/given.pth", 3])
def test_weights_that_are_no_file_of_their_own_are_no_dependency(home: Path, weights: object) -> None:
    add_shard(home, 1)
    for folder in ("weights", "model"):
        (home / folder).mkdir()
    (home / "model" / "given.pth").touch()
    workspace.write_product(home, weights)
    train(home, 1, None, b"weights 1")
    assert set(recorded(home)) == {"base", "base/version.json", "dataset", "product.json"}


def cached(home: Path) -> set[bytes]:
    """The weights in DVC's cache."""
    files = (path for path in (home / ".dvc" / "cache" / "files").rglob("*") if path.is_file())
    return {content for path in files if (content := path.read_bytes()).startswith(b"weights")}


def test_weights_are_forgotten_unless_a_kept_run_names_them_too(home: Path) -> None:
    add_shard(home, 1)
    one, two, three, four = (b"weights %d" % number for number in range(1, 5))
    train(home, 1, None, one)  # champion, which runs 2 and 3 started from
    train(home, 2, one, two)
    train(home, 3, one, three)
    train(home, 4, three, four)
    assert workspace.forget_weights(home, [2], [3, 4]) == len(two)
    assert cached(home) == {one, three, four}
    assert workspace.forget_weights(home, [1], [3, 4]) == 0  # run 3 started from it
    assert workspace.forget_weights(home, [3], [4]) == len(one)  # run 4 started from three
    assert cached(home) == {three, four}
    assert workspace.forget_weights(home, [3, 9], [4]) == 0  # again, and a run that ended before its tag
    everything = {
        path.read_bytes() for path in (home / ".dvc" / "cache" / "files").rglob("*") if path.is_file()
    }
    assert b"shard 1" in everything
