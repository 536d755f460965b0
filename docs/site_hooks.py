"""Pages of the site that are made of other files: one per cause, and those at the top."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from parity.diagnosis.catalogue import CATALOGUE, PROVED_AS, Fault
from parity.diagnosis.remedies import Remedy, remedies
from parity.report.findings import RUNGS
from parity.spec.models import LANGUAGE, MODELS, Config
from parity.spec.preprocessing import PLAIN, published
from parity.spec.recipes import RECIPES
from parity.spec.tensors import STATISTICS

ROOT = Path(__file__).resolve().parents[1]
TOP = {"CONTRIBUTING.md": "contributing.md", "ARCHITECTURE.md": "architecture.md"}
TOP |= {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
RUNG_NAMES = {**RUNGS, "L6": "data and scores"}
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file of `docs/` holds; MkDocs calls this."""
    for name, text in (*faults(), *from_top(), ("networks.md", networks())):
        files.append(File.generated(config, name, content=text))
    return files


def faults() -> Iterator[tuple[str, str]]:
    """Yield the page of each cause that can be proved, and the table of all."""
    injected, others = [], []
    for fault, entry in CATALOGUE.items():
        rung = f"{entry.rung}, {RUNG_NAMES[entry.rung]}"
        title = capitalized(entry.title)
        size = remedies()[fault].size
        injected.append(f"| {entry.number} | [{title}]({fault}.md) | {rung} | {size} |")
        facts = [
            ("lowest rung that finds it", rung),
            ("number in the catalogue", f"{entry.number}"),
            ("name in reports", names(fault)),
        ]
        yield f"failures/{fault}.md", cause(title, remedies()[fault], facts)
    for name, texts in sorted(remedies().items(), key=lambda item: item[1].title):
        if texts.title:
            title = capitalized(texts.title)
            others.append(f"| [{title}]({name}.md) | {texts.size} |")
            yield f"failures/{name}.md", cause(title, texts, [("name in reports", f"`{name}`")])
    yield (
        "failures/index.md",
        f"""# What a failure means

Mistakes that are made when networks are carried from one framework to another. If `parity check`
says `proved:`, the page of that cause says why the mistake happens and what to change.

## Faults that are injected

`parity faults` injects each of them, and counts how many the checks find.

| | fault | lowest rung that finds it | size, as a relative L2 change |
|---|---|---|---|
{chr(10).join(injected)}

## Other causes that are proved

| cause | size, as a relative L2 change |
|---|---|
{chr(10).join(others)}
""",
    )


def capitalized(title: str) -> str:
    """Return a title that begins a line."""
    return title[0].upper() + title[1:]


def cause(title: str, texts: Remedy, facts: Iterable[tuple[str, str]]) -> str:
    """Return the page of a cause.

    Args:
        title: Its heading.
        texts: What is said about it.
        facts: More rows of its table.
    """
    rows = [("size, as a relative L2 change", texts.size), *facts]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""# {title}

**What you see.** {texts.symptom}

**Why.** {texts.why}

**What to change.** {texts.fix}

| | |
|---|---|
{table}

How a cause is proved: [experiments on the reference](../causes.md).
"""


SIZES = {
    "enet": "7x7 and larger",
    "enet-mindspore": "multiples of 8",
    "erfnet": "multiples of 8",
    "erfnet-imagenet": "multiples of 8, 224x224 to 232x232",
    "icnet": "4x4 and larger",
    "genet": "29x29 to 60x60",
    "genet-theta": "32x32 to 60x60",
    "genet-extent": "29x29 to 60x60",
    "vit": "32x32",
    "decoder": "1 token and more",
}


# Where weights that others published are; the addresses are on the page of references. The longest
# beginning of a network's name counts.
WEIGHTS = {
    "enet": "[the authors'](references.md#published-checkpoints)",
    "enet-mindspore": "none found",
    "erfnet": "[the authors'](references.md#published-checkpoints)",
    "erfnet-mindspore": "none found",
    "icnet": "[the authors'](references.md#published-checkpoints)",
    "icnet-resnet101": "none found",
    "genet": "none found",
    "vit": "no published network",
    "decoder": "no published network",
}
# Accuracies that this project measured: PyTorch's side, and JAX's.
OURS = {"enet-camvid": "[34.59, 34.10](results/camvid.md) after 10 of 300 epochs, at 180x240"}
DATA_SETS = {
    "cityscapes": "Cityscapes' 19 train ids",
    "camvid": "CamVid's 11",
    "cifar10": "CIFAR-10's 10",
}
VOID = {"void-first": "; void is output 0", "void-last": "; void is the last", None: "; no void"}


COLUMNS = (
    *("name", "sizes of inputs", "parameters", "outputs, in order"),
    *("what published weights expect of an image", "published weights"),
    *("published accuracy, percent", "ours: PyTorch, JAX"),
)


def nearest(table: dict[str, str], name: str) -> str:
    """Return the entry of a table with the longest name that a network's begins with."""
    return table[max((key for key in table if name.startswith(key)), key=len)]


def classes(name: str, config: Config) -> str:
    """Return in words what a network's outputs stand for."""
    if config.family in LANGUAGE:
        return f"{config.num_classes} tokens"
    recipes = {r.stages[-1].model: r for r in reversed(RECIPES.values())}
    recipe = recipes.get(name.removesuffix("-encoder")) or recipes.get(config.family)
    if recipe is None or config.family == "erfnet-imagenet":
        return f"{config.num_classes} classes" + (" of ImageNet" if "imagenet" in name else "")
    return DATA_SETS[recipe.data] + VOID[recipe.labels]


def networks() -> str:
    """Return the page with the table of all networks."""
    scores: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        if recipe.published is not None:
            text = f"{recipe.published:.2f} (`{recipe.name}`)"
            scores.setdefault(recipe.stages[-1].model, []).append(text)
    rows = []
    for name, config in MODELS.items():
        count = sum(
            math.prod(tensor.shape)
            for _, tensor in config.tensors()
            if tensor.kind not in STATISTICS
        )
        cells = (
            f"`{name}`",
            nearest(SIZES, name),
            f"{count:,}",
            classes(name, config),
            images(config),
            nearest(WEIGHTS, name),
            "; ".join(scores.get(name, ["none"])),
            OURS.get(name, "not trained here"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    head = " | ".join(COLUMNS)
    table = "\n".join([f"| {head} |", f"|{'---|' * len(COLUMNS)}", *rows])
    return f"""---
hide: [toc]
---

# Networks

`parity summary NAME` prints the layers of one, `parity check NAME` compares its two sides.

{table}

Published accuracies are mean IoU on the validation images, or top-1 accuracy on the test images,
beside the recipe that `parity train` repeats; where they were published:
[references](references.md). ICNet's parameters hold 2,049,000 of a layer that is never used, which
its published checkpoints have.
The order of train ids is road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle. An output for
void is never counted.

On the five validation images on which it was tried here, the published checkpoint of `enet` has a
mean IoU of 49.72 over the 17 classes that they show, with PyTorch and with JAX (`parity miou`); the
published implementation gives the same confusion matrices. Questions about all this:
[questions](questions.md).
"""


def images(config: Config) -> str:
    """Return in words what a network's published weights expect of an image."""
    if config.family in LANGUAGE:
        return "token ids"
    expected = published(config, None)
    if (expected.mean, expected.std) == (PLAIN.mean, PLAIN.std):
        return f"{expected.channels} in [0, 1]"
    mean, std = (", ".join(f"{x:g}" for x in xs) for xs in (expected.mean, expected.std))
    return f"{expected.channels} in [0, 1], minus {mean}, over {std}"


def names(fault: Fault) -> str:
    """Return the names under which a proof of a fault appears in JSON."""
    return ", ".join(f"`{name}`" for name in (fault, *sorted(PROVED_AS.get(fault, ()))))


def from_top() -> Iterator[tuple[str, str]]:
    """Yield the pages at the top of the repository, with their links as the site has them."""
    for name, page in TOP.items():
        yield page, LINK.sub(_on_site, (ROOT / name).read_text(encoding="utf-8"))


def _on_site(link: re.Match[str]) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    if target in TOP:
        return f"[{text}]({TOP[target]}{anchor})"
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor})"
    return f"`{target}`"
