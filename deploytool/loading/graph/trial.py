"""Tries a given graph in a limited child process before this process runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool import runtimes
from deploytool.errors import BadInput, ChildDied, ChildFailed
from deploytool.host import exception_text, machine, scratch, workers
from deploytool.host.process import run_limited
from deploytool.loading.graph import layout, structure, widening
from deploytool.rewrites.graph import storage
from deploytool.spec import Model

_WORKER = "deploytool.loading.graph.trial_worker"
_SECONDS = 300.0  # for all runs together
_MAX_RESULT_BYTES = 1 << 24
_LIBRARY = re.compile(r"^.*\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")
_SIGNATURE = re.compile(r"(?:/\S+\.(?:cc|h|cpp):\d+ (?:\S+ )?)?\S*onnxruntime::.*?\) ")  # of a C++ function
_FILE = re.compile(r"Load model from .* failed:\s*")
_ONLY_STANDARD = "check that the file is complete, and export it again with standard operators"


def run(model: Model, batches: Sequence[Mapping[str, npt.NDArray[Any]]]) -> list[list[tuple[int, ...]]]:
    """The shapes of the outputs of the file, in its order, for each batch of the model's inputs.

    Raises BadInput if ONNX Runtime refuses the file, crashes on it, or does not end.
    """
    path = Path(model.factory).resolve()
    with scratch.folder() as folder:
        files = [str(folder / f"{number}.npz") for number in range(len(batches))]
        for file, batch in zip(files, batches, strict=True):
            np.savez(file, *layout.to_file(model, batch).values())
        result = folder / "shapes.json"
        try:
            run_limited(
                workers.command(_WORKER),
                what="ONNX Runtime",
                seconds=_SECONDS,
                gibibytes=workers.MEMORY_GIB,
                max_file_bytes=_MAX_RESULT_BYTES,
                task=[str(path), files, str(result)],
            )
            document = json.loads(result.read_text(encoding="utf-8"))
        except ChildFailed as error:
            raise _refused(model, error.last_line) from error
        except ChildDied as error:
            problem = f"ONNX Runtime cannot run {model.factory}: {exception_text.one_line(error)}"
            raise BadInput(problem, "check where the file comes from, and that it is complete") from error
    shapes = [[tuple(shape) for shape in batch] for batch in document["shapes"]]
    if document["failure"]:
        given = ", ".join(f"{name} {array.shape}" for name, array in batches[len(shapes)].items())
        problem = f"ONNX Runtime cannot run {model.factory} on {given}: {_reason(document['failure'])}"
        cases = len(next(iter(batches[0].values())))
        single = "for a graph that takes one case at a time, --batch 1; " if cases > 1 else ""
        raise BadInput(problem, f"{single}state the sizes that it takes: --size, --input; or give --inputs FILE.npz")
    return shapes


def _refused(model: Model, line: str) -> BadInput:
    """The error for a file that ONNX Runtime cannot load."""
    graph = storage.load_structure(Path(model.factory))
    narrow = widening.is_bfloat16(graph)
    what = f"{model.factory} computes in BF16, and ONNX Runtime cannot" if narrow else "ONNX Runtime cannot"
    problem = f"{what} load {'it' if narrow else model.factory}: {_reason(line)}"
    installed = machine.version("onnxruntime") or machine.version("onnxruntime-gpu") or ""
    opset = structure.opset(graph, model.factory)
    too_new = runtimes.refusal(runtimes.ORT, installed, graph.ir_version, opset)
    remedy = f"{too_new}: export the model for an older version, or install that release" if too_new else _ONLY_STANDARD
    return BadInput(problem, widening.FROM_BFLOAT16 if narrow else remedy)


def _reason(line: str) -> str:
    """The message of ONNX Runtime without its own source files; the node is named."""
    text = _NODE.sub(r"\1 node '\2': ", _FILE.sub("", _LIBRARY.sub("", line)))
    return exception_text.clean(_SIGNATURE.sub("", text))
