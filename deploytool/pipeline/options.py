"""Checks the options of an export and normalises them; raises BadInput for an invalid value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.loading import shards
from deploytool.pipeline.export_options import DECLARATIONS, ExportOptions, Inputs, Span
from deploytool.spec import AUTO, BATCH, DTYPES, Precision, Range, Source, Tensor

_LARGEST = {"int64": 2**63, "int32": 2**31, "int16": 2**15, "int8": 2**7, "uint8": 2**8}
_NOT_TENSORRT = {"int16": "int32"}  # types that its parser refuses: a type that holds the same values


T = TypeVar("T")


def value_or(value: T | None, default: T) -> T:
    """The value, or the default where it is None."""
    return default if value is None else value


def file(path: Path) -> Source:
    """A file with the digest of its content, and of its shards for an index; raises BadInput if there is none."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}", "check the path")
    digests = [serde.file_digest(file) for file in (path, *shards.shard_files(path))]
    return Source(str(path), digests[0] if len(digests) == 1 else serde.digest(digests))


def run_folder(path: Path) -> Path:
    """The folder of a run; raises BadInput for a path that is not UTF-8, which torch's libraries do not accept."""
    if str(path.absolute()).encode(errors="ignore").decode() != str(path.absolute()):
        raise BadInput(f"cannot write a run to {path.absolute()}: its name is not UTF-8", "choose another folder")
    return path


def folder(path: Path) -> Source:
    """A folder with a digest of its files' names, sizes and times; raises BadInput if there is none."""
    if not path.is_dir():
        raise BadInput(f"there is no folder {path}", "check the path")
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    states = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return Source(str(path), serde.digest(states))


def numbers(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """One number, or one for each channel, as a tuple of floats."""
    if value is None:
        return None
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


def names(value: str | Sequence[str]) -> tuple[str, ...]:
    """The names in a sequence, or in a comma-separated string, without duplicates."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(name for name in map(str.strip, parts) if name))


def keep_fp32(value: str | Sequence[str]) -> tuple[str, ...]:
    """The modules and nodes to keep in FP32, or `auto` alone."""
    unique = names(value)
    if AUTO in unique and len(unique) > 1:
        problem = f"--keep-fp32 {','.join(unique)}: {AUTO} and names are mutually exclusive"
        raise BadInput(problem, f"write {AUTO}, or the names")
    return unique


def size_range(name: str, span: Span) -> Range:
    """The range of sizes; raises BadInput unless 1 <= smallest <= typical <= largest."""
    ends = (span.smallest, span.typical, span.largest) if isinstance(span, Range) else span
    smallest, typical, largest = (ends, ends, ends) if isinstance(ends, int) else ends
    if not 1 <= smallest <= typical <= largest:
        text = ":".join(map(str, dict.fromkeys((smallest, typical, largest))))
        raise BadInput(f"{name} {text} is not a valid range", "write SMALLEST:TYPICAL:LARGEST, each at least 1: 1:8:32")
    return Range(smallest, typical, largest)


def sizes(spans: Mapping[str, Span], inputs: Sequence[Tensor]) -> dict[str, Range]:
    """The range of every dynamic dimension but the batch; raises BadInput if one is missing or unknown."""
    dynamic = {side for tensor in inputs for side in tensor.shape[1:] if isinstance(side, str)}
    for word in sorted(dynamic - set(spans)):
        remedy = f"give its range: --size {word}=SMALLEST:TYPICAL:LARGEST"
        vector = next((tensor for tensor in inputs if tensor.shape[1:] == (word,)), None)
        if vector is not None:  # `t:int64` declares an input of dynamic length t; the user may mean one named t
            scalar = f"{word}=:{vector.dtype}{f':{vector.below}' if vector.below != below(vector.dtype) else ''}"
            remedy += f"; if {word} is an input of one number per case: --input {scalar}"
        raise BadInput(f"no size given for dynamic dimension {word}", remedy)
    for word in sorted(set(spans) - dynamic):
        remedy = f"dynamic dimensions are: {', '.join(sorted(dynamic)) or 'none'}"
        raise BadInput(f"no input has a dynamic dimension {word}", remedy)
    return {word: size_range(f"--size {word}", span) for word, span in spans.items()}


def tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    """The inputs in order; a bare shape, without the batch, becomes a float32 input.

    Raises BadInput for two inputs with one name, for a type that numpy, torch and ONNX do not share, and for a bound
    that the type cannot hold.
    """
    resolved = tuple(
        entry if isinstance(entry, Tensor) else Tensor(f"input_{number}" if number else "input", (BATCH, *entry))
        for number, entry in enumerate(inputs)
    )
    names = [tensor.name for tensor in resolved]
    if len(set(names)) < len(names):
        raise BadInput(
            f"two inputs are named {max(names, key=names.count)}", "give each a name: --input NAME=3x224x224"
        )
    for tensor in resolved:
        _check(tensor)
    return resolved


def _check(tensor: Tensor) -> None:
    """Raises BadInput for an unknown type, and for a bound that the type cannot hold."""
    if tensor.dtype not in DTYPES:
        raise BadInput(f"invalid type {tensor.dtype!r} for input {tensor.name}", f"choose from {', '.join(DTYPES)}")
    largest = _LARGEST.get(tensor.dtype)
    if largest is None and tensor.below != below(tensor.dtype):
        raise BadInput(f"input {tensor.name} is {tensor.dtype}, and only integers have a bound", "leave BELOW out")
    if largest is not None and not 1 <= tensor.below <= largest:
        remedy = f"write a bound from 1 to {largest}, or a larger type"
        raise BadInput(f"the bound {tensor.below} of input {tensor.name} is out of range for {tensor.dtype}", remedy)


def below(dtype: str) -> int:
    """The default bound of an integer input: 256 for uint8, otherwise 2."""
    return 256 if dtype == "uint8" else 2


def for_engines(inputs: Sequence[Tensor]) -> None:
    """Raises BadInput for an input type that TensorRT does not accept."""
    for tensor in inputs:
        if tensor.dtype in _NOT_TENSORRT:
            remedy = f"declare it as {_NOT_TENSORRT[tensor.dtype]}, which holds the same values, or leave --trt out"
            raise BadInput(f"TensorRT does not support {tensor.dtype} inputs: {tensor.name}", remedy)


def tolerance(limits: Mapping[str, float]) -> dict[str, float]:
    """The largest errors allowed for `fp32` and `fp16`, relative to the largest output; raises BadInput otherwise."""
    for name, value in limits.items():
        if name not in tuple(Precision) or not 0 < value <= 1:
            raise BadInput(
                f"--tolerance {name}={value} is not a tolerance", "write --tolerance fp16=2e-3, or fp32=1e-5"
            )
    return dict(limits)


def declared(options: ExportOptions) -> None:
    """Raises BadInput for a value that is not one of the declared choices, or is outside the declared bounds."""
    for name, declaration in DECLARATIONS.items():
        value = getattr(options, name)
        if value is None:
            continue
        if declaration.choices and value not in declaration.choices:
            raise BadInput(f"invalid value {value!r} for {name}", f"choose from {', '.join(declaration.choices)}")
        if declaration.least is not None:
            _bounded(name, value, declaration.least, declaration.most)


def _bounded(name: str, value: float, least: float, most: float | None) -> None:
    """Raises BadInput unless least <= value <= most; without `most`, the largest is that of int64."""
    if not least <= value <= (_LARGEST["int64"] - 1 if most is None else most):
        bounds = f"of at least {least:g}" if most is None else f"from {least:g} to {most:g}"
        raise BadInput(f"{name} {value} is out of bounds", f"write a value {bounds}")
