from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.stages import StageError
from pipeline.training.classifier import Classifier
from pipeline.training.config import TrainingConfig
from pipeline.training.export import export_network, pattern
from pipeline.training.gradients import Batch, Gradients, Part, Threads, fast_dtype, parts_of
from pipeline.training.networks import Block, ImageNetwork, Network, images_of
from pipeline.training.trainer import Figures, TrainingData, TrainingDiverged, balanced, loss_weights
from tests.support.lines import lines, lines_data

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    augmentation="drawing", widths=(8, 16), batch_size=32, min_steps=20, threads=1, epochs=3
)


def train(
    data: TrainingData,
    config: TrainingConfig = CONFIG,
    outputs: int = 2,
    *,
    said: list[str] | None = None,
    **options: Any,
) -> Classifier:
    """said: all that the trainer says after what it begins with."""
    heard: list[str] = []
    trainer = Classifier(config, heard.append, device=CPU)
    trainer.fit(data, outputs, **options)
    if said is not None:
        said += [line for line in heard if "images to train on" not in line]
    return trainer


def accuracy(trainer: Classifier, data: TrainingData) -> float | None:
    return trainer.measure(data.validation_pixels, data.validation_targets)[1]


def bits(trainer: Classifier) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.network.state_dict().items()}


def champion(folder: Path, network: ImageNetwork) -> Path:
    """A base to start from."""
    export_network(network, folder, pattern((28, 28)), train_images=96)
    return folder


def test_training_learns_and_reports_each_epoch() -> None:
    epochs: list[dict[str, Any]] = []
    trainer = train(lines_data(), report=epochs.append)
    assert accuracy(trainer, lines_data()) == 1.0
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert epochs[-1]["validation_accuracy"] == 1.0
    assert set(epochs[0]) == {
        *("epoch", "epochs", "train_loss", "validation_loss", "validation_accuracy", "learning_rate"),
        *("images_per_second", "batch_parts", "seconds", "seconds_left", "device"),
    }
    assert not trainer.network.training


def test_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again = (bits(train(lines_data())) for _ in range(2))
    assert first == again
    assert first != bits(train(lines_data(), CONFIG.model_copy(update={"seed": 2})))


def test_the_number_of_threads_does_not_change_the_bits(tmp_path: Path) -> None:
    one, two, three = (bits(train(lines_data(), CONFIG.model_copy(update={"threads": n}))) for n in (1, 2, 3))
    assert one == two == three
    said: list[str] = []
    train(lines_data(), checkpoints=tmp_path)
    more = CONFIG.model_copy(update={"threads": 2})
    assert one == bits(train(lines_data(), more, checkpoints=tmp_path, said=said))
    assert said == ["going on after epoch 3 of 3, from the checkpoint"]


def test_batch_statistics_are_those_of_images_without_random_changes() -> None:
    data = lines_data()
    network = train(data).network
    block = next(network.blocks.children())
    assert isinstance(block, Block)
    with torch.no_grad():
        stem = F.max_pool2d(F.relu(network.stem(images_of(torch.from_numpy(np.asarray(data.pixels))))), 2)
        seen = F.max_pool2d(block.conv1(stem), 2)
    kept = block.norm1.state_dict()
    assert torch.allclose(kept["running_mean"], seen.mean((0, 2, 3)), rtol=0.02, atol=0.02)
    assert torch.allclose(kept["running_var"], seen.var((0, 2, 3)), rtol=0.05, atol=0.02)


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

    parts = parts_of(torch.randperm(64), 2, seed=3)
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


@pytest.mark.parametrize(("multiplied", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    multiplied: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or multiplied

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert fast_dtype(torch.device("cuda")) == dtype


def test_training_goes_on_from_its_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill_in_third_epoch(figures: dict[str, Any]) -> None:
        if figures["epoch"] == 3:
            raise Killed

    said: list[str] = []
    with pytest.raises(Killed):
        train(lines_data(), checkpoints=tmp_path, report=kill_in_third_epoch)
    resumed = train(lines_data(), checkpoints=tmp_path, said=said)
    assert said == ["going on after epoch 2 of 3, from the checkpoint"]
    assert bits(resumed) == bits(train(lines_data()))


@pytest.mark.parametrize("changed", ["data", "seed", "learning rate", "base", "known"])
def test_a_checkpoint_of_another_training_is_not_taken_up(changed: str, tmp_path: Path) -> None:
    config, said = CONFIG.model_copy(update={"epochs": 1}), list[str]()
    network = train(lines_data(), config, checkpoints=tmp_path / "checkpoints").network
    others: dict[str, dict[str, Any]] = {"seed": {"seed": 5}, "learning rate": {"learning_rate": 0.2}}
    data = lines_data(90 if changed == "data" else 96)
    train(
        replace(data, known=np.ones(96, bool)) if changed == "known" else data,
        config.model_copy(update=others.get(changed, {})),
        base=champion(tmp_path / "base", network) if changed == "base" else None,
        checkpoints=tmp_path / "checkpoints",
        said=said,
    )
    assert said == []


def test_a_checkpoint_that_was_being_written_is_not_taken_up(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Interrupted(Classifier):
        def save_checkpoint(self, path: Path) -> None:
            super().save_checkpoint(path)
            if len(list(tmp_path.iterdir())) > 2:  # the second epoch's, while the first's is there
                raise Killed

    with pytest.raises(Killed):
        Interrupted(CONFIG, device=CPU).fit(lines_data(), 2, checkpoints=tmp_path)
    said: list[str] = []
    resumed = train(lines_data(), checkpoints=tmp_path, said=said)
    assert said == ["going on after epoch 1 of 3, from the checkpoint"]
    assert bits(resumed) == bits(train(lines_data()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-3", "last.json"]


def test_a_loss_that_is_no_number_stops_training_and_says_what_to_change(tmp_path: Path) -> None:
    class Poisoned(Classifier):
        def create_model(self, outputs: int, base: Path | None) -> None:
            super().create_model(outputs, base)
            torch.nn.init.constant_(self.network.output.bias, float("nan"))

    with pytest.raises(TrainingDiverged, match=r"epoch 1 of 3; lower train\.learning_rate \(now 0\.24\)"):
        Poisoned(CONFIG, device=CPU).fit(lines_data(), 2)
    base = champion(tmp_path, Network(1, (8, 16), 2))
    with pytest.raises(
        TrainingDiverged, match=r"epoch 1 of 1; lower train\.warm_learning_rate \(now 0\.06\)"
    ):
        Poisoned(CONFIG, device=CPU).fit(lines_data(), 2, base=base)


class Crammed(Classifier):
    """Has memory for parts of a batch of so many images."""

    fits = 20

    def _batch_of(self, part: Part) -> Batch:
        if len(part.chosen) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")
        return super()._batch_of(part)


def test_a_batch_that_does_not_fit_is_worked_on_in_more_parts_and_that_is_told() -> None:
    said, epochs = list[str](), list[dict[str, Any]]()
    config = CONFIG.model_copy(update={"batch_size": 64})
    trainer = Crammed(config, said.append, device=CPU)
    trainer.fit(lines_data(), 2, report=epochs.append)
    assert said[1:] == [
        "not enough memory to train (CUDA out of memory. Tried to allocate 2 GiB.): going on with each batch in 4 parts"
    ]
    assert [epoch["batch_parts"] for epoch in epochs] == [4, 4, 4]
    assert accuracy(trainer, lines_data()) == 1.0


def test_what_does_not_fit_in_the_smallest_parts_ends_with_what_to_change() -> None:
    class TooCrammed(Crammed):
        fits = 8

    with pytest.raises(StageError, match=r"not enough memory to train .* lower train\.batch_size"):
        TooCrammed(CONFIG, device=CPU).fit(lines_data(), 2)


def test_training_goes_on_on_another_device_from_where_it_is() -> None:
    class Moved(Classifier):
        def train_epoch(self, epoch: int) -> Figures:
            if epoch == 2:
                self.move_to(CPU)
            return super().train_epoch(epoch)

    trainer = Moved(CONFIG, device=CPU)
    trainer.fit(lines_data(), 2)
    assert bits(trainer) == bits(train(lines_data()))


def test_a_lost_device_ends_training_and_says_how_to_go_on() -> None:
    class Lost(Classifier):
        def _batch_of(self, part: Part) -> Batch:
            if self._epoch == 2:
                raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with")
            return super()._batch_of(part)

    with pytest.raises(
        StageError, match=r"epoch 2 of 3: CUDA error: unspecified launch failure\. .*emend resume"
    ):
        Lost(CONFIG, device=CPU).fit(lines_data(), 2)


def test_training_works_without_validation_images_and_with_two_images() -> None:
    empty = np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int64)
    pixels, targets = lines(2)
    data = TrainingData(pixels, targets, np.ones(2, np.float32), *empty)
    epochs: list[dict[str, Any]] = []
    train(data, report=epochs.append)
    assert epochs[0]["validation_accuracy"] is None


def test_weighted_images_decide_what_is_learnt() -> None:
    pixels, targets = lines(96)
    wrong = np.arange(96) % 3 == 0  # a third is mislabelled but weighs a hundred times as much
    data = TrainingData(
        pixels, np.where(wrong, 1 - targets, targets), np.where(wrong, 100, 1).astype(np.float32), *lines(40)
    )
    flipped = replace(data, validation_targets=1 - data.validation_targets)
    assert accuracy(train(data), flipped) == 1.0


def test_many_corrections_count_in_all_no_more_than_the_images() -> None:
    targets, actors = np.arange(100) % 2, np.array([f"actor {n}" for n in range(100)])
    weights = loss_weights(targets, np.arange(100) < 80, actors, CONFIG)
    assert weights.sum() == pytest.approx(200)
    assert weights[80:].tolist() == [1] * 20


def test_one_person_does_not_tip_what_many_images_say() -> None:
    pixels, targets = lines(400)
    lies = (targets == 0) & (np.arange(400) < 80)
    said = np.where(lies, 1, targets)
    actors = np.where(lies, "liar", "")

    def right_without(bound: float) -> float | None:
        config = CONFIG.model_copy(update={"actor_share": bound})
        weights = loss_weights(said, lies, actors, config)
        return accuracy(train(TrainingData(pixels, said, weights, *lines(40, seed=1)), config), lines_data())

    assert right_without(0.1) == 1.0
    assert right_without(100) == 0.5  # upright lines are said to be level ones


def test_a_category_of_a_handful_of_images_is_learnt_and_hurts_no_other() -> None:
    pixels, targets = lines(400)
    crosses = np.maximum(pixels[::2], pixels[1::2])  # an upright line and a level one
    few = TrainingData(
        np.concatenate([pixels, crosses[:5]]),
        np.concatenate([targets, np.full(5, 2)]),
        balanced(np.concatenate([targets, np.full(5, 2)]), CONFIG.balance),
        np.concatenate([pixels, crosses[100:]]),
        np.concatenate([targets, np.full(100, 2)]),
    )
    trainer = train(few, outputs=3)
    assert accuracy(trainer, lines_data()) == 1.0
    assert trainer.measure(crosses[100:], np.full(100, 2))[1] == 1.0


def test_answers_are_averaged_over_mirror_images_only_where_validation_says_so() -> None:
    assert bool(train(lines_data(), CONFIG.model_copy(update={"mirror": False})).network.mirrored) is False
    slanted = np.zeros((96, 28, 28), np.uint8)
    rng = np.random.default_rng(0)
    for image, target in zip(slanted, np.arange(96) % 2, strict=True):  # a mirror makes one the other
        steps = np.arange(2, 24)
        image[steps + rng.integers(3), steps if target else 27 - steps] = 255
    data = TrainingData(slanted, np.arange(96) % 2, np.ones(96, np.float32), slanted, np.arange(96) % 2)
    trainer = train(data)
    assert not trainer.network.mirrored
    assert accuracy(trainer, data) == 1.0


def test_answers_are_averaged_over_mirror_images_where_that_is_better(tmp_path: Path) -> None:
    """A mirror image has other noise beside the line, so the mean of both answers errs less."""
    rng = np.random.default_rng(0)
    noisy = lines(96)[0] // 2 + rng.integers(0, 120, (96, 28, 28), np.uint8)
    data = replace(lines_data(), validation_pixels=noisy, validation_targets=np.arange(96) % 2)
    trainer = train(data)
    assert trainer.network.mirrored
    assert trainer.validate() == trainer.validate()
    trainer.export_model(tmp_path, noisy[0])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    straight, mirrored = (
        session.run(None, {"pixels": each})[0] for each in (noisy, noisy[:, :, ::-1].copy())
    )
    np.testing.assert_allclose(straight, mirrored, atol=1e-5)


def test_each_image_is_passed_over_in_every_epoch_and_corrected_ones_more_often() -> None:
    seen: list[Tensor] = []

    class Seen(Classifier):
        def _batch_of(self, part: Part) -> Batch:
            seen.append(part.chosen)
            return super()._batch_of(part)

    data = replace(lines_data(), weights=np.where(np.arange(96) < 10, 16, 1).astype(np.float32))
    Seen(CONFIG.model_copy(update={"epochs": 1, "min_steps": 1, "batch_size": 6}), device=CPU).fit(data, 2)
    times = torch.bincount(torch.cat(seen))
    assert times.tolist() == [16] * 10 + [1] * 86


def test_a_warm_start_sees_some_of_what_the_champion_knows_and_all_that_is_new_or_corrected(
    tmp_path: Path,
) -> None:
    seen: list[Tensor] = []

    class Seen(Classifier):
        def _loss_and_gradients(self, chosen: Tensor, seed: int) -> Tensor:
            seen.append(chosen)
            return super()._loss_and_gradients(chosen, seed)

    pixels, targets = lines(256)
    weights = np.where(np.arange(256) < 10, 8, 1).astype(np.float32)
    data = TrainingData(pixels, targets, weights, pixels, targets)
    config = CONFIG.model_copy(
        update={"warm_epochs": 2, "min_steps": 1, "batch_size": 4, "mode": "warm", "replay": 0.3}
    )
    base = tmp_path / "champion"
    export_network(train(lines_data()).network, base, pattern((28, 28)), train_images=200)
    Seen(config, device=CPU).fit(data, 2, base=base)
    passes = [torch.bincount(torch.cat(half), minlength=256) for half in (seen[:48], seen[48:])]
    for (
        times
    ) in passes:  # 80 of corrected images, 57 of 190 known ones, 56 new ones, less one for whole batches
        assert times.sum() == 192
        assert times[:10].sum() >= 79
        assert times[10:200].sum() in (56, 57)
        assert times[10:].max() == 1
        assert times[200:].sum() >= 55
    assert not torch.equal(passes[0][10:200], passes[1][10:200])


def test_what_the_champion_knows_is_what_the_data_says_wherever_it_stands(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Seen(Classifier):
        def _loss_and_gradients(self, chosen: Tensor, seed: int) -> Tensor:
            seen.append(chosen)
            return super()._loss_and_gradients(chosen, seed)

    known = np.arange(96) % 4 > 0  # 72, and none of them is the first
    config = CONFIG.model_copy(
        update={"warm_epochs": 1, "min_steps": 1, "batch_size": 6, "mode": "auto", "replay": 0.5}
    )
    base, said = tmp_path / "champion", list[str]()
    export_network(train(lines_data()).network, base, pattern((28, 28)), train_images=96)
    Seen(config, said.append, device=CPU).fit(replace(lines_data(), known=known), 2, base=base)
    assert (
        said[0]
        == "not from the champion's weights: 24 of 96 images are new to it, more than train.warm_share (0.2)"
    )

    seen.clear()
    warm = config.model_copy(update={"mode": "warm"})
    Seen(warm, device=CPU).fit(replace(lines_data(), known=known), 2, base=base)
    times = torch.bincount(torch.cat(seen), minlength=96)
    assert times[~torch.from_numpy(known)].tolist() == [1] * 24
    assert times.sum() == 24 + 36


def test_photos_are_mirrored_in_every_other_pass_and_those_that_may_not_never() -> None:
    mirrored: list[tuple[Tensor, Tensor]] = []

    class Seen(Classifier):
        def _mirrored(self, chosen: Tensor) -> Tensor:
            mirrored.append((chosen, super()._mirrored(chosen)))
            return mirrored[-1][1]

    data = replace(lines_data(), unmirrored=(1,))
    config = CONFIG.model_copy(
        update={"augmentation": "photo", "epochs": 4, "min_steps": 1, "batch_size": 32}
    )
    trainer = Seen(config, device=CPU)
    trainer.fit(data, 2)
    by_epoch = torch.zeros(4, 96, dtype=torch.bool)
    for call, (chosen, which) in enumerate(mirrored):  # three batches of two parts in each epoch
        by_epoch[call // 6, chosen] = which
    may = torch.from_numpy(data.targets == 0)
    assert (by_epoch[:, may].sum(0) == 2).all()
    assert torch.equal(by_epoch[0, may], ~by_epoch[1, may])
    assert 0 < by_epoch[0, may].sum() < may.sum()
    assert not by_epoch[:, ~may].any()
    assert not trainer.network.mirrored


def test_the_first_steps_are_of_small_images_and_a_warm_start_has_none(tmp_path: Path) -> None:
    sizes: list[tuple[int, ...]] = []

    class Sizes(Classifier):
        def _batch_of(self, part: Part) -> Batch:
            batch = super()._batch_of(part)
            sizes.append(tuple(batch.images.shape[2:]))
            return batch

    config = CONFIG.model_copy(update={"epochs": 1, "low_resolution": 0.5, "low_resolution_share": 0.6})
    trainer = Sizes(config, device=CPU)
    trainer.fit(lines_data(), 2)
    assert sizes == [(14, 14)] * 24 + [(28, 28)] * 16  # two parts a step
    assert trainer.share_of_time(1) == 1
    sizes.clear()
    Sizes(config, device=CPU).fit(lines_data(), 2, base=champion(tmp_path, trainer.network))
    assert set(sizes) == {(28, 28)}


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"train_loss": 1.0}, "gave no validation_loss, validation_accuracy of epoch 1"),
        (
            {"train_loss": 1.0, "validation_loss": float("nan"), "validation_accuracy": 0.5},
            "validation_loss nan",
        ),
        (
            {"train_loss": None, "validation_loss": None, "validation_accuracy": None},
            "gave no train_loss of epoch 1",
        ),
        (
            {"train_loss": torch.ones(()), "validation_loss": None, "validation_accuracy": None},
            r"that are no plain numbers: train_loss \(Tensor\); it must return Python's or NumPy's",
        ),
    ],
)
def test_figures_of_a_trainer_that_are_missing_or_no_numbers_are_named(
    figures: Figures, message: str
) -> None:
    class Odd(Classifier):
        def train_epoch(self, epoch: int) -> Figures:
            super().train_epoch(epoch)
            return figures

        def validate(self) -> Figures:
            return {}

    with pytest.raises(StageError, match=message):
        Odd(CONFIG, device=CPU).fit(lines_data(), 2)


def test_a_device_lost_in_validation_is_told_too() -> None:
    class Lost(Classifier):
        def validate(self) -> Figures:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with")

    with pytest.raises(
        StageError, match=r"epoch 1 of 3: CUDA error: unspecified launch failure\. .*emend resume"
    ):
        Lost(CONFIG, device=CPU).fit(lines_data(), 2)


def test_colour_photos_of_another_size_train_with_the_same_code() -> None:
    rng = np.random.default_rng(0)
    pixels, targets = rng.integers(0, 100, (64, 32, 40, 3), np.uint8), np.arange(64) % 2
    pixels[targets == 1, :, :, 0] += 120
    data = TrainingData(pixels, targets, np.ones(64, np.float32), pixels, targets)
    assert accuracy(train(data, CONFIG.model_copy(update={"augmentation": "photo"})), data) == 1.0


def test_a_warm_start_knows_from_the_first_step_what_the_base_knew(tmp_path: Path) -> None:
    base = champion(tmp_path, train(lines_data()).network)
    still = CONFIG.model_copy(update={"warm_epochs": 1, "warm_learning_rate": 1e-9})
    trainer = train(lines_data(), still, 3, base=base)
    assert trainer.starts_from_base
    assert accuracy(trainer, lines_data()) == 1.0


def test_a_small_set_is_passed_over_several_times_and_each_image_is_seen_once_a_pass() -> None:
    seen: list[Tensor] = []

    class Seen(Classifier):
        def _loss_and_gradients(self, chosen: Tensor, seed: int) -> Tensor:
            seen.append(chosen)
            return super()._loss_and_gradients(chosen, seed)

    config = CONFIG.model_copy(update={"epochs": 1, "min_steps": 5, "batch_size": 48})
    Seen(config, device=CPU).fit(lines_data(), 2)
    assert len(seen) == 5
    assert sorted(torch.cat(seen[:2]).tolist()) == list(range(96))
    assert sorted(torch.cat(seen[2:4]).tolist()) == list(range(96))


def test_rare_outputs_weigh_more() -> None:
    targets = np.array([0] * 16 + [2] * 4)
    weights = balanced(targets, 0.5)
    assert weights[-1] == pytest.approx(2 * weights[0])
    assert (balanced(targets, 0) == 1).all()
