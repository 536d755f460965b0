"""A small network's shards, rules for it, and conversions by them, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from weights_convert import rules
from weights_convert.streaming.by_rules import planner
from weights_convert.streaming.conversion import Conversion, convert
from weights_convert.streaming.opening import open_source

# Renamed, transposed, split, stacked over layers; see `weights_convert.rules`.
RULES = r"""
rules = [
  ['emb\.weight', 'embed.embedding'],
  ['head\.weight', 'head.kernel', 'o i -> i o'],
  ['layers\.(?P<l>\d+)\.qkv', ['layers.q', 'layers.k', 'layers.v'], 'l (n h) i -> n l i h'],
  ['layers\.(?P<l>\d+)\.norm', 'layers.scale', 'l c -> l c'],
  ['(fp8|half|count)', '\1_of_port'],
]
"""


def drawn() -> dict[str, torch.Tensor]:
    """Return tensors of several dtypes; NaN, infinities and -0 are among their numbers."""
    generator = torch.Generator().manual_seed(0)

    def bits(*shape: int) -> torch.Tensor:
        drawn = torch.randint(-(2**15), 2**15, shape, generator=generator, dtype=torch.int16)
        return drawn.view(torch.bfloat16)

    found = {"emb.weight": bits(40, 8), "head.weight": bits(40, 8)}
    for i in range(3):
        found |= {f"layers.{i}.qkv": bits(12, 8), f"layers.{i}.norm": bits(8)}
    eight = torch.randint(0, 256, (6, 4), generator=generator, dtype=torch.uint8)
    found |= {"fp8": eight.view(torch.float8_e4m3fn), "count": torch.tensor(2**40)}
    return found | {"half": torch.tensor([1.5, -0.0, float("nan")], dtype=torch.float16)}


def write_shards(
    folder: Path, tensors: dict[str, torch.Tensor], suffix: str = "safetensors"
) -> Path:
    """Write shards of three tensors each with an index, as Hugging Face's libraries do."""
    folder.mkdir()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, where = list(tensors), {}
    for start in range(0, len(names), 3):
        file = f"{stem}-{start // 3 + 1:05}-of-{-(-len(names) // 3):05}.{suffix}"
        held = {name: tensors[name] for name in names[start : start + 3]}
        where |= dict.fromkeys(held, file)
        if suffix == "safetensors":
            save_file(held, folder / file, {"format": "pt"})
        else:
            torch.save(held, folder / file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def rules_file(folder: Path, text: str = RULES) -> Path:
    path = folder / "rules.toml"
    path.write_text(text)
    return path


def carry(source: Path, target: Path, text: str = RULES, **options: object) -> Conversion:
    """Convert by rules that are written next to the target."""
    table = rules.load(rules_file(target.parent, text))
    return convert(source, target, planner(table), **options)  # type: ignore[arg-type]  # of any type


def bits(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return each tensor's dtype, shape and bytes."""
    source = open_source(path)
    return {
        name: (tensor.dtype, tensor.shape, np.ascontiguousarray(source.load(name)).tobytes())
        for name, tensor in source.tensors.items()
    }
