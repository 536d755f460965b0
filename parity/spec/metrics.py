"""Confusion matrices in int64 and the IoU of semantic segmentation.

Counted as the evaluation of Eromera/erfnet_pytorch does (d4a46fa, `iouEval`): pixels whose truth is
void are left out, void predicted elsewhere is a miss of the true class. Its 1e-15 in the
denominator is not used: a class without pixels is absent here, but counts as 0 there.
"""

from __future__ import annotations

import numpy as np


def confusion(truth: np.ndarray, prediction: np.ndarray, outputs: int) -> np.ndarray:
    """Pixels by true class and predicted class.

    Args:
        truth: Integers in 0 .. outputs - 1, any shape.
        prediction: Integers of the same shape and range.
        outputs: Number of classes, void included.

    Returns:
        (outputs, outputs) int64, rows truth, columns prediction.

    Raises:
        ValueError: Shapes differ, or a value is out of range.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}")
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.size and (values.min() < 0 or values.max() >= outputs):
            raise ValueError(
                f"{name} holds {values.min()} to {values.max()}, expected 0 to {outputs - 1}"
            )
    cells = truth.astype(np.int64).ravel() * outputs + prediction.ravel()
    counts = np.bincount(cells, minlength=outputs * outputs)
    return counts.astype(np.int64).reshape(outputs, outputs)


def iou(matrix: np.ndarray, void: int) -> np.ndarray:
    """Intersection over union of each class: TP / (TP + FP + FN), void's row left out.

    Args:
        matrix: Rows truth, columns prediction, void among them.
        void: Its index.

    Returns:
        (classes,) float64 without void, the others' order kept; NaN where the union is empty, that
        is where the class is absent from truth and prediction.
    """
    counted = np.array(matrix, np.int64)
    counted[void] = 0
    hits = np.diag(counted)
    union = counted.sum(axis=0) + counted.sum(axis=1) - hits
    share = np.full(len(counted), np.nan)
    np.divide(hits, union, out=share, where=union > 0)
    return np.delete(share, void)


def mean_iou_present(share: np.ndarray) -> float:
    """Return the mean over classes whose union holds a pixel; NaN where none does."""
    present = share[~np.isnan(share)]
    return float(present.mean()) if present.size else float("nan")


def mean_iou_absent_as_zero(share: np.ndarray) -> float:
    """Return the mean over all classes, those absent counted as 0 (`iouEval` prints this one)."""
    return float(np.nan_to_num(share, nan=0.0).mean())
