"""One node of a graph as a module: runs its operator, in torch or else by the reference evaluator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from deploytool.errors import DeployError, StageFailed
from deploytool.host import exception_text
from deploytool.loading.graph import element_types
from deploytool.loading.graph.element_types import Value
from deploytool.loading.graph.op import Op, Operator
from deploytool.loading.graph.operators import table
from deploytool.loading.graph.reference_op import ReferenceOperator


class Node(nn.Module):
    """Computes one node of a graph.

    `op` describes the node. `is_shape_arithmetic`: its results are only sizes and indices, so it is computed as the
    file says, outside of the modes that widen or perturb arithmetic. `uses_reference`: the reference evaluator
    computes it. Raises StageFailed if there is no implementation.
    """

    def __init__(self, op: Op, bodies: Sequence[tuple[str, nn.Module]] = (), *, is_shape_arithmetic: bool) -> None:
        super().__init__()
        for name, body in bodies:
            self.add_module(name, body)
        self.op = op
        self.is_shape_arithmetic = is_shape_arithmetic
        self._reference: ReferenceOperator | None = None
        self._operator: Operator = table.find(op) or self._by_reference()

    @property
    def uses_reference(self) -> bool:
        """Whether the reference evaluator computes the node, or did for an input that torch does not support."""
        return self._reference is not None

    def forward(self, *inputs: Value) -> Value:
        """The output of the node, or a tuple of its outputs; raises StageFailed if it cannot be computed."""
        try:
            if self.is_shape_arithmetic:
                with torch._C.DisableTorchFunction():
                    return self._compute([_as_declared(value, self.op, at) for at, value in enumerate(inputs)])
            return self._compute([element_types.widened(value) for value in inputs])
        except (DeployError, MemoryError):
            raise
        except Exception as error:  # torch and numpy raise errors of many types for inputs that do not fit
            shapes = ", ".join(str(tuple(value.shape)) for value in inputs if isinstance(value, torch.Tensor))
            problem = f"the node {self.op.label} cannot be computed for inputs of shape {shapes}"
            remedy = "check the graph: onnx.checker.check_model(path, full_check=True)"
            raise StageFailed(f"{problem}: {exception_text.one_line(error)}", remedy) from error

    def _compute(self, inputs: Sequence[Value]) -> Value:
        try:
            result = self._operator(self.op, *inputs)
        except NotImplementedError:  # torch has the operator, but not for this type or option
            result = self._by_reference()(self.op, *inputs)
        if isinstance(result, tuple):
            wrapped = tuple(element_types.wrapped(value, self.op.output_type(at)) for at, value in enumerate(result))
            return wrapped[0] if len(self.op.node.output) == 1 else wrapped
        return element_types.wrapped(result, self.op.output_type())

    def _by_reference(self) -> Operator:
        """The reference implementation, which is made once."""
        if self._reference is None:
            self._reference = ReferenceOperator(self.op)
        reference = self._reference
        return lambda _, *inputs: reference(*inputs)


def _as_declared(value: Value, op: Op, number: int) -> Value:
    """A value of shape arithmetic in FP32, even where the module was converted to FP64."""
    kept = op.input_type(number) == element_types.UNKNOWN or not isinstance(value, torch.Tensor)
    if not kept and value.dtype == torch.float64:
        dtype = element_types.computed(op.input_type(number))
        return value if dtype is None else value.to(dtype)
    return element_types.widened(value)
