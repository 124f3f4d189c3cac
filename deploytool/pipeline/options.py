"""Turns the arguments of an export into `Options`, and refuses invalid values with BadInput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.loading import shards
from deploytool.spec import BATCH, DTYPES, Options, Precision, Range, Source, Tensor

Span: TypeAlias = Range | int | tuple[int, int, int]  # one size, or the smallest, the typical and the largest

_LARGEST = {"int64": 2**63, "int32": 2**31, "int16": 2**15, "int8": 2**7, "uint8": 2**8}
_NOT_TENSORRT = {"int16": "int32"}  # inputs that its parser refuses, and what holds their values

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "opset": (18, 20),
    "images": (1, 4096),
    "seed": (0, 2**63 - 1),
    "faults": (0, 2**31),
    "seconds": (0.0, 3600.0),
    "sequence": (0, 2**63 - 1),
}


T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """Defaults of a run: golden images, faults of each kind, seconds of timing, and the rewrite recipe."""

    images: int
    faults: int
    seconds: float
    rewrite: str


FULL = Effort(images=Options.images, faults=Options.faults, seconds=Options.seconds, rewrite=Options.rewrite)
QUICK = Effort(images=4, faults=0, seconds=0.0, rewrite="folded")  # a form that never adds work


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


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`; raises BadInput unless it is one of the choices."""
    if value not in choices:
        raise BadInput(f"invalid value {value!r} for {name}", f"choose from {', '.join(choices)}")
    return value


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


def tensors(given: Sequence[Tensor | tuple[int | str, ...]]) -> tuple[Tensor, ...]:
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


def within(options: Options) -> None:
    """Raises BadInput if a number is out of bounds."""
    for name, (least, most) in _BOUNDS.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise BadInput(f"{name} {value} is out of bounds", f"write one from {least:g} to {most:g}")
    if options.min_speedup is not None and options.min_speedup < 0:
        raise BadInput(f"min_speedup {options.min_speedup} is out of bounds", "write one from 0 on")
    if options.min_speedup is not None and not options.seconds:
        raise BadInput("a speed-up is asked for, and no time to measure it in", "leave out --quick, or give --seconds")
