import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from core.images import encode_png, name_of
from pipeline import dataset
from pipeline.stages import StageError, StageRun
from pipeline.stages.evaluate import PER_CLASS_COLUMNS, work

NAMES = {0: "cat", 1: "dog", 5: "bird"}
SIDE = 8  # pixels; the one of the first row that is 255 is the image's "look", the rows below are noise

GOOD = {0: 0, 1: 1, 2: 0, 3: 1}  # look to category; 2 and 3 are cats and dogs drawn oddly
BAD = {0: 0, 1: 1, 2: 1, 3: 0}


@dataclass(frozen=True)
class Row:
    look: int
    category: int | None
    split: str
    correction: str | None = None
    count: int = 1


def write_model(folder: Path, answers: Mapping[int, int], ids: Iterable[int] = (0, 1)) -> None:
    """A graph that answers the category `answers` gives for an image's look."""
    ids = list(ids)
    weights = np.zeros((SIDE * SIDE, len(ids)), np.float32)
    for look, category in answers.items():
        weights[look, ids.index(category)] = 10 / 255
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(ids)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    outputs = [{"id": i, "name": NAMES[i]} for i in ids]
    (folder / "categories.json").write_text(json.dumps({"outputs": outputs}))
    (folder / "input.json").write_text(json.dumps({"mode": "L", "width": SIDE, "height": SIDE}))


def write_dataset(home: Path, rows: Iterable[Row], version: int = 1) -> None:
    rng = np.random.default_rng(version)
    listed = []
    for row in rows:
        for _ in range(row.count):
            pixels = rng.integers(0, 255, (SIDE, SIDE), np.uint8)
            pixels[0] = 0
            pixels[0, row.look] = 255
            sha256 = name_of(pixels)
            listed.append(
                {
                    "sha256": sha256,
                    "image": {"bytes": encode_png(pixels), "path": f"{sha256}.png"},
                    "label": NAMES.get(row.category, "fish") if row.category is not None else "fish",
                    "category_id": row.category,
                    "split": row.split,
                    "source": "correction" if row.correction else "import",
                    "correction_id": row.correction,
                    "labelled_at": datetime(2026, 1, version, tzinfo=UTC),
                }
            )
    (home / "dataset").mkdir(exist_ok=True)
    dataset.write_shard(dataset.shard_path(home, version), pa.Table.from_pylist(listed, dataset.SCHEMA))
    categories = [dataset.Category(i, name, "active") for i, name in NAMES.items()]
    (home / "dataset" / "categories.json").write_text(json.dumps(dataset.categories_json(categories)))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A champion that is wrong on oddly drawn images, and a challenger that knows them."""
    write_model(tmp_path / "model", GOOD)
    write_model(tmp_path / "base", BAD)
    (tmp_path / "base" / "version.json").write_text('{"version": 3}')
    section = {"mode": "L", "width": SIDE, "height": SIDE}
    params = {"input": section, "train": {"augmentation": "none"}, "gate": {"min_holdout_images": 200}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    holdout = [Row(look, GOOD[look], "holdout", count=100) for look in range(3)]
    corrections = [
        Row(2, 0, "train", "c-learned-1"),
        Row(3, 1, "train", "c-learned-2"),
        Row(2, 0, "validation", "c-exam-1"),
        Row(0, 0, "holdout", "c-exam-2"),
        Row(2, 1, "excluded", "c-exam-3"),
    ]
    generated = [Row(look, GOOD[look], "regression", count=20) for look in (0, 1)]
    training = [Row(0, 0, "train", count=30), Row(1, 1, "validation", count=30)]
    write_dataset(tmp_path, [*holdout, *corrections, *generated, *training])
    return tmp_path


def evaluate(home: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(work(StageRun(home, 12)).as_json()))
    return result


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_better_challenger_is_promoted_with_its_figures(home: Path) -> None:
    verdict = evaluate(home)["data"]["verdict"]
    assert verdict["promoted"]
    assert verdict["sentence"] == (
        "Promoted: 100.0 % on the holdout against 66.8 % (+33.2, 95 % CI +28.1 to +38.7); "
        "fixed 3 of 3 corrections, broke 1."
    )
    figures = verdict["figures"]
    assert (figures["learned_images"], figures["exam_images"]) == (2, 3)
    assert (figures["holdout_images"], figures["regression_images"]) == (301, 40)


def test_a_worse_challenger_is_rejected(home: Path) -> None:
    write_model(home / "model", BAD)
    write_model(home / "base", GOOD)
    result = evaluate(home)
    assert result["figures"]["promoted"] == 0
    assert "cat falls from 100.0 %" in result["data"]["verdict"]["sentence"]


def test_outcomes_say_of_each_correction_who_gets_it_right(home: Path) -> None:
    found = {outcome["correction_id"]: outcome for outcome in evaluate(home)["data"]["outcomes"]}
    assert set(found) == {"c-learned-1", "c-learned-2", "c-exam-1", "c-exam-2", "c-exam-3"}
    assert found["c-learned-1"] == {
        "correction_id": "c-learned-1",
        "label": "cat",
        "learned": True,
        "challenger_label": "cat",
        "challenger_correct": True,
        "champion_label": "dog",
        "champion_correct": False,
    }
    assert not found["c-exam-3"]["learned"]
    assert not found["c-exam-3"]["challenger_correct"]


def test_a_first_version_has_no_champion(home: Path) -> None:
    (home / "base" / "version.json").write_text('{"version": null}')
    (home / "base" / "model.onnx").unlink()
    result = evaluate(home)
    assert result["data"]["verdict"]["sentence"].startswith(
        "Promoted: first version; 100.0 % on 301 held-out images"
    )
    assert all(outcome["champion_correct"] is None for outcome in result["data"]["outcomes"])
    assert read_csv(home / "reports" / "per_class.csv")[0]["champion_recall"] == ""


def test_a_new_category_is_judged_by_validation_images_too(home: Path) -> None:
    write_model(home / "model", {**GOOD, 6: 5}, ids=(0, 1, 5))
    write_dataset(
        home, [Row(6, 5, "validation", count=3), Row(7, 5, "holdout"), Row(7, 5, "train", "c-new")], version=2
    )
    result = evaluate(home)
    assert result["data"]["verdict"]["figures"]["new_category_recall_lowest"] == 0.75
    assert result["data"]["verdict"]["promoted"]
    assert result["data"]["verdict"]["figures"]["holdout_images"] == 301


def test_images_of_categories_nobody_knows_are_left_out(home: Path) -> None:
    before = evaluate(home)
    pending = [Row(4, None, "holdout", count=5), Row(4, 5, "train", "c-pending"), Row(4, 5, "holdout")]
    write_dataset(home, pending, version=2)
    assert evaluate(home) == before


def test_reports_are_the_same_bytes_each_time(home: Path) -> None:
    evaluate(home)
    reports = {path.name: path.read_bytes() for path in (home / "reports").iterdir()}
    assert set(reports) == {"metrics.json", "verdict.json", "per_class.csv", "confusion.csv"}
    work(StageRun(home, None))
    assert {path.name: path.read_bytes() for path in (home / "reports").iterdir()} == reports


def test_reports_hold_every_category_and_every_image(home: Path) -> None:
    evaluate(home)
    cat, dog = read_csv(home / "reports" / "per_class.csv")
    assert tuple(cat) == PER_CLASS_COLUMNS
    assert (cat["category"], cat["holdout_images"], cat["recall"], cat["champion_recall"]) == (
        "cat",
        "201",
        "1.0000",
        "0.5025",
    )
    assert float(cat["champion_recall_low"]) < 0.5025 < float(cat["champion_recall_high"])
    assert (dog["category"], dog["generated_images"], dog["generated_recall"]) == ("dog", "20", "1.0000")
    confusion = read_csv(home / "reports" / "confusion.csv")
    assert len(confusion) == 301
    assert confusion[0] == {"actual": "cat", "predicted": "cat"}


def test_the_gate_follows_the_homes_thresholds(home: Path) -> None:
    params = yaml.safe_load((home / "params.yaml").read_text())
    (home / "params.yaml").write_text(yaml.safe_dump({**params, "gate": {"min_holdout_images": 1000}}))
    sentence = evaluate(home)["data"]["verdict"]["sentence"]
    assert sentence.startswith("Promoted: 100.0 % on real images against ")


def test_no_dataset_is_a_rejection_not_a_crash(home: Path) -> None:
    for shard in dataset.shards(home):
        shard.unlink()
    assert evaluate(home)["figures"]["promoted"] == 0


def test_a_graph_that_does_not_load_is_named(home: Path) -> None:
    (home / "model" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(StageError, match=r"model/model\.onnx does not load"):
        work(StageRun(home, 12))


def test_a_graph_that_disagrees_with_its_categories_is_refused(home: Path) -> None:
    outputs = {"outputs": [{"id": 0, "name": "cat"}]}
    (home / "model" / "categories.json").write_text(json.dumps(outputs))
    with pytest.raises(StageError, match="2 outputs"):
        work(StageRun(home, 12))
