from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.images import InputSpec
from pipeline.dataset import Category
from pipeline.params import TrainParams
from pipeline.training.augmentation import Kind, augment, drawing
from pipeline.training.export import export, read_weights
from pipeline.training.gradients import Batch, Gradients, Part, Threads, parts_of
from pipeline.training.loop import (
    Schedule,
    TrainingData,
    TrainingDiverged,
    _batches,
    _steps,
    balanced,
    train,
    validate,
)
from pipeline.training.networks import Network, images_of, misfit, start_from
from pipeline.training.optimizer import orthogonal

CPU = torch.device("cpu")
PARAMS = TrainParams(augmentation="drawing", widths=(8, 16), batch_size=32, min_steps=20, threads=1)
SCHEDULE = Schedule(epochs=3, learning_rate=0.24)
DOODLE = InputSpec("L", 28, 28)
PHOTO = InputSpec("RGB", 32, 32)


def lines(count: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Drawings of one line: upright ones are 0, level ones 1."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, 28, 28), np.uint8)
    targets = np.arange(count) % 2
    for image, target in zip(pixels, targets, strict=True):
        image[1:27, 12 + rng.integers(4)] = 255
        if target:
            image[:] = image.T.copy()
    return pixels, targets.astype(np.int64)


def lines_data(count: int = 96) -> TrainingData:
    pixels, targets = lines(count)
    return TrainingData(pixels, targets, np.ones(count, np.float32), *lines(40, seed=1))


def bits(network: Network) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


def test_training_learns_and_reports_each_epoch() -> None:
    epochs: list[dict[str, Any]] = []
    network = train(lines_data(), PARAMS, SCHEDULE, 2, report=epochs.append)
    assert validate(network, lines_data(), CPU)[1] == 1.0
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert epochs[-1]["validation_accuracy"] == 1.0
    assert set(epochs[0]) == {
        *("epoch", "epochs", "train_loss", "validation_loss", "validation_accuracy", "learning_rate"),
        *("images_per_second", "seconds", "device"),
    }
    assert not network.training


def test_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again = (bits(train(lines_data(), PARAMS, SCHEDULE, 2)) for _ in range(2))
    assert first == again
    assert first != bits(train(lines_data(), PARAMS.model_copy(update={"seed": 2}), SCHEDULE, 2))


def test_the_number_of_threads_does_not_change_the_bits(tmp_path: Path) -> None:
    one, two, three = (
        bits(train(lines_data(), PARAMS.model_copy(update={"threads": n}), SCHEDULE, 2)) for n in (1, 2, 3)
    )
    assert one == two == three
    checkpoint, said = tmp_path / "last.safetensors", list[str]()
    train(lines_data(), PARAMS, SCHEDULE, 2, checkpoint=checkpoint)
    more = PARAMS.model_copy(update={"threads": 2})
    assert one == bits(train(lines_data(), more, SCHEDULE, 2, checkpoint=checkpoint, say=said.append))
    assert said == ["going on after epoch 3 of 3, from the checkpoint"]


def test_batch_statistics_are_those_of_images_without_random_changes() -> None:
    data = lines_data()
    network = train(data, PARAMS, SCHEDULE, 2)
    with torch.no_grad():
        seen = network.stem(images_of(torch.from_numpy(np.asarray(data.pixels))))
    kept = network.norm.state_dict()
    assert torch.allclose(kept["running_mean"], seen.mean((0, 2, 3)), rtol=0.02, atol=0.01)
    assert torch.allclose(kept["running_var"], seen.var((0, 2, 3)), rtol=0.05, atol=0.01)


def test_the_parts_of_a_batch_make_the_gradients_of_the_whole() -> None:
    """But for batch statistics, which are each part's own: the output's gradients do not know of them."""
    network = Network(1, (8, 16), 2)
    pixels, targets = lines(64)
    weights = torch.linspace(1, 3, 64)
    batch = Batch(images_of(torch.from_numpy(pixels)), torch.from_numpy(targets), weights)
    seen: list[Tensor] = []

    def batch_of(part: Part) -> Batch:
        seen.append(part.chosen)
        return Batch(batch.images[part.chosen], batch.targets[part.chosen], weights[part.chosen])

    parts = parts_of(torch.randperm(64), CPU, seed=3)
    loss = Gradients(network, CPU, Threads(2), 0.0).step(batch_of, parts, weights.sum())
    assert sorted(torch.cat(seen).tolist()) == list(range(64))
    assert len({part.seed for part in parts}) == len(parts) == 2
    bias = network.output.bias.grad
    assert bias is not None
    expected, total = torch.zeros(2), torch.zeros(())
    for part in parts:
        own = batch_of(part)
        logits = network.train()(own.images)
        of_part = (F.cross_entropy(logits, own.targets, reduction="none") * own.weights).sum() / weights.sum()
        expected += torch.autograd.grad(of_part, network.output.bias)[0]
        total += of_part.detach()
    assert torch.allclose(bias, expected, atol=0.01)
    assert torch.allclose(loss, total, atol=0.02)


def test_training_goes_on_from_its_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill_in_third_epoch(figures: dict[str, Any]) -> None:
        if figures["epoch"] == 3:
            raise Killed

    checkpoint, said = tmp_path / "last.safetensors", list[str]()
    with pytest.raises(Killed):
        train(lines_data(), PARAMS, SCHEDULE, 2, checkpoint=checkpoint, report=kill_in_third_epoch)
    resumed = train(lines_data(), PARAMS, SCHEDULE, 2, checkpoint=checkpoint, say=said.append)
    assert said == ["going on after epoch 2 of 3, from the checkpoint"]
    assert bits(resumed) == bits(train(lines_data(), PARAMS, SCHEDULE, 2))


@pytest.mark.parametrize("changed", ["data", "seed", "schedule", "base"])
def test_a_checkpoint_of_another_training_is_not_taken_up(changed: str, tmp_path: Path) -> None:
    checkpoint, said = tmp_path / "last.safetensors", list[str]()
    one = Schedule(1, 0.24)
    base = train(lines_data(), PARAMS, one, 2, checkpoint=checkpoint).state_dict()
    train(
        lines_data(90 if changed == "data" else 96),
        PARAMS.model_copy(update={"seed": 5}) if changed == "seed" else PARAMS,
        Schedule(1, 0.2) if changed == "schedule" else one,
        2,
        base=base if changed == "base" else None,
        checkpoint=checkpoint,
        say=said.append,
    )
    assert said == []


def test_a_loss_that_is_no_number_stops_training_and_says_what_to_change() -> None:
    base = Network(1, PARAMS.widths, 2).state_dict()
    base["output.bias"] = torch.tensor([float("nan"), 0.0])
    with pytest.raises(TrainingDiverged, match=r"epoch 1 of 3; lower train\.learning_rate \(now 0\.24\)"):
        train(lines_data(), PARAMS, SCHEDULE, 2, base=base)


def test_training_works_without_validation_images_and_with_two_images() -> None:
    empty = np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int64)
    pixels, targets = lines(2)
    data = TrainingData(pixels, targets, np.ones(2, np.float32), *empty)
    epochs: list[dict[str, Any]] = []
    train(data, PARAMS, Schedule(1, 0.24), 2, report=epochs.append)
    assert epochs[0]["validation_accuracy"] is None


def test_weighted_images_decide_what_is_learnt() -> None:
    pixels, targets = lines(96)
    wrong = np.arange(96) % 3 == 0  # a third is mislabelled but weighs a hundred times as much
    data = TrainingData(
        pixels, np.where(wrong, 1 - targets, targets), np.where(wrong, 100, 1).astype(np.float32), *lines(40)
    )
    flipped = replace(data, validation_targets=1 - data.validation_targets)
    assert validate(train(data, PARAMS, SCHEDULE, 2), flipped, CPU)[1] == 1.0


def test_colour_photos_of_another_size_train_with_the_same_code() -> None:
    rng = np.random.default_rng(0)
    pixels, targets = rng.integers(0, 100, (64, 32, 40, 3), np.uint8), np.arange(64) % 2
    pixels[targets == 1, :, :, 0] += 120
    data = TrainingData(pixels, targets, np.ones(64, np.float32), pixels, targets)
    photo = PARAMS.model_copy(update={"augmentation": "photo"})
    assert validate(train(data, photo, SCHEDULE, 2), data, CPU)[1] == 1.0


def test_a_grown_network_keeps_the_rows_of_known_outputs_and_new_ones_win_nowhere() -> None:
    base, grown = Network(1, (8, 16), 2).eval(), Network(1, (8, 16), 4).eval()
    assert misfit(grown, base.state_dict()) is None
    start_from(grown, base.state_dict())
    assert torch.equal(grown.output.weight[:2], base.output.weight)
    assert torch.equal(grown.output.bias[:2], base.output.bias)
    assert torch.equal(grown.stem.weight, base.stem.weight)
    images = torch.rand(50, 1, 28, 28)
    assert torch.equal(grown(images).argmax(1), base(images).argmax(1))


def test_a_warm_start_knows_from_the_first_step_what_the_base_knew() -> None:
    base = train(lines_data(), PARAMS, SCHEDULE, 2).state_dict()
    still = train(lines_data(), PARAMS, Schedule(1, 1e-9), 3, base=base)
    assert validate(still, lines_data(), CPU)[1] == 1.0


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (Network(1, (8, 24), 2), "its blocks.0.conv1.weight is (24, 8, 3, 3), this network's (16, 8, 3, 3)"),
        (Network(3, (8, 16), 2), "its stem.weight is (8, 3, 5, 5), this network's (8, 1, 5, 5)"),
        (Network(1, (8, 16, 16), 2), "it has 32 tensors where this network has 20"),
        (Network(1, (8, 16), 4), "it has 4 outputs, this network only 3"),
    ],
)
def test_a_base_that_does_not_fit_is_named(base: Network, why: str) -> None:
    assert misfit(Network(1, (8, 16), 3), base.state_dict()) == why


def test_orthogonal_keeps_directions_and_levels_their_strength() -> None:
    torch.manual_seed(0)
    for shape in ((8, 40), (40, 8)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inside = left.T @ orthogonal(matrix) @ right.T
        assert (inside.diag() > 0.5).all()
        assert (inside.diag() < 1.5).all()
        assert (inside - inside.diag().diag()).abs().max() < 1e-3


def test_a_small_set_is_passed_over_several_times_and_each_image_is_seen_once_a_pass() -> None:
    assert _steps(10, 4, min_steps=5) == 5
    assert _steps(4000, 4, min_steps=5) == 1000
    batches = list(_batches(8, 4, 5, torch.Generator()))
    assert len(batches) == 5
    assert sorted(torch.cat(batches[:2]).tolist()) == list(range(8))
    assert sorted(torch.cat(batches[2:4]).tolist()) == list(range(8))


def test_rare_outputs_weigh_more() -> None:
    targets = np.array([0] * 16 + [2] * 4)
    weights = balanced(targets, 0.5)
    assert weights[-1] == pytest.approx(2 * weights[0])
    assert (balanced(targets, 0) == 1).all()


@pytest.mark.parametrize("kind", ["none", "drawing", "photo"])
def test_augmentation_keeps_shape_and_range_and_repeats_with_the_seed(kind: Kind) -> None:
    images = torch.rand(6, 3 if kind == "photo" else 1, 28, 32)
    first, again = (augment(images, kind, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert torch.equal(first, images) == (kind == "none")


def test_a_changed_drawing_still_fills_the_frame() -> None:
    images = images_of(torch.from_numpy(lines(50)[0]))
    changed = drawing(images, torch.Generator().manual_seed(0))
    for image in changed[:, 0]:
        y, x = torch.nonzero(image > 0.5, as_tuple=True)
        assert max(y.max() - y.min(), x.max() - x.min()) + 1 in range(24, 29)
    assert not drawing(torch.zeros(2, 1, 28, 28), torch.Generator()).any()


CATEGORIES = [Category(3, "cat", "active"), Category(1, "dog", "active")]


@pytest.mark.parametrize("spec", [DOODLE, PHOTO])
def test_the_exported_graph_answers_as_the_network(spec: InputSpec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(1 if spec.mode == "L" else 3, (8, 16, 24), 2).eval()
    export(network, CATEGORIES, spec, tmp_path, train_images=7)
    pixels = np.random.default_rng(0).integers(0, 256, (5, *spec.shape), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probabilities"], {"pixels": pixels})
    with torch.inference_mode():
        expected = network(images_of(torch.from_numpy(pixels))).softmax(1).numpy()
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)

    example = json.loads((tmp_path / "example_answer.json").read_text())
    (again,) = session.run(None, {"pixels": np.array(example["inputs"], np.uint8)})
    np.testing.assert_array_equal(again, np.array(example["probabilities"], np.float32))
    assert json.loads((tmp_path / "categories.json").read_text()) == {
        "outputs": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
    }
    assert json.loads((tmp_path / "input.json").read_text())["width"] == spec.width
    weights, images = read_weights(tmp_path / "weights.safetensors")
    assert images == 7
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_the_same_weights_give_the_same_files_in_any_folder(tmp_path: Path) -> None:
    network = Network(1, (8, 16), 2).eval()
    for name in ("a", "b/c"):
        export(network, CATEGORIES, DOODLE, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        *("categories.json", "example_answer.json", "input.json", "model.onnx", "weights.safetensors")
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / "c" / name).read_bytes(), name
