"""A failure pack: a folder that shows one mismatch with onnxruntime and numpy alone, ready for an upstream report."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np
import onnx

from deploytool import serde
from deploytool.blame.locate import Divergence
from deploytool.blame.reduce import Mismatch
from deploytool.errors import BadInput
from deploytool.host import disk, machine, owner
from deploytool.host.terminal import visible

FOLDER = "blame"  # beside the rooms of the run
SCHEMA = "deploytool.failure/1"
_MARK = "failure.json"  # a folder with this file is ours, and may be replaced
_LIBRARIES = ("deploytool", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxsim", "torch")

_SHOW = '''\
"""Shows the mismatch: ends with 1 where it is still there. Needs onnxruntime and numpy."""
import sys
from pathlib import Path
import numpy as np
import onnxruntime as ort
here = Path(__file__).resolve().parent
session = ort.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
given, expected = np.load(here / "inputs.npz"), np.load(here / "expected.npy").astype(np.float64)
got = session.run(None, {each.name: given[f"arr_{at}"] for at, each in enumerate(session.get_inputs())})[0]
apart = np.abs(got.astype(np.float64) - expected).max() / (np.abs(expected).max() or 1.0)
wrong = not apart <= TOLERATED
print(f"error {apart:.1e} of the largest expected value, tolerated TOLERATED: {'MISMATCH' if wrong else 'no mismatch'}")
sys.exit(int(wrong))
'''

_README = """\
# {title}

`model.onnx` ({nodes}, opset {opset}) is cut out of the graph that the {stage} stage of deploytool made. On the inputs
in `inputs.npz`, its output {tensor} strays from what it should be: {origin}.

```
python show.py
```

needs onnxruntime and numpy. Where this was made, the largest error was {error:.1e} of the largest expected value, and
{tolerated:.1e} is tolerated.

| file | what it is |
|---|---|
| `model.onnx` | the graph: {operators} |
| `inputs.npz` | its inputs, in the order in which it declares them |
| `expected.npy` | what {tensor} should be |
| `got.npy` | what it was where this was made |
| `failure.json` | the same facts for a program |

Versions: {versions}.
"""


def write(run: Path, clue: Divergence, found: Mismatch) -> Path:
    """Writes the pack into the run's folder, in the place of an earlier one; it is there as a whole or not at all.

    Raises BadInput if the folder cannot be written, or holds somebody else's things.
    """
    place = run / FOLDER
    if place.exists() and not (place / _MARK).is_file():
        raise BadInput(f"{place} was not made by deploytool", "move it away")
    try:
        bench = run / f".making-{owner.name()}"  # an export sweeps it, should this be killed
        bench.mkdir()
    except OSError as error:
        raise BadInput(f"cannot write to {run}: {error.strerror}", "copy the run to another folder") from error
    try:
        whole = bench / "new"
        whole.mkdir()
        with disk.writing(whole, named=place):
            _fill(whole, clue, found)
        if place.exists():
            place.replace(bench / "old")
        whole.replace(place)
    finally:
        shutil.rmtree(bench, ignore_errors=True)
    return place


def _fill(folder: Path, clue: Divergence, found: Mismatch) -> None:
    onnx.save(found.excerpt.model, folder / "model.onnx")
    np.savez(folder / "inputs.npz", *found.excerpt.inputs.values(), allow_pickle=False)
    np.save(folder / "expected.npy", found.expected, allow_pickle=False)
    np.save(folder / "got.npy", found.got, allow_pickle=False)
    script = _SHOW.replace("TOLERATED", f"{found.tolerated:.6e}", 1).replace("TOLERATED", f"{found.tolerated:.1e}")
    (folder / "show.py").write_text(script, encoding="utf-8")
    versions = {name: known for name in _LIBRARIES if (known := machine.version(name))}
    versions |= {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    (folder / "README.md").write_text(_readme(clue, found, versions), encoding="utf-8")
    facts = {
        "schema": SCHEMA,
        "stage": clue.stage,
        "graph": serde.file_digest(clue.graph),
        "tensor": found.tensor,
        "nodes": [{"name": node.name, "op": node.op_type} for node in found.excerpt.nodes],
        "expected": found.origin,
        "error": found.error,
        "tolerated": found.tolerated,
        "versions": versions,
    }
    (folder / _MARK).write_text(serde.text(facts), encoding="utf-8")


def _code(name: str) -> str:
    """A name in Markdown, which nothing in it can end."""
    return "`" + visible(name).replace("`", "'").replace("|", "/") + "`"


def _readme(clue: Divergence, found: Mismatch, versions: dict[str, str]) -> str:
    nodes = found.excerpt.nodes
    operators = [f"{_code(node.op_type)} {_code(node.name)}" for node in nodes]
    return _README.format(
        title=f"{' + '.join(dict.fromkeys(visible(node.op_type) for node in nodes))} strays after {clue.stage}",
        nodes="1 node" if len(nodes) == 1 else f"{len(nodes)} nodes",
        opset=found.excerpt.model.opset_import[0].version,
        stage=clue.stage,
        tensor=_code(found.tensor),
        origin=visible(found.origin),
        error=found.error,
        tolerated=found.tolerated,
        operators=", ".join(operators),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )
