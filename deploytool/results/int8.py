"""Data types of what the INT8 stage made: its graphs, how each was calibrated, and what is kept out of INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploytool.results.quantization import QuantizedTensor

AS_GIVEN, OWN_RANGES = "as given", "ranges of the file"  # form and method of a graph that came with its Q/DQ nodes
# pictures for calibration that are chosen from a larger folder: ranges hardly change beyond some hundred
MOST_CASES = 500


@dataclass(frozen=True)
class Int8Graph:
    """One INT8 graph, for the runtimes that take its `form`.

    `method` chose the ranges; `equalised` says that channels were equalised before, `corrected` that biases were
    corrected after. `error` is the power of the difference to the FP32 graph's outputs on calibration data, as
    quantised, relative to that of the outputs. `of_allowed` and `of_all` are the shares of multiply-accumulates in
    INT8: of those that the rules allow, and of all. `in_kernels` is the former as each runtime on this machine runs it.
    """

    file: str
    form: str
    method: str
    equalised: bool
    corrected: bool
    error: float
    of_allowed: float
    of_all: float
    in_kernels: Mapping[str, float] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """How it was made and what of it is INT8, in one line."""
        shares = f"{self.of_allowed:.1%} of the multiply-accumulates that may be INT8, {self.of_all:.1%} of all"
        run = "".join(f", in {runtime} {share:.1%}" for runtime, share in self.in_kernels.items())
        return f"{self.form}: {self.how}; {shares}{run}; error of the outputs {self.error:.1e} of their power"

    @property
    def how(self) -> str:
        """How it was calibrated."""
        extras = [word for word, is_so in (("equalised", self.equalised), ("bias-corrected", self.corrected)) if is_so]
        return ", ".join([self.method, *extras])


@dataclass(frozen=True)
class Int8:
    """The INT8 graphs of a run, the number of calibration cases, and the nodes kept out of INT8 by request.

    There are no calibration cases for a graph that came with its Q/DQ nodes.

    `noisiest` are the tensors of the graph for CPUs with the least signal-to-quantisation-noise ratio on the golden
    cases, the worst first.
    """

    cases: int
    graphs: tuple[Int8Graph, ...]
    kept: tuple[str, ...] = ()
    noisiest: tuple[QuantizedTensor, ...] = ()

    @property
    def as_given(self) -> bool:
        """Whether the graph came with its Q/DQ nodes."""
        return not self.cases
