"""Trainers of other packages: found by name, run by the stage, refused with reasons; the one of docs/trainers.md."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.pixels import Images
from pipeline.stages import StageError, StageRun
from pipeline.stages.train import work
from pipeline.training.config import TrainingConfig
from pipeline.training.trainer import BUILT_IN, Figures, Trainer, TrainingData, get_trainer
from tests.support.lines import lines, lines_data
from tests.unit.test_train_stage import FILES, write_home

EXAMPLE = Path(__file__).parents[2] / "examples" / "linear_trainer"
CONFIG = TrainingConfig(trainer="linear", augmentation="none", epochs=4)
LINEAR = {"trainer": "linear", "options": {"rate": 0.01}, "epochs": 4, "augmentation": "none"}

Offer = Callable[..., None]


@pytest.fixture
def offer(tmp_path: Path) -> Iterator[Offer]:
    """Installs a package that offers a trainer, as far as Python can tell; its module is anywhere on the path."""
    site = tmp_path / "site"
    before = list(sys.path)
    sys.path.insert(0, str(site))

    def install(name: str, value: str, package: str | None = None) -> None:
        package = package or f"{name}-package"
        about = site / f"{package.replace('-', '_')}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[emend.trainers]\n{name} = {value}\n")

    yield install
    sys.path[:] = before


@pytest.fixture
def linear(offer: Offer) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["emend.trainers"].items()
    offer(name, value)
    sys.path.insert(0, str(EXAMPLE))


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("outputs", [2, 3])
def test_the_example_learns_and_its_graph_answers_as_it_does(outputs: int, tmp_path: Path) -> None:
    epochs: list[dict[str, object]] = []
    trainer = get_trainer("linear", CONFIG)
    trainer.fit(lines_data(), outputs, report=epochs.append)
    assert [each["epoch"] for each in epochs] == [1, 2, 3, 4]
    assert trainer.validate()["validation_accuracy"] == 1.0
    pixels, targets = lines(20, seed=5)
    trainer.export_model(tmp_path, pixels[0])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probabilities"], {"pixels": pixels})
    assert answers.shape == (20, outputs)
    assert (answers.argmax(1) == targets).all()
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


@pytest.mark.usefixtures("linear")
def test_the_stage_trains_with_it_and_gives_the_same_bits_again(tmp_path: Path) -> None:
    for home in ("a", "b"):
        write_home(tmp_path / home, {"ant": "active", "bee": "active"}, train=LINEAR)
    result = work(StageRun(tmp_path / "a", 7))
    assert result is not None
    work(StageRun(tmp_path / "b", None))
    assert {path.name for path in (tmp_path / "a" / "model").iterdir()} == FILES
    assert (result.figures["epochs"], result.figures["device"]) == (4, "cpu")
    assert result.figures["validation_accuracy"] == 1.0
    for name in FILES:
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes(), name


@pytest.mark.usefixtures("linear")
def test_interrupted_it_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill_in_third_epoch(figures: dict[str, object]) -> None:
        if figures["epoch"] == 3:
            raise Killed

    def bits(trainer: Trainer, folder: Path) -> bytes:
        folder.mkdir()
        trainer.export_model(folder, lines(1)[0][0])
        return (folder / "model.onnx").read_bytes()

    with pytest.raises(Killed):
        get_trainer("linear", CONFIG).fit(
            lines_data(), 2, checkpoints=tmp_path / "kept", report=kill_in_third_epoch
        )
    said: list[str] = []
    resumed, whole = get_trainer("linear", CONFIG, said.append), get_trainer("linear", CONFIG)
    resumed.fit(lines_data(), 2, checkpoints=tmp_path / "kept")
    whole.fit(lines_data(), 2)
    assert said[1:] == ["going on after epoch 2 of 4, from the checkpoint"]
    assert bits(resumed, tmp_path / "resumed") == bits(whole, tmp_path / "whole")


class Idle(Trainer):
    """Looks at no image."""

    def prepare_dataset(self, data: TrainingData) -> None: ...

    def create_model(self, outputs: int, base: Path | None) -> None: ...

    def train_epoch(self, epoch: int) -> Figures:
        return {"train_loss": 0.0}

    def validate(self) -> Figures:
        return {"validation_loss": None, "validation_accuracy": None}

    def save_checkpoint(self, path: Path) -> None:
        path.touch()

    def load_checkpoint(self, path: Path) -> None: ...

    def export_model(self, folder: Path, example: np.ndarray[Any, Any]) -> None: ...


class Counted(Images):
    reads = 0

    def __getitem__(self, chosen: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        Counted.reads += 1
        return super().__getitem__(chosen)


def test_images_are_read_for_checkpoints_alone_where_the_trainer_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counted, "reads", 0)
    data = lines_data()
    data = replace(data, pixels=Counted(np.asarray(data.pixels), np.arange(96)))
    Idle(CONFIG).fit(data, 2)
    assert Counted.reads == 0
    Idle(CONFIG).fit(data, 2, checkpoints=tmp_path)
    assert Counted.reads > 0


class Incomplete(Trainer):
    def prepare_dataset(self, data: TrainingData) -> None: ...


NO_TRAINER = "just a string"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"{__name__}:Incomplete", "lacks create_model, export_model, load_checkpoint, save_checkpoint,"),
        (f"{__name__}:NO_TRAINER", "is no subclass of pipeline.training.trainer.Trainer"),
        (f"{__name__}:Missing", "does not load: AttributeError: "),
        ("no_such_module:Trainer", "does not load: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_one_that_cannot_be_used_is_refused_with_its_reason(value: str, said: str, offer: Offer) -> None:
    offer("mine", value)
    with pytest.raises(StageError, match=re.escape(f"the trainer 'mine' ({value}) {said}")):
        get_trainer("mine", CONFIG)


def test_one_that_nobody_offers_is_refused_by_name(offer: Offer, tmp_path: Path) -> None:
    offer("mine", f"{__name__}:Incomplete")
    write_home(tmp_path, {"ant": "active", "bee": "active"}, train={"trainer": "linaer"})
    with pytest.raises(StageError, match="no trainer 'linaer'; there are: backbone, classifier, mine"):
        work(StageRun(tmp_path, None))


def test_one_that_two_packages_offer_is_refused_and_both_are_named(offer: Offer) -> None:
    for package in ("theirs", "ours"):
        offer("mine", f"{__name__}:Incomplete", package)
    with pytest.raises(StageError, match="'mine' is offered by more than one: ours, theirs"):
        get_trainer("mine", CONFIG)
    assert isinstance(get_trainer("classifier", TrainingConfig(augmentation="none")), Trainer)


def test_a_built_in_ones_name_is_no_other_packages(offer: Offer) -> None:
    offer("classifier", f"{__name__}:Incomplete", "theirs")
    with pytest.raises(StageError, match="'classifier' is offered by more than one: Emend itself, theirs"):
        get_trainer("classifier", TrainingConfig(augmentation="none"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classifier", "has no options (depth, rate): leave train.options empty"),
        (
            "backbone",
            "rate is not known here; depth is not known here; it takes network, weights, head_epochs",
        ),
    ],
)
def test_built_in_ones_are_there_and_refuse_options_that_they_do_not_know(name: str, said: str) -> None:
    assert name in BUILT_IN
    assert isinstance(get_trainer(name, TrainingConfig(augmentation="none")), Trainer)
    with pytest.raises(StageError, match=re.escape(said)):
        get_trainer(name, TrainingConfig(augmentation="none", options={"rate": 1, "depth": 2}))


def test_the_documents_parameters_are_valid() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "trainers.md").read_text()
    block = re.search(r"^    train:\n(      .*\n)+", page, re.MULTILINE)
    assert block is not None
    TrainingConfig(**yaml.safe_load(block[0])["train"], augmentation="none")
