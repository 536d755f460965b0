"""torchvision beside a PyTorch built without CUDA."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

_KEPT: list[Any] = []  # a library's operators vanish with it


def torchvision() -> ModuleType:
    """Import torchvision.

    Its wheels expect operators that come with CUDA's build; where the plain import fails for want
    of them, they are declared first. Calling them still fails, importing works.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("torchvision")
