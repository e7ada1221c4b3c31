from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import yaml

from core.images import encode_png, name_of
from core.storage import write_json
from pipeline import dataset
from pipeline.curve import read_curve
from pipeline.dataset import Category
from pipeline.stages import Result, StageError, StageRun, read_json
from pipeline.stages.train import Curve, decide_outputs, known_to_base, places_of, training_data
from pipeline.stages.train import work as work_or_follow
from pipeline.training.classifier import much_is_new
from pipeline.training.config import TrainingConfig
from pipeline.training.export import read_weights

PARAMS = {
    "augmentation": "drawing",
    "widths": [8, 16],
    "epochs": 4,
    "min_steps": 4,
    "batch_size": 32,
    "threads": 1,
    "warm_epochs": 3,
    "correction_weight": 8.0,
    "actor_share": 100,
    "balance": 0,
}
FILES = {"model.onnx", "weights.safetensors", "categories.json", "input.json", "example_answer.json"}


def work(stage: StageRun) -> Result:
    result = work_or_follow(stage)
    assert result is not None
    return result


def write_home(
    home: Path, categories: Mapping[str, str], images: int = 40, train: Mapping[str, Any] | None = None
) -> None:
    """Categories by name and state; each draws one line, further to the right for the next."""
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for place, name in enumerate(categories):
        for number in range(images):
            pixels = rng.integers(0, 40, (28, 28), np.uint8)
            pixels[:, 3 + 6 * place] = 255
            sha256 = name_of(pixels)
            rows.append(
                {
                    "sha256": sha256,
                    "image": {"bytes": encode_png(pixels), "path": f"{sha256}.png"},
                    "label": name,
                    "category_id": place,
                    "split": ("validation", "holdout")[number] if number < 2 else "train",
                    "source": "correction" if number == 5 else "import",
                    "labelled_at": datetime(2026, 1, 1, tzinfo=UTC),
                }
            )
    (home / "dataset").mkdir(exist_ok=True)
    dataset.write_shard(dataset.shard_path(home, 1), pa.Table.from_pylist(rows, dataset.SCHEMA))
    listed = [Category(place, name, state) for place, (name, state) in enumerate(categories.items())]
    write_json(home / "dataset" / "categories.json", dataset.categories_json(listed))
    shape = {"mode": "L", "width": 28, "height": 28}
    params = {"input": shape, "train": {**PARAMS, **(train or {})}, "gate": {}}
    (home / "params.yaml").write_text(yaml.safe_dump(params))


def make_champion(home: Path, version: int = 1) -> None:
    (home / "model").rename(home / "base")
    write_json(home / "base" / "version.json", {"version": version})


def test_what_people_said_counts_more_samples_too_than_what_was_imported(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    stage = StageRun(tmp_path, None)
    images = dataset.load(tmp_path, stage.params.input.spec, ("train",))
    sources = ["import", "generated", "correction", "review", "sample", *["import"] * (len(images) - 5)]
    at = images.table.schema.get_field_index("source")
    images = replace(images, table=images.table.set_column(at, "source", pa.array(sources)))
    weights = training_data(images, dataset.read_categories(tmp_path), stage.params.train).weights
    assert [round(float(w / weights[0]), 3) for w in weights[:6]] == [1, 1, 8, 8, 8, 1]


def test_the_stage_writes_the_model_its_figures_and_its_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active", "cow": "pending"})
    result = work(StageRun(tmp_path, 12))
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    assert result.figures["train images"] == 2 * 38
    assert result.figures["validation images"] == 2
    assert result.figures["epochs"] == 4
    assert [output["name"] for output in result.data["outputs"]] == ["ant", "bee"]
    curve = [
        json.loads(line) for line in (tmp_path / "runs" / "12" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [epoch["epoch"] for epoch in curve] == [1, 2, 3, 4]
    assert curve[-1]["validation_accuracy"] == result.figures["validation_accuracy"]
    assert len({epoch["at"] for epoch in curve}) == 4  # forwarded twice, it is the same point
    assert all(epoch["process_memory_bytes"] > 1_000_000 for epoch in curve)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert said[0].endswith(" s left")
    assert not said[-1].endswith(" s left")
    assert not (tmp_path / "runs" / "12" / "checkpoints").exists()
    assert json.dumps(result.as_json())


def test_dvc_gets_the_same_bits_as_a_run(tmp_path: Path) -> None:
    write_home(tmp_path / "a", {"ant": "active", "bee": "active"})
    write_home(tmp_path / "b", {"ant": "active", "bee": "active"})
    work(StageRun(tmp_path / "a", 12))
    work(StageRun(tmp_path / "b", None))
    for name in FILES:
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes(), name


def test_killed_and_run_again_it_gives_the_same_bits(tmp_path: Path) -> None:
    categories = {"ant": "active", "bee": "active"}
    long = {"epochs": 20}
    write_home(tmp_path / "killed", categories, train=long)
    command = [
        sys.executable,
        "-m",
        "pipeline.stages.train",
        "--home",
        str(tmp_path / "killed"),
        "--run",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("epoch 3/20"):
                child.kill()
                break
    assert child.returncode == -9
    assert not (tmp_path / "killed/model").exists()
    assert (tmp_path / "killed/runs/1/checkpoints/last.json").exists()

    resumed = work(StageRun(tmp_path / "killed", 1))
    write_home(tmp_path / "whole", categories, train=long)
    work(StageRun(tmp_path / "whole", 1))
    for name in FILES:
        killed, whole = tmp_path / "killed/model" / name, tmp_path / "whole/model" / name
        assert killed.read_bytes() == whole.read_bytes(), name
    curve = (tmp_path / "killed/runs/1/metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in curve]
    assert sorted(set(epochs)) == list(range(1, 21))
    assert len(epochs) <= 21  # the epoch it was killed in may be there twice; none was trained from the start
    assert resumed.figures["epochs"] == 20


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        home = tmp_path / name
        write_home(home, {"ant": "active", "bee": "active"}, train={"processes": processes})
        command = [sys.executable, "-m", "pipeline.stages.train", "--home", str(home), "--run", "1"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.count("epoch 4/4") == 1
    for name in FILES:
        assert (tmp_path / "one/model" / name).read_bytes() == (tmp_path / "two/model" / name).read_bytes(), (
            name
        )
    assert read_json(tmp_path / "two/runs/1/train.json")["figures"]["epochs"] == 4


def test_a_trainer_that_knows_nothing_of_other_processes_is_not_given_any(tmp_path: Path) -> None:
    train = {"processes": 2, "trainer": "alone"}
    write_home(tmp_path, {"ant": "active", "bee": "active"}, train=train)
    code = (
        "import sys; from pipeline.training import trainer; from pipeline.training.classifier import Classifier;"
        "trainer._offered = lambda name: type('Alone', (Classifier,), {'trains_together': False});"
        "from pipeline.stages import StageRun; from pipeline.stages.train import work; from pathlib import Path;"
        f"work(StageRun(Path({str(tmp_path)!r}), 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the trainer 'alone' trains in one process; set train.processes: 1" in done.stderr
    assert not (tmp_path / "runs/1/metrics.jsonl").exists()


def test_torchrun_trains_with_the_processes_it_starts(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command = [*torchrun, "-m", "--", "pipeline.stages.train", "--home", str(tmp_path), "--run", "1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("epoch 4/4") == 1
    curve = (tmp_path / "runs/1/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["batch_parts"] for line in curve] == [3] * 4
    assert read_json(tmp_path / "runs/1/train.json")["figures"]["validation_accuracy"] is not None


def test_a_process_that_is_killed_ends_the_training_and_the_run_goes_on_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"}, train={"processes": 2, "epochs": 20})
    command = [sys.executable, "-m", "pipeline.stages.train", "--home", str(tmp_path), "--run", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stderr is not None
        for line in first.stdout:
            if line.startswith("epoch 3/20"):
                (other,) = psutil.Process(first.pid).children()
                other.kill()
                break
        error = first.stderr.read()
    assert first.returncode == 1
    assert "the 2 processes that train together lost each other" in error
    assert "emend resume" in error
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "going on after epoch" in said
    assert read_json(tmp_path / "runs/1/train.json")["figures"]["epochs"] == 20


# Once all are joined, each says where it listens.
SAYS_WHERE_IT_LISTENS = """
import os, psutil, torch
from pipeline.training import ranks
with ranks.together(2, [__file__]):
    ranks.add_up([torch.ones(1)])
    found = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]
    os.write(1, f"{ranks.rank()} {' '.join(found)}\\n".encode())
    ranks.add_up([torch.ones(1)])
"""


def test_processes_that_train_together_are_heard_on_this_machine_alone(tmp_path: Path) -> None:
    script = tmp_path / "listens.py"
    script.write_text(SAYS_WHERE_IT_LISTENS)
    # The script's own folder is where Python looks first.
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=env)
    said = [line.split() for line in done.stdout.splitlines()]
    assert sorted(number for number, *_ in said) == ["0", "1"]
    assert {address for _, *addresses in said for address in addresses} == {"127.0.0.1"}


# Waits for the other process without end and without noticing that it is gone, as NCCL does.
WAITS_WITHOUT_NOTICING = """
import os, sys, time
from pipeline.training import ranks
ranks.END_SECONDS = 0.2
with ranks.together(2, [__file__]):
    if ranks.rank() == 1:
        os._exit(7)
    time.sleep(600)
"""


def test_a_process_that_waits_for_one_that_is_gone_without_noticing_ends_and_says_so(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(WAITS_WITHOUT_NOTICING)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "error: the 2 processes that train together lost each other: number 1 ended with 7" in done.stderr


def test_a_curve_whose_last_line_was_cut_off_goes_on_with_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2, "train_l')
    curve = Curve(path)
    assert curve.last == {"epoch": 1}
    figures = {"epoch": 2, "epochs": 2, "train_loss": 0.5, "validation_accuracy": None, "seconds": 1.0}
    curve.add(figures | {"images_per_second": 100.0, "seconds_left": 0.0})
    assert [epoch["epoch"] for epoch in read_curve(path).epochs] == [1, 2]


def test_a_new_category_grows_the_champions_outputs_and_training_is_gentle(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active", "cow": "pending"})
    work(StageRun(tmp_path, 1))
    make_champion(tmp_path)
    write_home(tmp_path, {"ant": "active", "bee": "retired", "cow": "active"}, train={"warm_share": 0.6})
    result = work(StageRun(tmp_path, 2))
    assert [output["name"] for output in result.data["outputs"]] == ["ant", "bee", "cow"]
    assert result.figures["epochs"] == 3
    assert result.data["base_version"] == 1
    weights, images = read_weights(tmp_path / "model" / "weights.safetensors")
    assert len(weights["output.bias"]) == 3
    assert images == 76  # the retired category's are left out


def rows_for_training(home: Path) -> list[dict[str, Any]]:
    """Of dataset 1, as its shard has them."""
    columns = dataset.SCHEMA.names
    return [
        row
        for row in dataset.read_columns(dataset.shard_path(home, 1), columns).to_pylist()
        if row["split"] == "train"
    ]


def add_shard(home: Path, number: int, rows: list[dict[str, Any]]) -> None:
    dataset.write_shard(dataset.shard_path(home, number), pa.Table.from_pylist(rows, dataset.SCHEMA))


def new(row: dict[str, Any]) -> dict[str, Any]:
    """Another image that looks the same."""
    return {**row, "sha256": f"new {row['sha256']}"}


def withdrawn(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "image": None, "label": None, "category_id": None}


def names(rows: list[dict[str, Any]]) -> set[str]:
    return {row["sha256"] for row in rows}


def new_to_base(home: Path, **about: Any) -> set[str]:
    """Which images for training are. about: what base/ says of a champion of ants and bees."""
    write_json(home / "base" / "version.json", {"version": 1, **about})
    outputs = [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}]
    write_json(home / "base" / "categories.json", {"outputs": outputs})
    stage = StageRun(home, None)
    images = dataset.load(home, stage.params.input.spec, ("train", "validation"))
    known = known_to_base(home, images)
    data = training_data(images, dataset.read_categories(home), stage.params.train, known)
    assert data.known is not None
    sha256 = images.table["sha256"].to_numpy()[images.table["split"].to_numpy() == "train"]
    return set(sha256[~data.known])


def test_what_is_new_to_the_champion_is_what_later_datasets_brought_or_relabelled(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    ants = rows_for_training(tmp_path)[:38]
    relabelled = [{**row, "label": "bee", "category_id": 1, "source": "correction"} for row in ants[:3]]
    in_second, in_third = [new(row) for row in ants[10:15]], [new(row) for row in ants[20:22]]
    add_shard(tmp_path, 2, relabelled + in_second)
    add_shard(tmp_path, 3, [withdrawn(row) for row in [*ants[3:9], in_second[0]]] + in_third)
    there = names(relabelled + in_second[1:] + in_third)
    assert new_to_base(tmp_path, dataset_version=1) == there
    assert new_to_base(tmp_path, dataset_version=2) == names(in_third)
    assert new_to_base(tmp_path, dataset_version=3) == set()
    assert new_to_base(tmp_path, dataset_version=1) == there  # after a rollback
    assert len(new_to_base(tmp_path, dataset_version=None)) == 76 - 6 + 4 + 2  # all of them


def test_a_category_that_the_champion_had_not_is_new_however_old_its_images_are(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active", "cow": "active"})
    assert new_to_base(tmp_path, dataset_version=1) == names(rows_for_training(tmp_path)[2 * 38 :])


def test_a_base_of_an_older_emend_is_gone_on_from_by_number_as_it_was_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    work(StageRun(tmp_path, 1))
    make_champion(tmp_path)
    rows = rows_for_training(tmp_path)
    add_shard(tmp_path, 2, [withdrawn(row) for row in rows[:20]] + [new(row) for row in rows[20:40]])
    assert work(StageRun(tmp_path, 2)).data["base_version"] == 1
    write_json(tmp_path / "base" / "version.json", {"version": 1, "dataset_version": 1})
    assert work(StageRun(tmp_path, 3)).data["base_version"] is None
    assert "not from the champion's weights: 20 of 76 images are new to it" in capsys.readouterr().out


def test_where_images_were_only_added_number_and_dataset_version_give_the_same_bits(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"}, train={"replay": 0.5})
    work(StageRun(tmp_path, 1))
    make_champion(tmp_path)
    add_shard(tmp_path, 2, [new(row) for row in rows_for_training(tmp_path)[:10]])
    found = []
    for about in ({}, {"dataset_version": 1}, {"dataset_version": 2}):
        write_json(tmp_path / "base" / "version.json", {"version": 1, **about})
        assert work(StageRun(tmp_path, None)).data["base_version"] == 1
        found.append((tmp_path / "model" / "weights.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_another_network_in_params_starts_from_new_weights_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    work(StageRun(tmp_path, 1))
    make_champion(tmp_path)
    write_home(tmp_path, {"ant": "active", "bee": "active"}, train={"widths": [8, 24], "warm_share": 1})
    result = work(StageRun(tmp_path, 2))
    assert "not from the champion's weights: its blocks" in capsys.readouterr().out
    assert result.figures["epochs"] == 4


def test_a_base_without_a_champion_is_no_base(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    write_json(tmp_path / "base" / "version.json", {"version": None})
    assert work(StageRun(tmp_path, None)).data["base_version"] is None


def test_one_active_category_is_too_few_and_named(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "pending"})
    with pytest.raises(StageError, match=r"active: 'ant'; pending: 'bee'.*merge\.min_images"):
        work(StageRun(tmp_path, None))


def test_a_dataset_without_training_images_says_so(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"}, images=2)
    with pytest.raises(StageError, match="no training images"):
        work(StageRun(tmp_path, None))


def test_outputs_keep_their_places_under_their_present_names() -> None:
    base = [Category(4, "kitten", "retired"), Category(2, "dog", "retired")]
    now = [
        Category(1, "bird", "active"),
        Category(2, "dog", "retired"),
        Category(3, "fish", "pending"),
        Category(4, "cat", "active"),
        Category(7, "cow", "active"),
    ]
    assert [(c.id, c.name) for c in decide_outputs(now, base)] == [
        (4, "cat"),
        (2, "dog"),
        (1, "bird"),
        (7, "cow"),
    ]


def test_categories_that_are_not_mirrored_are_found_by_name_and_alias_and_may_be_unknown_yet() -> None:
    outputs = [Category(1, "b", "active"), Category(2, "Dee", "active", ("d",)), Category(3, "o", "active")]
    assert places_of(["B", "d", "p"], outputs) == (0, 1)


def test_auto_starts_anew_when_much_is_new_and_warm_never_does() -> None:
    config = TrainingConfig(augmentation="none", warm_share=0.2)
    place = np.arange(100)
    assert much_is_new(config, place < 80) is None
    assert much_is_new(config, place < 120) is None  # images were withdrawn
    assert (
        much_is_new(config, place < 79) == "21 of 100 images are new to it, more than train.warm_share (0.2)"
    )
    assert much_is_new(config.model_copy(update={"mode": "warm"}), place < 0) is None


def test_scratch_leaves_the_champions_weights_alone_but_keeps_its_outputs(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"})
    work(StageRun(tmp_path, 1))
    first = (tmp_path / "model/model.onnx").read_bytes()
    make_champion(tmp_path)
    write_home(tmp_path, {"ant": "active", "bee": "active"}, train={"mode": "scratch"})
    result = work(StageRun(tmp_path, 2))
    assert result.data["base_version"] is None
    assert result.figures["epochs"] == 4
    assert (tmp_path / "model/model.onnx").read_bytes() == first  # as the first: same data, same seed


def test_a_persons_corrections_weigh_no_more_than_their_share_a_reviewers_do(tmp_path: Path) -> None:
    write_home(tmp_path, {"ant": "active", "bee": "active"}, images=402, train={"actor_share": 0.5})
    stage = StageRun(tmp_path, None)
    images = dataset.load(tmp_path, stage.params.input.spec, ("train",))
    people = {"correction": ["busy"] * 100 + ["rare"] * 3, "review": ["reviewer"] * 50}
    sources = [source for source, actors in people.items() for _ in actors]
    actors = [actor for named in people.values() for actor in named]
    rest = len(images) - len(sources)
    table = images.table
    for name, values in (("source", sources + ["import"] * rest), ("actor", actors + [None] * rest)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    categories = dataset.read_categories(tmp_path)
    weights = training_data(replace(images, table=table), categories, stage.params.train).weights
    assert weights[:100].sum() == pytest.approx(100 + 0.5 * 400, rel=0.01)  # instead of 800
    assert weights[100:103].tolist() == [8, 8, 8]
    assert weights[103:153].tolist() == [8] * 50
