"""What a bundle says of graphs in 8 bits: processors and golden answers of each, and which INT8 graph is for whom."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from deploytool import runtimes
from deploytool.host import machine
from deploytool.results.int8_forms import Form
from deploytool.results.report import Gain, Limits
from deploytool.spec import ADDED, Precision, StrEnum

X86_FEATURES: Mapping[Form, tuple[str, ...]] = {
    Form.U8S8: machine.VNNI,
    Form.U8S7: (),
    Form.S8S8: machine.VNNI,
    Form.TENSORRT: (),
    Form.E4M3: (),
}  # one of which an x86 processor needs to add the products of a form without saturation; none for the others


ENGINE_FORMS: Mapping[Precision, Form] = {Precision.INT8: Form.TENSORRT, Precision.FP8: Form.E4M3}


@dataclass(frozen=True)
class Int8Corner:
    """What proves an INT8 graph at a corner: the file of the cases there, that of its answers, and its limits."""

    cases: str
    answers: str
    limits: Limits


@dataclass(frozen=True)
class Int8Graph:
    """A graph in INT8 or FP8 of a bundle: its path and form, and what proves it on a device.

    An x86 processor needs one of `x86_features`, if there are any. `answers` is the file of the golden answers as
    quantised, with exact sums, and `limits` is how far kernels may be from these. `corners` has the same for each file
    of cases of other sizes.
    """

    path: str
    form: Form
    x86_features: tuple[str, ...]
    answers: str
    limits: Limits
    corners: tuple[Int8Corner, ...] = field(default=(), metadata=ADDED)

    @property
    def files(self) -> tuple[str, ...]:
        """The files of all answers, and those of the cases that the corners are about."""
        return (self.answers, *(path for corner in self.corners for path in (corner.cases, corner.answers)))

    @property
    def all_limits(self) -> tuple[Limits, ...]:
        """The limits of the golden answers and of those at each corner."""
        return (self.limits, *(corner.limits for corner in self.corners))

    @property
    def precision(self) -> Precision:
        """INT8, or FP8 in the form of E4M3."""
        return Precision.FP8 if self.form is Form.E4M3 else Precision.INT8

    def refusal(self, processor: str, features: Collection[str]) -> str | None:
        """Why a processor with these features does not take the graph; None if it does."""
        if processor != "x86_64" or not self.x86_features or set(self.x86_features).intersection(features):
            return None
        return f"INT8 sums of the form {self.form} saturate without VNNI, which this processor does not have"


class Why(StrEnum):
    """Why a runtime gets an INT8 graph or engine, or why it does not."""

    FASTER = "faster and not worse"
    NO_GAIN = "no gain"
    NO_VERDICT = "no verdict on its speed"
    WORSE = "worse"
    NOT_DECIDED = "not decided whether it is worse"
    NOT_MEASURED = "not measured"


_SENTENCES: Mapping[Why, str] = {
    Why.FASTER: "INT8 is faster and not worse",
    Why.NO_GAIN: "INT8 brings no gain",
    Why.NO_VERDICT: "the machine was too uneven to time INT8",
    Why.WORSE: "INT8 is worse",
    Why.NOT_DECIDED: "it is not decided whether INT8 is worse",
    Why.NOT_MEASURED: "INT8 was not measured",
}
_TITLES: Mapping[str, str] = {**runtimes.TITLES, runtimes.OPENVINO: "OpenVINO"}
_INSTEAD: Mapping[str, str] = {runtimes.ORT: "FP32", runtimes.OPENVINO: "FP32", runtimes.TRT: "FP16"}


@dataclass(frozen=True)
class Choice:
    """Whether a runtime gets INT8: `path` is the INT8 graph or engine, empty if it gets another precision, and `why`.

    `gain` is how many times as fast INT8 is as what the runtime runs otherwise; None if that was not measured.
    """

    path: str
    why: Why
    gain: Gain | None = None


def choice_lines(choices: Mapping[str, Choice]) -> Iterator[str]:
    """One line for each runtime: what it gets, why, and the gain of INT8 that was measured."""
    for runtime, choice in sorted(choices.items()):
        instead, gain = _INSTEAD[runtime], choice.gain
        measured = f", {gain.value:.2f}× ({gain.low:.2f}–{gain.high:.2f}) the speed of {instead}" if gain else ""
        yield f"{_TITLES[runtime]} gets {'INT8' if choice.path else instead}: {_SENTENCES[choice.why]}{measured}"
