"""Drawings of one line: what a network learns in a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.training.trainer import TrainingData


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
