"""Rung L6: evaluate a checkpoint on a data set in both frameworks, and compare every pixel."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from parity.data import Sample, Segmentation
from parity.data import dataset as find_dataset
from parity.data.makers import nearest, predicted_size
from parity.evaluation.result import DTYPES, ImageScore, MiouResult, Score, Sizes
from parity.evaluation.rounding import Judgement, Oracle
from parity.io.background import Behind, ahead
from parity.spec import metrics
from parity.spec.augmentation import NEAREST, resample
from parity.spec.errors import InputError
from parity.spec.labels import outputs
from parity.spec.models import CLASSIFIERS, MODELS, Config, check_takes_images, name_of
from parity.spec.preprocessing import Preprocessing
from parity.training.side import check_compiled
from weights_convert.assumptions import Assumptions, assume
from weights_convert.wrapping import ANY, Choice

if TYPE_CHECKING:
    from parity.evaluation.page import Picture

FRAMEWORKS = ("torch", "jax")

Pair = tuple[int, int]
Progress = Callable[[int, int, str], None]


def miou(
    weights: str | Path,
    data: str | Path,
    size: Pair | None = None,
    model: str | None = None,
    dataset: str | None = None,
    split: str = "val",
    labels: str | None = None,
    frameworks: Sequence[str] = FRAMEWORKS,
    dtype: str = "float32",
    limit: int | None = None,
    pictures: int = 20,
    progress: Progress | None = None,
    choice: Choice = ANY,
    count_size: Pair | None = None,
    say: Callable[[Path, Assumptions], None] | None = None,
    compiled: bool = False,
) -> MiouResult:
    """Evaluate a checkpoint on a data set and compare what the frameworks predict.

    Args:
        weights: A checkpoint, in any format that `weights_convert.load` reads.
        data: The data set's folder.
        size: (H, W) to which images are resized, and labels, to the nearest pixel; what the
            checkpoint's manifest says if not given, else as published. The labels of an encoder,
            which predicts at an eighth, are resized once more, as its training does it.
        model: The network's name; detected from the names of its tensors if not given.
        dataset: `cityscapes` or `camvid`; detected from the folder's layout if not given.
        split: Such as `val`.
        labels: `void-last` or `void-first`, the network's order of outputs; what the checkpoint's
            manifest says if not given, else `void-last`.
        frameworks: `torch`, `jax` or both.
        dtype: `float32` or `float64`, for weights, images and all intermediate values.
        limit: Evaluate the first so many images, by name.
        pictures: Keep pictures of the first so many images for `MiouResult.to_html`.
        progress: Called with (images done, images, what happens next).
        choice: Which of the checkpoint's tensors to read; see `weights_convert.load`.
        count_size: (H, W) to which predictions are enlarged, the nearest pixel of each place,
            before they are counted against the labels resized to it from their files; not at all if
            not given.
        say: Called with the checkpoint and what is assumed of it, before anything is predicted.
        compiled: Compile PyTorch's network by `torch.compile`; the result's notes say how long that
            took.

    Raises:
        InputError: Anything given cannot be used; one line says what.
        FloatingPointError: A network's outputs are not finite.
    """
    check_arguments(model, size, frameworks, dtype, limit, pictures, compiled)
    root, path = Path(data), Path(weights)
    source = find_dataset(root, dataset)
    samples = source.samples(root, split)[:limit]

    import weights_convert
    from weights_convert import notes

    checkpoint = weights_convert.load(path, model, choice=choice)
    check_network(checkpoint.config, path)
    found = checkpoint.config.num_classes
    if found not in (source.outputs, len(source.classes)):
        raise InputError(
            f"{path}: the network has {found} outputs, but {source.name} needs {source.outputs}"
            f" ({len(source.classes)} classes and void), or {len(source.classes)}"
        )
    assumed = assume(
        checkpoint.config, checkpoint.manifest, path, source.classes, labels=labels, size=size
    )
    check_size(checkpoint.config, size := assumed.size.value)
    if say:
        say(path, assumed)
    frameworks = [name for name in FRAMEWORKS if name in frameworks]
    pixels = assumed.pixels.value

    def made(framework: str, dtype: str, pixels: Preprocessing) -> Any:
        return predictor(framework, checkpoint, dtype, pixels)

    predictors = {name: made(name, dtype, pixels) for name in frameworks}
    took: list[str] = []
    if compiled:
        predictors["torch"].compile(took.append)
    order = str(assumed.labels.value)
    predicted = predicted_size(checkpoint.config, size)
    sizes = Sizes(size, predicted, count_size or predicted)
    # Where both sides computed in float64 there is nothing more exact to ask.
    oracle = Oracle(made, pixels) if len(frameworks) > 1 and dtype != "float64" else None
    run = SideRun(source, order, predictors, sizes, pictures, oracle)
    run.over(samples, progress)
    return MiouResult(
        model=model or name_of(checkpoint.config),
        weights=path,
        weights_sha256=checkpoint.sha256,
        data=source,
        split=split,
        sizes=sizes,
        dtype=dtype,
        assumed=assumed,
        frameworks=run.scores(),
        images=run.images,
        pictures=run.pictures,
        versions={name: importlib.metadata.version(name) for name in frameworks},
        notes=(*notes.lines(checkpoint), *took),
        compiled=compiled,
    )


class Read(NamedTuple):
    """An image and its truth.

    Attributes:
        image: (H, W, 3) uint8, resized.
        truth: The trainIds to compare predictions with, (H, W) uint8, at the size they are counted.
    """

    image: np.ndarray
    truth: np.ndarray


class SideRun:
    """One pass over the images, which keeps only confusion matrices and pictures.

    While the networks predict an image, one thread reads and resizes the next, and another counts
    the last. Memory holds three images and their predictions. That work is done while the first
    network predicts, so each is the first in its turn.

    Args:
        source: The data set.
        order: The order of the network's outputs, `void-last` or `void-first`.
        predictors: Framework -> images (N, H, W, 3) uint8 to classes (N, H, W).
        sizes: Sizes of images, predictions and counted maps.
        pictures: How many images to keep pictures of.
        oracle: Judges pixels that differ; None if all of them count as failures.
    """

    def __init__(
        self,
        source: Segmentation,
        order: str,
        predictors: Mapping[str, Callable[[np.ndarray], np.ndarray]],
        sizes: Sizes,
        pictures: int,
        oracle: Oracle | None = None,
    ) -> None:
        self.source = source
        self.predictors = predictors
        self.sizes = sizes
        self.oracle = oracle
        self.wanted = pictures
        self.outputs = outputs(order, len(source.classes))
        self.images: list[ImageScore] = []
        self.pictures: list[Picture] = []
        self.first_call: dict[str, float] = {}
        self.seconds = dict.fromkeys(predictors, 0.0)

    def over(self, samples: Sequence[Sample], progress: Progress | None = None) -> None:
        """Predict images on every side, and count what is predicted.

        Args:
            samples: The images.
            progress: As in `miou`.

        Raises:
            InputError: An image or its label map cannot be used.
            FloatingPointError: A network's outputs are not finite.
        """
        with (
            Behind() as counting,
            contextlib.closing(ahead(lambda i: self.read(samples[i]), len(samples))) as coming,
        ):
            for i, sample in enumerate(samples):
                if progress:
                    progress(i, len(samples), sample.name if i else "first call of each framework")
                read = next(coming)
                predictions = self._predictions(i, sample, read.image)
                judged = self._judge(read.image, predictions)
                counting.do(functools.partial(self._count, sample, read, predictions, judged))
        if progress:
            progress(len(samples), len(samples), "done")

    def read(self, sample: Sample) -> Read:
        """Read an image and its label map, and resize them."""
        image, train_ids = self.source.load(sample, *self.sizes.images)
        return Read(image, self.truth(sample, train_ids))

    def _judge(self, image: np.ndarray, predictions: dict[str, np.ndarray]) -> Judgement | None:
        """Judge pixels on which two sides differ; networks predict here, so not in the thread."""
        if not self.oracle or len(predictions) < 2:
            return None
        one, other = predictions.values()
        return None if np.array_equal(one, other) else self.oracle.judge(image, one, other)

    def _count(
        self,
        sample: Sample,
        read: Read,
        predictions: dict[str, np.ndarray],
        judged: Judgement | None,
    ) -> None:
        differ = None
        if len(predictions) > 1:
            one, other = predictions.values()
            differ = one != other
        truth = self.outputs[read.truth]
        self.images.append(
            ImageScore(
                sample.name,
                None if differ is None else int(differ.sum()),
                {
                    name: metrics.confusion(truth, self.enlarged(classes), len(self.outputs))
                    for name, classes in predictions.items()
                },
                judged,
            )
        )
        if len(self.pictures) < self.wanted:
            from parity.evaluation.page import picture

            by_output = np.argsort(self.outputs).astype(np.uint8)
            maps = {name: by_output[classes] for name, classes in predictions.items()}
            maps = {"truth": read.truth, **maps}
            shown = picture(sample.name, read.image, maps, differ, self.source.palette)
            self.pictures.append(shown)

    def truth(self, sample: Sample, train_ids: np.ndarray) -> np.ndarray:
        """Return the trainIds to compare predictions with, (H, W) uint8.

        Args:
            sample: The image's sample.
            train_ids: The trainIds at the size of the image.
        """
        if self.sizes.counted != self.sizes.predicted:
            return self.source.label(sample.label, self.sizes.counted, sample.image)
        return resample(train_ids, self.sizes.counted, NEAREST)

    def enlarged(self, classes: np.ndarray) -> np.ndarray:
        """Enlarge a prediction (H, W) to the size at which it is counted."""
        return nearest(classes[None], self.sizes.counted)[0]

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

    def _predictions(self, i: int, sample: Sample, image: np.ndarray) -> dict[str, np.ndarray]:
        """Predict the image of this number on every side; another one begins each time."""
        names = list(self.predictors)
        first = i % len(names)
        turns = names[first:] + names[:first]
        found = {name: self._predict(name, sample, image) for name in turns}
        return {name: found[name] for name in names}

    def _predict(self, name: str, sample: Sample, image: np.ndarray) -> np.ndarray:
        try:
            if name not in self.first_call:
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


def predictor(framework: str, checkpoint: Any, dtype: str, pixels: Preprocessing) -> Any:
    """Build a checkpoint's network in one framework.

    Args:
        framework: `torch` or `jax`.
        checkpoint: A `weights_convert.Checkpoint`.
        dtype: `float32` or `float64`.
        pixels: How an image is preprocessed.

    Returns:
        The side's `Predictor`: images (N, H, W, 3) uint8 to classes (N, H, W); or, with `logits`,
        to logits (N, H, W, classes).
    """
    import weights_convert

    arrays = checkpoint.arrays
    if framework == "jax":
        arrays = weights_convert.to_jax(checkpoint.config, arrays)
    side = importlib.import_module(f"{framework}_impl.evaluate")
    return side.predictor(checkpoint.config, arrays, dtype, pixels)


def check_network(config: Config, of: Path | str) -> None:
    """Refuse a network that does not predict a class for each pixel of an image.

    Args:
        config: The network.
        of: Its file, or its name.

    Raises:
        InputError: It names the file or network.
    """
    check_takes_images(config, "parity miou")
    if config.family in CLASSIFIERS:
        raise InputError(
            f"{of}: {config.family} classifies whole images; parity eval measures its accuracy"
        )


def check_arguments(
    model: str | None,
    size: Pair | None,
    frameworks: Sequence[str],
    dtype: str,
    limit: int | None,
    pictures: int,
    compiled: bool,
) -> None:
    """Refuse what cannot be meant, before any file is read.

    Raises:
        InputError: It names the argument.
    """
    if model is not None:
        if model not in MODELS:
            raise InputError(f"unknown model {model!r}, expected {' or '.join(MODELS)}")
        check_network(MODELS[model], model)
        if size is not None:
            check_size(MODELS[model], size)
    if not frameworks or len(set(frameworks)) < len(frameworks):
        raise InputError(f"frameworks {','.join(frameworks)!r}, expected each once")
    for name in frameworks:
        if name not in FRAMEWORKS:
            raise InputError(f"unknown framework {name!r}, expected {' or '.join(FRAMEWORKS)}")
    check_compiled(compiled, frameworks)
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}, expected {' or '.join(DTYPES)}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, expected 1 or more images")
    if pictures < 0:
        raise InputError(f"pictures is {pictures}, expected 0 or more")


def check_size(config: Config, size: Pair) -> None:
    """Refuse images that the network cannot process.

    Raises:
        InputError: It says the size and what is needed.
    """
    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(f"size: {error}") from error
