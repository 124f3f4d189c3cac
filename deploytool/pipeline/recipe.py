"""Which stages run, in which order."""

from __future__ import annotations

from deploytool.spec import Options, Stage

PIPELINE = tuple(stage for stage in Stage if stage is not Stage.PACK)

ONNX, FP16 = ENDS = ("onnx", "fp16")  # where the pipeline ends, unless it goes on to an engine
_BEYOND_ONNX = {Stage.TORCHSCRIPT, Stage.FP16, Stage.KNOWN_ISSUES, Stage.BUILD}


def recipe_for(options: Options, to: str = FP16) -> tuple[Stage, ...]:
    """The stages that lead to one of `ENDS`, and on to engines, without those that have nothing to do."""
    idle = set(_BEYOND_ONNX) if to == ONNX else set[Stage]()
    idle |= {Stage.BUILD} if not options.engines else set()
    idle |= {Stage.FAULTS} if not options.faults else set()
    return tuple(verb for verb in PIPELINE if verb not in idle)
