"""Third parties: what the contract is held against, and by which tests."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Judge:
    """One third party.

    Attributes:
        name: What it is.
        tests: What pytest runs to ask it: files of the checkout, or single tests of them.
    """

    name: str
    tests: tuple[str, ...]


JUDGES: dict[str, Judge] = {
    "schedulers": Judge("torch.optim.lr_scheduler", ("tests/test_third_party_rates.py",)),
    "scores": Judge("scikit-learn's metrics", ("tests/test_third_party_scores.py",)),
    "autocast": Judge("torch's autocast and GradScaler", ("tests/test_third_party_mixed.py",)),
    "jaxpr": Judge("the operations of JAX's own trace", ("tests/test_third_party_mixed_jax.py",)),
}
