import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.near_duplicates import FEW, SIGNATURE_BYTES, candidates, signatures, similarity


def scribbles(count: int, seed: int = 0, shape: tuple[int, ...] = (28, 28)) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    pixels = np.zeros((count, *shape), np.uint8)
    for picture in pixels:
        at = generator.integers(4, 24, 2)
        for _ in range(50):
            at = np.clip(at + generator.integers(-2, 3, 2), 4, 23)
            picture[at[0] - 1 : at[0] + 1, at[1] - 1 : at[1] + 1] = generator.integers(180, 256, shape[2:])
    return pixels


def found(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> set[tuple[int, int]]:
    rows, columns = candidates(signatures(left), signatures(right))
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_a_moved_copy_is_found_among_many(shape: tuple[int, ...]) -> None:
    holdout, others = scribbles(200, shape=shape), scribbles(300, seed=1, shape=shape)
    copies = np.roll(holdout[:50], (2, -1), (1, 2))
    pairs = found(np.concatenate([copies, others]), holdout)
    assert {(i, i) for i in range(50)} <= pairs
    assert len(pairs) < 200  # of 70,000
    assert (similarity(copies, holdout[:50]) > 0.999).all()
    assert similarity(others[:200], holdout).max() < 0.9


def test_signatures_do_not_depend_on_where_or_how_large_the_picture_is() -> None:
    pictures = scribbles(20).astype(int)
    moved = signatures(np.roll(pictures, 5, 1).astype(np.uint8))
    twice = signatures(pictures.repeat(2, 1).repeat(2, 2).astype(np.uint8))
    assert np.allclose(signatures(pictures.astype(np.uint8)), moved, atol=0.02)
    assert np.corrcoef(moved.ravel(), twice.ravel())[0, 1] > 0.99
    assert moved.dtype == np.float16
    assert moved[0].nbytes == SIGNATURE_BYTES


def test_with_few_images_every_pair_is_a_candidate() -> None:
    assert len(found(scribbles(4), scribbles(5, seed=1))) == 20
    assert found(scribbles(4), scribbles(0)) == set()
    assert len(found(scribbles(FEW), scribbles(FEW, seed=1))) < FEW * FEW / 20


def test_similarity_is_one_for_copies_and_survives_flat_pictures() -> None:
    flat = np.full((2, 28, 28), 9, np.uint8)
    assert similarity(flat, flat).tolist() == [0, 0]
    pictures = scribbles(3)
    assert similarity(pictures, pictures) == pytest.approx([1, 1, 1])
    assert similarity(pictures, 255 - pictures).max() < 0.2
