"""A metric of the user's own: `score(outputs, targets)`, called in a child process."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool import serde
from deploytool.data.labels.labelled_images import Target
from deploytool.errors import BadInput, ChildDied, ChildFailed
from deploytool.host import scratch, workers
from deploytool.host.process import run_limited
from deploytool.loading import factory
from deploytool.metrics import catalog
from deploytool.metrics.user_metric_worker import Scores, ScoreTask, TargetText
from deploytool.tasks.annotations import Boxes

Array = npt.NDArray[Any]

_WORKER = "deploytool.metrics.user_metric_worker"
_SECONDS, _SECONDS_PER_IMAGE = 60.0, 1.0
_MAX_RESULT_BYTES = 1 << 26
_REMEDY = "it gets the outputs by name and a list of targets, and returns an array with one figure for each image"
_IMPORTABLE = "name a function that Python can import here: FILE.py:score or package.module:score"


def check(reference: str) -> str:
    """The digest of the files of a metric; nothing is imported.

    Raises BadInput for a file or module that does not exist, and for a function that a file does not define.
    """
    path, _, name = reference.rpartition(":")
    if not path or not name:
        ready = ", ".join(catalog.METRICS)
        raise BadInput(
            f"{reference!r} is no metric", f"choose from {ready}, or name FILE.py:score, package.module:score"
        )
    sources = factory.source_files(reference)
    if path.endswith(".py") and not {name, "*"} & _defined(Path(path)):
        raise BadInput(f"{path} defines no function {name!r}", f"define {name}(outputs, targets): {_REMEDY}")
    return serde.digest({str(source): serde.file_digest(source) for source in sources})


def _defined(path: Path) -> set[str]:
    """The names that a file defines or imports at its top level; raises BadInput if it is no Python code."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not Python code: {error}", "correct the file") from error
    names = set[str]()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            names.add(node.name)
            continue
        waiting += ast.iter_child_nodes(node)  # if, try and with have definitions inside
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def scores(reference: str, outputs: Mapping[str, Array], targets: Sequence[Target]) -> npt.NDArray[np.float64]:
    """The user's figure for each image.

    Raises BadInput if the function fails, does not end, takes too much memory, or returns something else than one
    finite number for each image.
    """
    with scratch.folder() as folder:
        file, result = folder / "outputs.npz", folder / "scores.json"
        np.savez(file, *outputs.values())
        return _run(
            ScoreTask(reference, str(file), tuple(outputs), tuple(map(_as_text, targets)), str(result)), _REMEDY
        )


def try_import(reference: str) -> None:
    """Imports the user's function in a child process, and calls nothing.

    Raises BadInput if it cannot be imported within the limits of `scores`.
    """
    with scratch.folder() as folder:
        _run(ScoreTask(reference, "", (), (), str(folder / "scores.json")), _IMPORTABLE)


def _run(task: ScoreTask, remedy: str) -> npt.NDArray[np.float64]:
    """The scores of a task, which a child process carries out; raises BadInput where it has none."""
    try:
        run_limited(
            workers.command(_WORKER),
            what=f"the metric {task.reference}",
            seconds=_SECONDS + _SECONDS_PER_IMAGE * len(task.targets),
            gibibytes=workers.MEMORY_GIB,
            max_file_bytes=_MAX_RESULT_BYTES,
            task=serde.encode(task),
        )
        answer = serde.read(Scores, Path(task.result))
    except (ChildFailed, ChildDied) as error:
        raise BadInput(str(error), remedy) from error
    except (OSError, serde.Malformed) as error:
        raise BadInput(f"the metric {task.reference} ended without a result", remedy) from error
    if answer.problem:
        raise BadInput(f"the metric {task.reference}: {answer.problem}", remedy)
    return np.array(answer.scores, np.float64)


def _as_text(target: Target) -> TargetText:
    if isinstance(target, Boxes):
        boxes = [(left, top, right, bottom) for left, top, right, bottom in target.boxes.tolist()]
        return TargetText(
            boxes=tuple(boxes), classes=tuple(target.classes.tolist()), crowd=tuple(target.crowd.tolist())
        )
    if isinstance(target, tuple):
        return TargetText(tokens=target)
    if isinstance(target, Path):
        return TargetText(mask=str(target.absolute()))
    return TargetText(label=target)
