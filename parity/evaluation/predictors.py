"""A network that predicts images, from a checkpoint in either framework or from an ONNX file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from parity.data.own.description import named
from parity.evaluation import checkpoints, miou, onnx_predictor
from parity.evaluation.onnx_predictor import OnnxClasses
from parity.export.reading import open_network
from parity.spec.datasets import BUILT_IN, DataSet
from parity.spec.errors import InputError
from parity.spec.models import CLASSIFIERS, MODELS, Config, check_takes_images
from parity.spec.preprocessing import Preprocessing, of_data
from parity.training.progress import KEY
from weights_convert import Manifest, formats, notes
from weights_convert.assumptions import Assumed, Assumptions, assume
from weights_convert.checkpoint import understand
from weights_convert.wrapping import ANY, Choice

Pair = tuple[int, int]
FRAMEWORKS = ("torch", "jax", "onnx")
ONNX = ".onnx"


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network, ready to predict.

    Attributes:
        path: Its file.
        framework: One of `FRAMEWORKS`.
        outputs: Number of its outputs.
        pixels: Whether it predicts a class for each pixel, not for each image.
        assumed: The assumptions on its inputs and outputs.
        fixed: Whether it takes images of one size only, that of `assumed`.
        check_size: Refuses a height and a width that it cannot take, with a `ValueError`.
        predict: Images (1, H, W, 3) uint8 to outputs (1, H', W'), or (1,) for whole images.
        said: The data set that the file describes, if it does.
        notes: Remarks on the file; see `weights_convert.notes`.
    """

    path: Path
    framework: str
    outputs: int
    pixels: bool
    assumed: Assumptions
    fixed: bool
    check_size: Callable[[int, int], None]
    predict: Callable[[np.ndarray], np.ndarray]
    said: DataSet | None = None
    notes: tuple[str, ...] = ()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the output of each pixel (H', W'), or of the image (), int.

        Args:
            image: (H, W, 3) uint8, of a size that the network takes.

        Raises:
            FloatingPointError: A logit is not finite.
            InputError: ONNX Runtime refuses.
        """
        return np.asarray(self.predict(image[None])[0])


def opened(
    path: Path,
    framework: str | None = None,
    model: str | None = None,
    data: DataSet | None = None,
    labels: str | None = None,
    size: Pair | None = None,
    choice: Choice = ANY,
    compile_with: Callable[[str], object] | None = None,
) -> Predictor:
    """Open a network's file.

    Args:
        path: A checkpoint in any format that `weights_convert.load` reads, or an ONNX file.
        framework: One of `FRAMEWORKS`; ONNX Runtime for an ONNX file if not given, else PyTorch.
        model: The network's name; detected from the names of its tensors if not given.
        data: The data set of its classes, if the user specifies it.
        labels: The order of its outputs, if the user specifies it.
        size: Height and width of its images, if the user specifies them.
        choice: Which of the checkpoint's tensors to read; see `weights_convert.load`.
        compile_with: If given, PyTorch's network is compiled, and it is told how long that took.

    Raises:
        InputError: The file cannot be used, or not by this framework.
    """
    framework = framework_of(path, framework, compile_with is not None)
    if model is not None and model not in MODELS:
        raise InputError(f"unknown model {model!r}, expected one of {', '.join(MODELS)}")
    if framework == "onnx":
        return _onnx(path, data, labels, size)
    contents = formats.read(path, key=choice.key, foreign=True)
    recipe = None
    if KEY in contents.metadata and model is None:  # a run's, which says its network
        held = checkpoints.read(path, None, None, choice)
        checkpoint, recipe = held.checkpoint, held.recipe
    else:
        checkpoint = understand(contents, path, model, choice=choice)
    config = checkpoint.config
    check_takes_images(config, "parity predict")
    pixels = config.family not in CLASSIFIERS
    said = recipe.dataset if recipe else _named(checkpoint.manifest)
    known = data_for(config.num_classes, pixels, data, said)
    if recipe and known == said:
        assumed = checkpoints.assumptions(path, held, labels, size)
    else:
        assumed = assume(
            config,
            checkpoint.manifest,
            path,
            known.classes if known else None,
            labels=labels,
            size=size,
            assumed_pixels=_of_data(known, config),
        )
    miou.check_size(config, assumed.size.value)
    predict = miou.predictor(framework, checkpoint, "float32", assumed.pixels.value)
    if framework == "torch":
        predict.records = False  # pictures have any sizes, and recording takes longer than one
    if framework == "torch" and compile_with:
        predict.records = True
        predict.compile(compile_with)
    return Predictor(
        path,
        framework,
        config.num_classes,
        pixels,
        assumed,
        config.family == "vit",
        config.check_input,
        predict,
        known,
        tuple(notes.lines(checkpoint)),
    )


def framework_of(path: Path, framework: str | None, compiled: bool = False) -> str:
    """Return what runs a network's file: the framework given, or the file's own.

    Args:
        path: The file, as for `opened`.
        framework: As for `opened`.
        compiled: Whether `torch.compile` is to compile it.

    Raises:
        InputError: It is unknown, does not run such a file, or is not PyTorch, and `compiled`.
    """
    is_onnx = path.suffix.lower() == ONNX
    framework = framework or ("onnx" if is_onnx else "torch")
    if framework not in FRAMEWORKS:
        raise InputError(f"framework {framework!r}, expected {', '.join(FRAMEWORKS)}")
    if is_onnx != (framework == "onnx"):
        wanted = "an ONNX file" if framework == "onnx" else "a checkpoint; --framework onnx runs it"
        raise InputError(f"{path}: framework {framework} needs {wanted}")
    if compiled and framework != "torch":
        runs = "ONNX Runtime" if is_onnx else "JAX, which always compiles"
        raise InputError(f"--compile is of PyTorch's network; {path} is run by {runs}")
    return framework


def _onnx(path: Path, data: DataSet | None, labels: str | None, size: Pair | None) -> Predictor:
    network = open_network(path)
    if network.batch not in (None, 1):
        raise InputError(f"{path} takes {network.batch} images at a time, expected 1")
    if size not in (None, network.size):
        raise InputError(f"{path} takes images of {'x'.join(map(str, network.size))} only")
    manifest = network.manifest
    number = manifest.config.get("num_classes") if manifest else None
    pixels = manifest is None or manifest.network not in CLASSIFIERS
    known = data_for(number, pixels, data, _named(manifest))
    outputs = number or (len(known.classes) + known.pixels if known else 0)
    if not outputs:
        raise InputError(f"{path} does not say its classes: --dataset NAME, or a TOML file")
    assumed = onnx_predictor.assumptions(network, outputs, known.classes if known else None, labels)

    def check_size(height: int, width: int) -> None:
        if (height, width) != network.size:
            wanted = "x".join(map(str, network.size))
            raise ValueError(f"input is {height}x{width}, but {path} takes {wanted} only")

    predict = OnnxClasses(network, assumed.pixels.value, outputs, not pixels)
    return Predictor(path, "onnx", outputs, pixels, assumed, True, check_size, predict, known)


def _of_data(data: DataSet | None, config: Config) -> Assumed[Preprocessing] | None:
    """Return the preprocessing of a user's data set that states one, for `assume`."""
    if data is None or (data.mean is None and data.std is None):
        return None
    return Assumed(of_data(config, None, data), f"data set {data.name}")


def _named(manifest: Manifest | None) -> DataSet | None:
    """Return the data set whose classes a manifest names."""
    names = manifest.preprocessing.classes if manifest else None
    if names is None or manifest is None:
        return None
    void = manifest.preprocessing.void
    classes = tuple(name for i, name in enumerate(names) if i != void)
    for data in BUILT_IN.values():
        if data.classes == classes:
            return data
    return named(classes, manifest.network not in CLASSIFIERS)


def data_for(
    outputs: int | None, pixels: bool, asked: DataSet | None, said: DataSet | None
) -> DataSet | None:
    """Return the data set whose classes a network predicts; None if it is unknown.

    It is the one that the user asks for, else the one that the file describes, else the one of the
    published recipes with as many classes.

    Args:
        outputs: Number of the network's outputs, if it is known.
        pixels: Whether each pixel has a class, not the image.
        asked: The user's.
        said: The file's.

    Raises:
        InputError: The user's has another number of classes.
    """
    void = (0, 1) if pixels else (0,)
    for data in (asked, said, *BUILT_IN.values()):
        if data is None:
            continue
        fits = data.pixels == pixels and outputs in [len(data.classes) + n for n in void]
        if fits or (data is asked and outputs is None and data.pixels == pixels):
            return data
        if data is asked:
            kinds = {True: "pixels", False: "whole images"}
            raise InputError(
                f"the network has {outputs} outputs for {kinds[pixels]}, but data set {data.name}"
                f" has {len(data.classes)} classes of {kinds[data.pixels]}"
            )
    return None
