"""Finds near-duplicates: one picture saved again, moved by a pixel or two, or roughened by JPEG.

An image that is nearly one of the holdout's would let a model learn an exam question by heart. Comparing every
new image with every holdout image takes two steps. Each image has a signature, the magnitudes of its lowest
Fourier coefficients, which do not change when the picture moves; one matrix product compares all of them and
leaves some twenty pairs in a million. Those pairs are decoded and compared pixel by pixel (`similarity`).
How well this tells copies from different people's drawings is measured in bench/near_duplicates.py.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HIGHEST_FREQUENCY = 4  # waves across the image; more tell drawings apart better but JPEG's noise too
# Only one of each pair (u, v), (-u, -v): a real image's coefficients come in conjugate pairs. No (0, 0): the mean.
FREQUENCIES = tuple(
    (v, u)
    for u in range(HIGHEST_FREQUENCY + 1)
    for v in range(-HIGHEST_FREQUENCY, HIGHEST_FREQUENCY + 1)
    if u > 0 or v > 0
)
SIGNATURE_BYTES = 2 * len(FREQUENCIES)  # float16
CANDIDATE_SIMILARITY = 0.90  # of signatures; 0.95 would lose every fifth photo moved by a pixel
FEW = 100  # with so few images their spread says nothing: every pair is a candidate
BLOCK = 8_000_000  # similarities in memory at once
LARGEST_SHIFT = 2  # pixels, either way

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def signatures(pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
    """(N, H, W) or (N, H, W, 3) uint8 to (N, len(FREQUENCIES)), independent of the image's size."""
    rows, columns = _waves(pixels.shape[1]), _waves(pixels.shape[2])
    found = np.empty((len(pixels), len(FREQUENCIES)), np.float16)
    for start in range(0, len(pixels), 1_000):  # keeps the work arrays within the cache
        grey = pixels[start : start + 1_000].astype(np.float32)
        if grey.ndim == 4:
            grey = grey @ np.array([0.299, 0.587, 0.114], np.float32)
        half = grey @ columns[HIGHEST_FREQUENCY:].T  # (N, H, u >= 0)
        spectrum = rows @ half  # (N, v, u)
        magnitudes = np.abs(spectrum) / (pixels.shape[1] * pixels.shape[2])
        at = [(v + HIGHEST_FREQUENCY, u) for v, u in FREQUENCIES]
        found[start : start + 1_000] = magnitudes[:, [v for v, _ in at], [u for _, u in at]]
    return found


@lru_cache(maxsize=8)
def _waves(size: int) -> NDArray[np.complex64]:
    """(2 * HIGHEST_FREQUENCY + 1, size): one complex wave a row, from the lowest frequency to the highest."""
    frequency = np.arange(-HIGHEST_FREQUENCY, HIGHEST_FREQUENCY + 1)[:, None]
    waves: NDArray[np.complex64] = np.exp(-2j * np.pi * frequency * np.arange(size)[None] / size).astype(
        np.complex64
    )
    return waves


def candidates(left: NDArray[np.float16], right: NDArray[np.float16]) -> Pairs:
    """Positions in `left` and in `right` of the pairs worth comparing pixel by pixel."""
    if len(left) == 0 or len(right) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if len(left) + len(right) < FEW:
        every = np.indices((len(left), len(right))).reshape(2, -1)
        return every[0], every[1]
    # Natural spectra fall off steeply and alike: what sets images apart is the deviation from the average.
    both = np.concatenate([left, right]).astype(np.float32)
    mean, deviation = both.mean(axis=0), np.maximum(both.std(axis=0), 1e-3)
    standard = (both - mean) / deviation
    standard /= np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-6)
    a, b = standard[: len(left)], standard[len(left) :]
    found = []
    step = max(1, BLOCK // len(b))
    for start in range(0, len(a), step):
        rows, columns = np.nonzero(a[start : start + step] @ b.T >= CANDIDATE_SIMILARITY)
        found.append((rows + start, columns))
    return np.concatenate([r for r, _ in found]), np.concatenate([c for _, c in found])


def similarity(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Correlation of each pair's pixels where they overlap, at the best shift up to LARGEST_SHIFT: (N,), -1..1."""
    best = np.full(len(left), -1.0, np.float32)
    shifts = range(-LARGEST_SHIFT, LARGEST_SHIFT + 1)
    for start in range(0, len(left), 1_000):
        block = slice(start, start + 1_000)
        for dy in shifts:
            for dx in shifts:
                a = _centred(left[block, _overlap(dy), _overlap(dx)])
                b = _centred(right[block, _overlap(-dy), _overlap(-dx)])
                best[block] = np.maximum(best[block], np.einsum("ij,ij->i", a, b))
    return best


def _overlap(shift: int) -> slice:
    return slice(shift, None) if shift >= 0 else slice(None, shift)


def _centred(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat
