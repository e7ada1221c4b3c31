"""ingest, convert and merge on a real home's files, one after the other, as a run goes through them."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.images import InputSpec, Split, decode_png, encode_png, name_of, split_of
from core.storage import write_json
from pipeline import dataset
from pipeline.imports import stage_pixels
from pipeline.stages import Result, StageError, StageRun
from pipeline.stages.convert import convert
from pipeline.stages.ingest import ingest
from pipeline.stages.merge import PERSON, REVIEWER, Row, decide, merge

SPEC = InputSpec("L", 28, 28, drawing=True)
PARAMS = """
input: {mode: L, width: 28, height: 28, drawing: true}
train: {augmentation: drawing}
gate: {}
ingest: {min_new_images: 1}
merge: {min_images: 3, near_duplicate_similarity: 0.97}
"""
NAMES = ["cat", "dog", "bird"]
Entry = dict[str, Any]


def drawing(seed: int) -> NDArray[np.uint8]:
    """A scribble of thick lines: like a doodle, most of its energy is in low frequencies."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((28, 28), np.uint8)
    at = generator.integers(3, 25, 2)
    for _ in range(60):
        at = np.clip(at + generator.integers(-2, 3, 2), 3, 24)
        pixels[at[0] - 1 : at[0] + 1, at[1] - 1 : at[1] + 1] = generator.integers(200, 256)
    return pixels


def drawings_of(split: Split, count: int, start: int = 0) -> list[NDArray[np.uint8]]:
    found: list[NDArray[np.uint8]] = []
    seed = start
    while len(found) < count:
        if split_of(name_of(drawing(seed))) == split:
            found.append(drawing(seed))
        seed += 1
    return found


@dataclass
class Home:
    """A model's home, and what the orchestrator would do around the three stages."""

    path: Path
    version: int = 0
    run: int = 0
    said: int = 0
    categories: list[Entry] = field(
        default_factory=lambda: [
            {"id": i, "name": name, "state": "pending", "aliases": []} for i, name in enumerate(NAMES)
        ]
    )

    def correction(
        self, pixels: NDArray[np.uint8], label: str, actor: str | None = "ann", **more: Any
    ) -> Entry:
        """Accepted: its picture is in the inbox."""
        self.said += 1
        sha = name_of(pixels)
        path = self.path / "inbox" / label / f"{sha}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels))
        return {
            "id": str(UUID(int=self.said)),
            "image_sha256": sha,
            "label": label,
            "category_id": NAMES.index(label),
            "actor": actor,
            "source": "correction",
            "licence": None,
            "received_at": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.said)).isoformat(),
            "withdrawn": False,
            **more,
        }

    def imported(self, pixels: dict[str, Any], source: str = "import", spec: InputSpec = SPEC) -> Entry:
        arrays = {label: np.stack(images) for label, images in pixels.items()}
        staged = stage_pixels(self.path, spec, arrays, source=source, licence="CC0")
        return {"id": staged.id, "file": staged.file, "images": staged.images, "source": source}

    def begin(
        self,
        corrections: Sequence[Entry] = (),
        imports: Sequence[Entry] = (),
        **more: Any,
    ) -> StageRun:
        self.run += 1
        stage = StageRun(self.path, self.run)
        stage.folder.mkdir(parents=True)
        manifest = {
            "run": self.run,
            "model": "doodles",
            "force": False,
            "trigger": "manual",
            "dataset_version": self.version,
            "untrained_images": 0,
            "corrections": list(corrections),
            "imports": list(imports),
            "categories": self.categories,
            **more,
        }
        write_json(stage.folder / "manifest.json", manifest)
        return stage

    def go(self, corrections: Sequence[Entry] = (), imports: Sequence[Entry] = (), **more: Any) -> Result:
        """All three stages; the shard becomes the next dataset version. Returns merge's result."""
        stage = self.begin(corrections, imports, **more)
        for name, work in (("ingest", ingest), ("convert", convert)):
            write_json(stage.folder / f"{name}.json", work(stage).as_json())
        result = merge(stage)
        write_json(stage.folder / "merge.json", result.as_json())
        for entry, now in zip(self.categories, result.data["categories"], strict=True):
            entry["state"] = now["state"]
        if (stage.folder / "images.parquet").exists():
            self.version += 1
            target = dataset.shard_path(self.path, self.version)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(stage.folder / "images.parquet", target)
        return result

    def rows(self) -> dict[str, Entry]:
        columns = [name for name in dataset.SCHEMA.names if name != "signature"]
        rows = dataset.read_latest(self.path, columns).to_pylist()
        return {row["sha256"]: row for row in rows}

    def label_of(self, pixels: NDArray[np.uint8]) -> str | None:
        label: str | None = self.rows()[name_of(pixels)]["label"]
        return label


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return Home(tmp_path)


def outcomes(result: Result) -> list[str]:
    return [c["outcome"] for c in sorted(result.data["corrections"], key=lambda c: c["id"])]


# --- ingest


def test_too_few_new_images_halt_the_run(home: Home) -> None:
    (home.path / "params.yaml").write_text(PARAMS.replace("min_new_images: 1", "min_new_images: 10"))
    three = [home.correction(drawing(i), "cat") for i in range(3)]
    assert ingest(home.begin(three)).halted == (
        "3 new images; params.yaml asks for 10 (ingest.min_new_images): 7 more are missing, "
        "or start the run with --force"
    )
    one = ingest(home.begin(three[:1], untrained_images=8)).halted
    assert one is not None
    assert one.startswith("9 new images; params.yaml asks for 10 (ingest.min_new_images): 1 more is missing")
    assert ingest(home.begin(three[:1])).halted is not None
    assert ingest(home.begin(three, untrained_images=7)).halted is None
    assert ingest(home.begin(three, force=True)).halted is None
    assert ingest(home.begin([], trigger="initial")).halted is None
    assert ingest(home.begin(three, [home.imported({"cat": [drawing(i) for i in range(7)]})])).halted is None


def test_missing_files_are_named_and_left_out(home: Home) -> None:
    here, gone = home.correction(drawing(1), "cat"), home.correction(drawing(2), "cat")
    lost = home.imported({"dog": [drawing(3)]})
    (home.path / lost["file"]).unlink()
    (home.path / "inbox" / "cat" / f"{gone['image_sha256']}.png").unlink()
    result = ingest(home.begin([here, gone], [lost]))
    assert result.figures["new_images"] == 1
    assert [m["correction_id"] or m["import_id"] for m in result.data["missing"]] == [gone["id"], lost["id"]]
    merged = home.go([here, gone], [lost])
    assert merged.figures["new_images"] == 1
    quarantined = home.path / "runs" / str(home.run) / "convert.json"
    named = json.loads(quarantined.read_text())["data"]["quarantined"]
    assert {q["correction_id"] or q["import_id"] for q in named} == {gone["id"], lost["id"]}
    assert "is no longer there" in named[0]["reason"]


# --- convert


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "cut off"),
        (lambda path: path.write_bytes(b"<svg/>"), "no PNG, JPEG or WebP"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_bytes(encode_png(drawing(77))), "not the ones that were accepted"),
    ],
)
def test_an_unreadable_picture_is_quarantined_and_the_run_goes_on(
    home: Home, damage: Any, reason: str
) -> None:
    good, bad = home.correction(drawing(1), "cat"), home.correction(drawing(2), "cat")
    damage(home.path / "inbox" / "cat" / f"{bad['image_sha256']}.png")
    result = home.go([good, bad])
    assert result.figures["new_images"] == 1
    data = json.loads((home.path / "runs" / "1" / "convert.json").read_text())["data"]
    [named] = data["quarantined"]
    assert (named["correction_id"], named["sha256"]) == (bad["id"], bad["image_sha256"])
    assert reason in named["reason"]
    assert (home.path / "quarantine" / "unreadable" / f"{bad['image_sha256']}.png").is_file()


def test_a_corrections_row_has_all_that_is_known_of_it(home: Home) -> None:
    correction = home.correction(drawing(1), "cat", licence="CC0")
    big = encode_png(np.full((60, 90), 7, np.uint8))
    original = home.path / "originals" / correction["image_sha256"][:2] / f"{correction['image_sha256']}.png"
    original.parent.mkdir(parents=True)
    original.write_bytes(big)
    home.go([correction])
    row = home.rows()[correction["image_sha256"]]
    assert np.array_equal(decode_png(row["image"]["bytes"]), drawing(1))
    assert row["original"]["bytes"] == big
    assert (row["label"], row["category_id"], row["source"], row["actor"]) == ("cat", 0, "correction", "ann")
    assert (row["correction_id"], row["import_id"], row["licence"]) == (correction["id"], None, "CC0")
    assert row["labelled_at"] == datetime.fromisoformat(correction["received_at"])
    assert row["split"] == split_of(correction["image_sha256"])


def test_pictures_are_fitted_anew_when_the_models_input_has_changed(home: Home) -> None:
    correction = home.correction(drawing(1), "cat")
    imported = home.imported({"dog": [drawing(2), drawing(3)]})
    (home.path / "params.yaml").write_text(PARAMS.replace("width: 28, height: 28", "width: 56, height: 56"))
    home.go([correction], [imported])
    rows = list(home.rows().values())
    assert len(rows) == 3
    for row in rows:
        pixels = decode_png(row["image"]["bytes"])
        assert pixels.shape == (56, 56)
        assert row["sha256"] == name_of(pixels)
        assert decode_png(row["original"]["bytes"]).shape == (28, 28)
    assert {r["correction_id"] for r in rows} == {correction["id"], None}


def test_a_damaged_or_foreign_import_is_set_aside(home: Home) -> None:
    good = home.imported({"cat": [drawing(1)]})
    short = home.imported({"cat": [drawing(2), drawing(3)]}) | {"images": 3}
    cut = home.imported({"cat": [drawing(i) for i in range(10, 30)]})
    foreign = home.imported({"cat": [drawing(5)]})
    path = home.path / cut["file"]
    path.write_bytes(path.read_bytes()[:-100])
    pq.write_table(pq.read_table(home.path / foreign["file"]).select(["sha256"]), home.path / foreign["file"])
    result = home.go([], [good, short, cut, foreign])
    assert result.figures["new_images"] == 1
    data = json.loads((home.path / "runs" / "1" / "convert.json").read_text())["data"]
    assert [q["import_id"] for q in data["quarantined"]] == [short["id"], cut["id"], foreign["id"]]
    assert (home.path / "quarantine" / "unreadable" / Path(cut["file"]).name).is_file()


def test_labels_find_their_category_by_name_and_alias_whatever_the_case(home: Home) -> None:
    home.categories[1]["aliases"] = ["hound"]
    imported = home.imported({"CAT": [drawing(1)], "Hound": [drawing(2)], "fish": [drawing(3)]})
    home.go([], [imported])
    assert {row["label"]: row["category_id"] for row in home.rows().values()} == {"cat": 0, "dog": 1}
    data = json.loads((home.path / "runs" / "1" / "convert.json").read_text())["data"]
    assert data["unknown_labels"] == {"fish": 1}


# --- merge: who is right


def test_exact_duplicates_are_dropped(home: Home) -> None:
    images = [drawing(i) for i in range(5)]
    first = home.go([], [home.imported({"cat": [*images, images[0]]}), home.imported({"cat": images[:2]})])
    assert (first.figures["new_images"], first.figures["duplicates"]) == (5, 3)
    again = home.go([home.correction(images[3], "cat"), home.correction(drawing(9), "cat")])
    assert (again.figures["new_images"], again.figures["duplicates"]) == (1, 1)
    assert outcomes(again)[0] == "duplicate"


def test_nothing_new_halts_unless_there_is_another_reason(home: Home) -> None:
    home.go([home.correction(drawing(1), "cat")])
    again = home.correction(drawing(1), "cat")
    result = home.go([again])
    assert result.halted is not None
    assert result.halted.startswith("nothing new")
    assert not (home.path / "runs" / "2" / "images.parquet").exists()
    assert (home.path / "runs" / "2" / "categories.json").exists()
    assert home.go([again], force=True).halted is None
    assert home.go([again], untrained_images=1).halted is None


def test_two_peoples_different_labels_are_a_conflict(home: Home) -> None:
    ann, bob = home.correction(drawing(1), "cat", "ann"), home.correction(drawing(1), "dog", "bob")
    result = home.go([ann, bob, home.correction(drawing(2), "cat")])
    assert outcomes(result)[:2] == ["quarantined", "quarantined"]
    assert name_of(drawing(1)) not in home.rows()
    assert (home.path / "quarantine" / "conflict" / f"{name_of(drawing(1))}.png").is_file()
    assert [q["correction_id"] for q in result.data["quarantined"]] == [ann["id"], bob["id"]]
    # Who sends neither a name nor a cookie is a new actor each time: it need not have been another person.
    assert {each["reason"] for each in (*result.data["quarantined"], *result.data["corrections"][:2])} == {
        "conflict: another correction gave this image another label"
    }


def test_a_newcomer_does_not_overrule_whom_the_dataset_knows(home: Home) -> None:
    home.go([home.correction(drawing(1), "cat", "ann")])
    result = home.go([home.correction(drawing(1), "dog", "bob"), home.correction(drawing(1), "cat", "cid")])
    assert outcomes(result) == ["quarantined", "duplicate"]
    assert home.label_of(drawing(1)) == "cat"


def test_one_persons_later_label_wins(home: Home) -> None:
    first = home.go([home.correction(drawing(1), "cat"), home.correction(drawing(1), "dog")])
    assert outcomes(first)[0] == "superseded"
    assert home.label_of(drawing(1)) == "dog"
    relabelled = home.go([home.correction(drawing(1), "bird")])
    assert sorted(outcomes(relabelled)) == ["exam", "superseded"]  # the new one, and the one it replaces
    assert home.label_of(drawing(1)) == "bird"
    assert home.version == 2


def test_a_correction_that_a_run_took_in_before_it_died_is_not_its_own_duplicate(home: Home) -> None:
    correction = home.correction(drawing(1), "cat")
    first = home.go([correction])
    again = home.go([correction])
    assert outcomes(again) == outcomes(first)
    assert not again.halted
    assert home.version == 1


def test_a_person_overrules_an_import_without_conflict(home: Home) -> None:
    generated = home.imported({"cat": [drawing(1), drawing(2)]}, source="generated")
    home.go([], [generated])
    result = home.go(
        [home.correction(drawing(1), "dog")], [home.imported({"bird": [drawing(1), drawing(2)]})]
    )
    assert result.figures["conflicts"] == 0
    assert home.label_of(drawing(1)) == "dog"
    assert home.label_of(drawing(2)) == "bird"  # an import overrules what was generated
    result = home.go([], [home.imported({"cat": [drawing(1), drawing(2)]})])
    assert home.label_of(drawing(1)) == "dog"  # and never a person
    assert home.label_of(drawing(2)) == "cat"
    assert (result.figures["new_images"], result.figures["duplicates"]) == (1, 1)


def test_a_reviewer_stands_over_what_people_say(home: Home) -> None:
    (pixels,) = drawings_of("train", 1)
    ann = home.correction(pixels, "cat", "ann")
    home.go([ann])
    assert outcomes(home.go([home.correction(pixels, "dog", "bob")], force=True)) == ["quarantined"]
    review = home.correction(pixels, "dog", "rev", source="review")
    decided = {c["id"]: (c["outcome"], c["reason"]) for c in home.go([review]).data["corrections"]}
    assert decided == {
        ann["id"]: ("superseded", "a reviewer gave another label"),
        review["id"]: ("merged", None),
    }
    assert home.label_of(pixels) == "dog"
    later = [home.correction(pixels, label, "ann") for label in ("cat", "dog")]
    decided_later = home.go(later, force=True)
    assert outcomes(decided_later) == ["superseded", "duplicate"]
    assert home.label_of(pixels) == "dog"
    home.go([home.correction(pixels, "bird", "rev", source="review")])
    assert home.label_of(pixels) == "bird"
    home.go([home.correction(pixels, "cat", "ann"), home.correction(pixels, "cat", "rev", source="review")])
    assert home.label_of(pixels) == "cat"
    assert home.rows()[name_of(pixels)]["source"] == "review"


def test_a_review_can_be_taken_back(home: Home) -> None:
    (pixels,) = drawings_of("train", 1)
    review = home.correction(pixels, "dog", "rev", source="review")
    home.go([review])
    assert outcomes(home.go([review | {"withdrawn": True}])) == ["merged"]
    assert home.label_of(pixels) is None


def test_a_sample_never_enters_the_holdout(home: Home) -> None:
    held_out, sample = drawings_of("holdout", 2)
    result = home.go(
        [home.correction(held_out, "cat"), home.correction(sample, "cat", source="sample")],
    )
    assert [row["split"] for row in (home.rows()[name_of(held_out)], home.rows()[name_of(sample)])] == [
        "holdout",
        "regression",
    ]
    assert outcomes(result) == ["exam", "exam"]
    home.go([home.correction(sample, "dog", "bob")], force=True)  # a person says so too: it stays where it is
    assert home.rows()[name_of(sample)]["split"] == "regression"


def test_a_withdrawn_label_leaves_a_row_without_one(home: Home) -> None:
    ann, bob = home.correction(drawing(1), "cat", "ann"), home.correction(drawing(2), "cat", "bob")
    home.go([ann, bob])
    shutil.rmtree(home.path / "inbox")
    result = home.go([ann | {"withdrawn": True}])
    assert outcomes(result) == ["merged"]
    assert home.label_of(drawing(1)) is None
    assert home.label_of(drawing(2)) == "cat"
    assert len(dataset.load(home.path, SPEC, dataset.SPLITS)) == 1
    assert result.data["categories"][0]["images"] == 1
    home.go([home.correction(drawing(1), "dog", "cid")])
    assert home.label_of(drawing(1)) == "dog"


def test_a_withdrawal_alone_is_enough_for_a_run(home: Home) -> None:
    ann = home.correction(drawing(1), "cat", "ann")
    home.go([ann, home.correction(drawing(2), "dog", "bob")])
    (home.path / "params.yaml").write_text(PARAMS.replace("min_new_images: 1", "min_new_images: 10"))
    checked = ingest(home.begin([ann | {"withdrawn": True}]))
    assert checked.halted is None
    assert (checked.figures["withdrawals"], checked.figures["new_images"]) == (1, 0)
    assert ingest(home.begin(untrained_withdrawals=1)).halted is None
    assert ingest(home.begin()).halted is not None
    result = home.go([ann | {"withdrawn": True}])
    assert (result.figures["withdrawn"], result.figures["new_images"]) == (1, 0)
    halted = home.go([ann | {"withdrawn": True}])  # it has left already
    assert halted.halted is not None
    assert home.go([ann | {"withdrawn": True}], untrained_withdrawals=1).halted is None


def test_what_somebody_else_says_too_takes_the_place_of_what_is_withdrawn(home: Home) -> None:
    (pixels,) = drawings_of("train", 1)
    ann = home.correction(pixels, "cat", "ann")
    home.go([ann])
    bob = home.correction(pixels, "cat", "bob")
    result = home.go([ann | {"withdrawn": True}, bob])
    assert outcomes(result) == ["merged", "merged"]
    assert home.label_of(pixels) == "cat"
    rows = dataset.read_rows(home.path, ["correction_id"])
    assert rows["correction_id"].to_pylist() == [bob["id"]]


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_what_an_import_said_comes_back_with_the_withdrawal(home: Home, split: Split) -> None:
    pixels, other = drawings_of(split, 2)
    first, second = home.imported({"cat": [pixels]}), home.imported({"dog": [pixels, other]})
    home.go([], [first])
    home.go([], [second])
    said_by_import = home.rows()[name_of(pixels)]
    eve = home.correction(pixels, "bird", "eve")
    home.go([eve])
    assert home.label_of(pixels) == "bird"
    shutil.rmtree(home.path / "inbox")
    result = home.go([eve | {"withdrawn": True}])
    assert outcomes(result) == ["merged"]
    assert (result.figures["withdrawn"], result.figures["new_images"]) == (1, 0)
    assert home.version == 4
    assert home.rows()[name_of(pixels)] == said_by_import | {"dataset_version": 4}
    assert len(dataset.load(home.path, SPEC, [split])) == 2
    assert [c["images"] for c in result.data["categories"]] == [0, 2, 0]
    assert [c["train_images"] for c in result.data["categories"]] == [0, 2 * (split == "train"), 0]
    again = home.go([eve | {"withdrawn": True}], force=True)
    assert outcomes(again) == ["superseded"]
    assert home.label_of(pixels) == "dog"


def test_what_was_generated_comes_back_in_its_split_and_gives_way_as_before(home: Home) -> None:
    images = drawings_of("holdout", 3)
    home.go([], [home.imported({"cat": images}, "generated")])
    eves = [home.correction(image, "dog", "eve") for image in images]
    home.go(eves)
    bob, imported = home.correction(images[1], "bird", "bob"), home.imported({"bird": [images[2]]})
    result = home.go([*(eve | {"withdrawn": True} for eve in eves), bob], [imported])
    assert outcomes(result) == ["merged", "merged", "merged", "exam"]
    assert (result.figures["withdrawn"], result.figures["new_images"]) == (1, 2)
    assert [home.label_of(image) for image in images] == ["cat", "bird", "bird"]
    assert {home.rows()[name_of(image)]["split"] for image in images} == {"regression"}


def test_what_a_killed_run_left_behind_does_not_come_back(home: Home) -> None:
    home.go([], [home.imported({"dog": [drawing(1)]})])
    ann = home.correction(drawing(1), "cat", "ann")
    home.go([ann])
    left_behind = dataset.shard_path(home.path, 9)
    dataset.shard_path(home.path, 1).rename(left_behind)
    home.go([ann | {"withdrawn": True}])
    left_behind.unlink()
    assert home.label_of(drawing(1)) is None


def test_a_label_that_is_another_persons_is_not_withdrawn(home: Home) -> None:
    ann = home.correction(drawing(1), "cat", "ann")
    home.go([ann])
    bob = home.correction(drawing(1), "cat", "bob")
    home.go([bob], force=True)
    result = home.go([bob | {"withdrawn": True}], force=True)
    assert outcomes(result) == ["superseded"]
    assert home.label_of(drawing(1)) == "cat"
    assert outcomes(home.go([home.correction(drawing(5), "cat") | {"withdrawn": True}], force=True)) == [
        "superseded"
    ]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, 0, 1, 2]),
        st.sampled_from(["generated", "import", "sample", "correction", "review"]),
        st.sampled_from([None, "ann", "bob", "cid"]),
    ),
    max_size=8,
)


def made(rows: list[tuple[str, int | None, str, str | None]], start: int = 0) -> list[Row]:
    found = []
    for position, (sha, category, source, actor) in enumerate(rows):
        person = source in ("sample", "correction", "review")
        if category is None and not person:
            category = 0
        name = f"c{start + position}" if person else None
        found.append(
            Row(position, sha, category, source, actor, name, None if person else "i", "train", None)
        )
    return found


@settings(max_examples=300)
@given(ROWS, ROWS)
def test_every_statement_gets_one_outcome_and_every_image_at_most_one_row(
    old: list[tuple[str, int | None, str, str | None]], new: list[tuple[str, int | None, str, str | None]]
) -> None:
    known = {row.sha256: row for row in made(old, start=100)}
    rows = made(new)
    decisions = decide(known, rows)
    said = {row.correction_id for row in rows if row.rank >= PERSON}
    assert said <= set(decisions.outcomes)
    # Beside them only what one of them replaces.
    replaced = set(decisions.outcomes) - said
    assert {decisions.outcomes[correction][0] for correction in replaced} <= {"superseded"}
    assert replaced <= {row.correction_id for row in known.values()}
    for sha, row in decisions.kept.items():
        assert row.sha256 == sha
        assert row in rows
        before = known.get(sha)
        if before is not None and before.rank >= PERSON and before.category_id is not None:
            taken_back = row.category_id is None or any(
                r.sha256 == sha and r.category_id is None and r.correction_id == before.correction_id
                for r in rows
            )
            # Nobody overrules another person, and only a reviewer a reviewer.
            assert row.rank == REVIEWER or taken_back or (before.rank, row.rank) == (PERSON, PERSON)
            assert row.rank == REVIEWER or taken_back or row.actor == before.actor
    conflicting = {row.sha256 for row in decisions.conflicts}
    for sha in conflicting:
        assert (
            len({r.category_id for r in [*rows, *known.values()] if r.sha256 == sha and r.rank == PERSON}) > 1
        )


# --- merge: splits


def test_splits_follow_the_hash_and_generated_pictures_stay_out_of_the_holdout(home: Home) -> None:
    images = [drawing(i) for i in range(80)]
    result = home.go(
        [], [home.imported({"cat": images[:40]}), home.imported({"dog": images[40:]}, "generated")]
    )
    rows = home.rows()
    for number, image in enumerate(images):
        expected = split_of(name_of(image))
        row = rows[name_of(image)]
        if row["split"] != "excluded":
            real = number < 40
            assert row["split"] == (expected if real or expected != "holdout" else "regression")
    counts = Counter(row["split"] for row in rows.values())
    assert {split: result.figures[split] for split in dataset.SPLITS} == {
        s: counts[s] for s in dataset.SPLITS
    }
    assert counts["regression"] > 0


def test_relabelling_moves_no_image_to_another_split(home: Home) -> None:
    [image] = drawings_of("holdout", 1)
    home.go([], [home.imported({"cat": [image]}, "generated")])
    result = home.go([home.correction(image, "dog")])
    assert home.rows()[name_of(image)]["split"] == "regression"
    assert outcomes(result) == ["exam"]


def test_what_became_of_a_correction_is_said(home: Home) -> None:
    splits: list[Split] = ["train", "validation", "holdout"]
    result = home.go([home.correction(drawings_of(split, 1)[0], "cat") for split in splits])
    found = [(c["outcome"], c["split"]) for c in result.data["corrections"]]
    assert found == [("merged", "train"), ("exam", "validation"), ("exam", "holdout")]


def shifted_into(split: Split, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same drawing, moved and a little noisy, whose hash falls into `split`."""
    for seed in range(500):
        noise = np.random.default_rng(seed).integers(0, 9, image.shape)
        copy: NDArray[np.uint8] = np.clip(np.roll(image, (1, -1), (0, 1)) + noise, 0, 255).astype(np.uint8)
        if split_of(name_of(copy)) == split:
            return copy
    raise AssertionError("no such copy")


@pytest.mark.parametrize("together", [True, False])
def test_a_near_duplicate_of_a_holdout_image_is_kept_out_of_training(home: Home, together: bool) -> None:
    """In one batch, and against an image of an earlier dataset version."""
    [question] = drawings_of("holdout", 1)
    others = drawings_of("train", 30, start=100)
    copy = shifted_into("train", question)
    holdout = home.imported({"cat": [question, *others]})
    correction = home.correction(copy, "cat")
    if together:
        result = home.go([correction], [holdout])
    else:
        assert home.go([], [holdout]).figures["near_duplicates"] == 0
        result = home.go([correction])
    assert result.figures["near_duplicates"] == 1
    row = home.rows()[name_of(copy)]
    assert (row["split"], row["near_duplicate_of"]) == ("excluded", name_of(question))
    assert home.rows()[name_of(question)]["split"] == "holdout"
    [outcome] = result.data["corrections"]
    assert (outcome["outcome"], outcome["split"]) == ("merged", "excluded")
    assert name_of(question) in outcome["reason"]


def test_a_new_holdout_image_that_was_nearly_trained_on_is_no_question(home: Home) -> None:
    [learned] = drawings_of("train", 1)
    home.go([], [home.imported({"cat": [learned, *drawings_of("train", 30, start=100)]})])
    copy = shifted_into("holdout", learned)
    result = home.go([home.correction(copy, "cat")])
    assert result.figures["near_duplicates"] == 1
    assert home.rows()[name_of(copy)]["near_duplicate_of"] == name_of(learned)


def test_generated_pictures_are_no_copies(home: Home) -> None:
    [question] = drawings_of("holdout", 1)
    home.go([], [home.imported({"cat": [question]})])
    copy = shifted_into("train", question)
    assert home.go([], [home.imported({"cat": [copy]}, "generated")]).figures["near_duplicates"] == 0
    assert home.rows()[name_of(copy)]["split"] == "train"


# --- merge: categories, files


def test_a_category_becomes_active_with_enough_training_images(home: Home) -> None:
    train, exam = drawings_of("train", 6), drawings_of("holdout", 3)
    first = home.go([], [home.imported({"cat": train[:3], "dog": [train[3], *exam]})])
    assert first.figures["categories_activated"] == 1
    cat, dog, bird = first.data["categories"]
    assert cat == {"id": 0, "name": "cat", "state": "active", "train_images": 3, "images": 3, "missing": 0}
    assert dog == {"id": 1, "name": "dog", "state": "pending", "train_images": 1, "images": 4, "missing": 2}
    assert (bird["state"], bird["missing"]) == ("pending", 3)
    second = home.go([home.correction(image, "dog") for image in train[4:]])
    assert second.data["categories_activated"] == ["dog"]
    states = json.loads((home.path / "runs" / "2" / "categories.json").read_text())["categories"]
    assert [c["state"] for c in states] == ["active", "active", "pending"]
    third = home.go([home.correction(image, "bird") for image in train[:3]])
    assert third.data["categories"][0] | {"state": "active"} == third.data["categories"][0]  # active for good
    assert third.data["categories"][0]["train_images"] == 0


def test_a_retired_category_stays_retired(home: Home) -> None:
    home.categories[0]["state"] = "retired"
    result = home.go([], [home.imported({"cat": drawings_of("train", 5)})])
    assert result.data["categories"][0]["state"] == "retired"


def test_the_same_manifest_gives_the_same_bytes(home: Home) -> None:
    corrections = [home.correction(drawing(i), NAMES[i % 3], f"actor {i % 2}") for i in range(20)]
    imports = [home.imported({"cat": [drawing(i) for i in range(10, 90)]})]
    files = []
    for _ in range(2):
        home.version = 0
        for category in home.categories:
            category["state"] = "pending"
        shutil.rmtree(home.path / "dataset", ignore_errors=True)
        home.go(corrections, imports)
        folder = home.path / "runs" / str(home.run)
        files.append(
            [(folder / name).read_bytes() for name in ("images.parquet", "categories.json", "merge.json")]
        )
    assert files[0] == files[1]


def test_leftovers_of_a_killed_run_do_not_count(home: Home) -> None:
    home.go([home.correction(drawing(1), "cat")])
    home.version = 0  # the version stage was killed after it had copied the shard
    assert home.go([home.correction(drawing(1), "cat")]).figures["new_images"] == 1


def test_stages_run_alone_from_a_shell(home: Home) -> None:
    stage = home.begin([home.correction(drawing(i), "cat") for i in range(5)])
    for name in ("ingest", "convert", "merge"):
        subprocess.run(
            [sys.executable, "-m", f"pipeline.stages.{name}", "--home", str(home.path), "--run", "1"],
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
    assert stage.result_of("merge")["new_images"] == 5
    assert not list(home.path.rglob("*.tmp"))


def test_a_stage_says_which_one_has_to_run_before(home: Home) -> None:
    stage = home.begin([home.correction(drawing(1), "cat")])
    with pytest.raises(StageError, match=r"ingest\.json"):
        convert(stage)
