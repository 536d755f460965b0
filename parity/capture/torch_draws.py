"""Random numbers that a PyTorch module draws by itself, and switching them off.

The other side cannot draw the same numbers. Dropout is switched off where it is a layer, a setting
of a layer that has its own, or a function that a module calls; a module of any other sort by the
attribute that holds its rate.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from parity.capture.rates import drops_paths, set_rates

# Layers that do nothing in eval mode, and nothing in train mode where their rate is 0.
DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)

# Functions, and where their rate stands among their arguments.
DROPPING = {
    functional.dropout: 1,
    functional.dropout1d: 1,
    functional.dropout2d: 1,
    functional.dropout3d: 1,
    functional.alpha_dropout: 1,
    functional.feature_alpha_dropout: 1,
    torch.dropout: 1,
    torch.dropout_: 1,
    torch.feature_dropout: 1,
    torch.feature_dropout_: 1,
    torch.alpha_dropout: 1,
    torch.alpha_dropout_: 1,
    torch.feature_alpha_dropout: 1,
    torch.feature_alpha_dropout_: 1,
}
ATTENDING = {
    functional.scaled_dot_product_attention: 4,
    functional.multi_head_attention_forward: 10,
}


def silence(module: nn.Module) -> tuple[list[str], list[str]]:
    """Switch off the dropouts that a module's layers hold.

    Returns:
        Names of the layers that are dropouts, and of layers with a dropout inside.
    """
    layers, inside = [], []
    for name, layer in module.named_modules():
        if isinstance(layer, DROPOUTS) or drops_paths(layer):
            set_rates(layer)
            layers.append(name)
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout:
            layer.dropout = 0.0
            inside.append(name)
    return layers, inside


class Quiet(TorchFunctionMode):
    """Context in which the functions of dropout do nothing.

    Args:
        running: The layers that have begun and not returned, innermost last.
        found: Collects the layers in which something was switched off, and what.
    """

    def __init__(self, running: list[str], found: dict[str, str]) -> None:
        super().__init__()
        self.running, self.found = running, found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in DROPPING and self._is_on(func, args, kwargs):
            self._note(func)
            return args[0] if args else kwargs["input"]
        place = ATTENDING.get(func)
        if place is not None and (args[place] if len(args) > place else kwargs.get("dropout_p")):
            self._note(func)
            if len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            else:
                kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)

    def _is_on(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        place = DROPPING[func]
        rate = args[place] if len(args) > place else kwargs.get("p", 0.5)
        given = args[place + 1] if len(args) > place + 1 else None
        # The functions of `torch.nn.functional` drop unless told, those of the alpha kind do not.
        unless_told = "alpha" not in func.__name__
        return bool(rate) and bool(
            kwargs.get("training", kwargs.get("train", unless_told if given is None else given))
        )

    def _note(self, func: Any) -> None:
        self.found.setdefault(self.running[-1] if self.running else "", func.__name__)


class Watch:
    """Context that sees whether anything was drawn from the generators of all.

    Attributes:
        drawn: Whether, once it has ended.
    """

    drawn = False

    def __enter__(self) -> Watch:
        self.cuda = torch.cuda.is_initialized()
        self.before = _states(self.cuda)
        return self

    def __exit__(self, *_: object) -> None:
        self.drawn = self.before != _states(self.cuda)


def _states(cuda: bool) -> tuple[Any, ...]:
    torchs = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if cuda else ())]
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002 - a network may use it
    return [state.numpy().tobytes() for state in torchs], random.getstate(), _frozen(numpys)


def _frozen(state: Any) -> Any:
    """Return a nested state with bytes instead of arrays, so that two can be compared."""
    if isinstance(state, dict):
        return {key: _frozen(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which all generators begin at a seed; their states return after it."""
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002 - a network may use it
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - a network may use it
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - a network may use it
