"""Matches a wrong tensor to a call of the source model by the name of its node, where its values cannot."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deploytool.blame.reference_tensor import ReferenceTensor
from deploytool.exporters.name_scopes import module_path
from deploytool.results.blame import Layer


def matching_call(layer: Layer, layers: Sequence[Layer], calls: Sequence[ReferenceTensor]) -> ReferenceTensor | None:
    """The call of the source model that a node implements; None if the name of the node does not determine it.

    If a module has as many nodes as calls, they correspond in order; otherwise its last node is its last call. A
    sibling module behind the last call that has no node is folded into it, as a batch norm is into its convolution.
    """
    modules = {path for call in calls for path in _with_parents(call.module)}
    module_of = {each.tensor: module_path(each.node, modules) for each in layers}
    module = module_of[layer.tensor]
    tensors = [tensor for tensor, path in module_of.items() if path == module]
    indices = [index for index, call in enumerate(calls) if call.module == module and not call.tensor]
    is_last = tensors[-1] == layer.tensor
    if not module or not indices or (len(tensors) != len(indices) and not is_last):
        return None
    index = indices[-1] if is_last else indices[tensors.index(layer.tensor)]
    while is_last and index + 1 < len(calls) and _is_folded(calls[index + 1].module, module, set(module_of.values())):
        index += 1
    return calls[index]


def _with_parents(path: str) -> list[str]:
    """The path of a module and of every module that contains it."""
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _is_folded(module: str, into: str, modules_with_nodes: Collection[str]) -> bool:
    """Whether a module is a sibling of `into` and has no node."""
    if not module or module in modules_with_nodes:
        return False
    return module.rpartition(".")[0] == into.rpartition(".")[0]
