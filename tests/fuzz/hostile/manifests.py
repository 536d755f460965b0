"""Manifests that lie beside a file and were not written by us."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.hostile.kinds import Kind, Place
from tests.fuzz.samples import sample
from weights_convert.formats import sidecar

GROUP = "manifest"


@functools.cache
def whole() -> tuple[bytes, bytes]:
    """A checkpoint of a network, and its manifest."""
    with tempfile.TemporaryDirectory(prefix="parity-manifest-") as folder:
        path = sample(Path(folder), "npz")
        return path.read_bytes(), sidecar.place(path).read_bytes()


def texts() -> dict[str, bytes]:
    """Name -> what the manifest holds."""
    text = whole()[1]
    entries = sidecar.unseal(text.decode().removesuffix("\n"), "it")
    manifest = {k: v for k, v in entries["manifest"].items() if k != sidecar.SEAL}

    def sealed(manifest: dict[str, Any]) -> bytes:
        """Sealed as ours are: who writes a hostile file can do that too."""
        inner = json.loads(sidecar.seal(manifest))
        return sidecar.seal(entries | {"manifest": inner}).encode()

    def changed(**fields: Any) -> bytes:
        return sealed(manifest | fields)

    def config(value: bytes) -> bytes:
        return changed(config="CONFIG").replace(b'"CONFIG"', value)

    deep = b"[" * 10**5 + b"]" * 10**5
    return {
        "empty": b"",
        "no JSON": b"{nothing}",
        "not UTF-8": b'{"tool": "\xff\xfe"}',
        "JSON 100,000 deep": deep,
        "a config 100,000 deep": config(deep),
        "a number of a million digits": config(b"9" * 10**6),
        "a version of the future": changed(version=10**6),
        "a version of text": changed(version="1"),
        "no network": sealed({k: v for k, v in manifest.items() if k != "network"}),
        "a manifest that is a list": sidecar.seal(entries | {"manifest": [1]}).encode(),
        "no manifest": sidecar.seal({k: v for k, v in entries.items() if k != "manifest"}).encode(),
        "a hash that is a list": sidecar.seal(entries | {"file_sha256": [1]}).encode(),
        "what was before is a list": sidecar.seal(
            entries | {"file_sha256": "0", "before": [1]}
        ).encode(),
        "tensors that are a list": changed(tensors=[1]),
        "tensors of numbers": changed(tensors=dict.fromkeys(manifest["tensors"], 1)),
        "an optimizer that is a list": changed(optimizer=[1]),
        "an optimizer without a kind": changed(optimizer={}),
        "a preprocessing that is a list": changed(preprocessing=[1]),
        "means that are a map": changed(preprocessing={"mean": {}}),
        "a network that is a list": changed(network=[[]]),
        "a config that is a list": changed(config=[1]),
        "a naming scheme of a number": changed(naming_scheme=7),
        "labels that are a list": changed(labels=["void-last"]),
        "labels that are a map": changed(labels={"a": 1}),
        "a network with escapes": changed(network="\x1b[2J\n"),
        "cut short": text[:-10],
        "more behind": text + b"{}",
        "half a letter": changed(network="\ud800"),
    }


def beside(make: Callable[[Place], None]) -> Callable[[Place], None]:
    """An ordinary checkpoint, and what the function puts beside it."""

    def both(place: Place) -> None:
        place.file.write_bytes(whole()[0])
        make(place)

    return both


def _text(name: str) -> Callable[[Place], None]:
    return beside(lambda place: _write(place, texts()[name]))


def _write(place: Place, data: bytes) -> None:
    sidecar.place(place.file).write_bytes(data)


def _link(place: Place) -> None:
    secret = place.outside / "manifest.json"
    secret.write_bytes(whole()[1])
    sidecar.place(place.file).symlink_to(secret)


def _large(place: Place) -> None:
    with sidecar.place(place.file).open("wb") as file:
        file.truncate(2**30)


def kinds() -> Iterator[Kind]:
    """All."""
    for name in texts():
        yield Kind(GROUP, name, _text(name))
    yield Kind(GROUP, "a link that leaves the folder", beside(_link))
    yield Kind(GROUP, "a link to nothing", beside(lambda p: sidecar.place(p.file).symlink_to("x")))
    yield Kind(GROUP, "a pipe", beside(lambda p: os.mkfifo(sidecar.place(p.file))))
    yield Kind(GROUP, "a folder", beside(lambda p: sidecar.place(p.file).mkdir()))
    yield Kind(GROUP, "1 GiB of nothing", beside(_large))
