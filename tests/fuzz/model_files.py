"""Hands mutated ONNX files to `export` and `show`: each ends with one line, or with a graph that computes the same."""

from __future__ import annotations

import json
import os
import pkgutil
import random
import re
import resource
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from deploytool.data import golden
from deploytool.spec import Stage
from deploytool.stages.registry import STAGES
from tests.fuzz import fork_server, judge, model_mutations, mutations, original_models
from tests.fuzz.artifacts import Artifacts
from tests.fuzz.fork_server import ForkServer
from tests.fuzz.judge import HOST_CLI, Case, CommandResult
from tests.rewrites.graph import external

_REFUSED, _MADE = (2, 7), (0, 3, 6)  # exit codes without and with a run
_TOLERANCE = 1e-3  # of the largest finite value of an output
_MOST_CHANGED = 0.02  # share of the elements of an integer or boolean output that may differ, because of ties
_MOST_MIB = 5 << 10  # by which the process may grow
_LONGEST_LINE = 1200  # characters of a problem or a remedy
_PACKAGES = ("deploytool.stages", "deploytool.loading", "deploytool.backends", "deploytool.parity", "deploytool.report")
_ATTACKS = 0.1  # share of the cases
_BY_NAME = [name for name in original_models.BASES for _ in range(2 if name in ("transformer", "control_flow") else 1)]
_FORMS = ("--json", "--quiet", "")
Array = npt.NDArray[Any]


class Models:
    """One batch of files."""

    name = "models"
    # a graph may compute much, up to the limit of the child that tries it; this process computes it in FP64
    most_child_mib, most_extra_mib = 2.5 * 1024, 4.5 * 1024

    def __init__(self, original: Artifacts, scratch: Path) -> None:
        self.original, self.scratch = original, scratch
        self.folder, self.out = scratch / "in", scratch / "out"
        (scratch / "victim").mkdir()
        (scratch / "victim" / "file").write_bytes(b"not yours")
        self.attacks = list(external.attacks())
        judge.CHILDREN.most_s = 6.0
        judge.count_processor_time()
        preload()
        server = ForkServer(scratch.parent)  # before anything runs a model in this process
        server.install()
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (_MOST_MIB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def clean(self, case: Case) -> None:
        """Exports a base model."""
        self._check(case, self._write_base("convolutional"), (), _MADE, "--json")

    def case(self, rng: random.Random) -> Case:
        """One file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if rng.random() < _ATTACKS:
            return self._attack(rng)
        base = rng.choice(_BY_NAME)
        path = self._write_base(base)
        kind, raw = mutations.mutated(path.read_bytes(), rng, model_mutations.ALL)
        case = Case(f"{base} {kind}")
        path.write_bytes(raw)
        sizes = original_models.SIZES.get(base, ())
        self._check(case, path, sizes, (*_MADE, *_REFUSED), rng.choice(_FORMS))
        if rng.random() < 0.2:
            self._checked(case, "show", "show", path, codes=(0, 2))
        return case

    def _write_base(self, name: str) -> Path:
        path = self.folder / "model.onnx"
        original_models.write(name, path)
        return path

    def _attack(self, rng: random.Random) -> Case:
        """External data that no command may read."""
        attack = rng.choice(self.attacks)
        case = Case(f"attack: {attack.name}")
        self.folder.mkdir()
        self._check(case, external.write(self.folder, attack), (), (2,), rng.choice(_FORMS))
        return case

    def _check(self, case: Case, path: Path, options: tuple[str, ...], codes: tuple[int, ...], form: str) -> None:
        """Exports a file and checks the result, the run and all other files."""
        before = _states(self.scratch)
        words = ("export", path, "--quick", "--to", "onnx", "--out", self.out, *options, *[form] * bool(form))
        code = self._checked(case, "export", *words, codes=codes)
        try:
            if code == 0:
                self._check_outputs(case, path)
            if code in _MADE and not (self.out / "validate" / "report.json").is_file():
                case.add_fault(f"export ended with {code} and left no whole run")
            if code in _REFUSED and (leftovers := _unfinished(self.out)):
                case.add_fault(f"export ended with {code} and left {leftovers[:5]}")
        finally:
            shutil.rmtree(self.out, ignore_errors=True)
        after = _states(self.scratch)
        if changed := {name for name in {*before, *after} if before.get(name) != after.get(name)}:
            case.add_fault(f"files beside the run changed: {sorted(changed)[:5]}")

    def _checked(self, case: Case, name: str, *words: object, codes: tuple[int, ...]) -> int:
        """Runs a command and returns its exit code; checks what it prints, libraries included."""
        log = self.scratch.parent / "output"
        with _native_output(log):
            result = judge.call(HOST_CLI, *words)
        case.check(name, result, codes)
        if native := log.read_bytes():
            case.add_fault(f"{name}: a library printed {native[-300:]!r}")
        if not result.problems:
            for problem in _line_problems(result, [str(word) for word in words]):
                case.add_fault(f"{name}: ended with {result.code}: {problem}: {result.stderr[-500:]!r}")
        return 1 if result.problems else result.code

    def _check_outputs(self, case: Case, path: Path) -> None:
        """Compares the exported graph with the given file on the golden inputs, both run by ONNX Runtime."""
        sample = golden.read(self.out / "golden" / "golden.npz")
        try:
            given, made = _session(path, optimised=False), _session(self.out / "rewrite" / "model.onnx", optimised=True)
            expected, found = _by_position(given, sample.inputs), _by_position(made, sample.inputs)
            names = [[_shown(value.name) for value in session.get_outputs()] for session in (given, made)]
            if len(expected) != len(found):  # outputs that are constant are left out
                kept = [names[0].index(name if name in names[0] else name.rpartition("_")[0]) for name in names[1]]
                expected = [expected[number] for number in kept]
            for number, (one, other) in enumerate(zip(expected, found, strict=True)):
                if problem := _difference(one, other):
                    case.add_fault(f"the graph was accepted, and output {number} differs: {problem}")
        except Exception as error:
            case.add_fault(f"the graph was accepted and cannot be compared: {error!r}"[:600])


def preload() -> None:
    """Imports what an export and its workers import, which the next forks then have; what is missing stays missing."""
    fork_server.preload()
    for package in _PACKAGES:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            with suppress(ImportError):
                import_module(module.name)


def _unfinished(run: Path) -> list[str]:
    """What a refused export may not leave: anything but directories of finished stages, with which the next begins."""
    if not os.path.lexists(run):
        return []
    stages = [name for name in STAGES if name is not Stage.VALIDATE]
    return [path.name for path in run.iterdir() if path.name not in stages or not (path / "receipt.json").is_file()]


def _states(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """The kind, size and content of every entry below a folder; content only of small regular files."""
    found = {}
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(above, name)
            state = path.lstat()
            is_small = stat.S_ISREG(state.st_mode) and state.st_size < 1 << 20
            found[str(path)] = (state.st_mode, state.st_size, path.read_bytes() if is_small else b"")
    return {name: state if not stat.S_ISDIR(state[0]) else (state[0], 0, b"") for name, state in found.items()}


@contextmanager
def _native_output(log: Path) -> Iterator[None]:
    """Sends what libraries print on the standard streams to a file."""
    kept = [os.dup(number) for number in (1, 2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for number in (1, 2):
            os.dup2(file, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(file)


def _line_problems(result: CommandResult, words: list[str]) -> Iterator[str]:
    """What is wrong with how a command tells its error: one line with the problem, and one with the remedy."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("deploytool: ")]
    if result.code == 0:
        yield from ["an error was printed"] * bool(starts)
        return
    if len(starts) != 1:
        yield f"{len(starts)} error lines"
    elif len(lines) - starts[0] != 2:
        yield f"{len(lines) - starts[0]} lines from the error on"
    if any(len(line) > _LONGEST_LINE for line in lines):
        yield f"a line of {max(map(len, lines))} characters"
    if "--json" in words:
        error = json.loads(result.stdout)["error"]
        if not error or not error["problem"] or not error["remedy"] or error["exit_code"] != result.code:
            yield f"the document says {error}"


def _shown(name: str) -> str:
    """The name of an output in the exported graph."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _session(path: Path, *, optimised: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _by_position(session: Any, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs of a graph for all cases, with the cases first; the inputs are given in its order.

    The batch of the graph is first, elsewhere, fixed, or missing, as the shapes of its inputs tell.
    """
    values = session.get_inputs()
    types = ["float16" if value.type == "tensor(float16)" else None for value in values]
    arrays = [array.astype(kind or array.dtype) for array, kind in zip(inputs.values(), types, strict=True)]
    shapes = [value.shape for value in values]
    names = [value.name for value in values]
    if any(len(shape) < array.ndim for shape, array in zip(shapes, arrays, strict=True)):
        runs = [
            session.run(None, dict(zip(names, (array[case] for array in arrays), strict=True)))
            for case in range(len(arrays[0]))
        ]
        return [np.stack([np.asarray(run[number]) for run in runs]) for number in range(len(runs[0]))]
    if all(shape and isinstance(shape[0], int) for shape in shapes) and _is_static(shapes):
        return _in_fixed_batches(session, names, arrays, shapes[0][0])
    axes = [next((axis for axis, size in enumerate(shape) if isinstance(size, str)), 0) for shape in shapes]
    feeds = [np.moveaxis(array, 0, axis) for array, axis in zip(arrays, axes, strict=True)]
    outputs = [np.asarray(output) for output in session.run(None, dict(zip(names, feeds, strict=True)))]
    moved = [
        value.shape.index(shapes[0][axes[0]]) if shapes[0][axes[0]] in value.shape else 0
        for value in session.get_outputs()
    ]
    return [
        np.moveaxis(array, axis, 0) if array.ndim > axis else array for array, axis in zip(outputs, moved, strict=True)
    ]


def _is_static(shapes: list[Any]) -> bool:
    return all(isinstance(size, int) for shape in shapes for size in shape)


def _in_fixed_batches(session: Any, names: list[str], arrays: list[Array], size: int) -> list[Array]:
    """The outputs of a graph with a fixed batch: each case fills a batch, and its first answer counts."""
    runs = []
    for case in range(len(arrays[0])):
        feeds = (np.repeat(array[case : case + 1], size, axis=0) for array in arrays)
        runs.append(session.run(None, dict(zip(names, feeds, strict=True))))
    return [np.concatenate([np.asarray(run[number])[:1] for run in runs]) for number in range(len(runs[0]))]


def _difference(expected: Array, found: Array) -> str:
    """How an output differs, apart from axes of 1, which a case without a batch gets; empty if it does not."""
    expected, found = np.squeeze(expected), np.squeeze(found)
    if expected.shape != found.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if expected.dtype.kind not in "fV":
        changed = float(np.mean(expected != found)) if expected.size else 0.0
        return f"{changed:.1%} of the elements" if changed > _MOST_CHANGED else ""
    one, other = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return "NaN or infinities"
    scale = float(np.abs(one[finite]).max()) if finite.any() else 0.0
    error = float(np.abs(one[finite] - other[finite]).max()) if finite.any() else 0.0
    tolerance = _TOLERANCE * (10 if expected.dtype == np.float16 else 1)
    return "" if error <= tolerance * scale + 1e-30 else f"by {error:.3g} at a scale of {scale:.3g}"
