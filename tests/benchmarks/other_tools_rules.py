"""What other tools' default rules say of the same outputs.

Each is applied as its tool does by default: to the outputs of the whole network, in float32, in
eval mode, on the same input. Constants are those of the tools' documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Arrays = Sequence[np.ndarray]
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], bool]


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a - b).max())


def close(rtol: float, atol: float) -> Rule:
    """|port - reference| <= atol + rtol |reference| everywhere."""
    return lambda port, ref, _: np.allclose(port, ref, rtol=rtol, atol=atol)


def polygraphy(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    """An element fails only where both tolerances, 1e-5, are exceeded."""
    apart = abs(port - ref)
    return bool(((apart <= 1e-5) | (apart <= 1e-5 * abs(ref))).all())


def within(limit: float) -> Rule:
    return lambda port, ref, _: worst(port, ref) <= limit


def reprod_log(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    return float(abs(port - ref).mean()) <= 1e-6


def msprobe(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    """Fails on a cosine below 0.9, a difference above 1, or 0.99 together with 1e-3."""
    size = np.linalg.norm(port) * np.linalg.norm(ref)
    cosine = float((port * ref).sum() / size) if size else float((port == ref).all())
    apart = worst(port, ref)
    return cosine >= 0.9 and apart <= 1 and not (cosine < 0.99 and apart > 1e-3)


def torch_dynamo(port: np.ndarray, ref: np.ndarray, exact: np.ndarray) -> bool:
    """RMSE to float64 at most twice the reference's, and a tenth of its tolerance, 1e-4."""

    def rmse(a: np.ndarray) -> float:
        return float(np.sqrt(np.square(a - exact).mean()))

    return rmse(port) <= 2 * rmse(ref) + 1e-4 / 10


RULES: dict[str, tuple[str, Rule]] = {
    "Polygraphy": ("rtol = atol = 1e-5, either", polygraphy),
    "HuggingFace PT-Flax": ("max 1e-5", within(1e-5)),
    "HuggingFace PT-Flax, formerly": ("max 4e-2", within(4e-2)),
    "torch.testing.assert_close": ("rtol 1.3e-6, atol 1e-5", close(1.3e-6, 1e-5)),
    "chex": ("rtol 1e-6", close(1e-6, 0.0)),
    "nobuco": ("max 1e-4", within(1e-4)),
    "reprod_log": ("mean 1e-6", reprod_log),
    "TroubleShooter": ("rtol = atol = 1e-4", close(1e-4, 1e-4)),
    "msprobe": ("cosine 0.9, or max 1, or 0.99 with 1e-3", msprobe),
    "TorchDynamo": ("RMSE 2 x the reference's + 1e-5", torch_dynamo),
}


def verdicts(port: Arrays, reference: Arrays, exact: Arrays) -> dict[str, bool]:
    """Which rules call the outputs equal.

    Args:
        port: Its outputs in float32.
        reference: Its outputs in float32.
        exact: The reference's in float64.

    Returns:
        Rule -> whether all outputs pass; outputs of other shapes or numbers never do.
    """
    alike = [a.shape for a in port] == [a.shape for a in reference]
    wide = [[np.asarray(a, np.float64) for a in side] for side in (port, reference, exact)]
    with np.errstate(all="ignore"):  # what is not finite fails every rule
        return {
            name: alike and all(rule(*arrays) for arrays in zip(*wide, strict=True))
            for name, (_, rule) in RULES.items()
        }
