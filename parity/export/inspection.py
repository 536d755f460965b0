"""Description of an ONNX file, whether or not it is one of our networks. Nothing is run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.spec.errors import InputError

if TYPE_CHECKING:
    import onnx

    from weights_convert import Manifest

# How a file begins: with the version of its form, a small number, and a field that may follow it.
VERSION, NEXT = b"\x08", b"\x12\x1a\x22\x28\x32\x3a\x42"


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A file's facts.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Hash of the file.
        version: Version of the ONNX format.
        producer: What wrote it, with its version.
        opsets: Domain -> version of its operators; ONNX's own domain is empty.
        nodes: Number of nodes in its graph.
        inputs: Name -> dtype and shape; an axis of no fixed length is a name, or `?`.
        outputs: As `inputs`.
        tensors: Name -> dtype and shape of the weights.
        manifest: The file's manifest; None without one. Its seal is whole; its hashes are of the
            checkpoint's tensors, which an export folds into others.
        metadata: Text stored with the graph, without our manifest.
    """

    path: Path
    bytes: int
    sha256: str
    version: int
    producer: str
    opsets: dict[str, int]
    nodes: int
    inputs: dict[str, tuple[str, tuple[int | str, ...]]]
    outputs: dict[str, tuple[str, tuple[int | str, ...]]]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    manifest: Manifest | None
    metadata: dict[str, str]

    @property
    def numbers(self) -> int:
        """Return how many numbers the weights have."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Dtype -> how many of the weights have it."""
        return dict(Counter(dtype for dtype, _ in self.tensors.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict for JSON."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for group in ("inputs", "outputs", "tensors"):
            found[group] = {n: {"dtype": d, "shape": s} for n, (d, s) in found[group].items()}
        manifest = self.manifest.to_dict() if self.manifest else None
        own = {"path": str(self.path), "format": "onnx", "numbers": self.numbers}
        return found | own | {"manifest": manifest}


def is_onnx(path: Path) -> bool:
    """Return whether a file begins as an ONNX file does.

    Raises:
        InputError: It cannot be read.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    # A safetensors file may begin so, with the length of its header: eight bytes and a brace.
    begins = len(head) > 2 and head[:1] == VERSION and 0 < head[1] < 128 and head[2] in NEXT
    return begins and head[8:] != b"{"


def inspect(path: str | Path) -> Inspection:
    """Look into an ONNX file.

    Raises:
        InputError: It is not there, damaged, not ONNX, names other files, or would grow beyond
            measure.
    """
    from parity.export.reading import read
    from weights_convert import manifest as manifests
    from weights_convert.formats import KEY

    path = Path(path)
    data, model = read(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Inspection(
        path=path,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opsets={entry.domain: entry.version for entry in model.opset_import},
        nodes=len(model.graph.node),
        inputs=dict(map(_value, model.graph.input)),
        outputs=dict(map(_value, model.graph.output)),
        tensors={t.name: (_dtype(t.data_type), tuple(t.dims)) for t in model.graph.initializer},
        manifest=manifests.parse(metadata, path),
        metadata={key: text for key, text in metadata.items() if key != KEY},
    )


def _value(value: onnx.ValueInfoProto) -> tuple[str, tuple[str, tuple[int | str, ...]]]:
    """Name, dtype and shape of an input or output."""
    kind = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in kind.shape.dim
    )
    return value.name, (_dtype(kind.elem_type), shape)


def _dtype(number: int) -> str:
    """NumPy's name of a dtype, or that there is none."""
    from onnx import helper

    try:
        return helper.tensor_dtype_to_np_dtype(number).name
    except KeyError:
        return f"dtype {number}"
