"""Edits an ONNX graph in place: looks up producers and consumers, replaces nodes, and writes a valid model.

It works on protobuf messages directly: importing a graph library would take longer than all rewrites together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from deploytool.errors import StageFailed
from deploytool.rewrites.graph import shapes, weights
from deploytool.rewrites.graph.shapes import Shape

Array = npt.NDArray[Any]

_SHAPE_OPS = ("Shape", "Slice", "Gather", "Concat", "Unsqueeze", "Squeeze", "Cast", "Mul", "Div", "Floor", "Constant")


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; strings as bytes, as in ONNX."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


class EditableGraph:
    """An editable copy of a model's graph; the model itself is never changed.

    A tensor keeps its name as long as its values stay equal; a rewrite that changes values gives the tensor a new name
    with the `suffix` of the rewrite. So tensors of one name in two graphs can be compared.
    """

    def __init__(self, model: onnx.ModelProto, suffix: str = "") -> None:
        self.model, self._suffix = model, suffix  # `model` stays unchanged
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.outputs = {output.name for output in model.graph.output}
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._arrays: dict[str, Array] = {}
        self._reused_names: set[str] = set()
        self._annotations: dict[str, onnx.ValueInfoProto] = {}
        self._names = {name for node in self.nodes for name in (node.name, *node.output)} | set(self._weights)
        self._index()

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that produces a tensor; None for an input or a weight."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read a tensor; a node that reads it twice is listed twice."""
        return self._consumers[tensor]

    def only_consumer(self, tensor: str, ends: Collection[NodeProto] = ()) -> NodeProto | None:
        """The only consumer of a tensor; None if it has none, several, or is an output of the graph.

        Consumers that only compute a shape for one of `ends` do not count.
        """
        consumers = [node for node in self._consumers[tensor] if not (ends and self._is_shape_of(node, ends))]
        return consumers[0] if len(consumers) == 1 and tensor not in self.outputs else None

    def _is_shape_of(self, node: NodeProto, ends: Collection[NodeProto]) -> bool:
        """Whether a node is a Shape whose result is used for nothing but shape inputs of `ends`."""
        pending = [node] if node.op_type == "Shape" else []
        for shape_node in pending:
            if shape_node.op_type not in _SHAPE_OPS or self.outputs.intersection(shape_node.output):
                return False
            after = [consumer for name in shape_node.output for consumer in self._consumers[name]]
            pending += [consumer for consumer in after if not any(consumer is end for end in ends)]
        return bool(pending)

    def constant(self, tensor: str) -> Array | None:
        """The values of a weight or a Constant node; None for a tensor that depends on the inputs."""
        if tensor not in self._arrays:
            value = self._weights.get(tensor)
            node = self.producer(tensor)
            if value is None and node is not None and node.op_type == "Constant":
                value = attributes(node).get("value")
            if not isinstance(value, onnx.TensorProto):
                return None
            self._arrays[tensor] = weights.values(value)
        return self._arrays[tensor]

    def shape(self, tensor: str) -> Shape | None:
        """The shape of a tensor, with None for a dynamic dimension; None if it is unknown or the tensor is new."""
        return self._shapes.get(tensor)

    def add_weight(self, name: str, values: Array) -> str:
        """Adds a weight; returns its name, made unique."""
        name = self.unique_name(name)
        self._weights[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def make_node(
        self, op: str, like: NodeProto, inputs: Sequence[str], output: str = "", **settings: Any
    ) -> NodeProto:
        """A node that is not yet in the graph, named after the module of the node `like`.

        It produces the tensor `output`, or a new tensor named after the node.
        """
        name = self.unique_name(f"{like.name.rpartition('/')[0]}/{op}", instead_of=like.name)
        tensor = output or self.unique_name(f"{name}_output_0{self._suffix}")
        return helper.make_node(op, inputs, [tensor], name, **settings)

    def unique_name(self, name: str, instead_of: str = "") -> str:
        """`name`, or the first unused of name_1, name_2 …; the name of a replaced node can be reused once."""
        if name == instead_of and name not in self._reused_names:
            self._reused_names.add(name)
            return name
        numbered = (f"{name}_{number}" for number in count(1))
        unique = name if name not in self._names else next(option for option in numbered if option not in self._names)
        self._names.add(unique)
        return unique

    def replace(self, old: Collection[NodeProto], new: Sequence[NodeProto]) -> None:
        """Puts new nodes at the position of the last old node, where all their inputs have been produced."""
        removed = {id(node) for node in old}
        last = max(index for index, node in enumerate(self.nodes) if id(node) in removed)
        before = [node for node in self.nodes[:last] if id(node) not in removed]
        self.nodes = [*before, *new, *self.nodes[last + 1 :]]
        self._index()

    def add_shapes(self, values: Iterable[onnx.ValueInfoProto]) -> None:
        """Adds shape annotations to the model, for runtimes that cannot infer them."""
        self._annotations.update({value.name: value for value in values})

    def to_model(self) -> onnx.ModelProto:
        """The edited model, with nodes in topological order and without unused nodes, weights and shapes.

        Raises StageFailed if no node produces a tensor that another one reads.
        """
        nodes = self._ordered()
        used = {name for node in nodes for name in node.input} | self.outputs
        edited = weights.without_contents(self.model)
        edited.graph.node.extend(nodes)
        edited.graph.initializer.extend(weight for name, weight in self._weights.items() if name in used)
        produced = {name for node in nodes for name in node.output}
        known = {value.name: value for value in self.model.graph.value_info} | self._annotations
        edited.graph.value_info.extend(value for name, value in known.items() if name in produced)
        return edited

    def _ordered(self) -> list[NodeProto]:
        """The used nodes in topological order."""
        available = {value.name for value in self.model.graph.input} | set(self._weights) | {""}
        waiting, ordered = self._used(), []
        while waiting:
            ready = []
            for node in waiting:
                if available.issuperset(node.input):
                    ready.append(node)
                    available.update(node.output)
            if not ready:
                raise StageFailed(f"a rewrite left {waiting[0].name} without its inputs", "report it with the graph")
            ordered += ready
            placed = {id(node) for node in ready}
            waiting = [node for node in waiting if id(node) not in placed]
        return ordered

    def _used(self) -> list[NodeProto]:
        """The nodes that an output depends on, in their present order."""
        pending, used = list(self.outputs), set()
        while pending:
            producer = self.producer(pending.pop())
            if producer is not None and id(producer) not in used:
                used.add(id(producer))
                pending += producer.input
        return [node for node in self.nodes if id(node) in used]

    def _index(self) -> None:
        self._producers: Mapping[str, NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._consumers[name].append(node)

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        inferred = shapes.infer(shapes.without_large_weights(self.model))
        return {name: shapes.dims(value) for name, value in inferred.items()}
