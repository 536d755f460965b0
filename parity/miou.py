"""L6: evaluate a checkpoint on a data set in both frameworks, and compare every pixel."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.miou_result import ALLOWED, ImageScore, Result, Score
from parity.spec import metrics
from parity.spec.data import Sample, Segmentation
from parity.spec.data import dataset as find_dataset
from parity.spec.data.labels import ORDERS, outputs
from parity.spec.data.preprocessing import published
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from weights_convert.wrapping import ANY, Choice

if TYPE_CHECKING:
    from parity.miou_page import Picture

FRAMEWORKS = ("torch", "jax")

Pair = tuple[int, int]
Progress = Callable[[int, int, str], None]


def miou(
    weights: str | Path,
    data: str | Path,
    size: Pair = (512, 1024),
    model: str = "enet",
    dataset: str | None = None,
    split: str = "val",
    labels: str | None = None,
    frameworks: Sequence[str] = FRAMEWORKS,
    dtype: str = "float32",
    limit: int | None = None,
    pictures: int = 20,
    progress: Progress | None = None,
    choice: Choice = ANY,
) -> Result:
    """Evaluate a checkpoint on a data set and compare what the frameworks predict.

    Args:
        weights: A checkpoint, in any format that `weights_convert.load` reads.
        data: The data set's folder.
        size: (H, W) to which images and labels are resized.
        model: A network's name.
        dataset: `cityscapes` or `camvid`; told by the folder's layout if not given.
        split: Such as `val`.
        labels: `void-last` or `void-first`, the network's order of outputs; what the checkpoint's
            manifest says if not given, else `void-last`.
        frameworks: `torch`, `jax` or both.
        dtype: `float32` or `float64`, of weights, images and all between.
        limit: Evaluate the first so many images, by name.
        pictures: Keep pictures of the first so many images for `Result.to_html`.
        progress: Called with (images done, images, what happens next).
        choice: Which of the checkpoint's tensors are meant; see `weights_convert.load`.

    Raises:
        InputError: Anything given cannot be used; one line says what.
        FloatingPointError: A network's outputs are not finite.
    """
    check_arguments(model, size, frameworks, dtype, limit, pictures)
    root, path = Path(data), Path(weights)
    source = find_dataset(root, dataset)
    samples = source.samples(root, split)[:limit]

    import weights_convert
    from weights_convert import notes

    checkpoint = weights_convert.load(path, model, choice=choice)
    found = checkpoint.config.num_classes
    if found not in (source.outputs, len(source.classes)):
        raise InputError(
            f"{path}: the network has {found} outputs, but {source.name} needs {source.outputs}"
            f" ({len(source.classes)} classes and void), or {len(source.classes)}"
        )
    order, reason = label_order(labels, checkpoint.manifest, path, found == source.outputs)
    frameworks = [name for name in FRAMEWORKS if name in frameworks]
    predictors = {name: predictor(name, checkpoint, dtype) for name in frameworks}
    run = Run(source, order, predictors, size, pictures)
    for i, sample in enumerate(samples):
        if progress:
            progress(i, len(samples), sample.name if i else "first call of each framework")
        run.add(sample)
    if progress:
        progress(len(samples), len(samples), "done")
    return Result(
        model=model,
        weights=path,
        weights_sha256=checkpoint.sha256,
        data=source,
        split=split,
        size=size,
        dtype=dtype,
        labels=order,
        labels_reason=reason,
        frameworks=run.scores(),
        images=run.images,
        pictures=run.pictures,
        versions={name: importlib.metadata.version(name) for name in frameworks},
        notes=tuple(notes.lines(checkpoint)),
    )


class Run:
    """One pass over the images: of each, only its matrices and pictures stay.

    Args:
        source: The data set.
        order: Of the labels.
        predictors: Framework -> images (N, H, W, 3) uint8 to classes (N, H, W).
        size: (H, W).
        pictures: How many images to keep pictures of.
    """

    def __init__(
        self,
        source: Segmentation,
        order: str,
        predictors: Mapping[str, Callable[[np.ndarray], np.ndarray]],
        size: Pair,
        pictures: int,
    ) -> None:
        self.source = source
        self.predictors = predictors
        self.size = size
        self.wanted = pictures
        self.outputs = outputs(order, len(source.classes))
        self.images: list[ImageScore] = []
        self.pictures: list[Picture] = []
        self.first_call = dict.fromkeys(predictors, 0.0)
        self.seconds = dict.fromkeys(predictors, 0.0)

    def add(self, sample: Sample) -> None:
        """Predict one image on every side.

        Raises:
            InputError: The image or its label map cannot be used.
            FloatingPointError: A network's outputs are not finite.
        """
        image, train_ids = self.source.load(sample, *self.size)
        predictions = {name: self._predict(name, sample, image) for name in self.predictors}
        truth = self.outputs[train_ids]
        differ = None
        if len(predictions) > 1:
            one, other = predictions.values()
            differ = one != other
        self.images.append(
            ImageScore(
                sample.name,
                None if differ is None else int(differ.sum()),
                {
                    name: metrics.confusion(truth, classes, len(self.outputs))
                    for name, classes in predictions.items()
                },
            )
        )
        if len(self.pictures) < self.wanted:
            from parity.miou_page import picture

            by_output = np.argsort(self.outputs).astype(np.uint8)
            maps = {name: by_output[classes] for name, classes in predictions.items()}
            maps = {"truth": train_ids, **maps}
            self.pictures.append(picture(sample.name, image, maps, differ, self.source.palette))

    def scores(self) -> dict[str, Score]:
        return {
            name: Score(
                confusion := np.sum([image.confusion[name] for image in self.images], axis=0),
                metrics.iou(confusion, void=int(self.outputs[-1])),
                len(self.images) / self.seconds[name],
                self.first_call[name],
            )
            for name in self.predictors
        }

    def _predict(self, name: str, sample: Sample, image: np.ndarray) -> np.ndarray:
        try:
            if not self.images:
                _, self.first_call[name] = timed(self.predictors[name], image[None])
            classes, seconds = timed(self.predictors[name], image[None])
        except FloatingPointError as error:
            raise FloatingPointError(f"{name}, {sample.image}: {error}") from error
        self.seconds[name] += seconds
        return classes[0]


def timed(predict: Callable[[np.ndarray], np.ndarray], batch: np.ndarray) -> tuple[Any, float]:
    start = time.perf_counter()
    classes = predict(batch)
    return classes, time.perf_counter() - start


def predictor(framework: str, checkpoint: Any, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """A checkpoint's network in one framework: images (N, H, W, 3) uint8 to classes (N, H, W)."""
    import weights_convert

    arrays, manifest = checkpoint.arrays, checkpoint.manifest
    expected = manifest.preprocessing if manifest else published(checkpoint.config, None)
    if framework == "jax":
        arrays = weights_convert.to_jax(checkpoint.config, arrays)
    side = importlib.import_module(f"{framework}_impl.evaluate")
    return side.predictor(checkpoint.config, arrays, dtype, expected)


def label_order(
    asked: str | None, manifest: Any, weights: Path, has_void: bool = True
) -> tuple[str, str]:
    """Which output is void, and why that is taken to be so.

    Raises:
        InputError: An unknown order, or one that the network cannot have.
    """
    if not has_void and asked == "void-first":
        raise InputError(f"{weights}: labels void-first, but the network has no output for void")
    if not has_void:
        return "void-last", "the network has no output for void"
    said = getattr(manifest, "labels", None)
    order, reason = "void-last", "the default; the checkpoint does not say"
    if asked is not None:
        order, reason = asked, "asked for"
        if said not in (None, asked):
            reason += f"; the checkpoint's manifest says {said}"
    elif said is not None:
        order, reason = said, "the checkpoint's manifest says so"
    if order not in ORDERS:
        where = "" if asked is not None else f"{weights}: "
        raise InputError(f"{where}label order {order!r}, expected {' or '.join(ORDERS)}")
    return order, reason


def check_arguments(
    model: str,
    size: Pair,
    frameworks: Sequence[str],
    dtype: str,
    limit: int | None,
    pictures: int,
) -> None:
    """Refuse what cannot be meant, before any file is read.

    Raises:
        InputError: It names the argument.
    """
    if model not in MODELS:
        raise InputError(f"unknown model {model!r}, expected {' or '.join(MODELS)}")
    try:
        MODELS[model].check_input(*size)
    except ValueError as error:
        raise InputError(f"size: {error}") from error
    if not frameworks or len(set(frameworks)) < len(frameworks):
        raise InputError(f"frameworks {','.join(frameworks)!r}, expected each once")
    for name in frameworks:
        if name not in FRAMEWORKS:
            raise InputError(f"unknown framework {name!r}, expected {' or '.join(FRAMEWORKS)}")
    if dtype not in ALLOWED:
        raise InputError(f"dtype {dtype!r}, expected {' or '.join(ALLOWED)}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, expected 1 or more images")
    if pictures < 0:
        raise InputError(f"pictures is {pictures}, expected 0 or more")
