"""Programs that children run for us: each first imports what takes long, and then waits on stdin for its task."""

from __future__ import annotations

import sys
from pathlib import Path

GIBIBYTES = 8.0  # of address space that each may take
LARGEST_FILE = 16 << 30  # bytes, of those that write what is to stay
FOLDING, SHAPES = "constant folding", "shape inference"  # steps of onnxsim that are no passes

# onnxsim imports torch and sympy where it finds them, and needs neither.
ONNXSIM = """
import json, sys
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

# The task: a graph, which may crash ONNX Runtime, and whether to optimise it (1.31 optimises some FP16 attention, and a
# Transpose that moves the batch before a MatMul by a constant, into a segmentation fault).
OPEN = """
import json, sys
import onnxruntime
graph, optimise = json.loads(sys.stdin.readline())
options = onnxruntime.SessionOptions()
if not optimise:
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
"""

# The task: the folder of a run, whose page is to be drawn, and what that folder will be called.
DRAW = """
import json, sys
from pathlib import Path
from deploytool.report import leaf
leaf.write(*map(Path, json.loads(sys.stdin.readline())))
"""

# The first argument is the file of a request; see deploytool.device.worker.
WORK = """
import sys
from deploytool.device import worker
worker.main(sys.argv[1])
"""

# The folder one stands in is no place to import from: it may be a stranger's.
_OURS = str(Path(__file__).resolve().parents[2])
_FIRST = f"""
import os, sys  # both are there before any path is searched
try:
    here = os.path.realpath(".")
except OSError:  # it is gone, or closed to us
    here = None
sys.path = [{_OURS!r}, *(place for place in sys.path if os.path.isabs(place) and os.path.realpath(place) != here)]
"""


def command(program: str, *arguments: str) -> tuple[str, ...]:
    """What runs a program with this deploytool and the libraries installed here, and nothing of the working folder."""
    return (sys.executable, "-c", _FIRST + program, *arguments)
