"""Faults of networks: a row of a table, a probability, a variant, how new weights are drawn."""

from __future__ import annotations

from tests.mutation.fault import Fault


def fault(file: str, title: str, right: str, wrong: str, *judges: str) -> Fault:
    return Fault("networks", title, f"parity/spec/{file}", right, wrong, judges)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "networks",
        "the head of the ImageNet encoder averages twice",
        "torch_impl/models/erfnet_imagenet.py",
        "layers.MaxPool2d(2, 2)",
        "layers.AvgPool2d(2)",
        ("erfnet-imagenet",),
    ),
    fault(
        "models.py",
        "the encoder of MindSpore's ERFNet is a whole network",
        "encoder_only=True, channel_dropout=False, same_padding=True",
        "channel_dropout=False, same_padding=True",
        "erfnet-mindspore-encoder",
    ),
    fault(
        "networks/erfnet_imagenet.py",
        "the ImageNet encoder drops as ERFNet's",
        "dropout: tuple[float, float] = (0.1, 0.1)",
        "dropout: tuple[float, float] = (0.03, 0.3)",
        "dropout",
    ),
    fault(
        "models.py",
        "MindSpore's ERFNet pads as PyTorch's",
        '"erfnet-mindspore": ERFNetConfig(channel_dropout=False, same_padding=True)',
        '"erfnet-mindspore": ERFNetConfig(channel_dropout=False, same_padding=False)',
        "erfnet-mindspore",
    ),
    fault(
        "models.py",
        "MindSpore's ERFNet drops channels",
        '"erfnet-mindspore": ERFNetConfig(channel_dropout=False, same_padding=True)',
        '"erfnet-mindspore": ERFNetConfig(same_padding=True)',
        "dropout",
    ),
    fault(
        "models.py",
        "E-NET unpools as ENet",
        "bilinear=True,\n        same_padding=True,\n        channel_dropout=False,\n    ),",
        "bilinear=False,\n        same_padding=True,\n        channel_dropout=False,\n    ),",
        "enet-mindspore",
    ),
    fault(
        "models.py",
        "E-NET's encoder pads as PyTorch's",
        "same_padding=True,\n        channel_dropout=False,\n        encoder_only=True,",
        "same_padding=False,\n        channel_dropout=False,\n        encoder_only=True,",
        "enet-mindspore-encoder",
    ),
    fault(
        "models.py",
        "a theta plus without its MLP",
        "GENetConfig(extra_params=True, mlp=True)",
        "GENetConfig(extra_params=True)",
        "layers",
    ),
    fault(
        "models.py",
        "an extent of another variant",
        '"genet-extent4": GENetConfig(extent=4,',
        '"genet-extent4": GENetConfig(extent=8,',
        "layers",
    ),
    fault(
        "models.py",
        "means over an extent that no weight shows",
        '"genet-mean4": GENetConfig(extent=4)',
        '"genet-mean4": GENetConfig(extent=2)',
        "layers",
    ),
    fault(
        "networks/vit.py",
        "the eps of PyTorch's layer norms in a ViT",
        "eps: float = 1e-6",
        "eps: float = 1e-5",
        "layers",
    ),
    fault(
        "networks/decoder.py",
        "the eps of another decoder's norms",
        "eps: float = 1e-5",
        "eps: float = 1e-6",
        "layers",
    ),
    fault(
        "networks/decoder.py",
        "the base of another rotary embedding",
        "base: float = 10_000.0",
        "base: float = 500_000.0",
        "layers",
    ),
    fault(
        "networks/enet.py",
        "a dilation of ENet's",
        'Block("dilated3_7", "regular", 128, 128, dilation=16)',
        'Block("dilated3_7", "regular", 128, 128, dilation=8)',
        "enet",
    ),
    fault(
        "networks/enet.py",
        "ENet drops alike in all stages",
        "dropout: tuple[float, float] = (0.01, 0.1)",
        "dropout: tuple[float, float] = (0.1, 0.1)",
        "dropout",
    ),
    fault(
        "networks/enet.py",
        "ENet's stage 2 drops as its first",
        "if self._stage(block) == 1 else",
        "if self._stage(block) <= 2 else",
        "dropout",
    ),
    fault(
        "networks/enet.py",
        "PReLUs in ENet's decoder",
        "decoder_relu: bool = True",
        "decoder_relu: bool = False",
        "enet",
    ),
    fault(
        "networks/erfnet.py",
        "a dilation of ERFNet's",
        'Block("nb1d", 128, 128, dilation=16),\n)',
        'Block("nb1d", 128, 128, dilation=8),\n)',
        "erfnet",
    ),
    fault(
        "networks/erfnet.py",
        "ERFNet drops alike in all blocks",
        "dropout: tuple[float, float] = (0.03, 0.3)",
        "dropout: tuple[float, float] = (0.3, 0.3)",
        "dropout",
    ),
    fault(
        "networks/icnet.py",
        "a window of ICNet's pyramid",
        "POOL_BINS = (1, 2, 3, 6)",
        "POOL_BINS = (1, 2, 4, 6)",
        "icnet",
    ),
    fault(
        "networks/icnet.py",
        "the last stage of ICNet's backbone dilates by half",
        "self.blocks[3], dilation=4)",
        "self.blocks[3], dilation=2)",
        "icnet",
    ),
    fault(
        "networks/icnet.py",
        "a stage's first block dilates as the others",
        "max(dilation // 2, 1)",
        "dilation",
        "icnet",
    ),
    fault(
        "networks/genet.py",
        "a gate's MLP half as narrow",
        "REDUCTION = 16",
        "REDUCTION = 8",
        "genet",
    ),
    fault(
        "networks/genet.py",
        "a gate of extent 8 halves its map twice",
        "{2: 1, 4: 2, 8: 3}[self.extent]",
        "{2: 1, 4: 2, 8: 2}[self.extent]",
        "genet",
    ),
    fault(
        "initial.py",
        "MindSpore's default layers drawn as the others",
        "rng.normal(0.0, 0.01, weight.shape)",
        "rng.normal(0.0, 0.02, weight.shape)",
        "torch-init",
    ),
    fault(
        "initial.py",
        "half of Glorot's bound",
        "math.sqrt(6 / (sum",
        "math.sqrt(3 / (sum",
        "torch-init",
    ),
    fault(
        "initial.py",
        "He's fan of inputs",
        'weight.shape[1 if weight.kind == "conv_transpose" else 0]',
        'weight.shape[0 if weight.kind == "conv_transpose" else 1]',
        "torch-init",
    ),
    fault(
        "initial.py", "a narrow embedding", '"embedding": 1.0', '"embedding": 0.02', "torch-init"
    ),
    fault("initial.py", "a PReLU's first slope", '"slope": 0.25', '"slope": 0.01', "torch-init"),
    fault(
        "initial.py",
        "PyTorch's bound by the fan of outputs",
        "math.sqrt(math.prod(weight.shape[1:]))",
        "math.sqrt(math.prod((weight.shape[0], *weight.shape[2:])))",
        "torch-init",
    ),
)
