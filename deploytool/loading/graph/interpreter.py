"""An ONNX graph as a PyTorch module, which computes it node by node with torch calls.

So what exists for models in PyTorch works on a given graph: FP64 answers, noise, coverage, and hooks on every node.
"""

from __future__ import annotations

from collections import Counter

import onnx
import torch

from deploytool.errors import BadInput
from deploytool.loading.graph import element_types, preparation, turns
from deploytool.loading.graph.element_types import UNKNOWN, Value
from deploytool.loading.graph.node import Node
from deploytool.loading.graph.scope import GraphContext, Scope
from deploytool.loading.graph.structure import MIN_OPSET


class GraphModule(Scope):
    """The module of an ONNX graph, whose external data are loaded.

    Narrow floats are computed in FP32, or in FP64 inside `fp64.run()`; see `element_types`. Raises BadInput for an
    opset below 7 and for unreadable initialisers; StageFailed for a node that has no implementation, or that draws
    random numbers.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        opsets = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in graph.opset_import}
        if opsets.get("", MIN_OPSET) < MIN_OPSET:
            problem = f"the graph has opset {opsets['']}, and the oldest supported one is {MIN_OPSET}"
            raise BadInput(problem, "convert it with onnx.version_converter, or export it again")
        model = preparation.inlined(graph)
        opsets = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in model.opset_import}
        types = preparation.infer_types(model)
        super().__init__(model.graph, GraphContext(opsets, types))
        self._output_types = {name: types.get(name, UNKNOWN) for name in self.output_names}
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> dict[str, Value]:
        """The outputs by name, in the graph's order, for the inputs in the graph's order.

        An input that has an initialiser is none. FP16 and BF16 outputs are rounded to their type, except inside
        `fp64.run()`. Raises StageFailed if a node cannot be computed or loops too often, BadInput for another number of
        inputs.
        """
        if len(inputs) != len(self.input_names):
            expected = f"{len(self.input_names)} inputs ({', '.join(self.input_names)})"
            raise BadInput(f"the graph has {expected}, not {len(inputs)}", "give one tensor for each input")
        with turns.counted():
            results = self.compute(inputs, {})
        named = zip(self.output_names, results, strict=True)
        return {name: element_types.declared(value, self._output_types[name]) for name, value in named}

    def reference_operators(self) -> dict[str, int]:
        """How many nodes of each operator the reference evaluator of onnx computes, for want of one in torch."""
        nodes = (part for part in self.modules() if isinstance(part, Node) and part.uses_reference)
        return dict(Counter(node.op.node.op_type for node in nodes))
