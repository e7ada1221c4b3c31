"""The built-in trainer for larger photos: a known network of torchvision's, from scratch or from trained weights.

    train:
      trainer: backbone
      options: {network: resnet18, weights: weights/resnet18.pth, head_epochs: 1}

Its steps are the classifier's: parts of a batch, batch statistics settled when an epoch is over, low resolution first,
answers over mirror images, warm starts, checkpoints. Its own are the network, the optimizer (AdamW for all of it: Muon
would forget the lengths of given filters, and takes half as long again as a small batch of photos) and where it starts:

- new weights: everything is trained at `learning_rate`;
- given weights, a file or torchvision's own: the new last layer alone for `head_epochs`, then everything, the rest of
  the network at the lower `warm_learning_rate`;
- the champion's weights, as the classifier.

On 1,200 drawn shapes of six kinds, 64x64, six epochs from new weights (2 cores, torch 2.15, one run each) resnet18 got
0.67 of 300 others right at a `learning_rate` of 0.24, 0.65 at 0.08, 0.60 at 0.6; mobilenet_v3_small 0.43, 0.38, 0.43.

Dropout and stochastic depth are left out: they draw from torch's global generator, and two threads draw in no fixed
order. Importing torchvision takes 3 s, so nothing else imports this file.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.validation import told
from pipeline.stages import StageError
from pipeline.training.classifier import ADAMW_SHARE, Classifier, one_cycle
from pipeline.training.gradients import Gradients
from pipeline.training.networks import ImageNetwork
from pipeline.training.optimizer import AdamW, Muon
from pipeline.training.trainer import Figures, TrainingData

# Of ImageNet's images, 0..1, by colour: what published weights were trained with.
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAST_LAYER = {"resnet18": "fc", "mobilenet_v3_small": "classifier.3", "efficientnet_b0": "classifier.1"}
NO_CHANCE: dict[str, dict[str, float]] = {
    "resnet18": {},
    "mobilenet_v3_small": {"dropout": 0.0},
    "efficientnet_b0": {"dropout": 0.0, "stochastic_depth_prob": 0.0},
}
LEAST_SIDE = 32  # each network halves the side five times
DOWNLOAD = "download"
SILENCE_SECONDS = 30.0  # of a server, after which a download is given up


class Options(BaseModel):
    """`train.options` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["resnet18", "mobilenet_v3_small", "efficientnet_b0"] = "resnet18"
    weights: str | None = Field(None, min_length=1)
    head_epochs: int = Field(1, ge=0, le=10_000)


class BackboneNetwork(ImageNetwork):
    """blocks: torchvision's network without its last layer, which `output` stands for."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.stem = Normalised()
        self.blocks = torchvision.models.get_model(name, weights=None, **NO_CHANCE[name])
        last = self.blocks.get_submodule(LAST_LAYER[name])
        assert isinstance(last, nn.Linear)
        self.blocks.set_submodule(LAST_LAYER[name], nn.Identity())
        self.output = nn.Linear(last.in_features, classes)
        self.register_buffer("mirrored", torch.tensor(False))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.blocks(self.stem(images)))
        return logits


class Normalised(nn.Module):
    """(N, 1 or 3, H, W), 0..1, to three channels with ImageNet's mean and spread, of the same type of number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None], persistent=False)
        self.mean: Tensor
        self.spread: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """One channel is repeated: each of three has its own mean."""
        return ((images - self.mean) / self.spread).to(images.dtype)


class Backbone(Classifier):
    settled_at_once = 64  # photos take more memory than drawings
    memory_keys = "train.batch_size or the input's width and height"

    def _read_options(self) -> None:
        try:
            self._options = Options.model_validate(self.config.options)
        except ValidationError as exc:
            faults = [told(".".join(map(str, fault["loc"])), fault) for fault in exc.errors()]
            raise StageError(
                f"train.options in params.yaml, of the trainer backbone: {'; '.join(faults)}; it takes "
                f"{', '.join(Options.model_fields)}"
            ) from exc
        self._head_epochs = 0
        self._given: str | None = None  # digest of the weights it started from, the champion's apart

    @property
    def made_with(self) -> str:
        return f"{super().made_with} torchvision {torchvision.__version__} {self._given}"

    @property
    def _least_side(self) -> int:
        return LEAST_SIDE

    def prepare_dataset(self, data: TrainingData) -> None:
        if len(data.targets) < 2:
            raise StageError(
                "the trainer backbone needs at least two training images: batch statistics of one do not exist; "
                "import some (`emend import`), then run again"
            )
        super().prepare_dataset(data)

    def _new_network(self, outputs: int, base: Path | None) -> ImageNetwork:
        network = BackboneNetwork(self._options.network, outputs)
        self.starts_from_base = self._start_from(network, base)
        if not self.starts_from_base and self._options.weights is not None:
            self._load_given(network.blocks, self._options.weights)
        return network

    def _load_given(self, blocks: nn.Module, weights: str) -> None:
        name = self._options.network
        if weights == DOWNLOAD:
            load_blocks(blocks, downloaded(name), name, "what was downloaded")
            self.starts_from = f"torchvision's weights of {name} and a new last layer"
        else:
            load_blocks(blocks, read_state(self.home / weights), name, str(self.home / weights))
            self.starts_from = f"{weights} and a new last layer"
        digest = hashlib.sha256()
        for tensor in blocks.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self._given = digest.hexdigest()
        self._head_epochs = self._options.head_epochs

    def _new_gradients(self) -> Gradients:
        # Convolutions of one filter a channel: on the CPU in bfloat16 these two networks take twice as long.
        slow = self._device.type == "cpu" and self._options.network != "resnet18"
        dtype = torch.float32 if slow else None
        return Gradients(self.network, self._device, self._threads, self.config.label_smoothing, dtype)

    def _new_optimizers(self) -> dict[str, Muon | AdamW]:
        return {name: self._adamw_of(getattr(self.network, name)) for name in ("blocks", "output")}

    def _adamw_of(self, module: nn.Module) -> AdamW:
        """Norms and biases do not decay."""
        parameters = list(module.parameters())
        filters = [p for p in parameters if p.ndim > 1]
        norms_and_biases = [p for p in parameters if p.ndim <= 1]
        return AdamW(filters, norms_and_biases, self.config.weight_decay)

    def train_epoch(self, epoch: int) -> Figures:
        trained = epoch > self._head_epochs
        if trained != all(p.requires_grad for p in self.network.blocks.parameters()):
            self.network.blocks.requires_grad_(trained)
            self._gradients = self._new_gradients()
        return super().train_epoch(epoch)

    def _descend(self, share: float) -> float:
        """One rise and fall of the learning rate for the last layer alone, if it begins alone, and one for all."""
        alone = min(self._head_epochs / self.epochs, 1.0)
        if share < alone:
            learning_rate = self._learning_rate * one_cycle(share / alone)
        else:
            rise_and_fall = one_cycle((share - alone) / (1 - alone))
            learning_rate = self._learning_rate * rise_and_fall
            rest = self._learning_rate if self._given is None else self.config.warm_learning_rate
            self._optimizers["blocks"].step(rest * rise_and_fall * ADAMW_SHARE)
        self._optimizers["output"].step(learning_rate * ADAMW_SHARE)
        return learning_rate


def read_state(path: Path) -> Any:
    """What a file of weights holds, read without running anything that is in it. Raises StageError."""
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise StageError(
            f"train.options.weights names {path}, which ends neither in .safetensors nor in .pth; give such a file, or "
            f"{DOWNLOAD!r}, or null for new weights"
        )
    if not path.is_file():
        raise StageError(
            f"train.options.weights names {path}, which is not there; put the file there (the path is relative to the "
            f"model's home), or set it to {DOWNLOAD!r}, or to null for new weights"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # a damaged or hostile file may make the readers raise anything
        # Not their own words: torch's say how to run what is in the file.
        raise StageError(
            f"{path} (train.options.weights) is no state dict of tensors, or is damaged ({type(exc).__name__}); give a "
            ".safetensors file, or one that torch.save(network.state_dict(), path) wrote"
        ) from exc


def downloaded(name: str) -> Any:
    """torchvision's own weights of that network, from torch's cache when they are there. Raises StageError."""
    published = torchvision.models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(published.url).name)
    try:
        with _silence_limit(SILENCE_SECONDS):
            return published.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except Exception as exc:  # no network, no disk, another file than was meant: each with errors of its own
        was_there = f"{cached} is damaged: remove it" if cached.exists() else "try again later"
        raise StageError(
            f"the weights of {name} could not be had from {published.url} ({type(exc).__name__}: {exc}); {was_there}, "
            "or name a file in train.options.weights, or set it to null for new weights"
        ) from exc


@contextmanager
def _silence_limit(seconds: float) -> Iterator[None]:
    """torch's download has no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def load_blocks(blocks: nn.Module, state: Any, name: str, where: str) -> None:
    """Copies a state dict, torchvision's or one of a version of this trainer's, into a network without its last layer,
    which may be one of any number of categories. Raises StageError that says what does not fit.
    """
    own = blocks.state_dict()
    given = _without_last_layer(state, name)
    lacking = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    foreign = [key for key in given if key not in own]
    other = [key for key in own if key in given and not _fits(given[key], own[key])]
    for what, keys in (("lacks", lacking), ("has besides", foreign), ("has of another shape or kind", other)):
        if keys:
            raise StageError(
                f"{where} (train.options.weights) is not of a {name}: it {what} {len(keys)} tensors, "
                f"{keys[0][:80]!r} among them; give a file of that network, or change train.options.network"
            )
    if bad := [key for key, tensor in given.items() if not tensor.isfinite().all()]:
        raise StageError(
            f"{where} (train.options.weights) has values that are no numbers, in {bad[0]!r}; give another file"
        )
    with torch.no_grad():
        for key, tensor in given.items():
            own[key].copy_(tensor)


def _without_last_layer(state: Any, name: str) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        return {}
    if "output.weight" in state:  # weights.safetensors of a version
        return {str(key)[7:]: state[key] for key in state if str(key).startswith("blocks.")}
    return {str(key): state[key] for key in state if not str(key).startswith(f"{LAST_LAYER[name]}.")}


def _fits(given: Any, own: Tensor) -> bool:
    return (
        isinstance(given, Tensor)
        and given.shape == own.shape
        and given.layout == torch.strided
        and not given.is_quantized
        and given.is_floating_point() == own.is_floating_point()
    )
