"""A graph that is being edited: who makes each tensor, who reads it, and how nodes are replaced without loose ends.

Plain protobuf, for a graph is read and written as such, and importing a library of its own would cost more than all the
edits together.
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
from deploytool.rewrites.graph import shapes
from deploytool.rewrites.graph.shapes import Shape

Array = npt.NDArray[Any]

_OF_SIZES = ("Shape", "Slice", "Gather", "Concat", "Unsqueeze", "Squeeze", "Cast", "Mul", "Div", "Floor", "Constant")


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; text as bytes, as ONNX has it."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


class EditableGraph:
    """A copy of a model, edited node by node; what was given is never changed.

    A tensor keeps its name as long as it keeps its values, and whoever changes the values gives a new name, with the
    `mark` of who did: so what is called the same in two graphs can be held against each other.
    """

    def __init__(self, model: onnx.ModelProto, mark: str = "") -> None:
        self.model, self._mark = model, mark  # as it was given
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.outputs = {output.name for output in model.graph.output}
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._arrays: dict[str, Array] = {}
        self._given_on: set[str] = set()
        self._described: dict[str, onnx.ValueInfoProto] = {}
        self._names = {name for node in self.nodes for name in (node.name, *node.output)} | set(self._weights)
        self._index()

    def maker(self, tensor: str) -> NodeProto | None:
        """The node that makes a tensor; None for an input or a weight."""
        return self._makers.get(tensor)

    def readers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read a tensor, one as often as it does."""
        return self._readers[tensor]

    def only_reader(self, tensor: str, ends: Collection[NodeProto] = ()) -> NodeProto | None:
        """The one node that reads a tensor; None if there are more, none, or the tensor leaves the graph.

        Who only asks for its shape, and asks on behalf of one of `ends`, is no reader.
        """
        readers = [node for node in self._readers[tensor] if not (ends and self._asks_for(node, ends))]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def _asks_for(self, node: NodeProto, ends: Collection[NodeProto]) -> bool:
        """Whether a node is a Shape from which nothing else comes than the sizes that `ends` are given."""
        waiting = [node] if node.op_type == "Shape" else []
        for asker in waiting:
            if asker.op_type not in _OF_SIZES or self.outputs.intersection(asker.output):
                return False
            after = [reader for name in asker.output for reader in self._readers[name]]
            waiting += [reader for reader in after if not any(reader is end for end in ends)]
        return bool(waiting)

    def constant(self, tensor: str) -> Array | None:
        """The values of a weight or of a Constant node; None for what depends on the inputs."""
        if tensor not in self._arrays:
            found = self._weights.get(tensor)
            node = self.maker(tensor)
            if found is None and node is not None and node.op_type == "Constant":
                found = attributes(node).get("value")
            if not isinstance(found, onnx.TensorProto):
                return None
            self._arrays[tensor] = numpy_helper.to_array(found)
        return self._arrays[tensor]

    def shape(self, tensor: str) -> Shape | None:
        """The shape of a tensor, None for a free side; None altogether if it is unknown or the tensor is new."""
        return self._shapes.get(tensor)

    def weight(self, name: str, values: Array) -> str:
        """Adds a weight; its name, made unique."""
        name = self.unique(name)
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def node(self, op: str, like: NodeProto, reads: Sequence[str], makes: str = "", **settings: Any) -> NodeProto:
        """A node of that operator, not yet in the graph, called after the module that the node `like` is called after.

        It makes the tensor `makes`, or else one that is called after it.
        """
        name = self.unique(f"{like.name.rpartition('/')[0]}/{op}", instead_of=like.name)
        return helper.make_node(op, reads, [makes or self.unique(f"{name}_output_0{self._mark}")], name, **settings)

    def unique(self, name: str, instead_of: str = "") -> str:
        """`name`, or the first of name_1, name_2 … that is free; the name of a node that goes away is free, once."""
        if name == instead_of and name not in self._given_on:
            self._given_on.add(name)
            return name
        numbered = (f"{name}_{number}" for number in count(1))
        found = name if name not in self._names else next(each for each in numbered if each not in self._names)
        self._names.add(found)
        return found

    def replace(self, old: Collection[NodeProto], new: Sequence[NodeProto]) -> None:
        """Puts new nodes where the last of the old ones stood: their sources are all made by then."""
        gone = {id(node) for node in old}
        last = max(place for place, node in enumerate(self.nodes) if id(node) in gone)
        before = [node for node in self.nodes[:last] if id(node) not in gone]
        self.nodes = [*before, *new, *self.nodes[last + 1 :]]
        self._index()

    def describe(self, values: Iterable[onnx.ValueInfoProto]) -> None:
        """Writes down shapes of tensors that are to stand in the model, for those who cannot infer them."""
        self._described.update({value.name: value for value in values})

    def to_model(self) -> onnx.ModelProto:
        """The edited model, whole: nodes in order, and no node, weight or shape that nothing needs.

        Raises StageFailed if the edits left a tensor that nobody makes.
        """
        kept = self._ordered()
        used = {name for node in kept for name in node.input} | self.outputs
        sealed = onnx.ModelProto()
        sealed.CopyFrom(self.model)
        del sealed.graph.node[:], sealed.graph.initializer[:], sealed.graph.value_info[:]
        sealed.graph.node.extend(kept)
        sealed.graph.initializer.extend(weight for name, weight in self._weights.items() if name in used)
        made = {name for node in kept for name in node.output}
        known = {value.name: value for value in self.model.graph.value_info} | self._described
        sealed.graph.value_info.extend(value for name, value in known.items() if name in made)
        return sealed

    def _ordered(self) -> list[NodeProto]:
        """The nodes that are needed, each behind those that make what it reads."""
        made = {each.name for each in self.model.graph.input} | set(self._weights) | {""}
        waiting, ordered = self._needed(), []
        while waiting:
            ready = []
            for node in waiting:
                if made.issuperset(node.input):
                    ready.append(node)
                    made.update(node.output)
            if not ready:
                raise StageFailed(f"a rewrite left {waiting[0].name} without its sources", "report it with the graph")
            ordered += ready
            settled = {id(node) for node in ready}
            waiting = [node for node in waiting if id(node) not in settled]
        return ordered

    def _needed(self) -> list[NodeProto]:
        """The nodes that an output is made of, in the order they stand in."""
        wanted, needed = list(self.outputs), set()
        while wanted:
            maker = self.maker(wanted.pop())
            if maker is not None and id(maker) not in needed:
                needed.add(id(maker))
                wanted += maker.input
        return [node for node in self.nodes if id(node) in needed]

    def _index(self) -> None:
        self._makers: Mapping[str, NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self._readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._readers[name].append(node)

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return {name: shapes.sides(value) for name, value in shapes.infer(shapes.without_values(self.model)).items()}
