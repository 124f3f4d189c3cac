"""Small bundles of random bytes with a valid manifest, and engines for two devices; they contain no model."""

from __future__ import annotations

import random
from pathlib import Path

from deploytool import serde
from deploytool.bundle.manifest import (
    SCHEMA,
    Engine,
    File,
    GoldenFiles,
    Graph,
    Manifest,
    Provenance,
    Role,
    check_files,
    describe_file,
    read_manifest,
    write_manifest,
)
from deploytool.results.report import Limits
from deploytool.spec import Precision, Preprocessing, Range, Tensor

ORIN, RTX40 = "engines/orin.plan", "engines/rtx40.plan"
_FILES = {
    "models/m/1/model.onnx": Role.GRAPH,
    "models/m/config.pbtxt": Role.SERVER,
    "golden/golden.npz": Role.GOLDEN,
    "golden/case_0.png": Role.IMAGE,
    "recipe.json": Role.RECIPE,
}

TOLERANCE = Limits(max_error=2e-3, cosine=1 - 1e-4, snr_db=40.0, top1=1.0, top5=1.0)


def make_bundle(folder: Path, seed: int, size: int = 300, sequence: int = 1) -> Path:
    """Makes a bundle whose files have about `size` bytes each; another seed gives other bytes of the same sizes."""
    rng = random.Random(seed)

    def file(path: str, role: Role) -> File:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(rng.randbytes(size + len(path)))
        return describe_file(folder, path, role)

    def engine(path: str, capability: str) -> Engine:
        platforms = (("linux",), ("aarch64", "x86_64"))
        return Engine(
            file(path, Role.ENGINE), "tensorrt", "10.3.0", (capability,), *platforms, "", Precision.FP16, Precision.FP32
        )

    files = tuple(file(path, role) for path, role in _FILES.items())
    graph, golden, _, picture, recipe = (files[0], files[2], files[1], files[3], files[4])
    manifest = Manifest(
        schema=SCHEMA,
        name="m",
        sequence=sequence,
        inputs=(Tensor("input", ("batch", 3, 8, 8)),),
        outputs=(Tensor("logits", ("batch", 2)),),
        free={"batch": Range()},
        preprocessing=Preprocessing(resize=8, crop=8),
        classes=(),
        graphs=(Graph(graph.path, Precision.FP32, Precision.FP32, 8, 18),),
        floor={},
        tried="1.31.1",
        golden=GoldenFiles(golden.path, 1, (picture.path,)),
        tolerances={"fp32": TOLERANCE, "fp16": TOLERANCE},
        recipe=recipe.path,
        files=files,
        engines=(engine(ORIN, "8.7"), engine(RTX40, "8.9")),
        targets=(),
        provenance=Provenance("net.py:make", {}, "0" * 64, {}, {}, {}),
    )
    write_manifest(folder, manifest)
    check_files(folder, read_manifest(folder))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def text(value: object) -> bytes:
    """JSON as deploytool writes it."""
    return serde.text(value).encode()
