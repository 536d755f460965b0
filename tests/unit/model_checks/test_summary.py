"""Both sides' layers beside each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from parity.cli import main
from parity.model_checks.summary import summary
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENET_BLOCKS

NAMES = ("downsample1_0", "regular1_1", "upsample5_0")
BLOCKS = tuple(block for block in ENET_BLOCKS if block.name in NAMES)


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

    config = dataclasses.replace(MODELS["enet"], blocks=BLOCKS)
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
