"""What a model is and what was asked for, as plain frozen data that every floor can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

Option = bool | int | float | str | None
ImageSize = int | tuple[int, int]  # of a picture: one length, or height and width

DEFAULT = "default"  # instead of a choice: what is usual, and where that cannot be had the next best
AUTO = "auto"  # instead of a choice: whatever a search finds
INPUT_OPTION, CLASSES_OPTION = "--input", "--classes"  # among what a user said of a model: no option can be called so
BATCH = "batch"  # the word for the first dimension of every input and output
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


class StrEnum(str, Enum):
    """A member that is written, in files and in sentences, as its value."""

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
    FP16 = "fp16"
    KNOWN_ISSUES = "known_issues"
    BUILD = "build"
    FAULTS = "faults"
    VALIDATE = "validate"
    PACK = "pack"

    @property
    def precision(self) -> Precision:
        """What the artifacts of the stage compute in."""
        return Precision.FP16 if self in (Stage.FP16, Stage.BUILD) else Precision.FP32


class Precision(StrEnum):
    """A floating-point type that an artifact computes in, or takes and gives."""

    FP32 = "fp32"
    FP16 = "fp16"


class Status(StrEnum):
    """What became of an artifact on a machine."""

    MEASURED = "measured"
    BUILT_NOT_RUN = "built, not run"
    UNAVAILABLE = "unavailable"


class Attempt(StrEnum):
    """What became of one way to run a bundle on a device."""

    MEASURED = "measured"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class SpeedVerdict(StrEnum):
    """What may be said of two latencies; on an uneven machine, nothing."""

    FASTER = "faster"
    SLOWER = "slower"
    NEITHER = "no significant difference"
    NO_VERDICT = "no verdict"


class GateOutcome(StrEnum):
    """What became of a speed-up that was asked for; open is what nothing here can tell."""

    REACHED = "reached"
    MISSED = "missed"
    OPEN = "open"


class Verdict(StrEnum):
    """What a run comes to."""

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
    """A state as people read it: its word, and the reason in brackets where there is one."""
    return f"{state.value} ({reason})" if reason else str(state.value)


@dataclass(frozen=True)
class Tensor:
    """One input or output; a word in the shape is a free dimension, and the first is always the batch.

    `below` bounds the values of an integer input: they lie in 0 … below - 1.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    below: int = 2

    def image_size(self, layout: str) -> tuple[int | str, int | str] | None:
        """Height and width of a batch of images, laid out `NCHW` or `NHWC`; None if this is none.

        Images have three channels or one, of floating-point numbers or bytes.
        """
        if len(self.shape) != 4 or self.channels(layout) not in (1, 3) or self.dtype[:5] not in ("float", "uint8"):
            return None
        first = layout.index("H")
        return self.shape[first], self.shape[first + 1]

    def channels(self, layout: str) -> int | str:
        """The number of channels of a batch of images."""
        return self.shape[layout.index("C")]

    def free_axes(self) -> dict[int, str]:
        """The word of every axis whose size is free."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture (uint8, height × width × 3) becomes the model's input.

    `resize` is the length its shorter side gets, or its height and width; the centre `crop` is kept, a square or height
    × width; 0 leaves either out. One channel is the luma of ITU-R 601, three are put in the order `channels`; then
    `(pixel * scale - mean) / std` is applied channel by channel, one number being for all, except where the model takes
    bytes, and the channels go where `layout` says.

    `stated` are the fields that a user stated; `assumed` says that nobody did, neither the user nor the model.
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

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width that are kept of a picture, 0 for all of it."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    def images(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Those of a model's inputs that are images.

        Of one channel they are only where none has three, and where bytes or a stated preprocessing say so: a float
        of one channel may be anything.
        """
        found = tuple(tensor for tensor in inputs if tensor.image_size(self.layout))
        coloured = tuple(tensor for tensor in found if tensor.channels(self.layout) == 3)
        grey = len(self.mean) == len(self.std) == 1 and bool(self.stated)
        return coloured or tuple(tensor for tensor in found if grey or tensor.dtype == "uint8")


@dataclass(frozen=True)
class Model:
    """A definition one can call: `factory` is `package.module:function` or `path/to/file.py:function`.

    `classes` are the names of the classes that it scores, in their order, where somebody knows them; `asked` is what a
    user said of it: the names of the options, and `INPUT_OPTION` or `CLASSES_OPTION` where these were given.
    `parameters` and `macs` (multiply-accumulates of convolutions and fully connected layers, batch 1) are the
    published figures, where there are any.
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


@dataclass(frozen=True)
class Range:
    """The sizes of a free dimension that an engine must serve, and the one it is tuned for."""

    smallest: int = 1
    typical: int = 8
    largest: int = 32


@dataclass(frozen=True)
class EnginePlan:
    """One engine file: what builds it, and the compute capabilities it is for.

    With none, it is for what its builder covers by itself: TensorRT the GPU of this machine, TensorRT-RTX 8.0, 8.6,
    8.9, 12.0 and later.
    """

    file: str
    flavour: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A file or folder of the user's, with the digest of what was in it when the run began."""

    path: str
    digest: str


@dataclass(frozen=True)
class Decision:
    """What becomes of one target on this machine, and why."""

    target: str
    verdict: TargetPlan
    why: str
    capability: str = ""
    flavour: str = ""


@dataclass(frozen=True)
class Options:
    """Everything a user can choose about a run; which stage reads what stands in `stages.registry.STAGES`.

    `rewrite_implied` says that nobody asked for that form by name, so that it is left out where it strays.
    `keep_fp32` are modules of the source model or nodes of its graph to keep in FP32, or the one word `auto`;
    `outputs` the names of the outputs to export, all where there is none. `fixed_batch` is the only batch that was
    asked for, if it is one: a model of the user's that takes no other is exported with it.
    """

    seed: int = 0
    weights: Source | None = None
    trust_code: bool = False
    images: int = 12
    data: Source | None = None
    inputs: Source | None = None
    cases: Source | None = None
    exporter: str = DEFAULT
    opset: int = 18
    batch: Range = Range()
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


def _unwatched(done: int, total: int) -> None:
    """The watcher of a run that nobody watches."""


@dataclass(frozen=True)
class Job:
    """One model, what was asked for, and whoever watches the progress of a long step (`watch(done, total)`)."""

    model: Model
    options: Options = Options()
    watch: Callable[[int, int], None] = _unwatched
