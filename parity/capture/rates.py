"""How networks of either framework name what they drop at random, and how much of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

from parity.capture.records import is_array
from parity.capture.remembered import Remembered

# Classes of timm, torchvision, transformers and others, which do nothing where the rate is 0.
PATHS = re.compile(r".*(DropPath|StochasticDepth)")
# Attributes that hold the rate of a dropout.
RATE = re.compile(r"p|rate|(.*_)?prob|.*drop.*")
ZERO = 0.0


def drops_paths(layer: Any) -> bool:
    """Return whether a layer's class, by its name, drops whole branches at random."""
    return PATHS.fullmatch(type(layer).__name__) is not None


def set_rates(layer: Any, put: Callable[[Any, str, Any], None] = setattr) -> list[str]:
    """Set what holds a rate to 0: a layer's attributes, and those of its settings.

    Settings, such as a `config`, may be shared between layers: they are copied before.

    Args:
        layer: The layer.
        put: Sets an attribute of it.

    Returns:
        The names of the attributes.
    """
    found = _set(layer, put)
    for name, value in list(vars(layer).items()):
        if _is_settings(name, value):
            settings, inside = _quiet_copy(value)
            if inside:
                put(layer, name, settings)
                found += [f"{name}.{part}" for part in inside]
    return found


def _quiet_copy(settings: Any) -> tuple[Any, list[str]]:
    """Return settings without rates, and their names; the same copy again for the same settings.

    Layers whose settings are one object are compiled once.
    """
    found = _rates(settings)
    if not found:
        return settings, []
    known, made = COPIES.get(id(settings)) or (None, None)
    wanted = {**vars(settings), **dict.fromkeys(found, ZERO)}
    if known is not settings or any(vars(made).get(k, made) is not v for k, v in wanted.items()):
        made = copy.copy(settings)
        _set(made, object.__setattr__)
        COPIES.put(id(settings), (settings, made))
    return made, found


# By the `id` of the settings, which are kept with it.
COPIES: Remembered[int, tuple[Any, Any]] = Remembered(64)


def _rates(holder: Any) -> list[str]:
    return [k for k, v in vars(holder).items() if RATE.fullmatch(k) and _is_rate(v)]


def _set(holder: Any, put: Callable[[Any, str, Any], None]) -> list[str]:
    found = _rates(holder)
    for name in found:
        put(holder, name, ZERO)
    return found


def _is_settings(name: str, value: Any) -> bool:
    """Return whether an attribute holds a network's settings: no layer, function or array."""
    kinds = {cls.__name__ for cls in type(value).__mro__}
    return (
        not name.startswith("_")
        and hasattr(value, "__dict__")
        and not isinstance(value, type)
        and not callable(value)
        and not is_array(value)
        and not kinds & {"Module", "Scope", "Rngs", "RngStream", "Variable"}
    )


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and 0 < value <= 1
