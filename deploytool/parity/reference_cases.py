"""Compares a session with the source on reference cases: other batch sizes, and the corners of all free sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.parity import golden_scale, metrics
from deploytool.parity.replay import replay
from deploytool.parity.shape_corners import ToleranceAt, draw
from deploytool.results.report import Check, Limits, Tolerance
from deploytool.spec import Model, Range

_SEVERAL = 3  # an exporter's example has one or two cases: a batch size fixed at export fails on three


@dataclass(frozen=True)
class ReferenceCases:
    """Inputs of one size, the reference answers to them, and the ties among these answers where they are known.

    `against` names the source of the answers and the size, `label` the size alone. On the scale of the answers `golden`
    the others are judged; there are none for cases of another size.
    """

    against: str
    label: str
    inputs: Arrays
    answers: Arrays
    ties: Arrays = field(default_factory=dict)
    golden: Arrays = field(default_factory=dict)


def make(
    model: Model, sizes: Mapping[str, Range], golden: ReferenceCases, source: Callable[..., Arrays], name: str
) -> tuple[ReferenceCases, ...]:
    """The answers of `source`, called `name`, to three golden cases at once, to one, and at every corner of `sizes`."""
    batches = {f"batch size {count}": _first(golden.inputs, count) for count in (_SEVERAL, 1)}
    by_batch = [
        ReferenceCases(f"{name}, {label}", label, batch, replay(source, batch), golden=golden.answers)
        for label, batch in batches.items()
    ]
    by_corner = (
        ReferenceCases(f"{name} at {corner.label}", corner.label, corner.inputs, corner.answers)
        for corner in draw(model, sizes, source)
    )
    return (*by_batch, *by_corner)


def _first(inputs: Arrays, count: int) -> Arrays:
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in inputs.items()}


def check(
    session: Callable[..., Arrays],
    cases: Sequence[ReferenceCases],
    tolerance: Tolerance,
    tolerance_at: ToleranceAt | None = None,
) -> tuple[Check, ...]:
    """One check of the session's answers for each of `cases`.

    Where a check fails by the noise of the golden cases, `tolerance_at`, if given, states what the noise measured on
    these inputs allows in FP32. Raises StageFailed if the session fails, or returns other outputs or shapes.
    """
    return tuple(_check(session, reference, tolerance, tolerance_at) for reference in cases)


def _check(
    session: Callable[..., Arrays], reference: ReferenceCases, tolerance: Tolerance, tolerance_at: ToleranceAt | None
) -> Check:
    got = replay(session, reference.inputs)
    if set(got) != set(reference.answers):
        raise StageFailed(
            f"it returns {', '.join(got)} instead of {', '.join(reference.answers)}", "report this as a bug"
        )
    parts = [limit.part for limit in tolerance.parts] if isinstance(tolerance, Limits) else []
    comparable = all(got[name].shape == answers.shape for name, answers in reference.answers.items())
    golden = reference.golden if comparable else {}
    answered, expected = (golden_scale.beside_largest(arrays, golden, parts) for arrays in (got, reference.answers))

    def allowed() -> Iterator[Tolerance]:
        yield tolerance
        if tolerance_at is not None:
            yield tolerance_at(reference.against, reference.inputs).fp32

    try:
        return metrics.check_by_any(answered, expected, reference.against, allowed(), reference.ties)
    except ValueError as error:
        raise StageFailed(f"against {reference.against}, {error}", "report this as a bug") from error
