"""Runs onnxsim in a child process, without torch and sympy, which onnxsim imports where installed and does not need."""

from __future__ import annotations

import json
import sys

FOLDING, SHAPES = "constant-folding", "shape-inference"  # steps of onnxsim that are no passes
LIST_PASSES = "list-passes"


def main(*arguments: str) -> None:
    """Writes a simplified graph; with the argument LIST_PASSES prints the names of onnxsim's passes instead.

    The task on stdin is the path of the graph, the path of the result, and the passes and steps to leave out.
    """
    for unneeded in ("torch", "sympy"):
        sys.modules[unneeded] = None  # type: ignore[assignment]  # which makes its import fail
    import onnx
    import onnxsim

    if arguments == (LIST_PASSES,):
        sys.argv = ["onnxsim", "--list-default-optimizers"]
        onnxsim.main()
        return
    graph, result, skipped = json.loads(sys.stdin.readline())
    simplified, _ = onnxsim.simplify(
        onnx.load(graph),
        check_n=0,  # this and `certify` prove less than the comparison that follows
        certify=False,
        skipped_optimizers=skipped,
        skip_constant_folding=FOLDING in skipped,
        skip_shape_inference=SHAPES in skipped,
    )
    onnx.save(simplified, result)
