"""The trainer `backbone`: each network learns, is served as it was trained, and begins where it is told to."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file
from torch import Tensor

from core.images import InputSpec
from pipeline.dataset import Category
from pipeline.params import Params
from pipeline.stages import StageError, StageRun
from pipeline.stages.train import work
from pipeline.training import backbone
from pipeline.training.backbone import LAST_LAYER, Backbone
from pipeline.training.config import TrainingConfig
from pipeline.training.export import describe
from pipeline.training.networks import images_of, probabilities
from pipeline.training.trainer import TrainingData, get_trainer
from tests.unit.test_docs import ROOT
from tests.unit.test_train_stage import write_home

CPU = torch.device("cpu")
SMALLEST = "mobilenet_v3_small"
CONV = "features.0.0.weight"  # its first
CONFIG = TrainingConfig(
    trainer="backbone",
    options={"network": SMALLEST},
    augmentation="photo",
    batch_size=16,
    min_steps=2,
    threads=1,
    epochs=1,
    low_resolution_share=0.0,
)
CATEGORIES = [Category(1, "blue", "active"), Category(2, "red", "active")]


def photos(count: int = 32, side: int = 64) -> TrainingData:
    """Noise; that of 1 is red."""
    rng = np.random.default_rng(0)
    pixels, targets = rng.integers(0, 100, (count, side, side, 3), np.uint8), np.arange(count) % 2
    pixels[targets == 1, :, :, 0] += 150
    return TrainingData(pixels, targets, np.ones(count, np.float32), pixels[:8], targets[:8])


def train(
    data: TrainingData | None = None,
    outputs: int = 2,
    *,
    home: Path | None = None,
    said: list[str] | None = None,
    config: Mapping[str, Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    **options: Any,
) -> Backbone:
    """options: those of the trainer. config: other keys of `train`. fit: arguments of `fit`."""
    own = {"options": {"network": SMALLEST, **options}, **(config or {})}
    trainer = Backbone(CONFIG.model_copy(update=own), said.append if said is not None else print, device=CPU)
    trainer.home = home or trainer.home
    trainer.fit(data or photos(), outputs, **(fit or {}))
    return trainer


def bits(trainer: Backbone) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.network.state_dict().items()}


def published(name: str, classes: int = 1000) -> dict[str, Tensor]:
    """What a state dict of torchvision's looks like; of values of our own."""
    torch.manual_seed(7)
    state: dict[str, Tensor] = torchvision.models.get_model(name, num_classes=classes).state_dict()
    return state


def trained_of(trainer: Backbone) -> dict[str, Tensor]:
    """What gradients may change of all but the last layer."""
    return {name: parameter.detach() for name, parameter in trainer.network.blocks.named_parameters()}


@pytest.mark.parametrize("name", sorted(LAST_LAYER))
def test_each_network_learns_the_same_on_any_threads_and_its_graph_answers_as_it_does(
    name: str, tmp_path: Path
) -> None:
    epochs: list[dict[str, Any]] = []
    low = {"low_resolution_share": 0.5}  # its first step is on smaller images
    trainer = train(network=name, config=low, fit={"report": epochs.append})
    assert [epoch["epoch"] for epoch in epochs] == [1]
    assert 0 < epochs[0]["train_loss"] < 5
    assert bits(train(network=name, config={**low, "threads": 2})) == bits(trainer)

    pixels = np.asarray(photos().pixels)
    trainer.export_model(tmp_path, pixels[0])
    describe(tmp_path, CATEGORIES, InputSpec("RGB", 64, 64), pixels[0])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    network = trainer.network.eval()
    for count in (1, 5):
        (answers,) = session.run(["probabilities"], {"pixels": pixels[:count]})
        with torch.inference_mode():
            images = images_of(torch.from_numpy(pixels[:count]))
            expected = probabilities(network, images, bool(network.mirrored)).numpy()
        np.testing.assert_allclose(answers, expected, atol=1e-5)
    trainer.export_model(tmp_path / "again", pixels[0])
    for file in ("model.onnx", "weights.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_it_learns_what_tells_photos_apart() -> None:
    trainer = train(config={"epochs": 2, "min_steps": 8})
    assert trainer.validate()["validation_accuracy"] == 1.0


def test_grey_images_are_repeated_and_any_side_will_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, targets = rng.integers(0, 256, (65, 28, 30), np.uint8), np.arange(65) % 2
    data = TrainingData(pixels, targets, np.ones(65, np.float32), pixels[:3], targets[:3])
    train(data).export_model(tmp_path, pixels[0])
    describe(tmp_path, CATEGORIES, InputSpec("L", 30, 28), pixels[0])


def test_pixels_are_normalised_as_published_weights_expect() -> None:
    stem = backbone.Normalised()
    grey = stem(torch.full((1, 1, 2, 2), 0.5))
    assert grey.shape == (1, 3, 2, 2)
    assert torch.allclose(grey[0, :, 0, 0], torch.tensor([0.0655, 0.1964, 0.4178]), atol=1e-4)
    assert stem(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", sorted(LAST_LAYER))
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_given_weights_stay_while_the_last_layer_learns_alone(name: str, ending: str, tmp_path: Path) -> None:
    given = published(name, classes=5)  # the last layer is new: of how many categories it was, is no matter
    file = tmp_path / f"given.{ending}"
    save_file(given, file) if ending == "safetensors" else torch.save(given, file)
    said: list[str] = []
    trainer = train(network=name, weights=file.name, home=tmp_path, said=said)
    assert said[0].endswith(f"from given.{ending} and a new last layer")
    kept = trained_of(trainer)
    assert all(torch.equal(given[key], tensor) for key, tensor in kept.items())
    assert set(kept) == {
        key
        for key in given
        if not key.startswith(LAST_LAYER[name]) and "running" not in key and "num_batches" not in key
    }
    assert not torch.equal(trainer.network.output.weight, train_nothing(trainer))


def train_nothing(trainer: Backbone) -> Tensor:
    """The last layer as it began."""
    torch.manual_seed(trainer.config.seed)
    return backbone.BackboneNetwork(str(trainer.config.options["network"]), 2).output.weight


def test_then_the_rest_learns_too_more_gently(tmp_path: Path) -> None:
    given = published(SMALLEST)
    torch.save(given, tmp_path / "given.pth")
    learning = {"epochs": 2}
    trainer = train(weights="given.pth", home=tmp_path, config=learning)
    moved = [(given[key] - tensor).abs().max().item() for key, tensor in trained_of(trainer).items()]
    assert min(moved) > 0
    still = train(
        weights="given.pth", home=tmp_path, config={**learning, "warm_learning_rate": 1e-9}, head_epochs=0
    )
    assert all(torch.allclose(given[key], tensor, atol=1e-6) for key, tensor in trained_of(still).items())
    assert max(moved) < 0.01


def test_weights_of_a_version_may_be_given(tmp_path: Path) -> None:
    version = train()
    version.export_model(tmp_path, np.asarray(photos().pixels)[0])
    trainer = train(photos(), 3, weights="weights.safetensors", home=tmp_path)
    kept = trained_of(version)
    assert all(torch.equal(kept[key], tensor) for key, tensor in trained_of(trainer).items())
    assert not trainer.starts_from_base


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_in_it_is_refused_and_the_code_is_not_run(zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "given.pth"
    state = {CONV: Runs(tmp_path / "proof")}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        StageError, match=re.escape(f"{file} (train.options.weights) is no state dict")
    ) as said:
        train(weights="given.pth", home=tmp_path)
    assert not (tmp_path / "proof").exists()
    assert "weights_only" not in str(said.value)  # no advice to run it after all
    torch.load(file, weights_only=False)
    assert (tmp_path / "proof").exists()  # it would have run


def save(value: Any, path: Path) -> None:
    torch.save(value, path)


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    state = {**published(SMALLEST), **tensors}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda p: p.write_bytes(b"PK\x03\x04cut off"), "is no state dict of tensors, or is damaged"),
    "empty": (lambda p: p.write_bytes(b""), "is no state dict of tensors, or is damaged"),
    "a list": (partial(save, [1, 2]), "is not of a mobilenet_v3_small: it lacks 208 tensors"),
    "another network": (partial(save, published("resnet18")), "is not of a mobilenet_v3_small: it lacks 208"),
    "one missing": (partial(save, changed(**{CONV: None})), f"it lacks 1 tensors, '{CONV}' among them"),
    "one more": (partial(save, changed(more=torch.zeros(1))), "it has besides 1 tensors, 'more' among them"),
    "another shape": (
        partial(save, changed(**{CONV: torch.zeros(2)})),
        "has of another shape or kind 1 tensors",
    ),
    "another kind": (
        partial(save, changed(**{CONV: torch.zeros(16, 3, 3, 3, dtype=torch.complex64)})),
        "has of another shape or kind 1 tensors",
    ),
    "no numbers": (
        partial(save, changed(**{CONV: torch.full((16, 3, 3, 3), torch.nan)})),
        f"has values that are no numbers, in '{CONV}'; give another file",
    ),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_a_wrong_file_is_named_with_what_is_wrong_and_what_to_do(what: str, tmp_path: Path) -> None:
    write, said = WRONG[what]
    write(tmp_path / "given.pth")
    with pytest.raises(StageError, match=re.escape(said)) as raised:
        train(weights="given.pth", home=tmp_path)
    assert str(tmp_path / "given.pth") in str(raised.value)
    assert "; give " in str(raised.value)


def test_a_safetensors_file_that_is_none_and_one_that_is_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "given.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(StageError, match=r"given\.safetensors .* is no state dict"):
        train(weights="given.safetensors", home=tmp_path)
    with pytest.raises(StageError, match=r"other\.pth, which is not there; put the file there"):
        train(weights="other.pth", home=tmp_path)
    with pytest.raises(StageError, match=r"given\.zip, which ends neither in \.safetensors nor in \.pth"):
        train(weights="given.zip", home=tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "resnet19"}, "network must be 'resnet18', 'mobilenet_v3_small' or 'efficientnet_b0'"),
        ({"depth": 3}, "depth is not known here; it takes network, weights, head_epochs"),
        ({"head_epochs": -1}, "head_epochs must be at least 0"),
        ({"weights": ""}, "weights is empty"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(StageError, match=re.escape(f"of the trainer backbone: {said}")):
        Backbone(CONFIG.model_copy(update={"options": options}), device=CPU)


def test_without_a_torchvision_that_loads_the_trainer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "pipeline.training.backbone")
    with pytest.raises(StageError, match=r"'backbone' does not load: .*torchvision.*make setup"):
        get_trainer("backbone", CONFIG)


def test_torchvision_is_not_imported_for_other_trainers() -> None:
    code = (
        "import sys; from pipeline.stages.train import warm_up; warm_up(); "
        "from pipeline.training.trainer import get_trainer; from pipeline.training.config import TrainingConfig; "
        "get_trainer('classifier', TrainingConfig(augmentation='none')); sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_one_image_is_too_few() -> None:
    with pytest.raises(StageError, match="at least two training images"):
        train(photos(1))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served, and its address; torch's cache is an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def publish(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """torchvision's default weights of the network come from there."""

    entry = torchvision.models.get_model_weights(SMALLEST).DEFAULT
    monkeypatch.setattr(entry, "_value_", torchvision.models.Weights(url, entry.transforms, entry.meta))


def test_weights_are_downloaded_by_name_once(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, url = server
    given = published(SMALLEST)
    torch.save(given, folder / "new.pth")
    name = f"small-{hashlib.sha256((folder / 'new.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    publish(monkeypatch, f"{url}/{name}")
    said: list[str] = []
    trainer = train(weights="download", said=said)
    assert said[0].endswith("from torchvision's weights of mobilenet_v3_small and a new last layer")
    assert all(torch.equal(given[key], tensor) for key, tensor in trained_of(trainer).items())
    (folder / name).unlink()
    assert bits(train(weights="download")) == bits(trainer)  # from the cache

    (tmp_path / "cache" / "hub" / "checkpoints" / name).write_bytes(b"damaged")
    with pytest.raises(StageError, match=rf"{name} is damaged: remove it, or name a file"):
        train(weights="download")


def test_a_download_that_fails_says_what_next(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    publish(monkeypatch, f"{url}/small-00000000.pth")
    next_steps = "try again later, or name a file in train.options.weights, or set it to null for new weights"
    with pytest.raises(StageError, match=rf"could not be had from {url}/small.* 404: .*{next_steps}"):
        train(weights="download")
    torch.save(published(SMALLEST), folder / "small-00000000.pth")
    with pytest.raises(StageError, match=rf"invalid hash value .*{next_steps}"):
        train(weights="download")
    publish(monkeypatch, "http://127.0.0.1:9/small-00000000.pth")  # nobody listens there
    with pytest.raises(StageError, match=rf"could not be had .*{next_steps}"):
        train(weights="download")


def test_interrupted_while_all_learns_it_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    torch.save(published(SMALLEST), tmp_path / "given.pth")
    of: dict[str, Any] = {"weights": "given.pth", "home": tmp_path, "config": {"epochs": 3}}
    whole = train(**of)
    for killed_in in (2, 3):  # after the epoch of the last layer alone, and after one of everything

        def kill(figures: dict[str, Any], killed_in: int = killed_in) -> None:
            if figures["epoch"] == killed_in:
                raise Killed

        said: list[str] = []
        fit = {"checkpoints": tmp_path / f"kept-{killed_in}"}
        with pytest.raises(Killed):
            train(**of, fit={**fit, "report": kill})
        resumed = train(**of, fit=fit, said=said)
        assert said[1] == f"going on after epoch {killed_in - 1} of 3, from the checkpoint"
        assert bits(resumed) == bits(whole)

    torch.save(
        {key: tensor.add(tensor) for key, tensor in published(SMALLEST).items()}, tmp_path / "given.pth"
    )
    said = []
    train(**of, fit={"checkpoints": tmp_path / "kept-3"}, said=said)
    assert len(said) == 1  # other weights under the same name: a checkpoint of another training


def test_the_champion_comes_before_given_weights_and_its_outputs_keep_their_rows(tmp_path: Path) -> None:
    champion = train(config={"epochs": 2})
    champion.export_model(tmp_path / "base", np.asarray(photos().pixels)[0])
    torch.save(published(SMALLEST), tmp_path / "given.pth")
    still = {"warm_epochs": 1, "warm_learning_rate": 1e-9}
    of: dict[str, Any] = {"weights": "given.pth", "home": tmp_path, "fit": {"base": tmp_path / "base"}}
    grown = train(photos(), 3, **of, config={**still, "mode": "warm"})
    assert grown.starts_from_base
    assert grown.epochs == 1
    for own, known in zip(
        grown.network.output.parameters(), champion.network.output.parameters(), strict=True
    ):
        assert torch.allclose(own[:2], known, atol=1e-6)
        assert torch.allclose(own[2], known.mean(0), atol=1e-6)
    assert all(
        torch.allclose(tensor, trained_of(champion)[key], atol=1e-6)
        for key, tensor in trained_of(grown).items()
    )
    said: list[str] = []
    scratch = train(photos(), 3, **of, config={"mode": "scratch"}, said=said)
    assert not scratch.starts_from_base
    assert said[0].endswith("from given.pth and a new last layer")


def test_a_champion_of_another_network_is_named_and_left(tmp_path: Path) -> None:
    train(network="resnet18").export_model(tmp_path / "base", np.asarray(photos().pixels)[0])
    said: list[str] = []
    assert not train(said=said, fit={"base": tmp_path / "base"}).starts_from_base
    assert said[0] == ("not from the champion's weights: it has 123 tensors where this network has 245")


def test_the_stage_finds_the_file_in_the_home(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    torch.save(published(SMALLEST), tmp_path / "weights" / "given.pth")
    options = {"network": SMALLEST, "weights": "weights/given.pth"}
    write_home(
        tmp_path,
        {"ant": "active", "bee": "active"},
        train={"trainer": "backbone", "options": options, "epochs": 1, "min_steps": 1},
    )
    assert work(StageRun(tmp_path, 3)) is not None
    assert json.loads((tmp_path / "model" / "input.json").read_text())["mode"] == "L"


def test_the_documents_parameters_are_valid() -> None:
    page = (ROOT / "docs" / "trainers.md").read_text()
    (block,) = re.findall(r"^    input:\n(?:(?:      .*)?\n|    train:\n)+", page, re.MULTILINE)
    params = Params.model_validate({**yaml.safe_load(block), "gate": {}})
    assert Backbone(params.train, device=CPU)
    assert params.input.width == 96
