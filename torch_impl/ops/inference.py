"""A PyTorch network as a faster program for prediction, with the same results but for rounding.

What a network computes in eval mode is recorded once for a shape of its images, by PyTorch's own
tracer. Then what no output needs is dropped (ICNet runs its whole backbone on the half image, where
two of four stages are used; batch norms want that in training), batch norms are folded into the
weights of the convolutions before them (Jacob et al. 2018, section 3.2), a ReLU overwrites the
convolution's result, and large kernels are laid out once as oneDNN wants them, not in each call.
ReLUs are not left to oneDNN, which turns NaN into 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

CONVOLUTION = torch.ops.aten.convolution.default
# In eval mode; which of them is recorded depends on PyTorch's release.
BATCH_NORMS = {
    torch.ops.aten._native_batch_norm_legit_no_training.default,
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten.cudnn_batch_norm.default,
}
RELU = torch.ops.aten.relu.default
# What `torch.compile` calls, too; a release of PyTorch without them lays kernels out in each call.
LAY_OUT: Any = getattr(torch.ops.mkldnn, "_reorder_convolution_weight", None)
LAID_OUT: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
LARGE_KERNEL = 2**18  # elements, from which laying out takes more than oneDNN's other choice costs
LARGE = 2**17  # pixels of all images, from which a program saves more than a few milliseconds
MOST_PROGRAMS = 2  # of one predictor: each holds most of the weights once more
Network = Callable[[torch.Tensor], torch.Tensor]
Node = Any  # an `fx.Node`, whose arguments have types that say nothing


def program(model: torch.nn.Module, x: torch.Tensor, output: int = 0) -> Network:
    """Record what a network in eval mode computes from images of one shape.

    Args:
        model: The network, in eval mode. The program shares some of its weights and holds others
            folded: record anew after any change of them.
        x: Images (N, C, H, W) like those to come, in the same order in memory.
        output: Which output to compute, where there are several.

    Returns:
        A function from images of that shape, and of no other, to the output.

    Raises:
        ValueError: The network is in train mode.
    """
    if model.training:
        raise ValueError("the network is in train mode, expected eval mode")

    def one(x: torch.Tensor) -> torch.Tensor:
        outputs = model(x)
        return outputs[output] if isinstance(outputs, tuple) else outputs

    # In inference mode PyTorch records a bilinear resize as some thirty operations, which take half
    # of ICNet's time; it would also make inference tensors of the folded weights.
    with torch.inference_mode(False), torch.no_grad():
        recorded = make_fx(one)(x.clone())
        drop_unused(recorded)
        for norm, convolution in list(_folding(recorded)):
            fold(recorded, norm, convolution)
    drop_unused(recorded)
    overwrite(recorded)
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available() and LAY_OUT and LAID_OUT:
        lay_out(recorded)
    recorded.recompile()
    return recorded


def nodes(recorded: fx.GraphModule) -> list[Node]:
    return list(recorded.graph.nodes)


def drop_unused(recorded: fx.GraphModule) -> None:
    """Drop what no output needs, but for what changes a tensor in place."""
    for node in reversed(nodes(recorded)):
        schema = getattr(node.target, "_schema", None)
        changes = schema is not None and schema.is_mutable
        if node.op in ("call_function", "get_attr") and not node.users and not changes:
            recorded.graph.erase_node(node)


def _folding(recorded: fx.GraphModule) -> Iterator[tuple[Node, Node]]:
    """Yield batch norms and the convolutions before them, whose results nothing else uses."""
    for node in nodes(recorded):
        if node.target in BATCH_NORMS:
            before = node.args[0]
            if before.target is not CONVOLUTION or len(before.users) > 1:
                continue
            known = [*node.args[1:5], before.args[1], *([before.args[2]] if before.args[2] else [])]
            if _is_first_used(node) and all(getattr(a, "op", "") == "get_attr" for a in known):
                yield node, before


def _is_first_used(node: Node) -> bool:
    """Return whether only the first of a batch norm's results, the normalised map, is used."""
    return all(user.target.__name__ == "getitem" and user.args[1] == 0 for user in node.users)


def fold(recorded: fx.GraphModule, norm: Node, convolution: Node) -> None:
    """Multiply a convolution's weights by its batch norm's factors, and let its bias shift."""
    graph, held = recorded.graph, _tensor_of(recorded)
    x, weight, bias, *geometry = convolution.args
    transposed, groups = geometry[3], geometry[5]
    if transposed and groups != 1:
        return
    scale, shift, mean, var = (held(arg) for arg in norm.args[1:5])
    eps = norm.args[-1]
    kernel = held(weight)
    wide = torch.float64
    factor = scale.to(wide) / torch.sqrt(var.to(wide) + eps)
    along = (1, -1, 1, 1) if transposed else (-1, 1, 1, 1)
    folded = (kernel.to(wide) * factor.view(along)).to(kernel.dtype)
    start = held(bias).to(wide) if bias is not None else torch.zeros_like(factor)
    moved = ((start - mean.to(wide)) * factor + shift.to(wide)).to(kernel.dtype)
    folded = folded.contiguous(memory_format=torch.channels_last)
    with graph.inserting_before(convolution):
        new = [_stored(recorded, array) for array in (folded, moved)]
        merged = graph.call_function(CONVOLUTION, (x, *new, *geometry))
        merged.meta = dict(convolution.meta)
    for user in list(norm.users):
        user.replace_all_uses_with(merged)


def overwrite(recorded: fx.GraphModule) -> None:
    """Let each ReLU of a convolution's result, which nothing else uses, overwrite it."""
    for node in nodes(recorded):
        before = node.args[0] if node.target is RELU else None
        if before is not None and before.target is CONVOLUTION and len(before.users) == 1:
            node.target = torch.ops.aten.relu_.default


def lay_out(recorded: fx.GraphModule) -> None:
    """Lay large kernels out as oneDNN computes with them."""
    graph, held = recorded.graph, _tensor_of(recorded)
    for node in nodes(recorded):
        if node.target is not CONVOLUTION or getattr(node.args[1], "op", "") != "get_attr":
            continue
        x, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
        kernel = held(weight)
        if transposed or kernel.dtype != torch.float32 or kernel.numel() < LARGE_KERNEL:
            continue
        shape = list(x.meta["val"].shape)
        kernel = LAY_OUT(kernel, padding, stride, dilation, groups, shape)
        with graph.inserting_before(node):
            new = _stored(recorded, kernel, "laid_out")
            settings: list[Any] = [padding, stride, dilation, groups, "none", [], ""]
            made = graph.call_function(LAID_OUT, (x, new, bias, *settings))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        if not weight.users:
            graph.erase_node(weight)
            delattr(recorded, weight.target)


def _tensor_of(recorded: fx.GraphModule) -> Callable[[Node], torch.Tensor]:
    return lambda node: getattr(recorded, node.target).detach()


def _stored(recorded: fx.GraphModule, array: torch.Tensor, kind: str = "folded") -> Node:
    """Keep a tensor with the program; gives the node that stands for it."""
    names = (f"{kind}_{i}" for i in itertools.count())
    name = next(name for name in names if not hasattr(recorded, name))
    recorded.register_buffer(name, array)
    return recorded.graph.get_attr(name)
