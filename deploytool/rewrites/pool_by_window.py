"""Writes the global average pooling before a classifier as one with a window as large as the picture.

A window that covers the whole picture has one place, and its average is the sum over all places, divided by their
number: the definition of GlobalAveragePool. TensorRT-RTX has a kernel for windows, and for the mean over a picture
another that may first want it transposed.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph

_CLASSIFIERS = ("Gemm", "MatMul")


def apply(draft: EditableGraph) -> Outcome:
    """Replaces every GlobalAveragePool that is flattened for a classifier."""
    fired, passed = [], []
    for node in [each for each in draft.nodes if each.op_type == "GlobalAveragePool"]:
        sides = (draft.shape(node.input[0]) or ())[2:]
        flat = draft.only_reader(node.output[0])
        if flat is None or flat.op_type != "Flatten" or not _is_classified(draft, flat):
            passed.append(f"{node.name}: no classifier reads it")
        elif len(sides) != 2 or None in sides:
            passed.append(f"{node.name}: the size of the picture is not known")
        else:
            pool = draft.node("AveragePool", node, [node.input[0]], node.output[0], kernel_shape=sides)
            draft.replace([node], [pool])
            fired.append(pool.name)
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no GlobalAveragePool is left",))


def _is_classified(draft: EditableGraph, flat: NodeProto) -> bool:
    """Whether all that read a flattened picture are classifiers."""
    readers = draft.readers(flat.output[0])
    return bool(readers) and all(reader.op_type in _CLASSIFIERS for reader in readers)
