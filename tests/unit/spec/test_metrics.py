"""Confusion matrices and IoU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from parity.spec import metrics


def test_confusion_by_hand() -> None:
    """Catches rows and columns exchanged."""
    truth = np.array([[0, 0, 1], [2, 2, 2]])
    prediction = np.array([[0, 1, 1], [0, 0, 2]])
    expected = [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert metrics.confusion(truth, prediction, 3).tolist() == expected


def test_confusion_of_narrow_integers() -> None:
    """Catches a cell number that overflows uint8, and a matrix that is not int64."""
    truth, prediction = np.meshgrid(np.arange(20, dtype=np.uint8), np.arange(20, dtype=np.uint8))
    matrix = metrics.confusion(truth, prediction, 20)
    assert matrix.dtype == np.int64
    assert (matrix == 1).all()


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 1], [0, 2], "prediction holds 0 to 2, expected 0 to 1"),
        ([0, 255], [0, 1], "truth holds 0 to 255"),
        ([0, 1], [-1, 1], "prediction holds -1 to 1"),
        ([0, 1], [[0, 1]], "truth is"),
    ],
)
def test_confusion_refuses(truth: list, prediction: list, message: str) -> None:
    """Catches a pixel out of range counted in another cell, and shapes that broadcast."""
    with pytest.raises(ValueError, match=message):
        metrics.confusion(np.array(truth), np.array(prediction), 2)


def naive_iou(truth: np.ndarray, prediction: np.ndarray, cls: int, void: int) -> float:
    """Pixel by pixel, in words: counted where the truth is not void."""
    pairs = [(t, p) for t, p in zip(truth, prediction, strict=True) if t != void]
    hits = sum(t == cls and p == cls for t, p in pairs)
    union = sum(t == cls or p == cls for t, p in pairs)
    return hits / union if union else float("nan")


@pytest.mark.parametrize("void", [0, 2, 5])
def test_iou_against_counting_pixels(void: int) -> None:
    """Catches void pixels counted, void predictions forgiven, and a wrong class left out."""
    rng = np.random.default_rng(0)
    truth, prediction = rng.choice([0, 1, 2, 3, 5], (2, 500))  # class 4 is absent
    found = metrics.iou(metrics.confusion(truth, prediction, 6), void)
    classes = [c for c in range(6) if c != void]
    expected = [naive_iou(truth, prediction, c, void) for c in classes]
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[classes.index(4)])


def test_void_predicted_is_a_miss() -> None:
    """Catches the metric of davidtvs/PyTorch-ENet, which zeroes void's column too."""
    matrix = np.array([[6, 2], [4, 9]])  # class 0, void: 2 of 8 pixels predicted void
    assert metrics.iou(matrix, void=1).tolist() == [0.75]


def test_a_class_only_predicted_is_present() -> None:
    """Catches `present` taken from the truth alone: the union holds the false positives."""
    share = metrics.iou(np.array([[5, 1, 0], [0, 0, 0], [0, 0, 0]]), void=2)
    assert share.tolist() == [5 / 6, 0.0]


def test_means() -> None:
    """Catches the two means exchanged."""
    share = np.array([0.5, np.nan, 1.0, 0.0])
    assert metrics.mean_iou_present(share) == 0.5
    assert metrics.mean_iou_absent_as_zero(share) == 0.375
    assert np.isnan(metrics.mean_iou_present(np.array([np.nan])))
    assert metrics.mean_iou_absent_as_zero(np.array([np.nan])) == 0.0


def test_golden(golden: Path) -> None:
    """Catches any difference from what the reference's evaluation reports for real predictions."""
    expected = json.loads((golden / "enet_cityscapes_20c_miou.json").read_text())
    matrix = np.sum(list(expected["confusion"].values()), axis=0)
    share = metrics.iou(matrix, void=19)
    np.testing.assert_array_equal(share, np.array(expected["iou"], float))
    assert metrics.mean_iou_present(share) == expected["mean_iou_over_present_classes"]
    assert metrics.mean_iou_absent_as_zero(share) == expected["mean_iou_absent_as_zero"]
