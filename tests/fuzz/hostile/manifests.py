"""Manifests that lie beside a file and were not written by us."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.hostile import Kind, Place
from tests.fuzz.samples import sample
from weights_convert.formats import sidecar


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

    def outer(**fields: Any) -> bytes:
        """Sealed as ours are: who writes a hostile file can do that too."""
        return sidecar.seal(entries | fields).encode()

    def changed(**fields: Any) -> bytes:
        return outer(manifest=json.loads(sidecar.seal(manifest | fields)))

    anonymous = {k: v for k, v in manifest.items() if k != "network"}
    deep = b"[" * 10**5 + b"]" * 10**5
    config = changed(config="CONFIG")
    fields: dict[str, dict[str, Any]] = {
        "a version of the future": {"version": 10**6},
        "a version of text": {"version": "1"},
        "tensors that are a list": {"tensors": [1]},
        "tensors of numbers": {"tensors": dict.fromkeys(manifest["tensors"], 1)},
        "an optimizer that is a list": {"optimizer": [1]},
        "an optimizer without a kind": {"optimizer": {}},
        "a preprocessing that is a list": {"preprocessing": [1]},
        "means that are a map": {"preprocessing": {"mean": {}}},
        "a network that is a list": {"network": [[]]},
        "a config that is a list": {"config": [1]},
        "a naming scheme of a number": {"naming_scheme": 7},
        "labels that are a list": {"labels": ["void-last"]},
        "labels that are a map": {"labels": {"a": 1}},
        "a network with escapes": {"network": "\x1b[2J\n"},
        "half a letter": {"network": "\ud800"},
    }
    return {name: changed(**lies) for name, lies in fields.items()} | {
        "empty": b"",
        "no JSON": b"{nothing}",
        "not UTF-8": b'{"tool": "\xff\xfe"}',
        "JSON 100,000 deep": deep,
        "a config 100,000 deep": config.replace(b'"CONFIG"', deep),
        "a number of a million digits": config.replace(b'"CONFIG"', b"9" * 10**6),
        "no network": outer(manifest=json.loads(sidecar.seal(anonymous))),
        "a manifest that is a list": outer(manifest=[1]),
        "no manifest": sidecar.seal({k: v for k, v in entries.items() if k != "manifest"}).encode(),
        "a hash that is a list": outer(file_sha256=[1]),
        "what was before is a list": outer(file_sha256="0", before=[1]),
        "cut short": text[:-10],
        "more behind": text + b"{}",
    }


def _link(place: Place, manifest: Path) -> None:
    secret = place.outside / "manifest.json"
    secret.write_bytes(whole()[1])
    manifest.symlink_to(secret)


def _large(place: Place, manifest: Path) -> None:
    del place
    with manifest.open("wb") as file:
        file.truncate(2**30)


# Name -> what lies in place of a manifest's file.
OTHERS: dict[str, Callable[[Place, Path], object]] = {
    "a link that leaves the folder": _link,
    "a link to nothing": lambda _, manifest: manifest.symlink_to("x"),
    "a pipe": lambda _, manifest: os.mkfifo(manifest),
    "a folder": lambda _, manifest: manifest.mkdir(),
    "1 GiB of nothing": _large,
}


def _make(name: str, place: Place) -> None:
    """An ordinary checkpoint, and what lies beside it."""
    place.file.write_bytes(whole()[0])
    manifest = sidecar.place(place.file)
    if name in OTHERS:
        OTHERS[name](place, manifest)
    else:
        manifest.write_bytes(texts()[name])


def kinds() -> Iterator[Kind]:
    """All."""
    for name in (*texts(), *OTHERS):
        yield Kind("manifest", name, functools.partial(_make, name))
