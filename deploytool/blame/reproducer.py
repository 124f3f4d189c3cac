"""Writes a failure pack: a folder that reproduces one mismatch with onnxruntime and numpy, for an upstream report."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np

from deploytool import serde
from deploytool.blame.locate import Divergence
from deploytool.blame.reduce import Mismatch
from deploytool.errors import BadInput
from deploytool.host import disk, machine, owner
from deploytool.host.terminal import visible
from deploytool.rewrites.graph import storage

FOLDER = "blame"  # in the run folder, next to the stage directories
SCHEMA = "deploytool.failure/1"
_MARK = "failure.json"  # marks a folder that deploytool made and may replace
_LIBRARIES = ("deploytool", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxsim", "torch")

_SCRIPT = '''\
"""Reproduces the mismatch: exits with 1 if it still occurs. Needs onnxruntime and numpy."""
import sys
from pathlib import Path
import numpy as np
import onnxruntime as ort
folder = Path(__file__).resolve().parent
session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
inputs, expected = np.load(folder / "inputs.npz"), np.load(folder / "expected.npy").astype(np.float64)
actual = session.run(None, {spec.name: inputs[f"arr_{i}"] for i, spec in enumerate(session.get_inputs())})[0]
error = np.abs(actual.astype(np.float64) - expected).max() / (np.abs(expected).max() or 1.0)
wrong = not error <= TOLERANCE
print(f"error {error:.1e} of the largest expected value, tolerance TOLERANCE: {'MISMATCH' if wrong else 'no mismatch'}")
sys.exit(int(wrong))
'''

_README = """\
# {title}

`model.onnx` ({nodes}, opset {opset}) is a subgraph of the graph from the {stage} stage of deploytool. For the inputs in
`inputs.npz`, its output {tensor} deviates from its expected value: {origin}.

```
python show.py
```

needs onnxruntime and numpy. When this folder was written, the largest error was {error:.1e} of the largest expected
value; the tolerance is {tolerance:.1e}.

| file | content |
|---|---|
| `model.onnx` | the graph: {operators} |
| `inputs.npz` | its inputs, in the order of their declaration |
| `expected.npy` | the expected value of {tensor} |
| `got.npy` | its value when this folder was written |
| `failure.json` | the same information in JSON |

Versions: {versions}.
"""


def write(run: Path, divergence: Divergence, mismatch: Mismatch) -> Path:
    """Writes the pack to the run folder atomically, and replaces an earlier pack; returns its folder.

    Raises BadInput if the run folder cannot be written, or if its folder `blame` was not made by deploytool.
    """
    folder = run / FOLDER
    if folder.exists() and not (folder / _MARK).is_file():
        raise BadInput(f"{folder} was not made by deploytool", "move it away")
    try:
        temporary = run / f".making-{owner.name()}"  # if this process is killed, the next export removes it
        temporary.mkdir()
    except OSError as error:
        raise BadInput(f"cannot write to {run}: {error.strerror}", "copy the run to another folder") from error
    try:
        pack = temporary / "new"
        pack.mkdir()
        with disk.writing(pack, named=folder):
            _write_files(pack, divergence, mismatch)
        if folder.exists():
            folder.replace(temporary / "old")
        pack.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_files(folder: Path, divergence: Divergence, mismatch: Mismatch) -> None:
    storage.save(mismatch.subgraph.model, folder / "model.onnx")
    np.savez(folder / "inputs.npz", *mismatch.subgraph.inputs.values(), allow_pickle=False)
    np.save(folder / "expected.npy", mismatch.expected, allow_pickle=False)
    np.save(folder / "got.npy", mismatch.actual, allow_pickle=False)
    script = _SCRIPT.replace("TOLERANCE", f"{mismatch.tolerance:.6e}", 1)
    script = script.replace("TOLERANCE", f"{mismatch.tolerance:.1e}")
    (folder / "show.py").write_text(script, encoding="utf-8")
    versions = {name: version for name in _LIBRARIES if (version := machine.version(name))}
    versions |= {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    (folder / "README.md").write_text(_readme(divergence, mismatch, versions), encoding="utf-8")
    summary = {
        "schema": SCHEMA,
        "stage": divergence.stage,
        "graph": serde.file_digest(divergence.graph),
        "tensor": mismatch.tensor,
        "nodes": [{"name": node.name, "op": node.op_type} for node in mismatch.subgraph.nodes],
        "expected": mismatch.origin,
        "error": mismatch.error,
        "tolerated": mismatch.tolerance,
        "versions": versions,
    }
    (folder / _MARK).write_text(serde.text(summary), encoding="utf-8")


def _code(name: str) -> str:
    """A name as inline code in Markdown; characters that would end the code or a table cell are replaced."""
    return "`" + visible(name).replace("`", "'").replace("|", "/") + "`"


def _readme(divergence: Divergence, mismatch: Mismatch, versions: dict[str, str]) -> str:
    nodes = mismatch.subgraph.nodes
    operators = [f"{_code(node.op_type)} {_code(node.name)}" for node in nodes]
    return _README.format(
        title=f"{' + '.join(dict.fromkeys(visible(node.op_type) for node in nodes))} deviates after {divergence.stage}",
        nodes="1 node" if len(nodes) == 1 else f"{len(nodes)} nodes",
        opset=mismatch.subgraph.model.opset_import[0].version,
        stage=divergence.stage,
        tensor=_code(mismatch.tensor),
        origin=visible(mismatch.origin),
        error=mismatch.error,
        tolerance=mismatch.tolerance,
        operators=", ".join(operators),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )
