"""Third parties: what the contract is held against, and by which tests."""

from __future__ import annotations

from typing import NamedTuple


class Judge(NamedTuple):
    """One third party: what it is, and what pytest runs to ask it, files or single tests."""

    name: str
    tests: tuple[str, ...]


def of(path: str, names: str) -> tuple[str, ...]:
    """Some tests of a file, by their names without `test_`."""
    return tuple(f"{path}::test_{name}" for name in names.split())


def golden(*cases: str) -> Judge:
    """Golden cases, on PyTorch's side: both sides read the same contract."""
    names = " ".join(f"eval_output[{case}-torch] train_loss[{case}-torch]" for case in cases)
    return Judge("golden vectors of the published code", of("parity/tests/test_golden.py", names))


def mindspore(case: str) -> Judge:
    """A case that MindSpore itself computed and trained."""
    names = "outputs first_loss gradients_and_steps later_losses"
    tests = of("parity/tests/test_mindspore_training.py", names)
    return Judge(MINDSPORE, tuple(f"{test}[{case}-torch]" for test in tests))


PROGRAMS = "published_training.json"
MINDSPORE = "MindSpore 2.10, run"
AUTOCAST = "torch.amp: autocast and GradScaler"
SPEC = "tests/unit/spec"
NETWORKS = f"{SPEC}/test_published_networks.py"
TRAINING = "tests/unit/training"
IMPLEMENTATIONS = "tests/unit/implementations"
MIXED = f"{IMPLEMENTATIONS}/test_third_party_mixed.py"

JUDGES: dict[str, Judge] = {
    "programs": Judge(PROGRAMS, (f"{SPEC}/test_published_training.py",)),
    "data": Judge(PROGRAMS, (f"{SPEC}/test_published_data.py",)),
    "dropout": Judge(
        PROGRAMS,
        of(
            NETWORKS,
            "dropout_of_enet dropout_of_erfnet dropout_of_mindspores_erfnet "
            "dropout_of_mindspores_enet",
        ),
    ),
    "layers": Judge(
        "published facts of the networks",
        of(
            NETWORKS,
            "parameters initial_rules bounds_of_initial_weights means_of_genet "
            "numbers_of_transformers",
        ),
    ),
    "losses": Judge("torch.nn.CrossEntropyLoss", (f"{SPEC}/test_published_losses.py",)),
    "enet": golden("enet_c20"),
    "erfnet": golden("erfnet_c20"),
    "erfnet-imagenet": golden("erfnet_imagenet_c1000"),
    "icnet": golden("icnet_c19"),
    "genet": golden(
        "genet_wrn16_2_extent2_avg_mlp",
        "genet_wrn16_2_extent8_params_mlp",
        "genet_wrn16_2_global_params_mlp",
    ),
    "enet-mindspore": mindspore("enet_mindspore_steps_c20"),
    "enet-mindspore-encoder": mindspore("enet_mindspore_encoder_c20"),
    "erfnet-mindspore": mindspore("erfnet_mindspore_c20"),
    "erfnet-mindspore-encoder": mindspore("erfnet_mindspore_encoder_c20"),
    "mindspore-names": Judge(
        MINDSPORE,
        (
            *of("tests/unit/weights_convert/test_mindspore.py", "names_and_order_are_mindspores"),
            *of("parity/tests/test_mindspore.py", "golden[torch]"),
        ),
    ),
    "torch-init": Judge(
        "torch.nn's initial weights",
        of(
            f"{SPEC}/test_initial.py",
            "as_pytorch_initialises[drawn-enet] as_pytorch_initialises[drawn-erfnet] "
            "as_pytorch_initialises[drawn-decoder] xavier he_fan_out",
        ),
    ),
    "interpolate": Judge(
        "torch.nn.functional.interpolate",
        of(f"{IMPLEMENTATIONS}/test_icnet.py", "labels_are_truncated_as_by_pytorch"),
    ),
    "facts": Judge("published facts of the reports", (f"{SPEC}/test_published_facts.py",)),
    "transforms": Judge("torchvision's transforms", (f"{SPEC}/test_published_transforms.py",)),
    "pillow": Judge("Pillow", of(f"{SPEC}/test_augmentation.py", "resize_is_pillows")),
    "schedulers": Judge("torch.optim.lr_scheduler", (f"{TRAINING}/test_third_party_rates.py",)),
    "scores": Judge("scikit-learn's metrics", (f"{TRAINING}/test_third_party_scores.py",)),
    "autocast": Judge(
        AUTOCAST,
        of(
            MIXED,
            "gradients[genet-O1-fp16] gradients[genet-O2-fp16] operations[genet-O1-fp16] "
            "operations[genet-O2-fp16] the_weights_are_what_masters_round_to an_overflow",
        ),
    ),
    "scaler": Judge(AUTOCAST, of(MIXED, "the_dynamic_scale")),
    "trace": Judge(
        "JAX's own trace of a step",
        of(
            f"{IMPLEMENTATIONS}/test_third_party_mixed_jax.py",
            "operations[genet-O1-fp16] operations[genet-O2-fp16] "
            "gradients_are_divided_in_float32[genet-O2-fp16] "
            "norms_and_masters_stay_in_float32[genet-O2-fp16] the_scale_and_the_masters",
        ),
    ),
}
