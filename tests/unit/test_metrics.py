import numpy as np
import pytest

from pipeline.metrics import EmptySlice, accuracy, confusion_matrix, recalls, wilson_interval

TRUTH = np.array([3, 3, 3, 7, 7, 5])
ANSWER = np.array([3, 3, 7, 7, 3, 5])


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(TRUTH, ANSWER) == pytest.approx(4 / 6)


def test_accuracy_of_no_images_is_refused() -> None:
    with pytest.raises(EmptySlice):
        accuracy(TRUTH[:0], ANSWER[:0])


def test_recalls_follow_the_order_asked_for_and_are_nan_without_images() -> None:
    found = recalls(TRUTH, ANSWER, [7, 3, 9])
    assert found.images.tolist() == [2, 3, 0]
    assert found.right.tolist() == [1, 2, 0]
    assert found.recall[:2] == pytest.approx([1 / 2, 2 / 3])
    assert np.isnan(found.recall[2])
    assert (found.low[2], found.high[2]) == (0, 1)


def test_wilson_interval_matches_published_figures() -> None:
    # R. G. Newcombe, Statistics in Medicine 17:857-872 (1998), table I, method 3.
    low, high = wilson_interval([81, 15, 0, 1], [263, 148, 20, 29])
    assert low == pytest.approx([0.2553, 0.0624, 0.0, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)


def test_confusion_matrix_has_the_truth_in_its_rows() -> None:
    assert confusion_matrix(TRUTH, ANSWER, [7, 5, 3]).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 2]]
