"""Programs that children run for us: each first imports what takes long, and then waits on stdin for its task."""

from __future__ import annotations

import sys
from pathlib import Path

GIBIBYTES = 8.0  # of address space that each may take
FOLDING, SHAPES = "constant folding", "shape inference"  # steps of onnxsim that are no passes

# onnxsim imports torch and sympy where it finds them, and needs neither.
ONNXSIM = """
import json, sys
sys.path.remove("")
sys.modules["torch"] = sys.modules["sympy"] = None
import onnx, onnxsim
"""

# The task: the graph, the file to write, and the passes to leave out. `certify` and `check_n` prove less than we do.
SIMPLIFY = f"""{ONNXSIM}
before, out, off = json.loads(sys.stdin.readline())
simple, _ = onnxsim.simplify(
    onnx.load(before),
    check_n=0,
    certify=False,
    skipped_optimizers=off,
    skip_constant_folding="{FOLDING}" in off,
    skip_shape_inference="{SHAPES}" in off,
)
onnx.save(simple, out)
"""

# The task: a graph, which may crash ONNX Runtime (1.31 optimises some FP16 attention into a segmentation fault).
OPEN = """
import json, sys
sys.path.remove("")
import onnxruntime
onnxruntime.InferenceSession(json.loads(sys.stdin.readline()), providers=["CPUExecutionProvider"])
"""

# The task: the folder of a run, whose page is to be drawn.
DRAW = f"""
import json, sys
sys.path[0] = {str(Path(__file__).parents[1])!r}
from pathlib import Path
from deploytool.page import leaf
leaf.write(Path(json.loads(sys.stdin.readline())))
"""


def command(program: str) -> tuple[str, ...]:
    """What runs a program."""
    return (sys.executable, "-c", program)
