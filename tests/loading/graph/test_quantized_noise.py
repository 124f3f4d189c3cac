"""A perturbed rounding error changes no integer of a quantised graph, unless the number is near a tie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.overrides import TorchFunctionMode

from deploytool.loading.graph.interpreter import GraphModule

X = np.arange(-40, 41, dtype=np.float32).reshape(1, -1) * 0.1 + 0.003  # no tie at a scale of 0.1


class Perturbed(TorchFunctionMode):
    """Makes the result of every call a little smaller, as the measurement of noise does at random."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * (1 - 1e-6) if isinstance(result, torch.Tensor) and result.dtype == torch.float32 else result


def module(operator: str, **weights: npt.NDArray[Any]) -> GraphModule:
    """One quantising node; its first output is that of the graph."""
    outputs = ["y", "scale", "zero"] if operator.startswith("Dynamic") else ["y"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *weights], outputs)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, X.shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return GraphModule(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        ("QuantizeLinear", {"s": np.array(0.1, np.float32), "z": np.array(128, np.uint8)}),
        ("QuantizeLinear", {"s": np.array(0.1, np.float32)}),
        ("DynamicQuantizeLinear", {}),
    ],
)
def test_the_integers_stay(operator: str, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    quantize = module(operator, **weights)
    exact = quantize(torch.from_numpy(X))["y"]
    with Perturbed():
        perturbed = quantize(torch.from_numpy(X))["y"]
    assert exact.unique().numel() > 40
    assert torch.equal(exact, perturbed)
