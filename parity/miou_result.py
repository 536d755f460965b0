"""What an evaluation found: its verdict, as a table, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.files import make_folder, write_atomically
from parity.spec import metrics
from parity.spec.data import Segmentation
from parity.spec.data.labels import outputs

if TYPE_CHECKING:
    from rich.table import Table

    from parity.miou_page import Picture

# How many pixels in 100,000 may disagree: in float64 none; in float32 those whose two best logits
# are so near that rounding decides.
ALLOWED = {"float32": 1, "float64": 0}


@dataclasses.dataclass(frozen=True)
class Score:
    """What one framework reached.

    Attributes:
        confusion: (outputs, outputs) int64, rows truth, columns prediction, in the order of the
            network's outputs.
        iou: (classes,) float64 in the data set's order, NaN where a class is absent.
        images_per_second: Of prediction alone: no file is read in it, nothing compiled.
        first_call_seconds: The call before, which compiles or warms up.
    """

    confusion: np.ndarray
    iou: np.ndarray
    images_per_second: float
    first_call_seconds: float

    @property
    def mean_iou_present(self) -> float:
        return metrics.mean_iou_present(self.iou)

    @property
    def mean_iou_absent_as_zero(self) -> float:
        return metrics.mean_iou_absent_as_zero(self.iou)

    def as_json(self) -> dict[str, Any]:
        return {
            "mean_iou_present": number(self.mean_iou_present),
            "mean_iou_absent_as_zero": number(self.mean_iou_absent_as_zero),
            "images_per_second": self.images_per_second,
            "first_call_seconds": self.first_call_seconds,
            "iou": [number(x) for x in self.iou],
            "confusion": self.confusion.tolist(),
        }


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """What one image gave: pixels that disagree (None: nothing compared), matrix by framework."""

    name: str
    disagreeing_pixels: int | None
    confusion: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Result:
    """What `miou` found.

    Attributes:
        model: The network's name.
        weights: The checkpoint.
        weights_sha256: Of its bytes.
        data: Which data set.
        split: Of the data set.
        size: (H, W) that images and labels were resized to.
        dtype: Both sides computed in it.
        labels: `void-last` or `void-first`.
        labels_reason: Why that.
        frameworks: Framework -> score.
        images: One entry each.
        pictures: Of the first images, for the page; see `parity.miou_page.Picture`.
        versions: Framework -> its version.
        notes: What is to be said of the checkpoint; see `weights_convert.notes`.
    """

    model: str
    weights: Path
    weights_sha256: str
    data: Segmentation
    split: str
    size: tuple[int, int]
    dtype: str
    labels: str
    labels_reason: str
    frameworks: dict[str, Score]
    images: list[ImageScore]
    pictures: list[Picture]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        return len(self.images) * self.size[0] * self.size[1]

    @property
    def disagreeing_pixels(self) -> int | None:
        """Pixels to which the two give different classes; None if only one was asked."""
        if len(self.frameworks) < 2:
            return None
        return sum(image.disagreeing_pixels or 0 for image in self.images)

    @property
    def passed(self) -> bool:
        """Whether no more pixels disagree than `ALLOWED`."""
        return (self.disagreeing_pixels or 0) * 100_000 <= ALLOWED[self.dtype] * self.pixels

    @property
    def verdict(self) -> str:
        if self.disagreeing_pixels is None:
            return f"nothing to compare: {next(iter(self.frameworks))} alone was evaluated"
        allowed = ALLOWED[self.dtype]
        rule = f"at most {allowed} in 100,000 may" if allowed else "none may"
        hint = "" if self.passed or not allowed else " (rounding, if none does in float64)"
        return (
            f"{'PASSED' if self.passed else 'FAILED'}: {self.disagreeing_pixels:,} of"
            f" {self.pixels:,} pixels disagree; in {self.dtype} {rule}{hint}"
        )

    @property
    def title(self) -> str:
        n = len(self.images)
        return (
            f"{self.model} on {self.data.name} {self.split}: {n} image{'s' * (n != 1)} at"
            f" {self.size[0]}x{self.size[1]}, {self.dtype}"
        )

    def rows(self) -> list[list[tuple[str, ...]]]:
        """The table's sections: classes, means, the rest; cells as text, IoU in percent."""
        scores = list(self.frameworks.values())
        ious = np.stack([s.iou for s in scores])
        count, present = len(self.data.classes), int((~np.isnan(ious)).any(axis=0).sum())
        classes = [
            (name, *percents(column))
            for name, column in zip(self.data.classes, ious.T, strict=True)
        ]
        means = [
            (
                f"mean over the {present} classes present",
                *percents([s.mean_iou_present for s in scores]),
            ),
            (
                f"mean over all {count}, absent ones as 0",
                *percents([s.mean_iou_absent_as_zero for s in scores]),
            ),
        ]
        speeds = [f"{s.images_per_second:.2f}" for s in scores]
        rest: list[tuple[str, ...]] = [("images per second", *speeds)]
        if self.disagreeing_pixels is not None:
            share = f"{self.disagreeing_pixels:,} of {self.pixels:,}"
            rest = [(*rest[0], ""), ("pixels on which they disagree", "", "", share)]
        return [classes, means, rest]

    def table(self) -> Table:
        """The table for a terminal."""
        from rich.table import Table

        table = Table(title=self.title)
        table.add_column("IoU in percent")
        for heading in self.headings():
            table.add_column(heading, justify="right")
        for section in self.rows():
            for row in section:
                table.add_row(*row)
            table.add_section()
        return table

    def headings(self) -> list[str]:
        names = list(self.frameworks)
        return [*names, f"{names[1]} - {names[0]}"] if len(names) > 1 else names

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON takes it; what is absent is None."""
        names = [*self.data.classes, "void"]
        by_output = np.argsort(outputs(self.labels, len(self.data.classes)))
        return {
            "model": self.model,
            "dataset": self.data.name,
            "split": self.split,
            "size": list(self.size),
            "dtype": self.dtype,
            "labels": self.labels,
            "weights": str(self.weights),
            "weights_sha256": self.weights_sha256,
            "versions": self.versions,
            "classes": list(self.data.classes),
            "outputs": [names[i] for i in by_output],
            "pixels": self.pixels,
            "disagreeing_pixels": self.disagreeing_pixels,
            "passed": self.passed,
            "frameworks": {name: score.as_json() for name, score in self.frameworks.items()},
            "images": [
                {
                    "name": image.name,
                    "disagreeing_pixels": image.disagreeing_pixels,
                    "confusion": {k: v.tolist() for k, v in image.confusion.items()},
                }
                for image in self.images
            ],
        }

    def to_json(self, path: str | Path) -> None:
        """Write `as_json()`, one line a key.

        Raises:
            InputError: The file cannot be written.
        """
        entries = (
            f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
            for key, value in self.as_json().items()
        )
        write_atomically(path, ("{\n" + ",\n".join(entries) + "\n}\n").encode())

    def to_html(self, folder: str | Path) -> Path:
        """Write `index.html`, which needs no other file; makes the folder.

        Returns:
            The page.

        Raises:
            InputError: It cannot be written.
        """
        from parity.miou_page import page

        path = Path(folder) / "index.html"
        make_folder(path.parent)
        write_atomically(path, page(self).encode())
        return path


def percents(shares: Sequence[float] | np.ndarray) -> list[str]:
    """Shares as text in percent; of two, their difference too, exact zero as a bare 0."""
    cells = ["absent" if np.isnan(x) else f"{100 * x:.2f}" for x in shares]
    if len(shares) > 1:
        difference = 100 * (shares[1] - shares[0])
        if np.isnan(difference):
            return [*cells, "" if np.isnan(shares).all() else "absent in one"]
        cells.append(f"{difference:+.2g}" if difference else "0")
    return cells


def number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
