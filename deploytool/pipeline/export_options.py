"""The options of an export, declared once.

The parameters of `deploytool.export`, the options of `deploytool export` and the keys of `[export]` in a
`deploytool.toml` derive from the fields of `ExportOptions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from deploytool.builder_settings import LEAST_LEVEL, MOST_LEVEL, USUAL_BATCH, USUAL_LEVEL
from deploytool.pipeline.declaration import Declaration
from deploytool.pipeline.model_options import ModelOptions, Span
from deploytool.pipeline.recipe import ENDS, FP16
from deploytool.rewrites import recipes
from deploytool.spec import (
    AUTO,
    NEWEST_OPSET,
    OLDEST_OPSET,
    Option,
    Options,
    Precision,
    StrEnum,
    Task,
)

_CONVERSION, _ENGINES, _CHECKS = "Conversion", "TensorRT engines", "Checks"
_METRIC, _RUN = "Task and metric", "Run and bundle"


class Io(StrEnum):
    """The types of inputs and outputs that can be chosen."""

    FP32 = "fp32"
    FP16 = "fp16"
    UINT8 = "uint8"  # for images, in every graph; outputs are FP32

    @property
    def precision(self) -> Precision:
        """The type of floating-point inputs and outputs of the FP16 graph."""
        return Precision.FP16 if self is Io.FP16 else Precision.FP32


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions):
    """The options of an export, before defaults are filled in.

    An entry of `inputs` is a `Tensor` or a shape without the batch: `(3, 224, 224)`; a word in it is a dynamic
    dimension, whose range is in `sizes`. `targets`, `outputs`, `precision`, `keep_fp32` and `keep` are names, or one
    string with commas. `mean` and `std` are one number or one per channel; `resize` and `crop` are one length, (height,
    width), or 0 for none. `classes` are the class names, or a file with one name per line. `golden_inputs` is an .npz
    file of golden inputs by name, which also declares the inputs of a factory where `inputs` is empty. `quick` changes
    the defaults of `images`, `faults`, `seconds` and `rewrite`.
    """

    to: Annotated[
        str,
        Declaration(
            _CONVERSION, "The last file to make; onnx ends at the FP32 graph and makes no TorchScript.", choices=ENDS
        ),
    ] = FP16
    exporter: Annotated[
        str,
        Declaration(
            _CONVERSION,
            "The torch.onnx exporter; auto takes torchscript, or dynamo where that graph does not hold.",
            choices=(AUTO, "torchscript", "dynamo"),
        ),
    ] = AUTO
    opset: Annotated[
        int | None,
        Declaration(
            _CONVERSION,
            "The ONNX opset; by default the nearest one to that of a given graph.",
            least=OLDEST_OPSET,
            most=NEWEST_OPSET,
            usual=str(Options.opset),
        ),
    ] = None
    floor: Annotated[
        Mapping[str, str] | None,
        Declaration(
            _CONVERSION,
            "The oldest runtime that has to read the graphs: ort=VERSION, or trt=VERSION for TensorRT.",
            metavar="ort=VERSION",
        ),
    ] = None
    rewrite: Annotated[
        str | None,
        Declaration(
            _CONVERSION,
            f"The form of the graph: {', '.join(recipes.CHOICES)}.",
            metavar="FORM",
            choices=recipes.CHOICES,
            usual=AUTO,
        ),
    ] = None
    io: Annotated[
        str,
        Declaration(
            _CONVERSION,
            "The type of the inputs and outputs of the FP16 graph; with uint8 every graph takes pixels and normalises "
            "them, and --layout is that of the pixels.",
            choices=tuple(io.value for io in Io),
        ),
    ] = Io.FP32.value
    keep_fp32: Annotated[
        str | Sequence[str],
        Declaration(
            _CONVERSION,
            "Modules or nodes to keep in FP32, separated by commas; auto finds the fewest.",
            metavar="NAME,…",
        ),
    ] = ()
    precision: Annotated[
        str | Sequence[str],
        Declaration(
            _CONVERSION,
            "Precisions to make, separated by commas: fp16, which is always made, bf16, and with --calibration int8 "
            "and fp8.",
            metavar="NAME,…",
            usual=Precision.FP16.value,
        ),
    ] = ()
    calibration: Annotated[
        str | Path | None,
        Declaration(
            _CONVERSION,
            "Photographs, or inputs in an .npz file, to measure the ranges of INT8 and FP8 on.",
            metavar="PATH",
        ),
    ] = None
    keep: Annotated[
        str | Sequence[str],
        Declaration(
            _CONVERSION,
            "The same for INT8 and FP8: what stays out of them; auto finds the fewest.",
            metavar="NAME,…",
        ),
    ] = ()
    trt: Annotated[bool, Declaration(_ENGINES, "Build TensorRT engines as well.")] = False
    targets: Annotated[
        str | Sequence[str],
        Declaration(
            _ENGINES,
            "Targets to build engines for, separated by commas; implies --trt.",
            metavar="TARGET,…",
            flag="target",
        ),
    ] = ()
    batch: Annotated[
        Span,
        Declaration(
            *(_ENGINES, "Batch sizes of the engine: N, or SMALLEST:TYPICAL:LARGEST."),
            metavar="RANGE",
            usual=f"{USUAL_BATCH.smallest}:{USUAL_BATCH.typical}:{USUAL_BATCH.largest}",
        ),
    ] = Options.batch
    workspace: Annotated[
        int | None,
        Declaration(
            _ENGINES,
            "MiB of scratch memory that a layer of an engine may use, also when it runs.",
            metavar="MIB",
            least=1,
            usual="all of the GPU",
        ),
    ] = None
    builder_memory: Annotated[
        int | None,
        Declaration(
            _ENGINES,
            "MiB of the GPU that kernels may take while a build tries them.",
            metavar="MIB",
            least=1,
            usual="TensorRT's own",
        ),
    ] = None
    optimization_level: Annotated[
        int | None,
        Declaration(
            _ENGINES,
            "How long TensorRT searches for kernels; TensorRT-RTX takes it without effect.",
            metavar="N",
            least=LEAST_LEVEL,
            most=MOST_LEVEL,
            usual=str(USUAL_LEVEL),
        ),
    ] = None
    strip_weights: Annotated[
        bool,
        Declaration(_ENGINES, "Leave the weights out of engines of the full TensorRT; a bundle has them in its graph."),
    ] = False
    quick: Annotated[
        bool, Declaration(_CHECKS, "Check parity on four images only; plant no faults and measure no speed.")
    ] = False
    data: Annotated[
        str | Path | None,
        Declaration(
            _CHECKS,
            "Photographs to use as golden images: a folder; for several image inputs one sub-folder for each, "
            "or a CSV file with a column for each.",
            metavar="DIR|FILE",
        ),
    ] = None
    golden_inputs: Annotated[
        str | Path | None,
        Declaration(
            _CHECKS,
            "An .npz file of golden inputs by name, with the cases along the first axis.",
            metavar="FILE",
            flag="inputs",
        ),
    ] = None
    images: Annotated[int | None, Declaration(_CHECKS, "Number of golden images.", least=1, most=4096)] = None
    cases: Annotated[
        str | Path | None, Declaration(_CHECKS, "A file of more golden cases, as `faults` writes it.", metavar="FILE")
    ] = None
    runner: Annotated[
        str,
        Declaration(
            _CHECKS,
            "The runtime that checks the graphs; reference is slow and uses numpy.",
            choices=("onnxruntime", "reference"),
        ),
    ] = Options.runner
    faults: Annotated[
        int | None, Declaration(_CHECKS, "Number of faults of each kind to plant.", least=0, usual=str(Options.faults))
    ] = None
    seconds: Annotated[
        float | None,
        Declaration(_CHECKS, "Seconds to spend on measuring speed.", least=0, most=3600, usual=f"{Options.seconds:g}"),
    ] = None
    tolerance: Annotated[
        Mapping[str, float] | None,
        Declaration(
            _CHECKS,
            "The largest error to allow, also fp32=ERROR; by default it is derived from the model's numerical noise.",
            metavar="fp16=ERROR",
        ),
    ] = None
    min_speedup: Annotated[
        float | None, Declaration(_CHECKS, "Fail if the speed-up over the original is smaller.", least=0)
    ] = None
    require: Annotated[bool, Declaration(_CHECKS, "Fail unless everything requested was measured here.")] = False
    task: Annotated[
        str | None,
        Declaration(
            _METRIC,
            "What the outputs mean; told from --labels and --metric where they say it.",
            choices=tuple(task.value for task in Task),
        ),
    ] = None
    labels: Annotated[
        str | Path | None,
        Declaration(
            _METRIC,
            "What is known of the images of --data: a CSV file, annotations of COCO in JSON, or a folder of masks.",
            metavar="PATH",
        ),
    ] = None
    metric: Annotated[
        str | None,
        Declaration(
            _METRIC,
            "A figure for each image of --data, higher is better: top1, top5, map, miou, cosine, wer, cer, "
            "or FILE.py:score.",
            metavar="NAME",
        ),
    ] = None
    max_drop: Annotated[
        float | str | None,
        Declaration(
            _METRIC,
            "By how much an artifact may be below the source, in points: 0.5pt. Without a decision the run fails.",
            metavar="N",
            usual="that of the metric",
        ),
    ] = None
    decode: Annotated[
        Mapping[str, Option] | None,
        Declaration(
            _METRIC,
            "How outputs become boxes: boxes=xyxy, xywh or cxcywh; normalised, activation, background, threshold, "
            "nms, top.",
            metavar="NAME=VALUE",
        ),
    ] = None
    classes: Annotated[
        str | Path | Sequence[str],
        Declaration(_RUN, "A file with the names of the classes, one per line, for the bundle.", metavar="FILE"),
    ] = ()
    pack: Annotated[bool, Declaration(_RUN, "Pack a bundle if every check passed.")] = False
    sequence: Annotated[
        int, Declaration(_RUN, "The bundle's sequence number; a device refuses a lower one than it has.", least=0)
    ] = Options.sequence
    out: Annotated[
        str | Path | None, Declaration(_RUN, "The folder of the run.", metavar="DIR", usual="artifacts/MODEL")
    ] = None
    junit: Annotated[
        str | Path | None, Declaration(_RUN, "Write every check to a JUnit XML file, for CI.", metavar="FILE")
    ] = None


_HINTS = get_type_hints(ExportOptions, include_extras=True)
DECLARATIONS: Mapping[str, Declaration] = {name: get_args(hint)[1] for name, hint in _HINTS.items()}
TYPES: Mapping[str, Any] = {name: get_args(hint)[0] for name, hint in _HINTS.items()}
_WRITTEN = ("out", "junit")
INPUT_PATHS = tuple(name for name, kind in TYPES.items() if Path in get_args(kind) and name not in _WRITTEN)  # are read
