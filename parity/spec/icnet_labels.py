"""Labels at the sizes of ICNet's outputs, made once, so that both sides get the same ones."""

from __future__ import annotations

import numpy as np

Size = tuple[int, int]


def published(labels: np.ndarray, size: Size) -> np.ndarray:
    """Resize labels as for the published ICNet: as an image, then truncated.

    Between two classes this creates other classes, and a float32 just below a class becomes the
    class before it, so the arithmetic is that of PyTorch's `interpolate` on a CPU with fused
    multiply-add, bit for bit: mode bilinear, corners aligned, float32. It has two ways to add up, a
    short one for outputs of up to 128 rows and columns together.

    Args:
        labels: (N, H, W) integers, -1 marks pixels without a class.
        size: Height and width of the result.

    Returns:
        (N, H', W') int64.
    """
    x = labels.astype(np.float32)
    top, bottom, up, down = _places(x.shape[1], size[0])
    left, right, before, after = _places(x.shape[2], size[1])
    up, down = up[:, None], down[:, None]
    corners = [x[:, rows][:, :, columns] for rows in (top, bottom) for columns in (left, right)]
    if sum(size) <= 128:
        parts = (up * before, up * after, down * before, down * after)
        y = _add(corners[0], parts[0], corners[1] * parts[1])
        y = _add(corners[2], parts[2], y)
        y = _add(corners[3], parts[3], y)
    else:
        above = _add(corners[0], before, corners[1] * after)
        below = _add(corners[2], before, corners[3] * after)
        y = _add(above, up, below * down)
    return y.astype(np.int64)


def nearest(labels: np.ndarray, size: Size) -> np.ndarray:
    """Resize labels to the nearest pixel, corners aligned, without creating other classes.

    Args:
        labels: (N, H, W) integers, -1 marks pixels without a class.
        size: Height and width of the result.

    Returns:
        (N, H', W') int64.
    """
    rows, columns = (_nearest(n, m) for n, m in zip(labels.shape[1:], size, strict=True))
    return labels[:, rows][:, :, columns].astype(np.int64)


def _nearest(n: int, m: int) -> np.ndarray:
    """Return the nearest of n places for each of m, in integers; the later of two equally near."""
    i = np.arange(m)
    return (2 * i * (n - 1) + (m - 1)) // (2 * (m - 1)) if m > 1 else np.zeros(1, np.int64)


def _places(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each of m places, its two neighbours among n, and their weights in float32."""
    one = np.float32(1)
    scale = np.float32(n - 1) / np.float32(m - 1) if m > 1 else np.float32(0)
    at = scale * np.arange(m, dtype=np.float32)
    low = np.minimum(at.astype(np.int64), n - 1)
    share = at - low.astype(np.float32)
    return low, np.minimum(low + 1, n - 1), one - share, share


def _add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the sum a * b + c, rounded once: in float64 the product of two float32 is exact."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)
