"""Computes one node with the reference evaluator of onnx, for operators that have no implementation in torch.

It computes in numpy. Inside `fp64.run()` its floating-point inputs are FP64 arrays, and most of its operators compute
in the type of their inputs. Those that refuse FP64 get the types that the graph declares, and their results have the
accuracy of these.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import onnx
import torch
from onnx.reference import ReferenceEvaluator

from deploytool.errors import StageFailed
from deploytool.loading.graph import element_types
from deploytool.loading.graph.element_types import Value
from deploytool.loading.graph.op import Op

_OF_BITS = ("BitCast",)  # operators of the bits of a value: another type has others


class ReferenceOperator:
    """The reference implementation of one node; raises StageFailed if there is none."""

    def __init__(self, op: Op) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(op.node)
        names = [name or "" for name in node.input]
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [_untyped(name) for name in dict.fromkeys(names) if name],
            [_untyped(name) for name in node.output if name],
        )
        opsets = [onnx.helper.make_opsetid(node.domain, op.version)]
        if node.domain:
            opsets.append(onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version()))
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        try:
            self._evaluator = ReferenceEvaluator(model)
        except Exception as error:  # the evaluator raises errors of many types for operators that it does not have
            problem = f"the node {op.label} has no implementation for PyTorch nor in onnx's reference evaluator"
            raise StageFailed(problem, "export the graph with standard ONNX operators") from error
        self._names, self._op = names, op

    def __call__(self, *inputs: Value) -> tuple[Value, ...]:
        """The outputs of the node for its inputs, an omitted output as None."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of overflow and of division by zero, which graphs may do
            try:
                arrays = iter(self._run(inputs, narrow=self._op.node.op_type in _OF_BITS))
            except Exception:  # numpy and the evaluator raise errors of many types for types that do not fit
                arrays = iter(self._run(inputs, narrow=True))
        return tuple(_to_value(next(arrays)) if name else None for name in self._op.node.output)

    def _run(self, inputs: Sequence[Value], *, narrow: bool) -> Sequence[Value]:
        """The results; with `narrow` for inputs in their declared types, otherwise for FP64 where they are FP64."""
        feeds = {
            name: element_types.to_numpy(value, self._op.input_type(number), narrow=narrow)
            for number, (name, value) in enumerate(zip(self._names, inputs, strict=False))
            if name
        }
        results: Sequence[Value] = self._evaluator.run(None, feeds)  # type: ignore[assignment]  # without names, a list
        return results


def _untyped(name: str) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto()
    value.name = name
    return value


def _to_value(result: Value) -> Value:
    """A result as a tensor; a torch call makes it, so that modes that intercept torch calls see it."""
    if isinstance(result, list):
        return [_to_value(item) for item in result]
    if result is None:
        return None
    value = element_types.to_torch(result)
    return torch.clone(value) if isinstance(value, torch.Tensor) else value
