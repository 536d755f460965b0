"""The result of an evaluation: its verdict, as a table, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.data import Segmentation
from parity.io.files import make_folder, write_atomically
from parity.spec import metrics
from parity.spec.labels import outputs

if TYPE_CHECKING:
    from rich.table import Table

    from parity.evaluation.page import Picture
    from parity.evaluation.rounding import Judgement
    from weights_convert.assumptions import Assumptions

DTYPES = ("float32", "float64")
Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Heights and widths in pixels.

    Attributes:
        images: The size to which images are resized.
        predicted: The size of the network's predictions; an encoder's is an eighth.
        counted: The size to which predictions are enlarged before they are counted.
    """

    images: Pair
    predicted: Pair
    counted: Pair


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of one framework.

    Attributes:
        confusion: (outputs, outputs) int64, rows truth, columns prediction, in the order of the
            network's outputs.
        iou: (classes,) float64 in the data set's order, NaN where a class is absent.
        images_per_second: Speed of prediction while the next image is read and the last one
            counted, without compiling. The sides take turns to begin, so both bear that alike.
        first_call_seconds: Duration of the call before, which compiles or warms up.
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
    """The result for one image.

    Attributes:
        name: The image's name.
        disagreeing_pixels: Number of pixels on which the two sides disagree; None where nothing was
            compared.
        confusion: Framework -> confusion matrix.
        judged: The judgement of these pixels; None where none was judged, so that all of them count
            against the port.
    """

    name: str
    disagreeing_pixels: int | None
    confusion: dict[str, np.ndarray]
    judged: Judgement | None = None

    @property
    def counting_pixels(self) -> int:
        """Pixels that count against the port."""
        if self.judged is not None:
            return self.judged.counting
        return self.disagreeing_pixels or 0


@dataclasses.dataclass(frozen=True)
class MiouResult:
    """The result of `miou`.

    Attributes:
        model: The network's name.
        weights: The checkpoint's path.
        weights_sha256: Hash of its bytes.
        data: The data set.
        split: The data set's split.
        sizes: Sizes of images, predictions and counted maps.
        dtype: The dtype in which both sides computed.
        assumed: The assumptions on the checkpoint.
        frameworks: Framework -> score.
        images: One entry per image.
        pictures: Pictures of the first images, for the page; see `parity.evaluation.page.Picture`.
        versions: Framework -> its version.
        notes: Remarks on the checkpoint; see `weights_convert.notes`.
        compiled: Whether `torch.compile` compiled PyTorch's network.
    """

    model: str
    weights: Path
    weights_sha256: str
    data: Segmentation
    split: str
    sizes: Sizes
    dtype: str
    assumed: Assumptions
    frameworks: dict[str, Score]
    images: list[ImageScore]
    pictures: list[Picture]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    compiled: bool = False

    @property
    def labels(self) -> str:
        """Return which output is void: `void-last` or `void-first`."""
        assert self.assumed.labels.value
        return self.assumed.labels.value

    @property
    def pixels(self) -> int:
        """Return the number of counted pixels."""
        return len(self.images) * self.sizes.counted[0] * self.sizes.counted[1]

    @property
    def compared_pixels(self) -> int:
        """Return the number of pixels that each side predicted."""
        return len(self.images) * self.sizes.predicted[0] * self.sizes.predicted[1]

    @property
    def disagreeing_pixels(self) -> int | None:
        """Return the number of pixels with different classes; None if only one side ran."""
        if len(self.frameworks) < 2:
            return None
        return sum(image.disagreeing_pixels or 0 for image in self.images)

    @property
    def counting_pixels(self) -> int | None:
        """Return the number of those that rounding does not explain; None if only one side ran."""
        if len(self.frameworks) < 2:
            return None
        return sum(image.counting_pixels for image in self.images)

    @property
    def explained_pixels(self) -> int | None:
        """Return the number of those that rounding explains; None if only one side ran."""
        if len(self.frameworks) < 2:
            return None
        return sum(image.judged.explained for image in self.images if image.judged)

    @property
    def passed(self) -> bool:
        """Return whether no pixel counts against the port."""
        return not self.counting_pixels

    @property
    def verdict(self) -> str:
        if self.disagreeing_pixels is None:
            return f"nothing to compare: {next(iter(self.frameworks))} alone was evaluated"
        text = (
            f"{'PASSED' if self.passed else 'FAILED'}: {self.disagreeing_pixels:,} of"
            f" {self.compared_pixels:,} pixels disagree in {self.dtype}"
        )
        if self.dtype != "float64" and self.disagreeing_pixels:
            text += (
                f"; rounding explains {self.explained_pixels:,},"
                f" {self.counting_pixels:,} count against the port"
            )
        return text

    @property
    def title(self) -> str:
        n = len(self.images)
        height, width = self.sizes.images
        text = f"{self.model} on {self.data.name} {self.split}: {n} image{'s' * (n != 1)} at"
        text += f" {height}x{width}, {self.dtype}"
        if self.sizes.counted != self.sizes.images:
            text += f", counted at {self.sizes.counted[0]}x{self.sizes.counted[1]}"
        return text

    @property
    def counted_how(self) -> str | None:
        """Return how predictions are compared with labels of other sizes; None if equal."""
        (height, width), at = self.sizes.predicted, "{}x{}".format(*self.sizes.counted)
        if self.sizes.counted != self.sizes.predicted:
            return (
                f"counted: at {at}; predictions of {height}x{width} are enlarged, the nearest pixel"
                " of each place"
            )
        if self.sizes.predicted != self.sizes.images:
            return (
                f"counted: at {at}, which is what the network predicts; labels are resized to it,"
                " to the nearest pixel, as its training does"
            )
        return None

    def rows(self) -> list[list[tuple[str, ...]]]:
        """Return the table's sections: classes, means, the rest; cells as text, IoU in percent."""
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
            share = f"{self.disagreeing_pixels:,} of {self.compared_pixels:,}"
            rest = [(*rest[0], ""), ("pixels on which they disagree", "", "", share)]
            if self.dtype != "float64" and self.disagreeing_pixels:
                rest.append(("... which rounding explains", "", "", f"{self.explained_pixels:,}"))
                rest.append(
                    ("... which count against the port", "", "", f"{self.counting_pixels:,}")
                )
        return [classes, means, rest]

    def table(self) -> Table:
        """Return the table for a terminal."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.title))
        table.add_column("IoU in percent")
        for heading in self.headings():
            table.add_column(heading, justify="right")
        for section in self.rows():
            for row in section:
                table.add_row(*map(escape, row))
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
            **self.assumed.to_dict(),
            "predicted_size": list(self.sizes.predicted),
            "counted_size": list(self.sizes.counted),
            "dtype": self.dtype,
            "compiled": self.compiled,
            "weights": str(self.weights),
            "weights_sha256": self.weights_sha256,
            "versions": self.versions,
            "classes": list(self.data.classes),
            "outputs": [names[i] for i in by_output],
            "pixels": self.pixels,
            "compared_pixels": self.compared_pixels,
            "disagreeing_pixels": self.disagreeing_pixels,
            "explained_pixels": self.explained_pixels,
            "counting_pixels": self.counting_pixels,
            "passed": self.passed,
            "frameworks": {name: score.as_json() for name, score in self.frameworks.items()},
            "images": [
                {
                    "name": image.name,
                    "disagreeing_pixels": image.disagreeing_pixels,
                    "judged": image.judged.to_dict() if image.judged else None,
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
        from parity.evaluation.page import page

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
