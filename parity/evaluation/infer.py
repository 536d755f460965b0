"""Predictions of an ONNX file for a folder of images, as pictures, with their scores."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from parity.data import DATASETS, Segmentation
from parity.data.cityscapes import BESIDE, IMAGE, LABEL
from parity.data.segmentation import (
    PICTURES,
    picture_of,
    require_folder,
    resized,
    visible,
)
from parity.evaluation import onnx_predictor
from parity.evaluation.drawing import coloured, save
from parity.evaluation.onnx_predictor import OnnxClasses
from parity.export.reading import Network, open_network
from parity.io.replacing import replacing
from parity.spec import metrics
from parity.spec.augmentation import NEAREST, resample
from parity.spec.errors import InputError, listed
from parity.spec.labels import outputs
from weights_convert.assumptions import Assumptions

TRAIN_LABEL = "_gtFine_labelTrainIds.png"
READS = ("enet", "erfnet", "icnet")  # families that give a class for each pixel

Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Inferred:
    """The result of `infer`.

    Attributes:
        folder: The folder written: NAME.png for each image, and `metric.txt` where there were
            labels.
        data: The data set whose classes are predicted.
        assumed: The assumptions on the file's inputs and outputs.
        images: Number of images.
        confusion: (outputs, outputs) int64, rows truth, columns prediction; None without labels.
        iou: (classes,) float64, NaN where a class is absent; None without labels.
    """

    folder: Path
    data: Segmentation
    assumed: Assumptions
    images: int
    confusion: np.ndarray | None
    iou: np.ndarray | None

    @property
    def labels(self) -> str:
        """The order of the network's outputs."""
        assert self.assumed.labels.value
        return self.assumed.labels.value

    @property
    def accuracy(self) -> float:
        """The share of pixels of known class that are predicted right; NaN where there is none."""
        assert self.confusion is not None
        void = int(outputs(self.labels, len(self.data.classes))[-1])
        known = np.delete(self.confusion, void, axis=0)
        right = int(np.diag(self.confusion).sum() - self.confusion[void, void])
        return right / int(known.sum()) if known.any() else float("nan")


@dataclasses.dataclass(frozen=True)
class Item:
    """One image: its name below the folder, without suffix; its files."""

    name: str
    image: Path
    label: Path | None


def infer(
    file: str | Path,
    images: str | Path,
    target: str | Path,
    truth: str | Path | None = None,
    order: str | None = None,
    dataset: str | None = None,
    progress: Progress | None = None,
) -> Inferred:
    """Predict a folder of images with an ONNX file.

    Args:
        file: The ONNX file, of a network that gives a class for each pixel.
        images: A folder; images of any size in it and in folders below it.
        target: The folder to write, which is not there yet or empty. It appears as a whole.
        truth: A folder of label maps, named as the images or as Cityscapes names them.
        order: `void-last` or `void-first`; what the file's manifest says if not given, else
            `void-last`.
        dataset: The data set of its classes, `cityscapes` or `camvid`; detected from their number
            if not given.
        progress: Called with (images done, images, what happens next).

    Raises:
        InputError: Anything given cannot be used. Then nothing is written.
    """
    target = Path(target)
    check_target(target)
    network = open_network(file)
    data = classes_of(network, dataset)
    number = len(data.classes) + has_void(network, data)
    assumed = onnx_predictor.assumptions(network, number, data.classes, order)
    items = find(Path(images), None if truth is None else Path(truth))
    run = InferenceRun(network, data, assumed)
    with replacing(target) as folder:
        folder.mkdir()
        for i, item in enumerate(items):
            if progress:
                progress(i, len(items), item.name)
            run.add(item, folder)
        void = int(run.outputs[-1])
        measured = truth is not None
        result = Inferred(
            folder=target,
            data=data,
            assumed=assumed,
            images=len(items),
            confusion=run.confusion if measured else None,
            iou=metrics.iou(run.confusion, void) if measured else None,
        )
        if measured:
            text = metric_text(result, network)
            (folder / "metric.txt").write_text(text, encoding="utf-8")
    return result


class InferenceRun:
    """One pass over the images."""

    def __init__(self, network: Network, data: Segmentation, assumed: Assumptions) -> None:
        assert assumed.labels.value
        self.network = network
        self.data = data
        self.outputs = outputs(assumed.labels.value, len(data.classes))
        number = len(data.classes) + has_void(network, data)
        self.predict = OnnxClasses(network, assumed.pixels.value, number)
        self.by_output = np.argsort(self.outputs).astype(np.uint8)
        self.confusion = np.zeros((data.outputs, data.outputs), np.int64)

    def add(self, item: Item, folder: Path) -> None:
        """Predict one image, draw the prediction, and count it where there is a label.

        Raises:
            InputError: The image or its label map cannot be used, or a logit is not finite.
        """
        picture, (height, width) = picture_of(item.image), self.network.size
        try:
            classes = self.predict(resized(picture, height, width)[None])[0]
        except FloatingPointError as error:
            raise InputError(f"{item.image}: {error}") from error
        if classes.shape != (height, width):
            raise InputError(
                f"{self.network.path}: predictions of {classes.shape}, expected {height, width}"
            )
        if item.label is not None:
            data = by_train_id(self.data) if item.label.name.endswith(TRAIN_LABEL) else self.data
            ids = data.label(item.label, (height, width), item.image, picture.size)
            self.confusion += metrics.confusion(self.outputs[ids], classes, self.data.outputs)
        found = resample(self.by_output[classes], picture.size[::-1], NEAREST)
        save(coloured(found, self.data.palette), folder / f"{item.name}.png")


def classes_of(network: Network, dataset: str | None) -> Segmentation:
    """Return the data set whose classes a file predicts.

    Raises:
        InputError: The file holds another kind of network, or its data set is unknown.
    """
    said = network.manifest
    if said is not None and said.network not in READS:
        raise InputError(
            f"{network.path} holds the network {said.network}, expected one of"
            f" {', '.join(READS)}: a class for each pixel"
        )
    if network.batch not in (None, 1):
        raise InputError(f"{network.path} takes {network.batch} images at a time, expected 1")
    if dataset is not None and dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r}, expected {' or '.join(DATASETS)}")
    if dataset is not None:
        return DATASETS[dataset]
    number = said.config.get("num_classes") if said is not None else None
    for data in DATASETS.values():
        if number in (data.outputs, len(data.classes)):
            return data
    known = ", ".join(f"{name}: {data.outputs}" for name, data in DATASETS.items())
    raise InputError(
        f"{network.path} has {number or 'an unknown number of'} classes; name the data set whose"
        f" they are ({known})"
    )


def has_void(network: Network, data: Segmentation) -> bool:
    """Return whether one of a file's outputs is void; True without a manifest."""
    said = network.manifest
    return said is None or said.config.get("num_classes") != len(data.classes)


def by_train_id(data: Segmentation) -> Segmentation:
    """Return the data set for label files that hold trainIds, with 255 for void."""
    ids = [*range(len(data.classes)), *[-1] * 256]
    return dataclasses.replace(data, train_ids=(*ids[:255], data.void))


def find(images: Path, truth: Path | None) -> list[Item]:
    """Return the images of a folder, and the label of each.

    Raises:
        InputError: No folder, no image, two of one name, or one without a label.
    """
    found: dict[str, Path] = {}
    for path in pictures(images):
        name = stem(path.relative_to(images), (IMAGE,))
        if name in found:
            raise InputError(f"{path} and {found[name].name}: two images of one name")
        found[name] = path
    if not found:
        raise InputError(f"{images} holds no image ({', '.join(PICTURES)})")
    if truth is None:
        return [Item(name, path, None) for name, path in sorted(found.items())]
    labels: dict[str, Path] = {}
    for suffixes in ((TRAIN_LABEL,), (LABEL,)):  # of both, the official one
        for path in pictures(truth):
            beside = path.name.endswith(BESIDE) and not path.name.endswith(suffixes)
            if not beside:
                labels[stem(path.relative_to(truth), suffixes)] = path
    if missing := [name for name in sorted(found) if name not in labels]:
        raise InputError(f"{truth}: {len(missing)} images have no label: {listed(missing)}")
    return [Item(name, path, labels[name]) for name, path in sorted(found.items())]


def pictures(folder: Path) -> list[Path]:
    """List all images below a folder.

    Raises:
        InputError: There is no such folder.
    """
    require_folder(folder)
    return [p for p in visible(folder.rglob("*")) if p.suffix.lower() in PICTURES]


def stem(path: Path, suffixes: tuple[str, ...]) -> str:
    """Return the part of the path that an image and its label share."""
    text = path.as_posix()
    for suffix in suffixes:
        if text.endswith(suffix):
            return text.removesuffix(suffix)
    return path.with_suffix("").as_posix()


def metric_text(result: Inferred, network: Network) -> str:
    """Return the text of `metric.txt`; shares in percent."""
    assert result.iou is not None
    present, count = int((~np.isnan(result.iou)).sum()), len(result.data.classes)
    height, width = network.size
    wide = max(map(len, result.data.classes)) + 2
    lines = [
        f"file {network.path.name}, {result.labels}",
        f"images {result.images}, at {height}x{width}",
        f"mean IoU over the {present} classes present {_percent(np.nanmean(result.iou))}"
        if present
        else "mean IoU: no class is present",
        f"mean IoU over all {count}, absent ones as 0"
        f" {_percent(metrics.mean_iou_absent_as_zero(result.iou))}",
        f"accuracy {_percent(result.accuracy)}",
        "",
        "IoU of each class",
        *(
            f"{name:<{wide}}{'absent' if np.isnan(x) else _percent(x)}"
            for name, x in zip(result.data.classes, result.iou, strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def check_target(target: Path) -> None:
    """Refuse a folder that must not be replaced, before any work is done.

    Raises:
        InputError: Something is there.
    """
    from parity.io.files import check_folder

    check_folder(target.parent)
    if not target.parent.is_dir():
        raise InputError(f"{target}: no folder {target.parent} to make it in")
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} is there already: not replaced")
