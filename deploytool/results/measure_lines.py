"""What the user's measure says, in sentences: which artifacts are worse than the source, and which are not decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploytool.results.measure import Difference, Inferiority, Measure, MeasuredArtifact, Measures
from deploytool.spec import Stage, state_text

_NONE = "–"


def worse_lines(measures: Measures | None) -> tuple[str, ...]:
    """The artifacts that are worse than the source by more than the margin; one line for those of equal figures."""
    return tuple(_lines(measures, Inferiority.WORSE))


def undecided_lines(measures: Measures | None) -> tuple[str, ...]:
    """The artifacts for which the images are too few; one line for those of equal figures."""
    return tuple(_lines(measures, Inferiority.NOT_DECIDED))


def _lines(measures: Measures | None, verdict: Inferiority) -> Iterator[str]:
    labels: dict[str, list[str]] = {}
    for artifact in measures.artifacts if measures else ():
        if measures and artifact.measure and artifact.measure.verdict is verdict:
            text = f"by {measures.name}: {describe(artifact.measure, measures.margin)}"
            labels.setdefault(text, []).append(artifact.label)
    for text, (*others, last) in labels.items():
        yield f"{', '.join(others)} and {last} {text}" if others else f"{last} {text}"


def describe(measure: Measure, margin: float) -> str:
    """The verdict with its reason: the difference with its interval, the margin, and how many images are missing."""
    text = f"{verdict_text(measure)}, {interval(measure.difference)} from the source, the margin is {margin:.4g}"
    return f"{text}; {measure.images} images"


def verdict_text(measure: Measure) -> str:
    """The verdict; if it is not decided, how many more images it takes, with two significant digits."""
    if measure.verdict is not Inferiority.NOT_DECIDED:
        return str(measure.verdict)
    if measure.more is None:
        return f"{measure.verdict}: the difference is as large as the margin"
    return f"{measure.verdict}: about {float(f'{measure.more:.2g}'):,.0f} more images needed"


def interval(difference: Difference) -> str:
    """The difference with its 95 % interval."""
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


@dataclass(frozen=True)
class Row:
    """One artifact in a table: its value, the difference from the source, and the verdict as text."""

    artifact: MeasuredArtifact
    value: str
    difference: str
    verdict: str


def rows(measures: Measures) -> Iterator[Row]:
    """The rows of a table of all artifacts."""
    for artifact in measures.artifacts:
        if (measure := artifact.measure) is None:
            yield Row(artifact, _NONE, _NONE, state_text(artifact.status, artifact.reason))
        else:
            yield Row(artifact, f"{measure.artifact:.4f}", interval(measure.difference), verdict_text(measure))


def title(measures: Measures) -> str:
    """What was measured on what, the value of the source, and the margin."""
    whose = "the margin is" if measures.stated else "the usual margin is"
    source = f"the source has {measures.source:.4f}, {whose} {measures.margin:.4g}"
    images = f"images of {measures.data}" if measures.data else "golden cases"
    return f"{measures.name} on {measures.images} {images}: {source}"


def stages(measures: Measures | None, verdict: Inferiority) -> set[Stage]:
    """The stages with an artifact that has this verdict."""
    artifacts = measures.artifacts if measures else ()
    return {each.stage for each in artifacts if each.measure and each.measure.verdict is verdict}
