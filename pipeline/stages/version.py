"""version: the new shard becomes a dataset version: DVC add and push, git commit, tag `dataset-<n>`.

Also brings the champion's model into `base/`, where `train` starts from and `evaluate` compares with.
Can be repeated after being killed anywhere: the shard's number is the version it makes, and shards above the
last tag are leftovers.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from core.patience import patiently
from core.registry import Registry, Version, identity
from core.settings import settings
from core.storage import replacing, write_json
from pipeline import workspace
from pipeline.dataset import shard_path
from pipeline.stages import Result, StageRun, main, read_json


def version(stage: StageRun) -> Result:
    """Commit the new images as a dataset version."""
    workspace.check_usable(stage.home)
    before = int(stage.manifest["dataset_version"])
    after = _number(stage, before)
    for name in workspace.remove_leftover_shards(stage.home, before):
        print(f"removed {name}, left by a run that did not get this far")
    if after > before:
        _add_shard(stage, after)
    _bring_base(stage)
    workspace.write_product(stage.home, stage.params.train.options.get("weights"))
    new_images = int(stage.result_of("merge")["new_images"])
    started = time.perf_counter()
    if after > before:
        message = f"dataset {after}: {new_images} new images (run {stage.run})"
    else:
        message = f"still dataset {after} (run {stage.run})"
    with workspace.pinned_params(stage.home, stage.folder / "params.yaml"):
        commit = workspace.record_dataset(stage.home, after, message, new=after > before)
    print(f"{message.partition(' (')[0]}, commit {commit[:10]}")
    return Result(
        figures={"dataset_version": after, "recording_seconds": round(time.perf_counter() - started, 3)},
        data={
            "dataset_version": after,
            "commit": commit,
            "dataset_hash": workspace.dataset_hash(stage.home),
            "base_version": stage.manifest["champion_version"],
        },
    )


def _number(stage: StageRun, before: int) -> int:
    """Decided once: an attempt that was killed after its tag must not make another version, or none."""
    decided = stage.folder / "version.decided.json"
    if not decided.exists():
        write_json(decided, {"dataset_version": before + 1 if _has_news(stage) else before})
    return int(read_json(decided)["dataset_version"])


def _has_news(stage: StageRun) -> bool:
    """New rows, or categories that changed state."""
    if (stage.folder / "images.parquet").exists():
        return True
    current = stage.home / "dataset" / "categories.json"
    return not current.exists() or current.read_bytes() != (stage.folder / "categories.json").read_bytes()


def _add_shard(stage: StageRun, number: int) -> None:
    for source, target in (
        (stage.folder / "images.parquet", shard_path(stage.home, number)),
        (stage.folder / "categories.json", stage.home / "dataset" / "categories.json"),
    ):
        if source.exists():
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)


def _bring_base(stage: StageRun) -> None:
    """base/ holds the champion's model files, whose they are and which dataset version it was trained on, or only a
    version.json that says there is no champion."""
    champion: int | None = stage.manifest["champion_version"]
    there = _told_by(stage.home / "base")
    if champion is None:
        if there != {"version": None}:
            _replace_base(stage, {"version": None}, None)
            print("there is no champion yet")
        return
    model, downloaded = stage.manifest["model"], stage.folder / "champion"
    with Registry(settings().mlflow_tracking_uri) as registry:
        if there.items() >= identity(patiently(lambda: registry.version(model, champion), print)).items():
            return
        shutil.rmtree(downloaded, ignore_errors=True)
        found = patiently(lambda: registry.download(model, champion, downloaded), print)
    _replace_base(stage, identity(found) | {"dataset_version": _trained_on(stage.home, found)}, downloaded)
    print(f"base is the champion, version {champion}")


def _told_by(base: Path) -> dict[str, Any]:
    path = base / "version.json"
    return read_json(path) if path.exists() else {}


def _replace_base(stage: StageRun, about: dict[str, Any], downloaded: Path | None) -> None:
    """downloaded: the files of the version that it is about, if there is one."""
    base, fresh, old = stage.home / "base", stage.folder / "base", stage.folder / "base.old"
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    if downloaded is not None:
        _keep_model_files(downloaded, fresh)
        shutil.rmtree(downloaded)
    write_json(fresh / "version.json", about)
    if base.exists():  # else an attempt was killed between the two renames
        base.replace(old)
    fresh.replace(base)
    shutil.rmtree(old, ignore_errors=True)


def _trained_on(home: Path, champion: Version) -> int | None:
    """The dataset version. None when the registry does not say, or means another home's: one made anew, or restored to
    an earlier day, gives the same number to other images."""
    number, hash_then = (champion.tags.get(f"emend.dataset_{each}", "") for each in ("version", "hash"))
    tag = f"dataset-{number}"
    if workspace.has_tag(home, tag) and workspace.dataset_hash(home, tag) == hash_then:
        return int(number)
    print(f"version {champion.version} was trained on no dataset of this home: all images are new to it")
    return None


def _keep_model_files(downloaded: Path, target: Path) -> None:
    target.mkdir(parents=True)
    shutil.copyfile(downloaded / "model.onnx", target / "model.onnx")
    for name in ("weights.safetensors", "categories.json", "input.json"):
        shutil.copyfile(
            downloaded / "extra_files" / name, target / name
        )  # where mlflow puts what is not its own


if __name__ == "__main__":
    main("version", version, workspace.warm_up)
