"""Tells what depends on the sizes and positions of a graph's inputs only, and not on their values."""

from __future__ import annotations

from functools import cached_property

from onnx import NodeProto, TensorProto

from deploytool.rewrites.graph.editable import EditableGraph

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
MOVING = (
    *("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze"),
)  # operators that move values without computing new ones
COMPUTING = (
    *("Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "CumSum", "Div", "Exp", "Floor", "Log"),
    *("Max", "Min", "Mod", "Mul", "Neg", "Pow", "Range", "Reciprocal", "Round", "Sign", "Sqrt", "Sub", "Where"),
)  # arithmetic of single values


class PositionalGraph(EditableGraph):
    """A graph that knows which of its tensors depend on sizes, integers and constants only."""

    @cached_property
    def positional(self) -> frozenset[str]:
        """The tensors that are computed from those by arithmetic of single values, and these themselves."""
        inputs = (value for value in self.model.graph.input if value.type.tensor_type.elem_type not in FLOATS)
        found = {"", *(value.name for value in inputs), *(weight.name for weight in self.model.graph.initializer)}
        for node in self.nodes:
            arithmetic = node.op_type in (*COMPUTING, *MOVING, "ReduceProd") and not is_lookup(node, self)
            if node.op_type in ("Constant", "Shape", "Size") or (arithmetic and found.issuperset(node.input)):
                found.update(node.output)
        return frozenset(found)


def is_lookup(node: NodeProto, graph: EditableGraph) -> bool:
    """Whether a node reads a learned table."""
    table = graph.constant(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim > 1
