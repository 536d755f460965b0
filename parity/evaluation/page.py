"""The page of an evaluation: the table, and per image what went in and what came out."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from parity.report import html as pages

if TYPE_CHECKING:
    from parity.evaluation.result import Result

WIDTH = 640  # pixels of a picture on the page, at most
MARK = 3  # a pixel that differs is drawn with so many around it, else nobody would see it
DIFFERENCE = ((38, 42, 48), (255, 64, 160))


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image's row of pictures, encoded.

    Attributes:
        name: The image's.
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


def page(result: Result) -> str:
    """The whole page."""
    verdict = "" if result.disagreeing_pixels is None else " good" if result.passed else " bad"
    body = [
        f"<header><h1>{escape(result.title)}</h1>",
        f'<p><span class="pill{verdict}">{escape(result.verdict)}</span></p>',
        f'<p class="soft"><code>{escape(str(result.weights))}</code><br>SHA-256'
        f" <code>{escape(result.weights_sha256)}</code><br>",
        "<br>".join(escape(line) for line in _facts(result)),
        "</p></header>",
        _tiles(result),
        "<h2>Intersection over union</h2>",
        _table(result),
    ]
    if result.pictures:
        body += ["<h2>Pictures</h2>", f'<p class="soft">{_note(result)}</p>', _legend(result)]
        body += [_row(p, result.sizes.predicted) for p in result.pictures]
    return pages.document(result.title, "\n".join(body))


def _facts(result: Result) -> list[str]:
    """What the checkpoint was taken for, how predictions were counted, and by which versions."""
    how = [result.counted_how] if result.counted_how else []
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return [*result.assumed.lines(), *how, versions]


def _tiles(result: Result) -> str:
    tiles = [
        pages.tile(
            "-" if np.isnan(score.mean_iou_present) else f"{100 * score.mean_iou_present:.2f} %",
            f"{name}: mean IoU over present classes",
        )
        for name, score in result.frameworks.items()
    ]
    if result.disagreeing_pixels is not None:
        caption = f"of {result.compared_pixels:,} pixels disagree"
        tiles.append(pages.tile(f"{result.disagreeing_pixels:,}", caption))
        if result.dtype != "float64" and result.disagreeing_pixels:
            caption = "of them count against the port; rounding explains the others"
            tiles.append(pages.tile(f"{result.counting_pixels:,}", caption))
    for name, score in result.frameworks.items():
        tiles.append(pages.tile(f"{score.images_per_second:.2f}", f"{name}: images per second"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _table(result: Result) -> str:
    classes, *others = result.rows()
    colours = result.data.palette
    ious = [score.iou for score in result.frameworks.values()]
    head = "".join(f"<th>{escape(h)}</th>" for h in ("class, IoU in percent", *result.headings()))
    html = [f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>', "<tbody>"]
    for i, (name, *cells) in enumerate(classes):
        shares = [share[i] for share in ious]
        bars = [
            f'{_bar(x)}<span class="value">{escape(c)}</span>'
            for x, c in zip(shares, cells, strict=False)
        ]
        bars += [escape(c) for c in cells[len(shares) :]]
        html.append(_tr(pages.swatch(colours[i]) + escape(name), bars))
    html.append("</tbody>")
    for section in others:
        rows = [_tr(escape(name), [escape(c) for c in cells]) for name, *cells in section]
        html.append(f"<tbody>{''.join(rows)}</tbody>")
    html.append("</table></div>")
    return "\n".join(html)


def _tr(first: str, cells: Sequence[str]) -> str:
    return f"<tr><td>{first}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"


def _bar(share: float) -> str:
    if np.isnan(share):
        return ""
    return f'<span class="bar" style="--share:{100 * share:.1f}%"></span>'


def _note(result: Result) -> str:
    shown, all_of_them = len(result.pictures), len(result.images)
    note = "All images." if shown == all_of_them else f"The first {shown} of {all_of_them} images."
    if result.disagreeing_pixels is not None:
        note += " In the last picture the pixels that differ are marked in pink, enlarged."
    return note


def _legend(result: Result) -> str:
    entries = [
        f"<span>{pages.swatch(colour)}{escape(name)}</span>"
        for name, colour in zip((*result.data.classes, "void"), result.data.palette, strict=True)
    ]
    return f'<div class="card legend">{"".join(entries)}</div>'


def _row(row: Picture, size: tuple[int, int]) -> str:
    count = ""
    if row.disagreeing_pixels is not None:
        count = f"{row.disagreeing_pixels:,} of {size[0] * size[1]:,} pixels disagree"
    figures = [
        pages.figure(uri, caption, f"{caption} of {row.name}")
        for caption, uri in row.figures.items()
    ]
    return (
        f'<section class="card sample"><header><h3>{escape(row.name)}</h3>'
        f'<span class="soft">{count}</span></header>'
        f'<div class="pictures">{"".join(figures)}</div></section>'
    )


def _photo(image: np.ndarray, size: tuple[int, int]) -> str:
    small = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return pages.data_uri(file.getvalue(), "image/jpeg")


def _classes(
    classes: np.ndarray, size: tuple[int, int], palette: Sequence[tuple[int, int, int]]
) -> str:
    small = Image.fromarray(classes).resize(size[::-1], Image.Resampling.NEAREST)
    small.putpalette([part for colour in palette for part in colour])
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return pages.data_uri(file.getvalue(), "image/png")


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
