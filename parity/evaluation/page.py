"""The HTML page of an evaluation: the table, and per image the input, the truth and predictions."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from parity.report import html

if TYPE_CHECKING:
    from parity.evaluation.result import MiouResult

WIDTH = 640  # pixels of a picture on the page, at most
MARK = 3  # pixels drawn around each pixel that differs, so that it is visible
DIFFERENCE = ((38, 42, 48), (255, 64, 160))


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image's row of pictures, encoded.

    Attributes:
        name: The image's name.
        disagreeing_pixels: None if nothing was compared.
        figures: Caption -> data URI.
    """

    name: str
    disagreeing_pixels: int | None
    figures: dict[str, str]


def picture(
    name: str,
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    differ: np.ndarray | None,
    palette: Sequence[tuple[int, int, int]],
) -> Picture:
    """Encode one image's pictures, scaled down for a page.

    Args:
        name: The image's.
        image: (H, W, 3) uint8.
        maps: Caption -> trainIds (H, W) uint8.
        differ: (H, W) bool, true where predictions disagree; None if nothing was compared.
        palette: RGB of each trainId.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, WIDTH / width)
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    figures = {"input": _photo(image, size)}
    for caption, classes in maps.items():
        figures[caption] = _classes(classes, size, palette)
    if differ is not None:
        figures["difference"] = _classes(_marks(differ, size), size, DIFFERENCE)
    return Picture(name, None if differ is None else int(differ.sum()), figures)


def page(result: MiouResult) -> str:
    """Return the whole page."""
    compared = result.disagreeing_pixels is not None
    height, width = result.sizes.predicted
    classes, *sections = result.rows()
    names = (*result.data.classes, "void")
    return html.render(
        "evaluation.html",
        title=result.title,
        result=result,
        verdict=("good" if result.passed else "bad") if compared else "",
        facts=_facts(result),
        tiles=_tiles(result),
        classes=[_class(result, i, *row) for i, row in enumerate(classes)],
        sections=sections,
        note=_note(result),
        legend=list(zip(names, result.data.palette, strict=True)),
        pixels=height * width,
    )


def _facts(result: MiouResult) -> list[str]:
    """Return lines on the assumptions, on how predictions were counted, and on versions."""
    how = [result.counted_how] if result.counted_how else []
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return [*result.assumed.lines(), *how, versions]


def _tiles(result: MiouResult) -> list[tuple[str, str]]:
    """Figures and their captions."""
    tiles = [
        (
            "-" if np.isnan(score.mean_iou_present) else f"{100 * score.mean_iou_present:.2f} %",
            f"{name}: mean IoU over present classes",
        )
        for name, score in result.frameworks.items()
    ]
    if result.disagreeing_pixels is not None:
        caption = f"of {result.compared_pixels:,} pixels disagree"
        tiles.append((f"{result.disagreeing_pixels:,}", caption))
        if result.dtype != "float64" and result.disagreeing_pixels:
            caption = "of them count against the port; rounding explains the others"
            tiles.append((f"{result.counting_pixels:,}", caption))
    for name, score in result.frameworks.items():
        tiles.append((f"{score.images_per_second:.2f}", f"{name}: images per second"))
    return tiles


class ClassRow(NamedTuple):
    """The row of one class in the table.

    Attributes:
        name: The class's name.
        colour: RGB.
        shares: Per framework the IoU in percent, None where it has none, and its printed form.
        others: The other cells.
    """

    name: str
    colour: tuple[int, int, int]
    shares: list[tuple[float | None, str]]
    others: list[str]


def _class(result: MiouResult, number: int, name: str, *cells: str) -> ClassRow:
    ious = [float(score.iou[number]) for score in result.frameworks.values()]
    shares = [None if np.isnan(iou) else 100 * iou for iou in ious]
    colour = result.data.palette[number]
    return ClassRow(name, colour, list(zip(shares, cells, strict=False)), list(cells[len(ious) :]))


def _note(result: MiouResult) -> str:
    shown, all_of_them = len(result.pictures), len(result.images)
    note = "All images." if shown == all_of_them else f"The first {shown} of {all_of_them} images."
    if result.disagreeing_pixels is not None:
        note += " In the last picture the pixels that differ are marked in pink, enlarged."
    return note


def _photo(image: np.ndarray, size: tuple[int, int]) -> str:
    small = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return html.data_uri(file.getvalue(), "image/jpeg")


def _classes(
    classes: np.ndarray, size: tuple[int, int], palette: Sequence[tuple[int, int, int]]
) -> str:
    small = Image.fromarray(classes).resize(size[::-1], Image.Resampling.NEAREST)
    small.putpalette([part for colour in palette for part in colour])
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return html.data_uri(file.getvalue(), "image/png")


def _marks(differ: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool to `size`, uint8: 1 near each true pixel, so that scaling loses none."""
    rows, columns = np.nonzero(differ)
    rows, columns = rows * size[0] // differ.shape[0], columns * size[1] // differ.shape[1]
    marks = np.zeros(size, np.uint8)
    for down in range(-MARK, MARK + 1):
        for right in range(-MARK, MARK + 1):
            y, x = rows + down, columns + right
            inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
            marks[y[inside], x[inside]] = 1
    return marks
