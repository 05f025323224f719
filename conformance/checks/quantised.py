"""Whether a model computes with quantised numbers: sums of rounded integers, which no label can follow."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from conformance.graph.tape import Graph

_OPERATIONS = frozenset((
    "quantize_per_tensor", "quantize_per_tensor_dynamic", "quantize_per_channel", "dequantize", "int_repr",
    "_make_per_tensor_quantized_tensor", "_make_per_channel_quantized_tensor", "_weight_int8pack_mm",
    "_weight_int4pack_mm", "_dyn_quant_matmul_4bit", "_int_mm", "_scaled_mm", "_scaled_grouped_mm",
))  # fmt: skip
"""ATen's own; the namespaces `quantized`, `_quantized`, `quantized_decomposed` hold nothing else."""


def quantised_operation(graph: Graph) -> str:
    """The first quantised operation of a traced pass and where it is, '' when there is none."""
    for node in graph.nodes:
        namespace, name = node.op._schema.name.split("::")
        if "quantized" in namespace or (namespace == "aten" and name in _OPERATIONS):
            return node.where
    return ""


def quantised_state(model: torch.nn.Module) -> str:
    """The first module that holds quantised weights, with its class; '' when there is none."""
    for path, module in model.named_modules():
        if any(_quantised(value) for value in _held(module)):
            return f"{path or 'the model'} ({type(module).__module__}.{type(module).__qualname__})"
    return ""


def _held(module: torch.nn.Module) -> Iterator[object]:
    yield from module._parameters.values()
    yield from module._buffers.values()
    yield from vars(module).values()


def _quantised(value: object) -> bool:
    """A quantised tensor, or the packed weights that quantised layers keep outside their state."""
    if isinstance(value, torch.Tensor):
        return value.is_quantized
    return isinstance(value, torch.ScriptObject) and "PackedParams" in str(value._type())
