"""Lists the architectures of the sweep: factory, inputs at two sizes, and expected result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

NETS = Path(__file__).with_name("nets")
EXPORTERS = ("torchscript", "dynamo")
SEEDS, SIZES = (0, 1, 2), (0, 1)
IMAGE = ("image=3x32x32", "image=3x48x48")


class Expected(Enum):
    """The expected result of a network; MEASURED leaves the decision to the FP64 comparison."""

    MEASURED = "measured"  # pass if all files are correct, and fail if one is wrong
    REFUSED = "refused"  # no exported file can be correct


@dataclass(frozen=True)
class Input:
    """One input: name, shape without the batch, dtype, and the exclusive upper bound of its integers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    below: int


@dataclass(frozen=True)
class Net:
    """One architecture; `inputs` are those of the small and of the large size, in the command line's syntax.

    A nonzero `decides` means that an output depends on a choice between nearly equal values, which FP16 changes by that
    relative amount.
    """

    file: str
    factory: str
    inputs: tuple[str, str] = IMAGE
    expected: Expected = Expected.MEASURED
    decides: float = 0.0

    @property
    def path(self) -> Path:
        """The file of its factory."""
        return NETS / f"{self.file}.py"

    def tensors(self, size: int) -> tuple[Input, ...]:
        """The inputs at one of the two sizes."""
        return tuple(map(parse_input, self.inputs[size].split()))


@dataclass(frozen=True)
class Cell:
    """One export of the sweep."""

    net: Net
    size: int
    seed: int
    exporter: str

    @property
    def name(self) -> str:
        """The key of its result."""
        return f"{self.net.factory}/{self.size}/{self.seed}/{self.exporter}"


def parse_input(text: str) -> Input:
    """Parses an input: `name=3x32x32`, `name=16:int64:100`, or `name=:int64:9` for one integer a case."""
    name, _, rest = text.partition("=")
    dims, dtype, below = (*rest.split(":"), "", "")[:3]
    shape = tuple(int(dim) for dim in dims.split("x") if dim)
    return Input(name, shape, dtype or "float32", int(below or 256 if dtype == "uint8" else below or 2))


def same_at_both_sizes(text: str) -> tuple[str, str]:
    """The same inputs at both sizes."""
    return text, text


VECTOR = same_at_both_sizes("x=12")
LONGER = same_at_both_sizes("x=20")
STEPS = ("x=10x12", "x=16x12")
CHANNELS = ("x=12x20", "x=12x33")
TOKENS = ("ids=10:int64:100", "ids=17:int64:100")
MASKED = ("input_ids=10:int64:100 attention_mask=10:int64:2", "input_ids=17:int64:100 attention_mask=17:int64:2")
WORDS = ("ids=10:int64:50", "ids=17:int64:50")
AUDIO = ("sound=256", "sound=640")
FEATURES = ("x=9x16", "x=14x32")

NET_TABLE = (
    *(Net("convolutional", name) for name in (
        "residual", "inplace", "resnext", "dense", "inception", "excite", "attention_gates", "ghost", "shuffle",
        "mobile", "efficient", "convnext", "convmixer", "group_norm", "instance_norm", "dilated", "pyramid_pool",
        "flatten_head", "repvgg", "high_resolution", "antialiased",
    )),
    *(Net("dense_outputs", name) for name in (
        "unet", "label_map", "pyramid", "bilinear", "bilinear_aligned", "deeplab", "super_resolution", "yolo_together",
        "yolo_apart", "yolo_raw", "detr", "keypoints", "deformable", "autoencoder", "vae", "gram", "gem",
    )),
    Net("dense_outputs", "centernet", decides=2.0**-8),
    Net("dense_outputs", "vector_quantised", decides=2.0**-10),
    Net("dense_outputs", "siamese", ("left=3x32x32 right=3x32x32", "left=3x40x40 right=3x40x40")),
    *(Net("attention", name) for name in ("vit", "mixer", "swin")),
    Net("attention", "bert", MASKED),
    *(Net("attention", name, TOKENS) for name in ("gpt_infinite", "gpt_large", "llama")),
    *(Net("attention", name, FEATURES) for name in (
        "sdpa", "sdpa_causal", "alibi", "linear_attention", "attention_pool", "encoder", "perceiver",
    )),
    Net("attention", "mixture", FEATURES, decides=2.0**-10),
    *(Net("sequence", name, STEPS) for name in ("gru", "gru_both", "lstm", "lstm_both")),
    Net("sequence", "cell_loop", ("x=4x12 state=8", "x=6x12 state=16")),
    Net("sequence", "wavenet", ("x=1x40", "x=1x64")),
    *(Net("sequence", name, CHANNELS) for name in ("tcn_weight_norm", "tcn_old_weight_norm")),
    Net("sequence", "spectral"),
    *(Net("sequence", name, AUDIO) for name in ("mel", "mel_low_floor", "separation")),
    *(Net("sequence", name, WORDS) for name in ("bag", "embedding_bag", "text_cnn")),
    *(Net("sequence", name, LONGER) for name in ("highway", "gated")),
    Net("sequence", "line_reader", ("image=1x8x32", "image=1x8x48")),
    Net("fields", "nerf", ("points=20x3 directions=20x3", "points=33x3 directions=33x3")),
    Net("fields", "siren", ("x=30x2", "x=50x2")),
    Net("fields", "film", ("image=3x32x32 condition=6", "image=3x48x48 condition=6")),
    Net("fields", "hypernetwork", same_at_both_sizes("x=10 condition=6")),
    Net("fields", "graph", ("nodes=7x6 adjacency=7x7", "nodes=12x6 adjacency=12x12")),
    Net("fields", "graph_attention", ("nodes=7x6 edges=7x7", "nodes=12x6 edges=12x12")),
    Net("fields", "pointnet", ("cloud=3x40", "cloud=3x70")),
    Net("fields", "capsule"),
    Net("fields", "deepfm", same_at_both_sizes("categories=4:int64:20 numbers=5")),
    Net("fields", "denoiser", ("image=3x16x16 step=:int64:1000", "image=3x24x24 step=:int64:1000")),
    Net("fields", "camera", ("pixels=3x32x32:uint8", "pixels=3x48x48:uint8")),
    *(Net("fields", name, VECTOR) for name in ("own_function", "branches", "slices")),
    *(Net("fields", name, LONGER) for name in ("standardised", "price_beside_shares")),
    *(Net("troubled", name, VECTOR) for name in ("overflow", "cancelling")),
    *(Net("troubled", name, VECTOR, Expected.REFUSED) for name in (
        "stateful", "random", "dropout", "branch", "item", "data_dependent_size", "batch_mean",
    )),
    Net("troubled", "batch_statistics", expected=Expected.REFUSED),
)  # fmt: skip


def cells(seeds: tuple[int, ...] = SEEDS, sizes: tuple[int, ...] = SIZES) -> Iterator[Cell]:
    """Every export of the sweep, seed by seed, so that an interrupted sweep has covered every network."""
    for seed in seeds:
        for size in sizes:
            for net in NET_TABLE:
                for exporter in EXPORTERS:
                    yield Cell(net, size, seed, exporter)
