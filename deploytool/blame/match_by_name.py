"""What a wrong tensor was meant to be, told from the name of its node where its values cannot tell."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deploytool.blame.reference_tensor import ReferenceTensor
from deploytool.exporters.name_scopes import module_path
from deploytool.results.blame import Layer


def matching_call(layer: Layer, layers: Sequence[Layer], known: Sequence[ReferenceTensor]) -> ReferenceTensor | None:
    """The call of the source model that a node stands for; None where its name does not tell.

    The nodes of a module are its calls if there are as many; else its last node is its last call. Behind that, a
    module beside it that has no node left is folded into it, as a batch norm is into its convolution.
    """
    modules = {path for each in known for path in _ways(each.module)}
    told = {each.tensor: module_path(each.node, modules) for each in layers}
    module = told[layer.tensor]
    nodes = [tensor for tensor, path in told.items() if path == module]
    calls = [at for at, each in enumerate(known) if each.module == module and not each.tensor]
    last = nodes[-1] == layer.tensor
    if not module or not calls or (len(nodes) != len(calls) and not last):
        return None
    at = calls[-1] if last else calls[nodes.index(layer.tensor)]
    while last and at + 1 < len(known) and _folded(known[at + 1].module, module, set(told.values())):
        at += 1
    return known[at]


def _ways(path: str) -> list[str]:
    """The module and all that it lies in."""
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _folded(module: str, into: str, left: Collection[str]) -> bool:
    """Whether a module beside another has no node left."""
    return module not in left and bool(module) and module.rpartition(".")[0] == into.rpartition(".")[0]
