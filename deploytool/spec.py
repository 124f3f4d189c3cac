"""Models, options and the states of results as frozen dataclasses and enums, without heavy imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from deploytool.builder_settings import UNSET, USUAL_BATCH, BuilderSettings
from deploytool.builder_settings import Range as Range

Option = bool | int | float | str | None
ImageSize = int | tuple[int, int]  # one side length, or height and width

AUTO = "auto"  # as a choice: what a search finds, or the first that holds
# in `Model.asked`; no option of a factory can have such a name. The field of the decoding follows after a space
INPUT_OPTION, CLASSES_OPTION, DECODE_OPTION = "--input", "--classes", "--decode"
OLDEST_OPSET, NEWEST_OPSET = 18, 23  # ONNX opsets of exported graphs
TORCHSCRIPT_OPSET, BF16_OPSET = 20, 22  # the newest of the torchscript exporter; the first with BF16 wherever FP16 is
FP8_OPSET = 21  # from 19 on a tensor can be quantised to FP8; TensorRT-RTX 1.7 builds the same from 19 to 23
ENGINE_OPSET = 22  # TensorRT-RTX 1.7 builds the Attention operator of opset 23 in FP16 alone, and not for small heads
BATCH = "batch"  # the name of the first dimension of every input and output
OPTIONAL = {"optional": True}  # a field that files of earlier versions lack: `serde` then takes its default
ADDED = {**OPTIONAL, "omitted": True}  # and that `serde` writes only if it has another value
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


class StrEnum(str, Enum):
    """An enum whose members are formatted as their values, as in Python 3.11."""

    def __str__(self) -> str:
        return str(self.value)


class Stage(StrEnum):
    """A stage of the pipeline; the value names its folder in a run and its module in `deploytool.stages`."""

    LOAD = "load"
    GOLDEN = "golden"
    TORCHSCRIPT = "torchscript"
    EXPORT = "export"
    SIMPLIFY = "simplify"
    REWRITE = "rewrite"
    CALIBRATE = "calibrate"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    KNOWN_ISSUES = "known_issues"
    BUILD = "build"
    FAULTS = "faults"
    METRIC = "metric"
    VALIDATE = "validate"
    PACK = "pack"

    @property
    def precision(self) -> Precision:
        """The precision in which the artifacts of the stage compute."""
        own = Precision.FP16 if self is Stage.BUILD else self.value
        return Precision(own) if own in tuple(Precision) else Precision.FP32


class Task(StrEnum):
    """What the outputs of a model mean."""

    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"
    EMBED = "embed"
    TOKENS = "tokens"


class SourceKind(StrEnum):
    """What a model is: a definition of the zoo, other PyTorch code, or a given ONNX file, which contains no code."""

    ZOO = "zoo"
    CODE = "code"
    GRAPH = "graph"


class Precision(StrEnum):
    """The type of an artifact's computation, or of its inputs and outputs (one of `FLOATS`)."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"


FLOATS = (Precision.FP32, Precision.FP16)  # those with a numerical tolerance


class Fill(StrEnum):
    """How the golden data of an input is drawn."""

    RANDOM = "random"
    MASK = "mask"  # ones, and from a random length on zeros, as for padding
    RANGE = "range"  # 0, 1, 2, … along the last axis, as positions


class Status(StrEnum):
    """Whether an artifact ran on a machine."""

    MEASURED = "measured"
    BUILT_NOT_RUN = "built, not run"
    UNAVAILABLE = "unavailable"


class SpeedVerdict(StrEnum):
    """The result of comparing two latencies; no verdict if the machine was too noisy."""

    FASTER = "faster"
    SLOWER = "slower"
    NEITHER = "no significant difference"
    NO_VERDICT = "no verdict"


class GateOutcome(StrEnum):
    """The outcome of a required speed-up; open if it cannot be determined on this machine."""

    REACHED = "reached"
    MISSED = "missed"
    OPEN = "open"


class Verdict(StrEnum):
    """The overall result of a run."""

    PASS = "pass"
    PASS_HERE = "pass for all that ran here"
    FAIL = "FAIL"
    SLOW = "too slow"
    UNPROVEN = "not proven"


class TargetPlan(StrEnum):
    """Where the engine of a target is built."""

    HERE = "built here"
    ON_DEVICE = "build on the device"
    NOT_SERVED = "not served"


def state_text(state: Enum, reason: str = "") -> str:
    """`STATE (REASON)`, or `STATE` without a reason."""
    return f"{state.value} ({reason})" if reason else str(state.value)


@dataclass(frozen=True)
class Tensor:
    """An input or output; a name in the shape is a dynamic dimension, and the first dimension is always the batch.

    The values of an integer input lie in 0 … below - 1; `fill` says how golden data is drawn. `batch_axis` is the axis
    of the batch in what a PyTorch model returns: it is moved to the first place, which it has in every artifact.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    below: int = 2
    fill: Fill = field(default=Fill.RANDOM, metadata=OPTIONAL)
    batch_axis: int = field(default=0, metadata=OPTIONAL)

    def image_size(self, layout: str) -> tuple[int | str, int | str] | None:
        """Height and width of a batch of images with layout `NCHW` or `NHWC`; None if the tensor is not one.

        Images have three channels or one, of floating-point numbers or uint8.
        """
        if len(self.shape) != 4 or self.channels(layout) not in (1, 3) or self.dtype[:5] not in ("float", "uint8"):
            return None
        first = layout.index("H")
        return self.shape[first], self.shape[first + 1]

    def channels(self, layout: str) -> int | str:
        """The number of channels of a batch of images with layout `NCHW` or `NHWC`."""
        return self.shape[layout.index("C")]

    def free_axes(self) -> dict[int, str]:
        """The name of every dynamic dimension, by its axis."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}


@dataclass(frozen=True)
class Preprocessing:
    """How an image (uint8, height × width × 3) is converted to the model's input.

    `resize` is the new length of the shorter side, or the new height and width; `crop` is the size of the centre crop,
    one length for a square or height and width; 0 skips the step. One channel is the luma of ITU-R 601, three have the
    order `channels`. Except for uint8 inputs, `(pixel * scale - mean) / std` is applied per channel, with one number
    for all channels or one for each. `layout` is the order of the dimensions.
    A `fit` other than `crop` scales the image by one factor so that all of it lies within `resize`: `letterbox` adds
    `pad` on both sides, `letterbox-corner` on the right and at the bottom, `within` nothing. `stated` are the fields
    that the user set; `assumed` says that neither the user nor the model stated any.
    """

    resize: ImageSize = 256
    crop: ImageSize = 224
    interpolation: str = "bilinear"
    channels: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    layout: str = "NCHW"
    stated: tuple[str, ...] = ()
    assumed: bool = False
    fit: str = field(default="crop", metadata=ADDED)
    pad: int = field(default=114, metadata=ADDED)

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of the centre crop; 0 for no crop."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    def images(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs of a model that are images.

        Inputs with one channel count only if no input has three, and if they are uint8 or a one-channel preprocessing
        was stated: a floating-point tensor with one channel need not be an image.
        """
        candidates = tuple(tensor for tensor in inputs if tensor.image_size(self.layout))
        colour = tuple(tensor for tensor in candidates if tensor.channels(self.layout) == 3)
        stated_grey = len(self.mean) == len(self.std) == 1 and bool(self.stated)
        return colour or tuple(tensor for tensor in candidates if stated_grey or tensor.dtype == "uint8")


@dataclass(frozen=True)
class Decoding:
    """How the outputs of a detector become boxes with scores and classes.

    `boxes` is their format: xyxy (two corners), xywh (the first corner) or cxcywh (the centre); if `normalised`, they
    are relative to the width and height of the input, else in its pixels. `activation` is applied to the scores: none,
    sigmoid or softmax. `background` is the place of a class that is no object: none, first or last. Boxes below the
    score `threshold` are left out, and with `nms` above 0 those whose IoU with a better one of their class exceeds it;
    at most `top` remain.
    """

    boxes: str = "xyxy"
    normalised: bool = False
    activation: str = "none"
    background: str = "none"
    threshold: float = 0.05
    nms: float = 0.0
    top: int = 100


@dataclass(frozen=True)
class GivenTensor:
    """An input or output of a given ONNX file: its name there, and the axis of the batch.

    Without one (None) the file takes one case, and the model has an axis of 1; `half` (FP16) and `double` become FP32.
    """

    name: str
    batch_axis: int | None = 0
    half: bool = False
    double: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class GivenGraph:
    """The tensors of a given ONNX file in its order, those of the inputs without initialisers.

    `batch` is the batch size that the file fixes, None if it accepts any; `opset` is the file's version of ONNX. `half`
    says that the file computes in FP16, `double` in FP64; the model is in FP32. `quantised`: it has Q/DQ nodes.
    """

    inputs: tuple[GivenTensor, ...]
    outputs: tuple[GivenTensor, ...]
    batch: int | None = None
    opset: int = 0
    half: bool = False
    quantised: bool = False
    double: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class Model:
    """A model definition; `factory` is a reference to code, the path of an ONNX file, or names a model of a hub.

    It is `package.module:function`, `path/to/file.py:function`, `path/to/model.onnx`, `hf:NAME` or `timm:NAME`. `given`
    describes a model that is an ONNX file, and is None for all others. `options` are the arguments of the factory, and
    `constants` those of `forward` that are no tensors. `sizes` are the default ranges of dynamic dimensions. `classes`
    are the names of the classes in the order of the outputs, if known. `asked` are the names of the options that the
    user set, with `INPUT_OPTION` and `CLASSES_OPTION`.
    `parameters` and `macs` (multiply-accumulates of convolutions and fully connected layers, batch 1) are published
    figures, None if unknown. `task` is what the outputs mean, None if nobody said so; `decoding` is for detectors.
    `normalisation` is set for a model that takes pixels (uint8): its graph has this preprocessing's normalisation and
    layout, which its own image inputs `normalised` need.
    """

    name: str
    factory: str
    options: Mapping[str, Option] = field(default_factory=dict)
    inputs: tuple[Tensor, ...] = (Tensor("input", ("batch", 3, 224, 224)),)
    outputs: tuple[Tensor, ...] = (Tensor("logits", ("batch", 1000)),)
    preprocessing: Preprocessing = Preprocessing()
    parameters: int | None = None
    macs: int | None = None
    classes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    given: GivenGraph | None = None
    sizes: Mapping[str, Range] = field(default_factory=dict, metadata=OPTIONAL)
    constants: Mapping[str, Option] = field(default_factory=dict, metadata=OPTIONAL)
    task: Task | None = field(default=None, metadata=ADDED)
    decoding: Decoding = field(default=Decoding(), metadata=ADDED)
    normalisation: Preprocessing | None = field(default=None, metadata=ADDED)
    normalised: tuple[Tensor, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True)
class EnginePlan:
    """An engine file: the flavour of TensorRT that builds it, and the compute capabilities it supports.

    Without capabilities, those of its flavour apply: this machine's GPU for TensorRT; 8.0, 8.6, 8.9, 12.0 … for RTX.
    """

    file: str
    flavour: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A file or folder of the user, with the digest of its content at the start of the run."""

    path: str
    digest: str


@dataclass(frozen=True)
class Decision:
    """Where the engine of a target is built, with the reason."""

    target: str
    verdict: TargetPlan
    why: str
    capability: str = ""
    flavour: str = ""


@dataclass(frozen=True)
class Options:
    """The options of a run; `stages.registry.STAGES` lists those that each stage reads.

    `rewrite_implied`: the user did not choose the rewrite, so it is dropped if its outputs deviate. `keep_fp32` are
    modules of the source model or nodes of its graph to keep in FP32, or `auto`; `keep` are those that stay out of INT8
    and FP8, whose ranges are measured on `calibration`. `outputs` are the names of those to export, empty for all.
    `floor` is the oldest version of each runtime that must read the graph. `fixed_batch` is the only batch size, if the
    user gave one. `metric` is the name of a metric, or a reference to the user's function with the digest of its files;
    `max_drop` is the margin, None for its usual one. `builder` is for engines, `tool` the digest of the deploytool to
    pack, empty for none, with `wheels`. The user asked for `precision`, and with `opset_stated` for that opset.
    """

    seed: int = 0
    weights: Source | None = None
    trust_code: bool = False
    images: int = 12
    data: Source | None = None
    inputs: Source | None = None
    cases: Source | None = None
    exporter: str = AUTO
    opset: int = OLDEST_OPSET
    floor: Mapping[str, str] = field(default_factory=dict)
    batch: Range = USUAL_BATCH
    sizes: Mapping[str, Range] = field(default_factory=dict)
    rewrite: str = "auto"
    rewrite_implied: bool = False
    io: Precision = Precision.FP32
    keep_fp32: tuple[str, ...] = ()
    targets: tuple[Decision, ...] = ()
    engines: tuple[EnginePlan, ...] = ()
    runner: str = "onnxruntime"
    tolerance: Mapping[str, float] = field(default_factory=dict)
    faults: int = 1
    min_speedup: float | None = None
    seconds: float = 3.0
    sequence: int = 1
    outputs: tuple[str, ...] = ()
    fixed_batch: int | None = None
    metric: Source | None = None
    labels: Source | None = None
    max_drop: float | None = None
    calibration: Source | None = None
    keep: tuple[str, ...] = ()
    builder: BuilderSettings = UNSET
    tool: str = ""
    wheels: tuple[Source, ...] = ()
    precision: tuple[Precision, ...] = ()
    opset_stated: bool = False


@dataclass(frozen=True)
class Job:
    """A model with its options; `watch(done, total)` gets the progress, `earlier` are older folders of the stage."""

    model: Model
    options: Options = Options()
    watch: Callable[[int, int], None] = lambda done, total: None
    earlier: tuple[str, ...] = ()
