"""Reading a checkpoint, whatever its format and dialect."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np

from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config
from weights_convert import dialects, formats
from weights_convert import manifest as manifests
from weights_convert import optimizer as optimizers
from weights_convert.manifest import Manifest
from weights_convert.optimizer import NotCarriedError, Optimizer


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A network's weights and what is known of them.

    Attributes:
        arrays: Published key -> array of PyTorch's shape (OIHW), in the published order.
        network: The family, such as `enet`.
        config: The variant, as the tensors show it.
        format: A key of `weights_convert.formats.FORMATS`.
        dialect: Whose names the file carries: `torch`, `jax` or `mindspore`.
        manifest: What the file says of itself, verified; none if it says nothing.
        sha256: See `weights_convert.formats.Contents`.
        filled: Published keys that the file may lack and does: 0.
        skipped: Names of what the file holds besides, such as `epoch`; with the reason, where there
            is an optimizer's state that cannot be carried.
        optimizer: Its state, where the file holds one.
        metadata: Text kept beside the tensors, without our manifest.
    """

    arrays: dict[str, np.ndarray]
    network: str
    config: Config
    format: str
    dialect: str
    manifest: Manifest | None
    sha256: str
    skipped: tuple[str, ...]
    filled: tuple[str, ...] = ()
    optimizer: Optimizer | None = None
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> str | None:
        """Which output is void, where the manifest says it."""
        return self.manifest.labels if self.manifest else None


def load(
    path: str | Path,
    network: str | None = None,
    dialect: str | None = None,
    config: Config | None = None,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: A torch file, safetensors, Flax's msgpack, NumPy's .npz, a MindSpore file or an Orbax
            directory; told apart by content.
        network: A family (`enet`: any number of classes), or a variant of
            `parity.spec.models.MODELS` such as `enet-camvid`, whose number of classes must be met.
            What the tensors do not show of a variant, such as where a map is shifted, is told by
            the named variant, else by the manifest, else by the names: MindSpore's are its port's.
            If not given: the family whose names the file has.
        dialect: Whose names the file carries, a key of `weights_convert.dialects.DIALECTS`; told
            by the names if not given.
        config: The variant, where it is known; told as above if not given.

    Raises:
        InputError: The network or the dialect is unknown; the file is not there, damaged, or of no
            known format; its tensors are not exactly those of the network; its manifest does not
            fit it.
    """
    path = Path(path)
    if network is not None:
        family_of(network)
    dialects.check(dialect)
    return understand(formats.read(path), path, network, dialect, config)


def understand(
    contents: formats.Contents,
    path: Path,
    network: str | None = None,
    dialect: str | None = None,
    config: Config | None = None,
) -> Checkpoint:
    """What `load` does, of a file that has been read.

    Raises:
        InputError: See there.
    """
    known = identify(contents, path, network, dialect, config)
    config, dialect = known.config, known.dialect
    arrays = dialects.to_canonical(config, known.named, dialect, str(path))
    optimizer, left = _optimizer(config, contents, known.beside, dialect, known.manifest)
    if known.manifest:
        found: dict[str, object] = {
            "network": known.network,
            "config": config.describe(),
            "dialect": dialect,
            "optimizer": optimizer.describe(config) if optimizer else None,  # its step, too
        }
        state = optimizer.flat() if optimizer else {}
        manifests.verify(known.manifest, found, arrays | state, path, loose(config))
    return Checkpoint(
        arrays=arrays,
        network=known.network,
        config=config,
        format=contents.format,
        dialect=dialect,
        manifest=known.manifest,
        sha256=contents.sha256,
        skipped=(*contents.skipped, *known.rest, *left),
        filled=dialects.absent(config, known.named, dialect),
        optimizer=optimizer,
        metadata={k: v for k, v in contents.metadata.items() if k != formats.KEY},
    )


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which network a file holds, by its names and shapes.

    Attributes:
        network: The family.
        config: The variant.
        dialect: Whose names the file carries.
        manifest: What the file says of itself; not compared with its tensors yet.
        named: The network's tensors, without what wrappers put before every name.
        beside: An optimizer's.
        rest: What training leaves besides.
    """

    network: str
    config: Config
    dialect: str
    manifest: Manifest | None
    named: dict[str, np.ndarray]
    beside: dict[str, np.ndarray]
    rest: dict[str, np.ndarray]


def identify(
    contents: formats.Contents,
    path: Path,
    network: str | None = None,
    dialect: str | None = None,
    config: Config | None = None,
) -> Identity:
    """Tell which network a file holds, without touching a number of it.

    Raises:
        InputError: See `load`.
    """
    if network is not None:
        family_of(network)
    own, beside, rest = optimizers.split(contents.arrays)
    named = dialects.strip(own)
    dialect = dialect or dialects.detect(named)
    if config is not None:
        manifest = manifests.parse(contents.metadata, path)
        return Identity(config.family, config, dialect, manifest, named, beside, rest)
    named = dialects.aligned(named, dialect)
    network = network or dialects.family_in(named, dialect)
    family = family_of(network)
    manifest = manifests.parse(contents.metadata, path)
    try:
        shown = dialects.config_in(family, named, dialect)
        config = _with_hidden(shown, network, manifest, dialect)
    except ValueError as error:  # a last layer without outputs
        raise InputError(f"{path} is not a checkpoint of {family}: {error}") from error
    _check_stage(shown, network, dialect, path)
    if network != family and config.num_classes != MODELS[network].num_classes:
        raise InputError(
            f"{path} has {config.num_classes} classes, but {network} has"
            f" {MODELS[network].num_classes} (model {family} takes any number)"
        )
    if network != family and told(config) != told(MODELS[network]):
        raise InputError(f"{path} holds a {family}, but not {network}: {config.describe()}")
    return Identity(family, config, dialect, manifest, named, beside, rest)


def _optimizer(
    config: Config,
    contents: formats.Contents,
    beside: dict[str, np.ndarray],
    dialect: str,
    manifest: Manifest | None,
) -> tuple[Optimizer | None, tuple[str, ...]]:
    """An optimizer's state, or why it stays behind, if there is one."""
    nested = contents.optimizer
    left = () if nested is None else tuple(beside)
    try:
        if nested is not None:
            found = optimizers.from_torch(config, nested)
        elif beside:
            found = optimizers.from_dialect(config, beside, dialect)
        else:
            return None, ()
    except NotCarriedError as error:
        return None, (*left, f"optimizer ({error})")
    left += tuple(f"optimizer's {what}" for what in found.left)
    return optimizers.restored(found, manifest.optimizer if manifest else None), left


def loose(config: Config) -> tuple[str, ...]:
    """Fields in which a config may differ from a named variant's or a manifest's."""
    return getattr(config, "loose", ())


def told(config: Config) -> dict[str, Any]:
    """What is said of a variant, without what is loose."""
    return {k: v for k, v in config.describe().items() if k not in loose(config)}


def _hidden(config: Config) -> dict[str, Any]:
    """What of a config no tensor shows."""
    return {name: getattr(config, name) for name in getattr(config, "hidden", ())}


def _with_hidden(config: Config, network: str, manifest: Manifest | None, dialect: str) -> Config:
    """A config as the tensors show it, completed by whatever knows more."""
    known = MODELS[network]
    if network == config.family and dialect == "mindspore":
        stage = "-encoder" if getattr(config, "encoder_only", False) else ""
        known = MODELS[f"{network}-mindspore{stage}"]
    hidden = {name: getattr(known, name) for name in _hidden(config)}
    if network == config.family and manifest:
        given = manifest.config if isinstance(manifest.config, dict) else {}
        hidden |= {k: given[k] for k, v in hidden.items() if type(given.get(k)) is type(v)}
    return dataclasses.replace(cast(Any, config), **hidden)


def _check_stage(config: Config, network: str, dialect: str, path: Path) -> None:
    """Refuse MindSpore's encoder stage as a whole network, and the other way round.

    Its names show which it is, unlike PyTorch's, where an ERFNet always has both parts.
    """
    alone = getattr(config, "encoder_only", False)
    if dialect != "mindspore" or network == config.family:
        return
    if alone != getattr(MODELS[network], "encoder_only", False):
        holds = "an encoder with its own head (pred.*)" if alone else "a whole network (decoder.*)"
        raise InputError(f"{path} holds {holds}, which {network} is not")


def family_of(network: str) -> str:
    """The family of a named variant.

    Raises:
        InputError: The name is unknown; lists the known ones.
    """
    if network not in MODELS:
        raise InputError(f"unknown model {network!r}, expected one of {', '.join(MODELS)}")
    return MODELS[network].family
