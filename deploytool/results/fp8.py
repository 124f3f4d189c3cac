"""Data type of what the FP8 stage made: its graph, how it was calibrated, and what is kept out of FP8."""

from __future__ import annotations

from dataclasses import dataclass

from deploytool.results.quantization import QuantizedTensor


@dataclass(frozen=True)
class Fp8:
    """The FP8 graph of a run, for engines: E4M3 in its convolutions and products, FP16 elsewhere.

    Ranges are the extremes on `cases` calibration cases; `equalised` says that channels were equalised before,
    `corrected` that biases were corrected after. `error` is the power of the difference to the FP32 graph's outputs on
    calibration data relative to that of the outputs. `of_allowed` and `of_all` are the shares of multiply-accumulates
    in FP8: of those that the rules allow, and of all. `kept` are the nodes kept out of FP8 by request, and `noisiest`
    the tensors with the least signal-to-quantisation-noise ratio on the golden cases, the worst first.
    """

    file: str
    cases: int
    equalised: bool
    corrected: bool
    error: float
    of_allowed: float
    of_all: float
    kept: tuple[str, ...] = ()
    noisiest: tuple[QuantizedTensor, ...] = ()

    @property
    def how(self) -> str:
        """How it was calibrated."""
        extras = [word for word, is_so in (("equalised", self.equalised), ("bias-corrected", self.corrected)) if is_so]
        return ", ".join(["extremes", *extras])

    @property
    def summary(self) -> str:
        """How it was made and what of it is FP8, in one line."""
        shares = f"{self.of_allowed:.1%} of the multiply-accumulates that may be FP8, {self.of_all:.1%} of all"
        return f"e4m3: {self.how}; {shares}; error of the outputs {self.error:.1e} of their power"
