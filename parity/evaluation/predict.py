"""Predictions of a network for any images, as pictures and label maps: `parity predict`."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from parity.data.cityscapes import IMAGE
from parity.data.own.description import UNKNOWN, named
from parity.data.segmentation import PICTURES, picture_of
from parity.evaluation.drawing import coloured, labelled, overlaid, save
from parity.evaluation.infer import Item, check_target, find, stem
from parity.evaluation.predictors import Predictor, framework_of, opened
from parity.io.replacing import replacing
from parity.spec.augmentation import BILINEAR, NEAREST, resample
from parity.spec.datasets import DataSet
from parity.spec.errors import InputError
from parity.spec.labels import outputs
from weights_convert.assumptions import Assumptions
from weights_convert.wrapping import ANY, Choice

Pair = tuple[int, int]
Progress = Callable[[int, int, str], None]
FITS = ("resize", "pad")
SIDE = 8  # of which a padded image's sides are multiples; all networks of pixels shrink by it
TABLE = "classes.csv"


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The result of `predict`.

    Attributes:
        folder: The folder written.
        images: Number of images.
        framework: `torch`, `jax` or `onnx`.
        data: Whose classes were predicted; None if even their names are unknown.
        assumed: The assumptions on the file's inputs and outputs.
        notes: Remarks on the file; see `weights_convert.notes`.
    """

    folder: Path
    images: int
    framework: str
    data: DataSet | None
    assumed: Assumptions
    notes: tuple[str, ...]


def predict(
    weights: str | Path,
    images: str | Path | Iterable[Path],
    target: str | Path,
    framework: str | None = None,
    *,
    model: str | None = None,
    data: DataSet | None = None,
    labels: str | None = None,
    size: Pair | None = None,
    fit: str = "resize",
    ids: bool = False,
    choice: Choice = ANY,
    progress: Progress | None = None,
    compiled: bool = False,
) -> Predicted:
    """Predict images of any size, and draw what was predicted.

    Args:
        weights: A checkpoint in any format that `weights_convert.load` reads, or an ONNX file.
        images: An image; a folder of images, in it and in folders below it; or several paths.
        target: The folder to write, which is not there yet or empty. It appears as a whole: for
            each image `color/NAME.png`, `overlay/NAME.png` and, if wanted, `ids/NAME.png`; of
            networks that classify whole images `classes.csv`.
        framework: `torch`, `jax` or `onnx`; ONNX Runtime for an ONNX file if not given, else
            PyTorch.
        model: The network's name; detected from its tensors if not given.
        data: The data set of its classes; what the file says if not given, else detected from
            the number of its outputs.
        labels: `void-last` or `void-first`; what the file says if not given, else `void-last`.
        size: Height and width of the network's images; what the file says if not given, else as
            published. Not with `pad`.
        fit: What is done with an image of another size. `resize`: it is resized to `size`, and the
            prediction back, to the nearest pixel. `pad`: it keeps its size; at the right and below
            its last pixels are repeated up to the next multiples of 8, and what is predicted there
            is cut off.
        ids: Also write label maps as the data set's own are.
        choice: Which of the checkpoint's tensors to read; see `weights_convert.load`.
        progress: Called with (images done, images, what happens next).
        compiled: Compile PyTorch's network by `torch.compile`; the result's notes say how long that
            took.

    Raises:
        InputError: Anything given cannot be used. Then nothing is written.
        FloatingPointError: A network's outputs are not finite. Then nothing is written.
    """
    target = Path(target)
    check_target(target)
    if fit not in FITS:
        raise InputError(f"fit {fit!r}, expected {' or '.join(FITS)}")
    items = items_of(images)
    framework = framework_of(Path(weights), framework, compiled)
    if compiled and fit == "pad":
        raise InputError("--compile with --fit pad: each size of an image would be compiled")
    if fit == "pad" and size is not None:
        raise InputError("--size with --fit pad: each image keeps its size")
    took: list[str] = []
    compile_with = took.append if compiled else None
    network = opened(Path(weights), framework, model, data, labels, size, choice, compile_with)
    if fit == "pad" and (network.fixed or not network.pixels):
        why = "takes images of one size" if network.fixed else "classifies whole images"
        raise InputError(f"{weights}: fit pad, but the network {why}")
    check_ids(network, ids)
    painter = Painter(network, fit, ids)
    with replacing(target) as folder:
        folder.mkdir()
        for i, item in enumerate(items):
            if progress:
                progress(i, len(items), item.name)
            painter.add(item, folder)
        painter.finish(folder)
    if fit == "pad":
        took.append("fit pad: each image is taken at its own size instead")
    shown = (network.framework, network.said, network.assumed, (*network.notes, *took))
    return Predicted(target, len(items), *shown)


def items_of(images: str | Path | Iterable[Path]) -> list[Item]:
    """The images to predict, each with the name of its prediction.

    Raises:
        InputError: There is none, one is missing, or two have one name.
    """
    if isinstance(images, str | Path):
        path = Path(images)
        if path.is_dir():
            return find(path, None)
        images = [path]
    found: dict[str, Path] = {}
    for path in images:
        if not path.is_file():
            raise InputError(f"{path}: no such image")
        name = stem(Path(path.name), (IMAGE,))
        if name in found:
            raise InputError(f"{path} and {found[name]}: two images of one name, {name!r}")
        found[name] = path
    if not found:
        raise InputError(f"no image to predict, expected some ({', '.join(PICTURES)})")
    return [Item(name, path, None) for name, path in found.items()]


def check_ids(network: Predictor, ids: bool) -> None:
    """Refuse label maps where the data set's ids are unknown.

    Raises:
        InputError: They are; or the network predicts a class for each image.
    """
    if not ids:
        return
    if not network.pixels:
        raise InputError(f"{network.path}: no label maps, the network classifies whole images")
    if network.said is None or network.said.name == UNKNOWN:
        raise InputError(
            f"{network.path} does not say the ids of its classes: --dataset NAME, or a TOML file"
        )
    count, ids_of = len(network.said.classes), network.said.ids
    if ids_of and network.outputs > count == len(ids_of):
        raise InputError(
            f"{network.path} has an output for void, for which data set {network.said.name} has no"
            " id: ignored = [ID] in its TOML file"
        )


class Painter:
    """One pass over the images.

    Args:
        network: The network.
        fit: How an image of another size is treated, one of `FITS`.
        ids: Whether to write label maps, too.
    """

    def __init__(self, network: Predictor, fit: str, ids: bool) -> None:
        self.network, self.fit, self.ids = network, fit, ids
        self.rows: list[tuple[str, str]] = []  # of whole images: path, class
        numbers = tuple(f"output {i}" for i in range(network.outputs))
        self.data = network.said or named(numbers, network.pixels)
        self.names = self.data.classes if self.data else numbers
        count, order = len(self.names), network.assumed.labels.value or "void-last"
        # Without an output for void the outputs are the classes in order.
        self.by_output = np.arange(network.outputs, dtype=np.uint8 if network.pixels else np.int64)
        if network.pixels and network.outputs == count + 1:
            self.by_output = np.argsort(outputs(order, count)).astype(np.uint8)

    def add(self, item: Item, folder: Path) -> None:
        """Predict one image and draw it.

        Raises:
            InputError: The image cannot be read, or the network takes no size near its own.
            FloatingPointError: An output is not finite.
        """
        image = np.asarray(picture_of(item.image))
        try:
            found = self.predicted(image, item.image)
        except FloatingPointError as error:
            raise FloatingPointError(f"{item.image}: {error}") from error
        if not self.network.pixels:
            self.rows.append((str(item.image), self.names[int(found)]))
            return
        assert self.data is not None
        palette, name = self.data.palette, f"{item.name}.png"
        save(coloured(found, palette), folder / "color" / name)
        save(overlaid(image, found, palette), folder / "overlay" / name)
        if self.ids:
            save(labelled(found, self.data), folder / "ids" / name)

    def predicted(self, image: np.ndarray, path: Path) -> np.ndarray:
        """Return the trainId of each pixel (H, W) uint8, or the class of a whole image, ().

        Args:
            image: (H, W, 3) uint8.
            path: Its file, for messages.
        """
        size = height, width = image.shape[:2]
        if self.fit == "resize":
            taken = resample(image, self.network.assumed.size.value, BILINEAR)
        else:
            bottom, right = self.padded_size(size, path)
            taken = np.pad(image, ((0, bottom - height), (0, right - width), (0, 0)), mode="edge")
        found = self.by_output[self.network(taken)]
        if not self.network.pixels:
            return found
        if self.fit == "resize":
            return resample(found, size, NEAREST)
        return resample(found, taken.shape[:2], NEAREST)[:height, :width]

    def padded_size(self, size: Pair, path: Path) -> Pair:
        """Return the height and width that an image is padded to."""
        height, width = (-(-side // SIDE) * SIDE for side in size)
        try:
            self.network.check_size(height, width)
        except ValueError as error:
            raise InputError(f"{path}: {error}; fit resize takes it") from error
        return height, width

    def finish(self, folder: Path) -> None:
        """Write the table of whole images."""
        if self.network.pixels:
            return
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "class"), *self.rows])
