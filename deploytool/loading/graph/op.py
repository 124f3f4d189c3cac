"""What an operator's implementation is given about its node: name, version, attributes and element types."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx
from onnx import AttributeProto

from deploytool.loading.graph.element_types import UNKNOWN, Value

_SINGLE = struct.Struct("<f")
Body: TypeAlias = Callable[[Sequence[Value], Sequence[Value]], "list[Value]"]  # inputs and captured values → outputs


@dataclass(frozen=True)
class Op:
    """One node.

    version: the opset of the graph for the operator's domain.
    input_types, output_types: element types as far as type inference knows them, else UNKNOWN.
    bodies: its subgraphs by attribute; `captured` counts the values of outer graphs behind its inputs.
    """

    node: onnx.NodeProto
    version: int
    input_types: tuple[int, ...] = ()
    output_types: tuple[int, ...] = ()
    bodies: Mapping[str, Body] = field(default_factory=dict)
    captured: int = 0
    attributes: Mapping[str, AttributeProto] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", {item.name: item for item in self.node.attribute})

    @property
    def label(self) -> str:
        """The node as messages name it."""
        name = self.node.name or next((output for output in self.node.output if output), "")
        return f"{name} ({self.node.domain + '.' if self.node.domain else ''}{self.node.op_type})"

    def has(self, name: str) -> bool:
        """Whether the node has an attribute."""
        return name in self.attributes

    def integer(self, name: str, default: int = 0) -> int:
        """The value of an integer attribute."""
        return self.attributes[name].i if name in self.attributes else default

    def flag(self, name: str, default: bool = False) -> bool:
        """The value of an integer attribute that is 0 or 1."""
        return bool(self.integer(name, int(default)))

    def number(self, name: str, default: float = 0.0) -> float:
        """The value of a float attribute; like one of the file, the default is an FP32 number."""
        return self.attributes[name].f if name in self.attributes else _SINGLE.unpack(_SINGLE.pack(default))[0]

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """The value of an attribute that is a list of integers."""
        return list(self.attributes[name].ints) if name in self.attributes else list(default)

    def numbers(self, name: str, default: Sequence[float] = ()) -> list[float]:
        """The value of an attribute that is a list of floats."""
        return list(self.attributes[name].floats) if name in self.attributes else list(default)

    def text(self, name: str, default: str = "") -> str:
        """The value of a string attribute."""
        return self.attributes[name].s.decode() if name in self.attributes else default

    def texts(self, name: str) -> list[str]:
        """The value of an attribute that is a list of strings."""
        return [item.decode() for item in self.attributes[name].strings] if name in self.attributes else []

    def wants(self, output: int) -> bool:
        """Whether the node has an output of that number."""
        return len(self.node.output) > output and bool(self.node.output[output])

    def input_type(self, number: int) -> int:
        """The element type of an input."""
        return self.input_types[number] if number < len(self.input_types) else UNKNOWN

    def output_type(self, number: int = 0) -> int:
        """The element type of an output."""
        return self.output_types[number] if number < len(self.output_types) else UNKNOWN


Operator: TypeAlias = Callable[..., Any]  # (op, *inputs) → a value, or a tuple of values; None for an omitted input
