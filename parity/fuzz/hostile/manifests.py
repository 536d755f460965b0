"""Manifests that lie beside a file and were not written by us."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from parity.fuzz.hostile.kinds import Kind, Place
from parity.fuzz.samples import sample
from weights_convert import formats

GROUP = "manifest"


@functools.cache
def whole() -> tuple[bytes, bytes]:
    """A checkpoint of a network, and its manifest."""
    with tempfile.TemporaryDirectory(prefix="parity-manifest-") as folder:
        path = sample(Path(folder), "npz")
        return path.read_bytes(), formats.beside(path).read_bytes()


def texts() -> dict[str, bytes]:
    """Name -> what the manifest holds."""
    text = whole()[1]
    entries = json.loads(text)

    def changed(**fields: Any) -> bytes:
        return json.dumps(entries | fields).encode()

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
        "no network": json.dumps({k: v for k, v in entries.items() if k != "network"}).encode(),
        "a network that is a list": changed(network=[[]]),
        "a config that is a list": changed(config=[1]),
        "a dialect of a number": changed(dialect=7),
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
    formats.beside(place.file).write_bytes(data)


def _link(place: Place) -> None:
    secret = place.outside / "manifest.json"
    secret.write_bytes(whole()[1])
    formats.beside(place.file).symlink_to(secret)


def _large(place: Place) -> None:
    with formats.beside(place.file).open("wb") as file:
        file.truncate(2**30)


def kinds() -> Iterator[Kind]:
    """All."""
    for name in texts():
        yield Kind(GROUP, name, _text(name))
    yield Kind(GROUP, "a link that leaves the folder", beside(_link))
    yield Kind(GROUP, "a link to nothing", beside(lambda p: formats.beside(p.file).symlink_to("x")))
    yield Kind(GROUP, "a pipe", beside(lambda p: os.mkfifo(formats.beside(p.file))))
    yield Kind(GROUP, "a folder", beside(lambda p: formats.beside(p.file).mkdir()))
    yield Kind(GROUP, "1 GiB of nothing", beside(_large))
