"""Checks the options of an export and brings each into one form; raises BadInput for an invalid value."""

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
_NOT_TENSORRT = {"int16": "int32"}  # inputs that its parser refuses, and what holds their values


T = TypeVar("T")


def value_or(value: T | None, usual: T) -> T:
    """The value, or the default where it is None."""
    return usual if value is None else value


def file(path: Path) -> Source:
    """A file with the digest of its content, and of its shards for an index; raises BadInput if there is none."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}", "check the path")
    digests = [serde.file_digest(each) for each in (path, *shards.shard_files(path))]
    return Source(str(path), digests[0] if len(digests) == 1 else serde.digest(digests))


def run_folder(path: Path) -> Path:
    """The folder of a run; raises BadInput for a path that is not UTF-8, which torch's libraries do not accept."""
    if str(path.absolute()).encode(errors="ignore").decode() != str(path.absolute()):
        raise BadInput(f"a run cannot be written to {path.absolute()}, whose name is no UTF-8", "choose another folder")
    return path


def folder(path: Path) -> Source:
    """A folder with a digest of its files' names, sizes and times; raises BadInput if there is none."""
    if not path.is_dir():
        raise BadInput(f"there is no folder {path}", "check the path")
    inside = [each for each in sorted(path.rglob("*")) if each.is_file()]
    listed = [(str(each.relative_to(path)), each.stat().st_size, each.stat().st_mtime_ns) for each in inside]
    return Source(str(path), serde.digest(listed))


def numbers(given: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """One number, or one for each channel, as a tuple of floats."""
    if given is None:
        return None
    return tuple(map(float, given)) if isinstance(given, Sequence) else (float(given),)


def names(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names of a sequence, or of a string with commas, each once."""
    listed = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(name for name in map(str.strip, listed) if name))


def keep_fp32(given: str | Sequence[str]) -> tuple[str, ...]:
    """The modules and nodes to keep in FP32, or `auto` alone."""
    listed = names(given)
    if AUTO in listed and len(listed) > 1:
        problem = f"--keep-fp32 {','.join(listed)} asks for a search and names what it should find"
        raise BadInput(problem, "write one of the two")
    return listed


def size_range(name: str, asked: Span) -> Range:
    """The range of sizes; raises BadInput unless 1 <= smallest <= typical <= largest."""
    ends = (asked.smallest, asked.typical, asked.largest) if isinstance(asked, Range) else asked
    smallest, typical, largest = (ends, ends, ends) if isinstance(ends, int) else ends
    if not 1 <= smallest <= typical <= largest:
        text = ":".join(map(str, dict.fromkeys((smallest, typical, largest))))
        raise BadInput(f"{name} {text} does not grow from at least 1", "write SMALLEST:TYPICAL:LARGEST: 1:8:32")
    return Range(smallest, typical, largest)


def sizes(given: Mapping[str, Span], inputs: Sequence[Tensor]) -> dict[str, Range]:
    """The range of every free dimension but the batch; raises BadInput if one is missing or unknown."""
    free = {side for tensor in inputs for side in tensor.shape[1:] if isinstance(side, str)}
    for word in sorted(free - set(given)):
        remedy = f"give its range: --size {word}=SMALLEST:TYPICAL:LARGEST"
        alone = next((each for each in inputs if each.shape[1:] == (word,)), None)
        if alone is not None:  # `t:int64` is an input of the free length t, and may be meant as one called t
            number = f"{word}=:{alone.dtype}{f':{alone.below}' if alone.below != below(alone.dtype) else ''}"
            remedy += f"; if {word} is an input of one number a case: --input {number}"
        raise BadInput(f"nobody says how large {word} is", remedy)
    for word in sorted(set(given) - free):
        raise BadInput(f"no input has a free size {word}", f"free sizes are: {', '.join(sorted(free)) or 'none'}")
    return {word: size_range(f"--size {word}", asked) for word, asked in given.items()}


def tensors(given: Inputs) -> tuple[Tensor, ...]:
    """The inputs in order; a bare shape, without the batch, becomes a float32 input.

    Raises BadInput for two inputs of one name, for a type that numpy, torch and ONNX do not share, and for a bound
    beyond the type.
    """
    found = tuple(
        each if isinstance(each, Tensor) else Tensor(f"input_{number}" if number else "input", (BATCH, *each))
        for number, each in enumerate(given)
    )
    names = [tensor.name for tensor in found]
    if len(set(names)) < len(names):
        raise BadInput(
            f"two inputs are called {max(names, key=names.count)}", "give each a name: --input NAME=3x224x224"
        )
    for tensor in found:
        _check(tensor)
    return found


def _check(tensor: Tensor) -> None:
    """Raises BadInput for an unknown type, and for a bound beyond the type."""
    if tensor.dtype not in DTYPES:
        raise BadInput(f"{tensor.name} has no type we know: {tensor.dtype}", f"choose from {', '.join(DTYPES)}")
    largest = _LARGEST.get(tensor.dtype)
    if largest is None and tensor.below != below(tensor.dtype):
        raise BadInput(f"{tensor.name} is {tensor.dtype}, and only whole numbers have a bound", "leave BELOW out")
    if largest is not None and not 1 <= tensor.below <= largest:
        bound = f"write a bound from 1 to {largest}, or a larger type"
        raise BadInput(f"{tensor.name} cannot be below {tensor.below} as {tensor.dtype}", bound)


def below(dtype: str) -> int:
    """The default bound of an integer input: 256 for uint8, otherwise 2."""
    return 256 if dtype == "uint8" else 2


def for_engines(inputs: Sequence[Tensor]) -> None:
    """Raises BadInput for an input type that TensorRT does not accept."""
    for tensor in inputs:
        if tensor.dtype in _NOT_TENSORRT:
            remedy = f"declare it {_NOT_TENSORRT[tensor.dtype]}, which holds the same values, or leave --trt out"
            raise BadInput(f"TensorRT takes no input of {tensor.dtype}: {tensor.name}", remedy)


def tolerance(asked: Mapping[str, float]) -> dict[str, float]:
    """The largest errors allowed for `fp32` and `fp16`, relative to the largest output; raises BadInput otherwise."""
    for name, value in asked.items():
        if name not in tuple(Precision) or not 0 < value <= 1:
            raise BadInput(f"--tolerance {name}={value} is no tolerance", "write --tolerance fp16=2e-3, or fp32=1e-5")
    return dict(asked)


def declared(asked: ExportOptions) -> None:
    """Raises BadInput for a value that is none of the declared choices or is out of the declared bounds."""
    for name, declaration in DECLARATIONS.items():
        value = getattr(asked, name)
        if value is None:
            continue
        if declaration.choices and value not in declaration.choices:
            raise BadInput(f"invalid value {value!r} for {name}", f"choose from {', '.join(declaration.choices)}")
        if declaration.least is not None:
            _bounded(name, value, declaration.least, declaration.most)


def _bounded(name: str, value: float, least: float, most: float | None) -> None:
    """Raises BadInput unless least <= value <= most; without `most`, a number may be as large as 64 bits hold."""
    if not least <= value <= (_LARGEST["int64"] - 1 if most is None else most):
        bounds = f"from {least:g} on" if most is None else f"from {least:g} to {most:g}"
        raise BadInput(f"{name} {value} is out of bounds", f"write one {bounds}")
