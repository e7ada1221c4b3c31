"""Figures of a classifier, from arrays of category ids: accuracy, recalls, intervals, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import EmendError

Ids = NDArray[np.integer[Any]]


class EmptySlice(EmendError):
    """A figure was asked of no images."""

    code = "empty_slice"


@dataclass(frozen=True, eq=False)
class Recalls:
    """One entry per category, in the order asked for; recall is NaN where there is no image of it."""

    images: NDArray[np.int64]
    right: NDArray[np.int64]
    recall: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def accuracy(truth: Ids, predicted: Ids) -> float:
    """Fraction, 0..1. Raises EmptySlice when there are no images."""
    if len(truth) == 0:
        raise EmptySlice("accuracy of no images; choose a slice that has some")
    return float(np.mean(truth == predicted))


def recalls(truth: Ids, predicted: Ids, categories: Sequence[int], confidence: float = 0.95) -> Recalls:
    """Per category: images, right answers, their fraction, and its Wilson interval."""
    right_answers = truth[truth == predicted]
    images = np.array([np.count_nonzero(truth == c) for c in categories], np.int64)
    right = np.array([np.count_nonzero(right_answers == c) for c in categories], np.int64)
    recall = np.divide(right, images, out=np.full(len(images), np.nan), where=images > 0)
    low, high = wilson_interval(right, images, confidence)
    return Recalls(images, right, recall, low, high)


def wilson_interval(
    right: ArrayLike, images: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score interval of a fraction (Wilson 1927); unlike the normal one it holds near 0 and 1, and for few
    images. (0, 1) where there is none."""
    k, n = np.asarray(right, float), np.asarray(images, float)
    z2 = normal_quantile(confidence) ** 2
    centre = (k + z2 / 2) / (n + z2)
    # k(n-k)/n is 0/0 for no images, where the formula without it gives 0..1 as it should.
    spread = np.divide(k * (n - k), n, out=np.zeros(np.broadcast(k, n).shape), where=n > 0)
    half = np.sqrt(z2 * (spread + z2 / 4)) / (n + z2)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def confusion_matrix(truth: Ids, predicted: Ids, categories: Sequence[int]) -> NDArray[np.int64]:
    """(C, C) counts: rows are the truth, columns the answer. Every id must be among `categories`."""
    order = np.argsort(categories)
    ids = np.asarray(categories)[order]
    rows, columns = np.searchsorted(ids, truth), np.searchsorted(ids, predicted)
    matrix = np.zeros((len(ids), len(ids)), np.int64)
    np.add.at(matrix, (order[rows], order[columns]), 1)
    return matrix


def normal_quantile(confidence: float) -> float:
    """1.96 for 0.95: half of what is left over on either side."""
    return NormalDist().inv_cdf((1 + confidence) / 2)
