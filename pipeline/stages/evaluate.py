"""Compares the challenger in `model/` with the champion in `base/` on held-out images and corrections.

    python -m pipeline.stages.evaluate --home data/doodles [--run 12]

Reads nothing but the home's files, so `dvc repro` gives the same reports; of params.yaml only `gate`. With --run
it also commits dvc.lock and the reports to the home and tags them `run-<id>`, whatever the verdict.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.images import InputSpec
from core.storage import write_atomically, write_json
from pipeline import dataset, metrics, workspace
from pipeline.gate import Evidence, Slice, Verdict, judge
from pipeline.pixels import Images
from pipeline.stages import Result, StageError, StageRun, main, read_json

BATCH = 128  # bounds memory; larger is no faster on a CPU
THREADS = 2


@dataclass(frozen=True)
class Model:
    """A trained model directory. ids, names: of its outputs, in order."""

    ids: NDArray[np.int32]
    names: tuple[str, ...]
    spec: InputSpec
    session: ort.InferenceSession

    @property
    def knows(self) -> frozenset[int]:
        return frozenset(self.ids.tolist())

    def answers(self, pixels: NDArray[np.uint8] | Images) -> NDArray[np.int32]:
        """The category id of the most probable output, for each image."""
        starts = range(0, len(pixels), BATCH)
        # A core for each batch: two threads inside one batch spend a fifth of their time on waiting for each other.
        with ThreadPoolExecutor(THREADS) as pool:
            outputs = list(pool.map(lambda start: self._outputs(pixels[start : start + BATCH]), starts))
        answers: NDArray[np.int32] = self.ids[np.concatenate([np.zeros(0, np.int64), *outputs])]
        return answers

    def _outputs(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        probabilities: NDArray[np.float32] = self.session.run(["probabilities"], {"pixels": pixels})[0]
        if probabilities.shape[1] != len(self.ids):
            raise StageError(
                f"the graph has {probabilities.shape[1]} outputs, categories.json {len(self.ids)}; train again"
            )
        outputs: NDArray[np.int64] = probabilities.argmax(axis=1)
        return outputs


@dataclass(frozen=True)
class Answers:
    """What both said of every image there is to judge by; rows of `table` and the arrays belong together."""

    table: pa.Table
    truth: NDArray[np.int32]
    challenger: NDArray[np.int32]
    champion: NDArray[np.int32] | None

    @property
    def split(self) -> NDArray[np.str_]:
        return np.array(self.table["split"].to_pylist(), dtype=str)

    @property
    def corrected(self) -> NDArray[np.bool_]:
        return np.array(
            [correction is not None for correction in self.table["correction_id"].to_pylist()], bool
        )

    def where(self, keep: NDArray[np.bool_]) -> Slice:
        champion = None if self.champion is None else self.champion[keep]
        return Slice(self.truth[keep], self.challenger[keep], champion)


def evaluate(stage: StageRun) -> Result:
    """Says whether the challenger in model/ is better than the champion in base/; commits and tags the run."""
    result = work(stage)
    if stage.run is not None:  # DVC reproduces without committing
        sentence = result.data["verdict"]["sentence"]
        with workspace.pinned_params(stage.home, stage.folder / "params.yaml"):
            commit = workspace.record_run(stage.home, stage.run, f"run {stage.run}: {sentence}")
        print(f"committed as {commit[:10]}, tag run-{stage.run}")
    return result


def work(stage: StageRun) -> Result:
    """Says whether the challenger in model/ is better than the champion in base/, and writes reports/."""
    rule = stage.params.gate
    challenger, champion = load_model(stage.home / "model"), load_champion(stage.home / "base")
    names = _names(stage.home, challenger)
    answers = ask(stage.home, challenger, champion)
    evidence = gather(answers, challenger, champion, names)
    verdict = judge(evidence, rule)
    write_reports(stage.home / "reports", evidence, verdict, rule.confidence)
    print(verdict.sentence)
    for reason in verdict.reasons:
        print(f"  {reason.name}: {'yes' if reason.passed else 'no'}; {reason.sentence}")
    return Result(
        figures={"promoted": int(verdict.promoted), **verdict.figures},
        data={"verdict": verdict.as_json(), "outcomes": outcomes(answers, names)},
    )


def load_model(folder: Path) -> Model:
    outputs, contract = read_json(folder / "categories.json")["outputs"], read_json(folder / "input.json")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    graph = folder / "model.onnx"
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no common root below Exception
        raise StageError(f"{graph} does not load: {exc}; train again") from exc
    return Model(
        ids=np.array([output["id"] for output in outputs], np.int32),
        names=tuple(output["name"] for output in outputs),
        spec=InputSpec(contract["mode"], contract["width"], contract["height"]),
        session=session,
    )


def load_champion(base: Path) -> Model | None:
    """None before the first promotion."""
    return None if read_json(base / "version.json")["version"] is None else load_model(base)


def ask(home: Path, challenger: Model, champion: Model | None) -> Answers:
    """Both models' answers to the held-out images, the corrections, and validation images of new categories."""
    if champion is not None and champion.spec != challenger.spec:
        raise StageError(
            f"champion and challenger see different images ({champion.spec} and {challenger.spec}); "
            "put the input section of params.yaml back, or make a new model"
        )
    known = challenger.knows | (champion.knows if champion else frozenset())
    new = challenger.knows - (champion.knows if champion else challenger.knows)
    rows = dataset.read_rows(home, ["category_id", "split", "source", "correction_id"])
    wanted = pc.or_(
        pc.or_(_among(rows["split"], ["holdout", "regression"]), pc.is_valid(rows["correction_id"])),
        pc.and_(pc.equal(rows["split"], "validation"), _among(rows["category_id"], new)),
    )
    rows = rows.filter(pc.and_(wanted, _among(rows["category_id"], known)))
    images = dataset.labelled(home, rows, challenger.spec)
    return Answers(
        table=images.table,
        truth=images.category_ids,
        challenger=challenger.answers(images.pixels),
        champion=None if champion is None else champion.answers(images.pixels),
    )


def gather(answers: Answers, challenger: Model, champion: Model | None, names: dict[int, str]) -> Evidence:
    """A correction outside `train` is an exam question: the challenger has not seen it."""
    split, corrected = answers.split, answers.corrected
    sample = np.array([source == "sample" for source in answers.table["source"].to_pylist()], bool)
    return Evidence(
        holdout=answers.where(split == "holdout"),
        regression=answers.where(split == "regression"),
        learned=answers.where(corrected & (split == "train")),
        exam=answers.where(corrected & (split != "train")),
        samples=answers.where(corrected & sample),
        validation=answers.where(split == "validation"),
        challenger_knows=challenger.knows,
        champion_knows=None if champion is None else champion.knows,
        names=names,
    )


def outcomes(answers: Answers, names: dict[int, str]) -> list[dict[str, Any]]:
    """One for each correction, for its receipt; the champion's half is null when there is none."""
    listed = []
    for row in np.flatnonzero(answers.corrected).tolist():
        truth, challenger = int(answers.truth[row]), int(answers.challenger[row])
        champion = None if answers.champion is None else int(answers.champion[row])
        listed.append(
            {
                "correction_id": answers.table["correction_id"][row].as_py(),
                "label": names[truth],
                "learned": answers.table["split"][row].as_py() == "train",
                "challenger_label": names[challenger],
                "challenger_correct": challenger == truth,
                "champion_label": None if champion is None else names[champion],
                "champion_correct": None if champion is None else champion == truth,
            }
        )
    return sorted(listed, key=lambda outcome: str(outcome["correction_id"]))


def write_reports(folder: Path, evidence: Evidence, verdict: Verdict, confidence: float) -> None:
    """For `dvc metrics` and `dvc plots`; the same evidence gives the same bytes."""
    # dvc plots' confusion template wants one row per image. A first version may have generated ones only.
    shown = evidence.holdout if len(evidence.holdout) else evidence.regression
    pairs = sorted(zip(shown.truth.tolist(), shown.challenger.tolist(), strict=True))
    names = evidence.names
    write_json(folder / "metrics.json", {"promoted": int(verdict.promoted), **verdict.figures})
    write_json(folder / "verdict.json", verdict.as_json())
    _write_csv(folder / "per_class.csv", PER_CLASS_COLUMNS, per_class(evidence, confidence))
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), ((names[a], names[p]) for a, p in pairs))


PER_CLASS_COLUMNS = (
    "category",
    "holdout_images",
    "recall",
    "recall_low",
    "recall_high",
    "champion_recall",
    "champion_recall_low",
    "champion_recall_high",
    "generated_images",
    "generated_recall",
    "champion_generated_recall",
)


def per_class(evidence: Evidence, confidence: float) -> list[list[str]]:
    """Rows of PER_CLASS_COLUMNS, in order of id; a recall of no images, or of no champion, is an empty field."""
    categories = sorted(evidence.challenger_knows | (evidence.champion_knows or frozenset()))
    holdout, generated = evidence.holdout, evidence.regression

    def recalls(truth: metrics.Ids, predicted: metrics.Ids | None) -> list[list[str]]:
        if predicted is None:
            return [["", "", ""] for _ in categories]
        found = metrics.recalls(truth, predicted, categories, confidence)
        fields = zip(found.images, found.recall, found.low, found.high, strict=True)
        return [[f"{x:.4f}" for x in figures] if images else ["", "", ""] for images, *figures in fields]

    columns = zip(
        [[evidence.names[category]] for category in categories],
        [[str(np.count_nonzero(holdout.truth == category))] for category in categories],
        recalls(holdout.truth, holdout.challenger),
        recalls(holdout.truth, holdout.champion),
        [[str(np.count_nonzero(generated.truth == category))] for category in categories],
        [fields[:1] for fields in recalls(generated.truth, generated.challenger)],
        [fields[:1] for fields in recalls(generated.truth, generated.champion)],
        strict=True,
    )
    return [[field for part in parts for field in part] for parts in columns]


def _names(home: Path, model: Model) -> dict[int, str]:
    """Of every category, as it is called now; a model may have been trained before a renaming."""
    trained = dict(zip(model.ids.tolist(), model.names, strict=True))
    return trained | {category.id: category.name for category in dataset.read_categories(home)}


def _among(column: pa.ChunkedArray, values: Iterable[str] | Iterable[int]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(sorted(values), column.type))


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


if __name__ == "__main__":
    main("evaluate", evaluate, workspace.warm_up)
