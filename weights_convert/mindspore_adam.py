"""The powers of the betas, which MindSpore's Adam stores in addition to its moments.

`mindspore.nn.Adam` corrects the moments' bias by `beta1_power` and `beta2_power`, two float32
scalars that begin with 1 and are multiplied by the betas at every step; `global_step` only chooses
the learning rate. An optimizer that is loaded without the powers takes its next step as if it were
the first one, but with the moments of the last: after 20 steps it is twice too long.

`learning_rate` is not written. MindSpore keeps one number there or one for each step of a schedule,
and refuses a file whose shape is not that of the optimizer that loads it; without it, the rate or
schedule that the optimizer was made with counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.spec.errors import InputError

POWERS = ("beta1_power", "beta2_power")
BETAS = (0.9, 0.999)  # MindSpore's, PyTorch's and optax's defaults
USUAL = dict(zip(POWERS, BETAS, strict=True))
DECIMALS = 5  # with which a beta is looked for
SMALLEST = 1e-30  # below this a power says nothing more
MOST_STEPS = 10_000_000  # that are multiplied one by one


def power(beta: float, step: int) -> np.float32:
    """Multiply a beta with itself in float32, one step after the other, as MindSpore does."""
    if step > MOST_STEPS:
        return np.float32(float(beta) ** step)
    made, factor = np.float32(1), np.float32(beta)
    for _ in range(step):
        last, made = made, made * factor
        if made == last:  # 0, or the smallest number
            break
    return made


def powers(step: int, betas: object) -> dict[str, np.ndarray]:
    """Return both powers after `step` steps, with MindSpore's names and shapes.

    Raises:
        InputError: The betas are not two numbers from 0 to 1.
    """
    if not isinstance(betas, list | tuple) or len(betas) != 2 or not all(map(_is_beta, betas)):
        raise InputError(f"the optimizer's betas are {betas!r}, expected two numbers in [0, 1)")
    return {name: np.array(power(beta, step)) for name, beta in zip(POWERS, betas, strict=True)}


def betas_of(arrays: Mapping[str, np.ndarray], step: int | None) -> tuple[float, ...]:
    """Recover the betas from their powers in a file.

    Args:
        arrays: A file's powers, by name.
        step: Number of steps made.

    Returns:
        Both betas; empty where the file has no powers, or these no longer determine the betas.

    Raises:
        ValueError: They are not powers of betas after this many steps.
    """
    if step is None or not set(POWERS) <= set(arrays):
        return ()
    found = [_beta(name, arrays[name], step, usual) for name, usual in USUAL.items()]
    return tuple(beta for beta in found if beta is not None) if None not in found else ()


def _beta(name: str, array: np.ndarray, step: int, usual: float) -> float | None:
    if array.size != 1:
        raise ValueError(f"{name} has {array.size} numbers, expected 1")
    value = float(array.reshape(-1)[0])
    if _near(value, power(usual, step)):
        return usual if step and value > SMALLEST else None
    if step and SMALLEST < value < 1:
        beta = round(value ** (1 / step), DECIMALS)
        if _is_beta(beta) and _near(value, power(beta, step)):
            return beta
    raise ValueError(f"{name} is {value:.7g}, which no beta gives after {step} steps")


def _near(value: float, expected: np.float32) -> bool:
    return abs(value - float(expected)) <= 1e-6 * max(abs(value), SMALLEST)


def _is_beta(value: object) -> bool:
    return isinstance(value, float | int) and 0 <= value < 1
