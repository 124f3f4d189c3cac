"""Reads calibration data: pictures or cases that are kept apart from the golden and the test ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool.data import batches, image_inputs, images, inputs_file, items
from deploytool.data.case_digests import case_digests, picture_digest
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import BadInput
from deploytool.results.int8 import MOST_CASES
from deploytool.spec import Model, Range

FEWEST, ENOUGH = 16, 100  # different cases: below the first the ranges are chance, below the second they are rough
_INPUTS = ".npz"  # the suffix of a file of inputs
_AT_ONCE = 16  # cases of a file
_REMEDY = "give others: what the result is judged by must not be what it was fitted to"


@dataclass(frozen=True)
class CalibrationData:
    """Calibration cases as inputs of the model, some at a time; they can be iterated over again and again.

    `names` are those of the pictures, or numbers of cases; `paths` are the pictures, empty for a file of inputs.
    """

    read: Callable[[], Iterator[Arrays]]
    names: tuple[str, ...]
    paths: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Arrays]:
        return self.read()


def read(
    path: Path, model: Model, sizes: Mapping[str, Range], most: int = MOST_CASES, seed: int = 0
) -> CalibrationData:
    """The calibration data: pictures, as of `--data`, or an .npz file of inputs.

    `seed` determines which are taken of more than `most`. Raises BadInput if it cannot be read.
    """
    if path.suffix.lower() != _INPUTS:
        if path.is_file() and not items.is_table(path):
            problem = f"{path} is neither a folder of pictures nor a file of inputs (.npz)"
            raise BadInput(problem, "give the folder that it is in, or numpy.savez(FILE, NAME=array)")
        return _pictures(path, model, sizes, most, seed)
    return _cases(inputs_file.read(path, model.inputs, sizes, most))


def first_cases(data: CalibrationData, most: int) -> list[Arrays]:
    """The first calibration cases, one batch of one case for each."""
    cases: list[Arrays] = []
    for batch in data:
        count = len(next(iter(batch.values())))
        cases += [{name: array[index : index + 1] for name, array in batch.items()} for index in range(count)]
        if len(cases) >= most:
            break
    return cases[:most]


def check(path: Path, data: CalibrationData, golden: Golden, tests: Iterable[Path] = ()) -> tuple[str, ...]:
    """A remark where the data is little; `tests` are the pictures that a metric is measured on.

    Raises BadInput for fewer than 16 different cases, and for one that is a golden or test case.
    """
    if data.paths:
        _check_pictures(path, data.paths, tests)
    digests = tuple(digest for batch in data for digest in case_digests(batch))
    _check_apart(path, data.names, digests, case_digests(golden.inputs))
    different = len(set(digests))
    if different < FEWEST:
        problem = f"{path} has {different} different calibration cases, and {FEWEST} are the fewest"
        raise BadInput(problem, f"give at least {FEWEST}, better {ENOUGH} or more, as varied as those in use")
    if different < ENOUGH:
        rough = f"ranges from them may be too narrow ({ENOUGH} or more are better)"
        few = f"{different} calibration cases are few: {rough}"
        return (few,)
    return ()


def _pictures(folder: Path, model: Model, sizes: Mapping[str, Range], most: int, seed: int) -> CalibrationData:
    """Pictures, decoded whenever they are read: together they would take too much memory."""
    if not image_inputs.find(model.inputs, model.preprocessing, sizes):
        remedy = "give a file of inputs (.npz), or state how an image becomes the input: --mean 0 --std 1, or --layout"
        raise BadInput(f"{model.name} does not accept images alone as inputs", remedy)
    found = items.read(folder, [tensor.name for tensor in model.inputs], limit=most, seed=seed).paths

    def inputs() -> Iterator[Arrays]:
        return (batch.inputs for batch in batches.read(model, found, sizes))

    names = tuple(item[0].name for item in found)
    return CalibrationData(inputs, names, tuple(path for item in found for path in item))


def _cases(arrays: Arrays) -> CalibrationData:
    count = len(next(iter(arrays.values())))

    def inputs() -> Iterator[Arrays]:
        for start in range(0, count, _AT_ONCE):
            yield {name: array[start : start + _AT_ONCE] for name, array in arrays.items()}

    return CalibrationData(inputs, tuple(f"case {index}" for index in range(count)))


def _check_apart(path: Path, names: Sequence[str], digests: Sequence[str], golden: Sequence[str]) -> None:
    """Raises BadInput if a case is a golden one."""
    common = [name for name, digest in zip(names, digests, strict=True) if digest in set(golden)]
    if common:
        raise BadInput(f"{path}: {common[0]} is one of the golden cases{_others(common)}", _REMEDY)


def _check_pictures(folder: Path, paths: Sequence[Path], tests: Iterable[Path]) -> None:
    """Raises BadInput if a calibration picture has the pixels of a test picture, also in another format.

    Only test pictures of a size that a calibration picture has are decoded.
    """
    tests = tuple(tests)
    if not tests:
        return
    by_size: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        by_size.setdefault(images.upright_size(path), []).append(path)
    alike: dict[tuple[int, int], list[Path]] = {}
    for test in tests:
        if (size := images.upright_size(test)) in by_size:
            alike.setdefault(size, []).append(test)
    common = [name for size, found in alike.items() for name in _common(by_size[size], found)]
    if common:
        raise BadInput(f"{folder}: {common[0]} is one of the test pictures{_others(common)}", _REMEDY)


def _common(paths: Sequence[Path], tests: Sequence[Path]) -> list[str]:
    """The names of the pictures whose pixels a test picture has."""
    known = {picture_digest(images.read(path)): path.name for path in paths}
    return sorted({known[digest] for test in tests if (digest := picture_digest(images.read(test))) in known})


def _others(common: Sequence[str]) -> str:
    return f", and so are {len(common) - 1} more" if len(common) > 1 else ""
