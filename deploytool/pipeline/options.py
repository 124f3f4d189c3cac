"""Checks the options of an export and normalises them; raises BadInput for an invalid value."""

from __future__ import annotations

import reprlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from deploytool import runtimes, serde
from deploytool.errors import BadInput
from deploytool.host import exception_text
from deploytool.loading import shards
from deploytool.pipeline import option_types
from deploytool.pipeline.export_options import DECLARATIONS, TYPES, ExportOptions, Io
from deploytool.pipeline.model_options import Inputs, Span
from deploytool.pipeline.recipe import ONNX
from deploytool.spec import (
    AUTO,
    BATCH,
    BF16_OPSET,
    DTYPES,
    ENGINE_OPSET,
    FLOATS,
    FP8_OPSET,
    NEWEST_OPSET,
    OLDEST_OPSET,
    TORCHSCRIPT_OPSET,
    Fill,
    Model,
    Options,
    Precision,
    Range,
    Source,
    Tensor,
)

_PRECISIONS = (Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8)
_CALIBRATED = (Precision.INT8, Precision.FP8)
_NEEDED_OPSETS = {Precision.BF16: BF16_OPSET, Precision.FP8: FP8_OPSET}
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


def output_file(option: str, path: Path, home: Path) -> None:
    """Raises BadInput if a file that is written after the run could not be: its folder, or one above it, is tried.

    `home` is the folder of the run. Nothing is left behind.
    """
    remedy = f"choose another path with {option}"
    try:
        resolved, run = path.resolve(), home.resolve()
        if path.is_dir() or resolved in (run, *run.parents):
            raise BadInput(f"cannot write {path}: it is a folder", remedy)
        folder = next(above for above in resolved.parents if above.exists())
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = getattr(error, "strerror", None) or "a link leads to itself"
        raise BadInput(f"cannot write {path}: {reason}", remedy) from error


def folder(path: Path) -> Source:
    """A folder with a digest of its files' names, sizes and times; raises BadInput if there is none."""
    if not path.is_dir():
        raise BadInput(f"there is no folder {path}", "check the path")
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    states = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return Source(str(path), serde.digest(states))


def file_or_folder(path: Path) -> Source:
    """A file or folder with its digest; raises BadInput if there is none."""
    return folder(path) if path.is_dir() else file(path)


def numbers(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """One number, or one for each channel, as a tuple of floats."""
    if value is None:
        return None
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


def names(option: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """The names in a sequence or comma-separated string, without duplicates; raises BadInput if all are blank."""
    parts = value.split(",") if isinstance(value, str) else value
    unique = tuple(dict.fromkeys(name for name in map(str.strip, parts) if name))
    if parts and not unique:
        raise BadInput(f"{option} {value!r} contains no name", f"write a name, or leave {option} out")
    return unique


def precisions(value: str | Sequence[str]) -> tuple[Precision, ...]:
    """The precisions to make; raises BadInput for an unknown one."""
    unique = names("--precision", value)
    if unknown := [name for name in unique if name not in _PRECISIONS]:
        also = "; --to onnx, or `precisions` of a sweep, end with the FP32 graph" * (unknown[0] == Precision.FP32)
        raise BadInput(f"there is no precision {unknown[0]!r} to make", f"choose from {', '.join(_PRECISIONS)}{also}")
    return tuple(Precision(name) for name in unique)


def kept(option: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """The modules and nodes that an option keeps in a wider precision, or `auto` alone."""
    unique = names(option, value)
    if AUTO in unique and len(unique) > 1:
        problem = f"{option} {','.join(unique)}: {AUTO} and names are mutually exclusive"
        raise BadInput(problem, f"write {AUTO}, or the names")
    return unique


def size_range(name: str, span: Span) -> Range:
    """The range of sizes; raises BadInput unless 1 <= smallest <= typical <= largest < 2**31."""
    ends = (span.smallest, span.typical, span.largest) if isinstance(span, Range) else span
    smallest, typical, largest = (ends, ends, ends) if isinstance(ends, int) else ends
    if largest >= _LARGEST["int32"]:
        raise BadInput(f"{name} {largest} is too large", f"write sizes below {_LARGEST['int32']}")
    if not 1 <= smallest <= typical <= largest:
        text = ":".join(map(str, dict.fromkeys((smallest, typical, largest))))
        raise BadInput(f"{name} {text} is not a valid range", "write SMALLEST:TYPICAL:LARGEST, each at least 1: 1:8:32")
    return Range(smallest, typical, largest)


def sizes(spans: Mapping[str, Span | Sequence[Range]], inputs: Sequence[Tensor]) -> dict[str, Range]:
    """The range of every dynamic dimension but the batch, that of all profiles together.

    The typical size is that of the first profile. Raises BadInput if a dimension is missing or unknown.
    """
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
    return {word: _hull(_ranges(word, span)) for word, span in spans.items()}


def profiles(spans: Mapping[str, Span | Sequence[Range]]) -> tuple[dict[str, Range], ...]:
    """The optimization profiles of dimensions with several ranges: the first range of each, the second, and so on.

    A dimension with one range has it in every profile; without several ranges there are no profiles. Raises BadInput
    for dimensions with different numbers of them.
    """
    ranges = {word: _ranges(word, span) for word, span in spans.items()}
    counts = {len(each): word for word, each in ranges.items() if len(each) > 1}
    if len(counts) > 1:
        (few, one), (many, other) = sorted(counts.items())
        problem = f"--size gives {few} ranges of {one} and {many} of {other}"
        raise BadInput(problem, "give as many of each, or a single one: the first of each form the first profile")
    if not counts:
        return ()
    (count,) = counts
    return tuple({word: each[index if len(each) > 1 else 0] for word, each in ranges.items()} for index in range(count))


def _ranges(word: str, spans: Span | Sequence[Range]) -> tuple[Range, ...]:
    """The ranges of a dimension: one, or one for each profile."""
    several = () if isinstance(spans, (Range, int)) else tuple(each for each in spans if isinstance(each, Range))
    if several:
        return tuple(size_range(f"--size {word}", each) for each in several)
    if not isinstance(spans, (Range, int)) and not spans:
        raise BadInput(f"--size {word} has no range", "write SMALLEST:TYPICAL:LARGEST, each at least 1: 1:8:32")
    return (size_range(f"--size {word}", cast("Span", spans)),)


def _hull(ranges: Sequence[Range]) -> Range:
    """The range from the smallest to the largest size of all."""
    smallest, largest = min(each.smallest for each in ranges), max(each.largest for each in ranges)
    return Range(smallest, ranges[0].typical, largest)


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
    """Raises BadInput for an invalid shape, an unknown type, and a bound that the type cannot hold."""
    if not tensor.name or tensor.shape[:1] != (BATCH,):
        problem = f"input {tensor.name!r} {tensor.shape} lacks a name, or the batch as its first dimension"
        raise BadInput(problem, "write Tensor('image', ('batch', 3, 224, 224)), or the shape (3, 224, 224)")
    for side in tensor.shape[1:]:
        if side == BATCH or not (side.isidentifier() if isinstance(side, str) else 1 <= side < _LARGEST["int32"]):
            remedy = f"write a number from 1 to {_LARGEST['int32'] - 1}, or a word for a dynamic dimension: H"
            raise BadInput(f"{side!r} in the shape of input {tensor.name} is not a size", remedy)
    if tensor.dtype not in DTYPES:
        raise BadInput(f"invalid type {tensor.dtype!r} for input {tensor.name}", f"choose from {', '.join(DTYPES)}")
    if tensor.fill is Fill.RANGE and len(tensor.shape) == 1:
        problem = f"input {tensor.name} is a range, and has no axis that it runs along"
        raise BadInput(problem, f"give it a length: --input {tensor.name}=128:{tensor.dtype}:range")
    largest = _LARGEST.get(tensor.dtype)
    if largest is None and tensor.below != below(tensor.dtype):
        raise BadInput(f"input {tensor.name} is {tensor.dtype}, and only integers have a bound", "leave BELOW out")
    if largest is not None and not 1 <= tensor.below <= largest:
        remedy = f"write a bound from 1 to {largest}, or a larger type"
        raise BadInput(f"the bound {tensor.below} of input {tensor.name} is out of range for {tensor.dtype}", remedy)


def below(dtype: str) -> int:
    """The default bound of an integer input: 256 for uint8, otherwise 2."""
    return 256 if dtype == "uint8" else 2


def combinations(options: ExportOptions) -> None:
    """Raises BadInput for options that exclude each other, or that have no effect on what is made."""
    floor(options.floor or {}, options.opset)
    if options.exporter == "torchscript" and (options.opset or 0) > TORCHSCRIPT_OPSET:
        problem = f"the torchscript exporter writes opsets up to {TORCHSCRIPT_OPSET}, not {options.opset}"
        raise BadInput(problem, f"leave --exporter out, or use --opset {TORCHSCRIPT_OPSET}")
    wanted = precisions(options.precision)
    _floor_of_precisions(options.floor or {}, wanted)
    if options.to == ONNX:
        given = {"--keep-fp32": bool(options.keep_fp32), f"--io {options.io}": options.io == Io.FP16}
        given |= {f"--precision {each}": each in wanted for each in (Precision.INT8, Precision.BF16, Precision.FP8)}
        if unused := [option for option, is_given in given.items() if is_given]:
            problem = f"{unused[0]} is for the FP16 graph, which --to onnx leaves out"
            raise BadInput(problem, f"leave out --to onnx, or {unused[0]}")
    _calibrated(options, wanted)
    if options.sequence != Options.sequence and not options.pack:
        problem = f"--sequence {options.sequence} is for a bundle, and none is packed"
        raise BadInput(problem, "add --pack, or give --sequence to `deploytool pack`")


def _calibrated(options: ExportOptions, wanted: Sequence[Precision]) -> None:
    """Raises BadInput for options of INT8 and FP8 without either."""
    if any(each in wanted for each in _CALIBRATED):
        return
    if unused := [name for name in ("calibration", "keep") if getattr(options, name)]:
        problem = f"--{unused[0]} is for INT8 and FP8, which are not made"
        raise BadInput(problem, f"add --precision {Precision.INT8}, or leave --{unused[0]} out")


def uncalibrated(options: ExportOptions) -> list[Precision]:
    """The precisions that are to be made from calibration data, of which there are none."""
    return [each for each in precisions(options.precision) if each in _CALIBRATED and not options.calibration]


def quantisation(options: ExportOptions, model: Model) -> None:
    """Raises BadInput for INT8 or FP8 without calibration data.

    A given graph that is quantised already takes none, and no FP8.
    """
    made = [each for each in precisions(options.precision) if each in _CALIBRATED]
    if not made:
        return
    if model.given is not None and model.given.quantised:
        if Precision.FP8 in made:
            problem = f"{model.factory} is quantised already, and FP8 is made from graphs that are not"
            raise BadInput(problem, f"leave out --precision {Precision.FP8}, or give the graph before quantisation")
        if unused := [name for name in ("calibration", "keep") if getattr(options, name)]:
            problem = f"{model.factory} is quantised already and is judged as it is, so --{unused[0]} does not apply"
            raise BadInput(problem, f"leave --{unused[0]} out")
    elif uncalibrated(options):
        problem = f"--precision {made[0]} needs inputs to measure the ranges of values on, and none are given"
        raise BadInput(problem, "add --calibration DIR with photographs other than those of --data")


def opset(options: ExportOptions, model: Model) -> int:
    """The opset of the graphs: as stated, else the one nearest to that of a given graph, or the usual one.

    The oldest runtimes limit one that is not stated.
    """
    limits = [runtimes.newest(runtime, version) for runtime, version in (options.floor or {}).items()]
    usual = min(max(OLDEST_OPSET, model.given.opset), NEWEST_OPSET) if model.given else Options.opset
    return value_or(options.opset, min([usual, *(limit.opset for limit in limits if limit)]))


def floor(versions: Mapping[str, str], opset: int | None) -> None:
    """Raises BadInput for a runtime that is unknown, or that does not read the stated opset."""
    for runtime, version in versions.items():
        form = f"--floor {runtime}={version}"
        if runtime not in runtimes.TITLES:
            raise BadInput(f"{form} names no runtime", f"choose from {', '.join(runtimes.TITLES)}: --floor ort=1.20")
        newest = runtimes.newest(runtime, version)
        if newest is None:
            is_version = runtimes.release(version) is not None
            oldest = runtimes.oldest_known(runtime)
            problem = f"is older than {oldest}, the oldest release known here" if is_version else "is not a version"
            raise BadInput(f"{form} {problem}", f"write --floor {runtime}={oldest}, or a later one")
        if opset is not None and opset > newest.opset:
            problem = f"{runtimes.TITLES[runtime]} {version} reads opsets up to {newest.opset}, not {opset}"
            raise BadInput(problem, f"use --opset {newest.opset}, or raise --floor")


def for_engines(inputs: Sequence[Tensor], opset: int) -> None:
    """Raises BadInput for an opset or an input type from which no engine can be built."""
    if opset > ENGINE_OPSET:
        problem = f"TensorRT cannot build every model from opset {opset}, which has attention as one operator"
        raise BadInput(problem, f"use --opset {ENGINE_OPSET}, or leave --trt out")
    for tensor in inputs:
        if tensor.dtype in _NOT_TENSORRT:
            remedy = f"declare it as {_NOT_TENSORRT[tensor.dtype]}, which holds the same values, or leave --trt out"
            raise BadInput(f"TensorRT does not support {tensor.dtype} inputs: {tensor.name}", remedy)


def tolerance(limits: Mapping[str, float | str]) -> dict[str, float]:
    """The largest errors allowed for `fp32` and `fp16`, as numbers or text, relative to the largest output.

    Raises BadInput for another precision, and for an error that is not a number between 0 and 1.
    """
    checked: dict[str, float] = {}
    for name, value in limits.items():
        with suppress(ValueError):
            checked[name] = float(value)
        if name not in FLOATS or not 0 < checked.get(name, 0.0) <= 1:
            problem = f"--tolerance {name}={value} is not a tolerance"
            raise BadInput(problem, "write --tolerance fp16=2e-3, or fp32=1e-5")
    return checked


def _floor_of_precisions(versions: Mapping[str, str], wanted: Sequence[Precision]) -> None:
    """Raises BadInput for a known release that does not read the opset of BF16 or FP8 graphs."""
    for runtime, version in versions.items():
        limit = runtimes.newest(runtime, version)
        for precision, needed in _NEEDED_OPSETS.items():
            if precision in wanted and limit is not None and limit.opset < needed:
                reads = f"{runtimes.TITLES[runtime]} {version} reads opsets up to {limit.opset}"
                problem = f"--precision {precision} needs opset {needed}, and {reads}"
                raise BadInput(problem, f"leave out --precision {precision}, or raise --floor")


def declared(options: ExportOptions) -> None:
    """Raises BadInput for a value of the wrong type, that is not one of the choices, or is outside the bounds."""
    for name, declaration in DECLARATIONS.items():
        value = getattr(options, name)
        _typed(name, value)
        if value is None:
            continue
        if declaration.choices and value not in declaration.choices:
            raise BadInput(f"invalid value {value!r} for {name}", f"choose from {', '.join(declaration.choices)}")
        if declaration.least is not None:
            _bounded(name, value, declaration.least, declaration.most)


def _typed(name: str, value: Any) -> None:
    """Raises BadInput unless the value has the declared type; an empty string and a NUL byte make no path."""
    kind = TYPES[name]
    no_path = Path in get_args(kind) and isinstance(value, (str, Path)) and (value == "" or "\0" in str(value))
    if name == "metric" and callable(value):
        remedy = f"name its function, which runs in a process of its own: metric={_reference(value)!r}"
        raise BadInput("metric cannot be a function", remedy)
    if no_path or not option_types.accepts(kind, value):
        shown = exception_text.clean(reprlib.repr(value))
        raise BadInput(f"{name} cannot be {shown}", f"write {name} as {option_types.words(kind)}")


def _reference(function: Callable[..., object]) -> str:
    """The reference of a function in a file, or an example of one."""
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    name = getattr(function, "__qualname__", "")
    return f"{file}:{name}" if name.isidentifier() and Path(file).is_file() else "FILE.py:score"


def _bounded(name: str, value: float, least: float, most: float | None) -> None:
    """Raises BadInput unless least <= value <= most; without `most`, the largest is that of int64."""
    largest = _LARGEST["int64"] - 1 if most is None else most
    if not least <= value <= largest:
        raise BadInput(f"{name} {value} is out of bounds", f"write a value from {least} to {largest}")
