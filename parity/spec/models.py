"""One frozen config per network, and its named variants. Both sides read these objects.

Sources: davidtvs/PyTorch-ENet at e17d404 (the published names, shapes and rates).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of ENet's table.

    Attributes:
        name: The published name, which parameters and dropout masks carry.
        kind: `downsample`, `regular`, `asymmetric` or `upsample`.
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        dilation: Dilation of the 3x3 convolution.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    dilation: int = 1


ENET_BLOCKS = (
    # Stage 1: 1/4 of the input's height and width.
    Block("downsample1_0", "downsample", 16, 64),
    Block("regular1_1", "regular", 64, 64),
    Block("regular1_2", "regular", 64, 64),
    Block("regular1_3", "regular", 64, 64),
    Block("regular1_4", "regular", 64, 64),
    # Stages 2 and 3: 1/8.
    Block("downsample2_0", "downsample", 64, 128),
    Block("regular2_1", "regular", 128, 128),
    Block("dilated2_2", "regular", 128, 128, dilation=2),
    Block("asymmetric2_3", "asymmetric", 128, 128),
    Block("dilated2_4", "regular", 128, 128, dilation=4),
    Block("regular2_5", "regular", 128, 128),
    Block("dilated2_6", "regular", 128, 128, dilation=8),
    Block("asymmetric2_7", "asymmetric", 128, 128),
    Block("dilated2_8", "regular", 128, 128, dilation=16),
    Block("regular3_0", "regular", 128, 128),
    Block("dilated3_1", "regular", 128, 128, dilation=2),
    Block("asymmetric3_2", "asymmetric", 128, 128),
    Block("dilated3_3", "regular", 128, 128, dilation=4),
    Block("regular3_4", "regular", 128, 128),
    Block("dilated3_5", "regular", 128, 128, dilation=8),
    Block("asymmetric3_6", "asymmetric", 128, 128),
    Block("dilated3_7", "regular", 128, 128, dilation=16),
    # Stage 4: 1/4. Decoder from here on.
    Block("upsample4_0", "upsample", 128, 64),
    Block("regular4_1", "regular", 64, 64),
    Block("regular4_2", "regular", 64, 64),
    # Stage 5: 1/2.
    Block("upsample5_0", "upsample", 64, 16),
    Block("regular5_1", "regular", 16, 16),
)


@dataclasses.dataclass(frozen=True)
class ENetConfig:
    """ENet as davidtvs/PyTorch-ENet publishes it.

    Attributes:
        num_classes: Outputs of the network, void included.
        encoder_relu: ReLU in the encoder, where the published network has PReLUs of one slope.
        decoder_relu: ReLU in the decoder, as published; False puts PReLUs there.
        dropout: Probability of dropping a channel, in stage 1 and in all later stages.
        blocks: The network's table between the initial block and the last transposed convolution.

    Raises:
        ValueError: No class, or a dropout probability outside [0, 1).
    """

    num_classes: int = 20
    encoder_relu: bool = False
    decoder_relu: bool = True
    dropout: tuple[float, float] = (0.01, 0.1)
    blocks: tuple[Block, ...] = ENET_BLOCKS

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes is {self.num_classes}, expected 1 or more")
        if any(not 0.0 <= p < 1.0 for p in self.dropout):
            raise ValueError(f"dropout is {self.dropout}, expected probabilities in [0, 1)")

    def relu(self, block: Block) -> bool:
        """Whether the block's activations are ReLUs; else they are PReLUs."""
        return self.decoder_relu if self._stage(block) > 3 else self.encoder_relu

    def rate(self, block: Block) -> float:
        """The block's dropout probability."""
        return self.dropout[0] if self._stage(block) == 1 else self.dropout[1]

    def dropout_sites(self) -> dict[str, tuple[float, int]]:
        """Block name -> (probability, channels) wherever channels are dropped, in call order."""
        return {b.name: (self.rate(b), b.out_channels) for b in self.blocks}

    def without_dropout(self) -> ENetConfig:
        """The same network with every dropout probability 0."""
        return dataclasses.replace(self, dropout=(0.0, 0.0))

    def check_input(self, height: int, width: int) -> None:
        """Refuse an image that the reference cannot process either.

        Raises:
            ValueError: A side is shorter than 7 pixels: halved once upwards and twice downwards,
                nothing of it is left.
        """
        if min(height, width) < 7:
            raise ValueError(f"input is {height}x{width}, but enet needs at least 7x7 pixels")

    @staticmethod
    def _stage(block: Block) -> int:
        return int(block.name.split("_")[0][-1])


MODELS = {
    "enet": ENetConfig(),
    "enet-camvid": ENetConfig(num_classes=12),
}
