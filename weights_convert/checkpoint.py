"""Reading a checkpoint of any format and naming scheme."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np

from parity.spec.errors import InputError, listed
from parity.spec.models import MODELS, ONE_OF, Config
from parity.spec.tensors import layouts
from weights_convert import formats, naming, optimizer_tensors, torch_optimizer, wrapping
from weights_convert import manifest as manifests
from weights_convert.manifest import Manifest
from weights_convert.notes import notes_of
from weights_convert.numbering import NotCarriedError, layout_in, own_order
from weights_convert.optimizer import Optimizer, restored
from weights_convert.ownership import check_owner
from weights_convert.wrapping import ANY, Choice, Unwrapped


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A network's weights, with all information from its file.

    Attributes:
        arrays: Published key -> array of PyTorch's shape (OIHW), in the published order.
        network: The family, such as `enet`.
        config: The variant's configuration, derived from the tensors.
        format: A key of `weights_convert.formats.FORMATS`.
        naming_scheme: The naming scheme of the file: `torch`, `jax` or `mindspore`.
        manifest: The file's verified manifest; None without one.
        sha256: See `weights_convert.formats.Contents`.
        filled: Published keys of optional tensors that the file lacks; they are 0.
        skipped: Names of other entries of the file, such as `epoch`; for an optimizer's state that
            cannot be converted, with the reason.
        optimizer: The optimizer's state, where the file holds one.
        metadata: Text stored with the tensors, without our manifest.
        layout: The published class whose order of parameters the weights have, if not the network's
            own; see `parity.spec.tensors.layouts`.
        assumed: Fields of the config that were assumed, as neither tensors nor user specify them.
        counters: Published keys of the counters that are floating-point numbers in the file.
        key: The entry of the file that holds the tensors; empty where they are at the top level.
        prefix: The prefix of every name.
        beside: Those names in `skipped` that `remarks` mention.
        remarks: Lines for the user on how the tensors were found.
    """

    arrays: dict[str, np.ndarray]
    network: str
    config: Config
    format: str
    naming_scheme: str
    manifest: Manifest | None
    sha256: str
    skipped: tuple[str, ...]
    filled: tuple[str, ...] = ()
    optimizer: Optimizer | None = None
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    layout: str | None = None
    assumed: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    key: str = ""
    prefix: str = ""
    beside: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Return (title, line) pairs on what was assumed, and on what differs from the file."""
        return notes_of(self)

    @property
    def labels(self) -> str | None:
        """Return which output is void, if the manifest specifies it."""
        return self.manifest.labels if self.manifest else None


def load(
    path: str | Path,
    network: str | None = None,
    naming_scheme: str | None = None,
    config: Config | None = None,
    choice: Choice = ANY,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: A torch file, safetensors, Flax's msgpack, NumPy's .npz, a MindSpore file or an Orbax
            directory; recognised by content.
        network: A family (`enet`: any number of classes), or a variant of
            `parity.spec.models.MODELS` such as `enet-camvid`, whose number of classes must be met.
            Properties of a variant that its tensors do not show, such as where a map is shifted,
                come from the named variant, else from the manifest, else from the naming scheme:
                MindSpore's names imply MindSpore's port.
            If not given: the family whose names the file uses.
        naming_scheme: Whose names the file uses, a key of `weights_convert.naming.NAMING_SCHEMES`;
            detected from the names if not given.
        config: The variant, where it is known; detected as above if not given.
        choice: The entry of the file and the prefix to read, where it holds several networks.

    Raises:
        InputError: The network or the naming scheme is unknown; the file is not there, damaged, or
            of no known format; its tensors are not exactly those of the network; its manifest does
            not fit it.
    """
    path = Path(path)
    if network is not None:
        family_of(network)
    naming.check(naming_scheme)
    contents = formats.read(path, key=choice.key, foreign=True)
    return understand(contents, path, network, naming_scheme, config, choice)


def understand(
    contents: formats.Contents,
    path: Path,
    network: str | None = None,
    naming_scheme: str | None = None,
    config: Config | None = None,
    choice: Choice = ANY,
) -> Checkpoint:
    """Do what `load` does, for a file that has already been read.

    Raises:
        InputError: As for `load`.
    """
    known = identify(contents, path, network, naming_scheme, config, choice)
    config, naming_scheme = known.config, known.naming_scheme
    try:
        formats.check_dtypes({k: a.dtype for k, a in known.named.items()}, path)
        arrays = naming.to_canonical(config, known.named, naming_scheme, str(path))
    except InputError as error:
        raise InputError(f"{error}{known.no_tensors(contents)}{known.nearest()}") from error
    optimizer, left = _optimizer(known, contents)
    if known.manifest:
        found: dict[str, object] = {
            "network": known.network,
            "config": config.describe(),
            "naming_scheme": naming_scheme,
            "optimizer": optimizer.describe(config) if optimizer else None,  # its step, too
        }
        state = optimizer.flat() if optimizer else {}
        open_ = (*ambiguous(config), *known.manifest.assumed)
        manifests.verify(known.manifest, found, arrays | state, path, open_)
    return Checkpoint(
        arrays=arrays,
        network=known.network,
        config=config,
        format=contents.format,
        naming_scheme=naming_scheme,
        manifest=known.manifest,
        sha256=contents.sha256,
        skipped=(*contents.skipped, *known.rest, *known.found.beside, *left),
        filled=naming.absent(config, known.named, naming_scheme),
        optimizer=optimizer,
        metadata={k: v for k, v in contents.metadata.items() if k != formats.KEY},
        layout=known.layout,
        assumed=known.assumed,
        counters=naming.float_counters(config, known.named, naming_scheme),
        key=contents.key,
        prefix=known.found.prefix,
        beside=known.found.beside,
        remarks=known.remarks(contents),
    )


@dataclasses.dataclass(frozen=True)
class Identity:
    """The network in a file, identified by its names and shapes.

    Attributes:
        network: The family.
        config: The variant's configuration.
        naming_scheme: The naming scheme of the file.
        manifest: The file's manifest, not yet compared with its tensors.
        found: The network's tensors, with names without prefix, and the names of other tensors.
        beside: The optimizer's tensors.
        rest: Other entries left by training.
        order: The published keys of the trained tensors, in the file's order.
        layout: As in `Checkpoint`.
        assumed: As in `Checkpoint`.
    """

    network: str
    config: Config
    naming_scheme: str
    manifest: Manifest | None
    found: Unwrapped
    beside: dict[str, np.ndarray]
    rest: dict[str, np.ndarray]
    order: tuple[str, ...] = ()
    layout: str | None = None
    assumed: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, np.ndarray]:
        """Return the network's tensors."""
        return self.found.named

    def no_tensors(self, contents: formats.Contents) -> str:
        """Return the part of a message that lists names of the network that are no tensors."""
        names = naming.names(self.config, self.naming_scheme)
        found = [name for name in contents.skipped if wrapping.own_name(name, names) in names]
        return f"; in the file, but no tensors: {listed(found)}" if found else ""

    def nearest(self) -> str:
        """Return the end of an error message: the most similar network, and its prefix."""
        names = naming.names(self.config, self.naming_scheme)
        there = sum(name in names for name in self.named)
        if not there:
            return ""
        variant = ", ".join(f"{name} {value}" for name, value in self.config.describe().items())
        prefix = f"the prefix {self.found.prefix!r}" if self.found.prefix else "no prefix"
        beside = listed(self.found.beside)
        return (
            f"; nearest is {self.network} ({variant}): {there} of its {len(names)} names are there,"
            f" after {prefix}{f', beside {beside}' if beside else ''}"
        )

    def is_average(self, contents: formats.Contents) -> bool:
        """Return whether these are averaged weights, by the path to them or by a counter."""
        found = self.found
        return bool(
            wrapping.is_average((*found.beside, *self.rest), found.prefix)
            or formats.base.AVERAGED.search(f"{contents.key}.{found.prefix}")
        )

    def remarks(self, contents: formats.Contents) -> tuple[str, ...]:
        """Return lines for the user on how the tensors were found."""
        found, said = self.found, list[str]()
        if found.beside:
            where = f"the prefix {found.prefix!r}" if found.prefix else "the network"
            said.append(f"left out, beside {where}: {listed(found.beside)}")
        if self.is_average(contents):
            said.append("these are averaged weights (an EMA or SWA)")
        choices = [f"--key {key}" for key in contents.averaged]
        choices += [f"--prefix {start}" for start in found.averaged]
        if choices:
            said.append(f"averaged weights (an EMA) are there too: {' or '.join(choices)}")
        return tuple(said)


def identify(
    contents: formats.Contents,
    path: Path,
    network: str | None = None,
    naming_scheme: str | None = None,
    config: Config | None = None,
    choice: Choice = ANY,
) -> Identity:
    """Identify the network in a file, without reading any tensor's values.

    Raises:
        InputError: As for `load`.
    """
    if network is not None:
        family_of(network)
    own, beside, rest = optimizer_tensors.split(contents.everything)
    family = None if network is None else MODELS[network].family
    found = wrapping.unwrapped(own, path, family, naming_scheme, config, choice.prefix)
    named = found.named
    naming_scheme = naming_scheme or naming.detect(named, config.family if config else family)
    if config is not None:
        manifest = manifests.parse(contents.metadata, path)
        found = wrapping.without_numbers(found, naming.names(config, naming_scheme))
        known = Identity(config.family, config, naming_scheme, manifest, found, beside, rest)
        return _arranged(known, path)
    if network is None:
        naming.check_known(named, naming_scheme, f"{path}{found.said()}")
        network = naming.family_in(named, naming_scheme)
    family = family_of(network)
    manifest = manifests.parse(contents.metadata, path)
    try:
        shown = naming.config_in(family, named, naming_scheme)
        config, assumed = _with_unstored(shown, network, manifest, naming_scheme)
    except ValueError as error:  # a last layer without outputs
        raise InputError(f"{path} is not a checkpoint of {family}: {error}") from error
    _check_stage(shown, network, naming_scheme, path)
    free = getattr(config, "unnamed", ())
    classes = MODELS[network].num_classes
    if network != family and "num_classes" not in free and config.num_classes != classes:
        raise InputError(
            f"{path} has {config.num_classes} classes, but {network} has"
            f" {classes} (model {family} takes any number)"
        )
    if network != family and described(config, free) != described(MODELS[network], free):
        raise InputError(f"{path} holds {ONE_OF[family]}, but not {network}: {config.describe()}")
    found = wrapping.without_numbers(found, naming.names(config, naming_scheme))
    known = Identity(family, config, naming_scheme, manifest, found, beside, rest, assumed=assumed)
    return _arranged(known, path)


def _arranged(known: Identity, path: Path) -> Identity:
    """Convert to the current names, and derive the layout from the order of the names.

    Raises:
        InputError: The manifest names a class that the network does not have.
    """
    config, manifest = known.config, known.manifest
    named, beside = (naming.present_names(config, arrays) for arrays in (known.named, known.beside))
    order = tuple(own_order(config, named, known.naming_scheme))
    layout = layout_in(config, order) if known.naming_scheme == "torch" else None
    if manifest is not None:
        manifest = manifests.renamed(manifest, lambda key: naming.present_name(config, key))
        layout = manifest.layout
        if layout not in (None, *layouts(config)):
            raise InputError(f"the manifest of {path} says layout {layout!r}, which is unknown")
    found = dataclasses.replace(known.found, named=named)
    return dataclasses.replace(
        known, manifest=manifest, found=found, beside=beside, order=order, layout=layout
    )


def _optimizer(
    known: Identity, contents: formats.Contents
) -> tuple[Optimizer | None, tuple[str, ...]]:
    """Return an optimizer's state, if any, or why it is not converted."""
    config, beside, manifest = known.config, known.beside, known.manifest
    nested = contents.optimizer
    left = () if nested is None else tuple(beside)
    try:
        if nested is not None and known.is_average(contents):
            raise NotCarriedError("it trained the plain weights, and these are their average")
        if nested is not None or beside:
            state = beside if nested is None else nested
            check_owner(config, known.naming_scheme, contents, known.found.prefix, state)
        if nested is not None:
            found = torch_optimizer.from_torch(config, nested, known.order, known.layout)
        elif beside:
            found = optimizer_tensors.from_naming_scheme(config, beside, known.naming_scheme)
        else:
            return None, ()
    except NotCarriedError as error:
        return None, (*left, f"optimizer ({error})")
    left += tuple(f"optimizer's {what}" for what in found.left)
    return restored(found, manifest.optimizer if manifest else None), left


def ambiguous(config: Config) -> tuple[str, ...]:
    """Return the fields in which a config may differ from a named variant's or a manifest's."""
    return getattr(config, "ambiguous", ())


def described(config: Config, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the description of a variant without ambiguous and other ignored fields."""
    return {k: v for k, v in config.describe().items() if k not in (*ambiguous(config), *without)}


def _unstored(config: Config) -> dict[str, Any]:
    """Return the fields of a config that no tensor shows."""
    return {name: getattr(config, name) for name in getattr(config, "unstored", ())}


def _with_unstored(
    config: Config, network: str, manifest: Manifest | None, naming_scheme: str
) -> tuple[Config, tuple[str, ...]]:
    """Complete a config from variant, manifest or naming scheme; also return the assumed fields."""
    known = MODELS[network]
    if network == config.family and naming_scheme == "mindspore":
        stage = "-encoder" if getattr(config, "encoder_only", False) else ""
        known = MODELS[f"{network}-mindspore{stage}"]
    guessed = getattr(config, "guessed", ()) if network == config.family else ()
    unstored = {n: getattr(config if n in guessed else known, n) for n in _unstored(config)}
    assumed = tuple(getattr(config, "assumptions", {})) if network == config.family else ()
    if network == config.family and manifest:
        given = manifest.config if isinstance(manifest.config, dict) else {}
        said = {k: given[k] for k, v in unstored.items() if type(given.get(k)) is type(v)}
        unstored |= said
        assumed = tuple(k for k in assumed if k not in said or k in manifest.assumed)
    return dataclasses.replace(cast(Any, config), **unstored), assumed


def _check_stage(config: Config, network: str, naming_scheme: str, path: Path) -> None:
    """Refuse MindSpore's encoder stage as a whole network, and the other way round.

    Its names distinguish them, unlike PyTorch's, where an ERFNet always has encoder and decoder.
    """
    alone = getattr(config, "encoder_only", False)
    if naming_scheme != "mindspore" or network == config.family:
        return
    if alone != getattr(MODELS[network], "encoder_only", False):
        holds = "an encoder with its own head (pred.*)" if alone else "a whole network (decoder.*)"
        raise InputError(f"{path} holds {holds}, which {network} is not")


def family_of(network: str) -> str:
    """Return the family of a named variant.

    Raises:
        InputError: The name is unknown; lists the known ones.
    """
    if network not in MODELS:
        raise InputError(f"unknown model {network!r}, expected one of {', '.join(MODELS)}")
    return MODELS[network].family
