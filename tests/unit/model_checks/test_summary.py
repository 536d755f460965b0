"""Both sides' layers beside each other, and what each of them sees of the image."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import torch_impl.models
from parity.capture.records import count_name
from parity.capture.torch_side import tensors_of
from parity.cli import main
from parity.model_checks.receptive import Fields, mark, of_image, through
from parity.model_checks.summary import summary
from parity.spec.models import MODELS, Config
from parity.spec.networks.enet import ENET_BLOCKS
from parity.spec.networks.erfnet import Block
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import ICNetConfig

ERFNET = {
    "encoder": (Block("down", 3, 16), Block("down", 16, 24), Block("nb1d", 24, 24, dilation=2)),
    "decoder": (Block("up", 24, 16),),
}
NAMES = ("downsample1_0", "regular1_1", "upsample5_0")
BLOCKS = {"blocks": tuple(b for b in ENET_BLOCKS if b.name in NAMES)}
# Every way of moving pixels, at sizes that no stride divides where that is legal.
SMALL: dict[str, tuple[Config, tuple[int, int]]] = {
    "enet": (dataclasses.replace(MODELS["enet"], **BLOCKS), (36, 28)),
    "enet-mindspore": (dataclasses.replace(MODELS["enet-mindspore"], **BLOCKS), (32, 24)),
    "erfnet": (dataclasses.replace(MODELS["erfnet"], **ERFNET), (40, 56)),
    "erfnet-mindspore": (dataclasses.replace(MODELS["erfnet-mindspore"], **ERFNET), (40, 56)),
    "genet": (GENetConfig(depth=10, width=1, extent=4), (32, 32)),
    "icnet": (ICNetConfig(num_classes=5, blocks=(1, 1, 1, 2), width=4, classifier=3), (64, 96)),
}


class Sees:
    """What the layers of a PyTorch network say that they see, and what they do see.

    Where one row of the image is replaced by large numbers, exactly the rows that see it change;
    a max-pool's windows and a ReLU's may hide a channel, and not all of many.
    """

    def __init__(self, config: Config, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        self.model = torch_impl.models.NETWORKS[config.family](config).eval().double()
        self.size = size
        self.outputs: dict[str, torch.Tensor] = {}
        self.said: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, layer in self.model.named_modules():
            if name and not list(layer.children()):
                layer.register_forward_hook(
                    lambda *given, name=name: self.keep(name, *given), with_kwargs=True
                )

    def keep(self, name: str, layer: torch.nn.Module, args: object, kwargs: object, out: object):
        first, *_ = tensors = tensors_of(out)
        call = count_name(name, self.outputs)
        self.outputs[call] = first
        found = through(layer, (args, kwargs), first) if self.marking else None
        if found:
            self.said[call] = found.spans[0]
            for tensor in tensors:
                mark(tensor, found)

    def run(self, image: torch.Tensor, marking: bool = False) -> dict[str, torch.Tensor]:
        self.outputs, self.marking = {}, marking
        with torch.no_grad(), Fields():
            self.model(image)
        return self.outputs

    def seen(self) -> dict[str, np.ndarray]:
        """Call -> (output rows, image rows): which changes which."""
        height, width = self.size
        image = torch.randn(1, 3, height, width, dtype=torch.float64)
        marked = image.clone()
        mark(marked, of_image(height, width))
        clean = self.run(marked, marking=True)
        seen = {c: np.zeros((x.shape[2], height), bool) for c, x in clean.items() if x.ndim == 4}
        for row in range(height):
            for scale in (1e3, -1e3):
                other = image.clone()
                other[:, :, row] = scale * torch.randn(3, width, dtype=torch.float64)
                changed = self.run(other)
                for call, rows in seen.items():
                    rows[:, row] |= (changed[call] != clean[call]).any(3).any(1)[0].numpy()
        return seen


@pytest.mark.parametrize("name", SMALL)
def test_receptive_field(name: str) -> None:
    """Catches a window, stride, dilation, padding or shift that is left out or put in twice."""
    network = Sees(*SMALL[name])
    seen = network.seen()
    assert set(network.said) >= set(seen)
    for call, rows in seen.items():
        first, last = network.said[call]
        wide = np.broadcast_to(first, len(rows)), np.broadcast_to(last, len(rows))
        edges = rows.argmax(1), rows.shape[1] - 1 - rows[:, ::-1].argmax(1)
        assert rows.any(1).all(), call
        np.testing.assert_array_equal(wide, edges, err_msg=call)


@pytest.mark.parametrize("model", ["enet-camvid", "erfnet-encoder", "genet-extent8"])
def test_both_sides_agree(model: str) -> None:
    """Catches a layer, call or parameter that one side's list lacks."""
    config = MODELS[model]
    found = summary(model, config, config.check_size)
    assert found.ok
    assert all(row.torch.name == row.jax.name for row in found.rows)
    last = [row for row in found.rows if row.jax.shape][-1].jax
    classes = getattr(config, "num_classes", 10)
    assert last.shape[-1] == classes


@pytest.mark.parametrize(
    ("change", "note"),
    [({"num_classes": 4}, "another shape"), ({"encoder_relu": True}, "parameters lost")],
)
def test_difference_fails(
    change: dict[str, object], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a summary that calls unlike networks alike."""
    import jax_impl.models

    config = SMALL["enet"][0]
    other = jax_impl.models.NETWORKS["enet"]
    monkeypatch.setitem(
        jax_impl.models.NETWORKS,
        "enet",
        lambda config, rngs: other(dataclasses.replace(config, **change), rngs=rngs),
    )
    found = summary("enet", config, (40, 56))
    assert not found.ok, note
    assert any(not row.agrees for row in found.rows)


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Catches a table that lacks a column, and a JSON file that says something else."""
    file = tmp_path / "layers.json"
    assert main(["summary", "icnet", "--size", "128x256", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "PASSED: 359 layers and 28,298,376 parameters alike on both sides" in shown
    line = next(line for line in shown.splitlines() if "head.cff_12.conv_high.0" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "head.cff_12.conv_high.0",
        "head.cff_12.conv_high.0",
        "Conv2d",
        "1x16x32x128",
        "15x15",
        "8,192",
    ]
    assert "never called" in next(line for line in shown.splitlines() if "pretrained.fc" in line)
    found = json.loads(file.read_text())
    assert found["ok"] is True
    assert found["parameters"] == {"torch": 28298376, "jax": 28298376}
    assert len(found["layers"]) == 359
    assert sum(layer["agrees"] for layer in found["layers"]) == 359


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonet"], "model 'nonet', expected one of enet"),
        (["erfnet", "--size", "12x12"], "input is 12x12, but erfnet needs multiples of 8"),
        (["enet", "--size", "big"], "big"),
        (["enet", "--json", "/nowhere/x.json"], "/nowhere"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, more than a line, or a table of what cannot be."""
    assert main(["summary", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out
