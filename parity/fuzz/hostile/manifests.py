"""Manifests that lie beside a file and were not written by us."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from parity.fuzz.hostile.archives import arrays
from parity.fuzz.hostile.kinds import Kind, Place
from parity.fuzz.hostile.zips import archive
from weights_convert import formats
from weights_convert.manifest import TOOL, VERSION

GROUP = "manifest"
WHOLE = {
    "tool": TOOL,
    "version": VERSION,
    "network": "enet",
    "config": {},
    "dialect": "torch",
    "labels": None,
    "source_sha256": "0" * 64,
    "tensors_sha256": "0" * 64,
}


def texts() -> dict[str, bytes]:
    """Name -> what the manifest holds."""

    def changed(**fields: Any) -> bytes:
        return json.dumps(WHOLE | fields).encode()

    deep = b"[" * 10**5 + b"]" * 10**5
    whole = changed()
    return {
        "empty": b"",
        "no JSON": b"{nothing}",
        "not UTF-8": b'{"tool": "\xff\xfe"}',
        "JSON 100,000 deep": deep,
        "a config 100,000 deep": whole.replace(b'"config": {}', b'"config": ' + deep),
        "a number of a million digits": whole.replace(b'"config": {}', b'"config": ' + b"9" * 10**6),
        "a version of the future": changed(version=10**6),
        "a version of text": changed(version="1"),
        "no network": json.dumps({k: v for k, v in WHOLE.items() if k != "network"}).encode(),
        "a network that is a list": changed(network=[[]]),
        "a config that is a list": changed(config=[1]),
        "a dialect of a number": changed(dialect=7),
        "labels that are a list": changed(labels=["void-last"]),
        "labels that are a map": changed(labels={"a": 1}),
        "a network with escapes": changed(network="\x1b[2J\n"),
        "cut short": whole[:-10],
        "more behind": whole + b"{}",
        "half a letter": changed(network="\ud800"),
    }


def beside(make: Callable[[Place], None]) -> Callable[[Place], None]:
    """An ordinary archive, and what the function puts beside it."""

    def both(place: Place) -> None:
        place.file.write_bytes(archive(arrays()))
        make(place)

    return both


def _text(data: bytes) -> Callable[[Place], None]:
    return beside(lambda place: _write(place, data))


def _write(place: Place, data: bytes) -> None:
    formats.beside(place.file).write_bytes(data)


def _link(place: Place) -> None:
    secret = place.outside / "manifest.json"
    secret.write_text(json.dumps(WHOLE))
    formats.beside(place.file).symlink_to(secret)


def _large(place: Place) -> None:
    with formats.beside(place.file).open("wb") as file:
        file.truncate(2**30)


def kinds() -> Iterator[Kind]:
    """All."""
    for name, data in texts().items():
        yield Kind(GROUP, name, _text(data))
    yield Kind(GROUP, "a link that leaves the folder", beside(_link))
    yield Kind(GROUP, "a link to nothing", beside(lambda p: formats.beside(p.file).symlink_to("x")))
    yield Kind(GROUP, "a pipe", beside(lambda p: os.mkfifo(formats.beside(p.file))))
    yield Kind(GROUP, "a folder", beside(lambda p: formats.beside(p.file).mkdir()))
    yield Kind(GROUP, "1 GiB of nothing", beside(_large))
