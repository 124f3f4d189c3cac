"""What a model is and what was asked for, as plain frozen data that every floor can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Option = bool | int | float | str | None

DEFAULT = "default"  # instead of a choice: what is usual, and where that cannot be had the next best
AUTO = "auto"  # instead of a choice: whatever a search finds
BATCH = "batch"  # the word for the first dimension of every input and output
DTYPES = (
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)  # torch and ONNX know them


@dataclass(frozen=True)
class Tensor:
    """One input or output; a word in the shape is a free dimension, and the first is always the batch.

    `below` bounds the values of an integer input: they lie in 0 … below - 1.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    below: int = 2

    def is_image(self) -> bool:
        """Whether this is a batch of images of three channels."""
        return self.dtype == "float32" and len(self.shape) == 4 and self.shape[1] == 3

    def free(self) -> dict[int, str]:
        """The word of every axis whose size is free."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph (uint8, height × width × 3) becomes the model's input (float32, 3 × height × width).

    The shorter side is resized to `resize`, the centre `crop` × `crop` is kept, the channels are put in the
    order `channels`, then `(pixel * scale - mean) / std` is applied channel by channel.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    channels: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Model:
    """A definition one can call: `factory` is `package.module:function` or `path/to/file.py:function`.

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
    verdict: str
    why: str
    capability: str = ""
    flavour: str = ""


@dataclass(frozen=True)
class Options:
    """Everything a user can choose about a run; which stage reads what stands in `stages.STAGES`.

    `rewrite_implied` says that nobody asked for that form by name, so that it is left out where it strays.
    `keep_fp32` are modules of the source model or nodes of its graph to keep in FP32, or the one word `auto`.
    """

    seed: int = 0
    weights: Source | None = None
    trust_code: bool = False
    images: int = 12
    data: Source | None = None
    cases: Source | None = None
    exporter: str = DEFAULT
    opset: int = 18
    batch: Range = Range()
    sizes: Mapping[str, Range] = field(default_factory=dict)
    rewrite: str = "auto"
    rewrite_implied: bool = False
    io: str = "fp32"
    keep_fp32: tuple[str, ...] = ()
    targets: tuple[Decision, ...] = ()
    engines: tuple[EnginePlan, ...] = ()
    runner: str = "onnxruntime"
    tolerance: Mapping[str, float] = field(default_factory=dict)
    faults: int = 1
    min_speedup: float | None = None
    seconds: float = 3.0
    sequence: int = 1


def _unwatched(done: int, total: int) -> None:
    """The watcher of a run that nobody watches."""


@dataclass(frozen=True)
class Job:
    """One model, what was asked for, and whoever watches the progress of a long step (`watch(done, total)`)."""

    model: Model
    options: Options = Options()
    watch: Callable[[int, int], None] = _unwatched
