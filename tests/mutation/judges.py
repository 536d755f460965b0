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


def golden(case: str) -> tuple[str, ...]:
    """The tests of one golden case, on PyTorch's side: both sides read the same contract."""
    path = "parity/tests/test_golden.py"
    return (f"{path}::test_eval_output[{case}-torch]", f"{path}::test_train_loss[{case}-torch]")


def mindspore(case: str) -> tuple[str, ...]:
    """Return the judges of a case that MindSpore itself computed and trained."""
    path = "parity/tests/test_mindspore_training.py"
    tests = ("test_outputs", "test_first_loss", "test_gradients_and_steps", "test_later_losses")
    return tuple(f"{path}::{test}[{case}-torch]" for test in tests)


PROGRAMS = "published_training.json"
REFERENCE = "golden vectors of the published code"
MINDSPORE = "MindSpore 2.10, run"
SPEC = "tests/unit/spec"
TRAINING = "tests/unit/training"
IMPLEMENTATIONS = "tests/unit/implementations"
WEIGHTS_CONVERT = "tests/unit/weights_convert"
MIXED = f"{IMPLEMENTATIONS}/test_third_party_mixed.py"
TRACED = f"{IMPLEMENTATIONS}/test_third_party_mixed_jax.py"

JUDGES: dict[str, Judge] = {
    "programs": Judge(PROGRAMS, (f"{SPEC}/test_published_training.py",)),
    "data": Judge(PROGRAMS, (f"{SPEC}/test_published_data.py",)),
    "dropout": Judge(
        PROGRAMS,
        tuple(
            f"{SPEC}/test_published_networks.py::test_dropout_of_{name}"
            for name in ("enet", "erfnet", "mindspores_erfnet", "mindspores_enet")
        ),
    ),
    "layers": Judge(
        "published facts of the networks",
        tuple(
            f"{SPEC}/test_published_networks.py::test_{name}"
            for name in (
                *("parameters", "initial_rules", "bounds_of_initial_weights"),
                *("means_of_genet", "numbers_of_transformers"),
            )
        ),
    ),
    "losses": Judge("torch.nn.CrossEntropyLoss", (f"{SPEC}/test_published_losses.py",)),
    "enet": Judge(REFERENCE, golden("enet_c20")),
    "erfnet": Judge(REFERENCE, golden("erfnet_c20")),
    "erfnet-imagenet": Judge(REFERENCE, golden("erfnet_imagenet_c1000")),
    "icnet": Judge(REFERENCE, golden("icnet_c19")),
    "genet": Judge(
        REFERENCE,
        (
            *golden("genet_wrn16_2_extent2_avg_mlp"),
            *golden("genet_wrn16_2_extent8_params_mlp"),
            *golden("genet_wrn16_2_global_params_mlp"),
        ),
    ),
    "enet-mindspore": Judge(MINDSPORE, mindspore("enet_mindspore_steps_c20")),
    "enet-mindspore-encoder": Judge(MINDSPORE, mindspore("enet_mindspore_encoder_c20")),
    "erfnet-mindspore": Judge(MINDSPORE, mindspore("erfnet_mindspore_c20")),
    "erfnet-mindspore-encoder": Judge(MINDSPORE, mindspore("erfnet_mindspore_encoder_c20")),
    "mindspore-names": Judge(
        MINDSPORE,
        (
            f"{WEIGHTS_CONVERT}/test_mindspore.py::test_names_and_order_are_mindspores",
            "parity/tests/test_mindspore.py::test_golden[torch]",
        ),
    ),
    "torch-init": Judge(
        "torch.nn's initial weights",
        (
            f"{SPEC}/test_initial.py::test_as_pytorch_initialises[drawn-enet]",
            f"{SPEC}/test_initial.py::test_as_pytorch_initialises[drawn-erfnet]",
            f"{SPEC}/test_initial.py::test_as_pytorch_initialises[drawn-decoder]",
            f"{SPEC}/test_initial.py::test_xavier",
            f"{SPEC}/test_initial.py::test_he_fan_out",
        ),
    ),
    "interpolate": Judge(
        "torch.nn.functional.interpolate",
        (f"{IMPLEMENTATIONS}/test_icnet.py::test_labels_are_truncated_as_by_pytorch",),
    ),
    "facts": Judge("published facts of the reports", (f"{SPEC}/test_published_facts.py",)),
    "transforms": Judge("torchvision's transforms", (f"{SPEC}/test_published_transforms.py",)),
    "pillow": Judge("Pillow", (f"{SPEC}/test_augmentation.py::test_resize_is_pillows",)),
    "schedulers": Judge("torch.optim.lr_scheduler", (f"{TRAINING}/test_third_party_rates.py",)),
    "scores": Judge("scikit-learn's metrics", (f"{TRAINING}/test_third_party_scores.py",)),
    "autocast": Judge(
        "torch.amp: autocast and GradScaler",
        tuple(
            f"{MIXED}::test_{name}"
            for name in (
                "gradients[genet-O1-fp16]",
                "gradients[genet-O2-fp16]",
                "operations[genet-O1-fp16]",
                "operations[genet-O2-fp16]",
                "the_weights_are_what_masters_round_to",
                "an_overflow",
            )
        ),
    ),
    "scaler": Judge("torch.amp: autocast and GradScaler", (f"{MIXED}::test_the_dynamic_scale",)),
    "trace": Judge(
        "JAX's own trace of a step",
        tuple(
            f"{TRACED}::test_{name}"
            for name in (
                "operations[genet-O1-fp16]",
                "operations[genet-O2-fp16]",
                "gradients_are_divided_in_float32[genet-O2-fp16]",
                "norms_and_masters_stay_in_float32[genet-O2-fp16]",
                "the_scale_and_the_masters",
            )
        ),
    ),
}
