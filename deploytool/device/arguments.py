"""Declares the commands of a device and their arguments, for argparse on the device and for the host's command line.

Imports no numpy and no parser, so that a command line can be listed and completed without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploytool.builder_settings import LEAST_LEVEL, MOST_LEVEL
from deploytool.spec import Stage, StrEnum


class MinimumBackend(StrEnum):
    """Minimum acceptable backend, the value of `--require`."""

    TRT = "trt"
    CUDA = "cuda"
    CPU = "cpu"


@dataclass(frozen=True)
class Argument:
    """One argument of a command: an option if it has a `flag`, else positional.

    `name` is the parameter of the function in `deploytool.device.commands` that takes the value; `kind` is the type of
    the value (bool for an option without a value, an Enum for a choice). `minimum` and `maximum` bound a number.
    """

    name: str
    help: str
    kind: type[Any] = str
    flag: str = ""
    metavar: str | None = None
    required: bool = False
    repeated: bool = False
    default: Any = None
    default_help: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Command:
    """One command: its line in the list of commands, its description, the arguments of an example, its arguments."""

    summary: str
    description: str
    example: str
    arguments: tuple[Argument, ...]


BUNDLE = Argument("bundle", "A bundle's folder.", Path, metavar="BUNDLE")
REQUIRE = Argument(
    "require", "Minimum acceptable backend: fail if only a slower one works.", MinimumBackend, flag="--require"
)
BUILD = Argument("build", "Build an engine on this machine first, if it can.", bool, flag="--build", default=False)
ROOT = Argument(
    "root", "The folder that bundles are installed under.", Path, flag="--root", metavar="DIR", required=True
)
INSTALLED_ROOT = replace(ROOT, help="Refuse a bundle older than the one installed under this folder.", required=False)
DIGEST = Argument(
    "digest", "The digest that the bundle must have; any other is refused.", flag="--digest", metavar="SHA-256"
)
KEY = Argument(
    "key",
    "The public key (PEM) that must have signed the bundle.",
    Path,
    flag="--require-signature",
    metavar="FILE",
)
TARGET = Argument("target", "Leave out engines for other targets than this one.", flag="--target", metavar="TARGET")
BUILD_TARGET = replace(TARGET, help="Whether an engine for that target can be built here.", default="")
PLAIN_HTTP = Argument(
    "plain_http", "Allow unencrypted HTTP to other machines too.", bool, flag="--plain-http", default=False
)
CA = Argument("ca", "Certificates (PEM) of the authorities to trust for the server.", Path, flag="--ca", metavar="FILE")
READ_BUNDLE = Argument(
    "bundle", "Whether the ONNX Runtime here reads the graphs of that bundle.", Path, flag="--bundle", metavar="BUNDLE"
)
TIMEOUT = Argument(
    "timeout", "Give up after this many seconds.", float, flag="--timeout", metavar="SECONDS", minimum=0.001
)
SECONDS = Argument(
    "seconds",
    "Seconds of timing for each backend.",
    float,
    flag="--seconds",
    default=3.0,
    minimum=0.1,
    maximum=3600,
)
TOP = Argument("top", "Number of classes to name.", int, flag="--top", default=5, minimum=1, maximum=1_000_000)
MAX_LATENCY = Argument(
    "max_latency",
    "Fail if a batch takes longer on the backend that serves.",
    float,
    flag="--max-latency",
    metavar="MS",
    minimum=0.001,
)
MIN_SCORE = Argument(
    "min_score", "Lowest score of a box.", float, flag="--min-score", default=0.25, minimum=0, maximum=1
)
DRAW = Argument(
    "draw", "Draw boxes or areas into copies of the images in this folder.", Path, flag="--draw", metavar="DIR"
)
WORKSPACE = Argument(
    "workspace", "MiB of scratch memory that a layer may use, also when it runs.", int, flag="--workspace", minimum=1
)
BUILDER_MEMORY = Argument(
    "builder_memory", "MiB of the GPU that kernels may take while tried.", int, flag="--builder-memory", minimum=1
)
LEVEL = Argument(
    *("optimization_level", "How long TensorRT searches for kernels.", int),
    flag="--optimization-level",
    minimum=LEAST_LEVEL,
    maximum=MOST_LEVEL,
)
_PACKED = f"artifacts/shufflenet_g3/{Stage.PACK}/bundle"

COMMANDS: Mapping[str, Command] = {
    "verify": Command(
        "Check a bundle's bytes and its outputs on this machine.",
        "Checks a bundle's files and sequence, runs its golden cases, and reports which backend works and how fast.",
        _PACKED,
        (BUNDLE, INSTALLED_ROOT, DIGEST, KEY, REQUIRE, BUILD),
    ),
    "build": Command(
        "Build an engine for this machine from a bundle.",
        "Builds an engine for this machine from the bundle's graph, checks it, and keeps it beside the bundle.",
        _PACKED,
        (BUNDLE, KEY, WORKSPACE, BUILDER_MEMORY, LEVEL),
    ),
    "run": Command(
        "Run the model of a bundle on images.",
        "Runs the model on images, on the first backend that works here.",
        f"{_PACKED} photograph.jpg",
        (
            replace(BUNDLE, help="A bundle's folder, or an install root."),
            Argument(
                "images",
                "Image files; INPUT=FILE for each input of a model with several.",
                Path,
                metavar="IMAGE",
                repeated=True,
            ),
            TOP,
            MIN_SCORE,
            DRAW,
            KEY,
            REQUIRE,
        ),
    ),
    "bench": Command(
        "Time every backend of a bundle.",
        "Times every backend that runs the bundle here, each in a process of its own.",
        _PACKED,
        (BUNDLE, SECONDS, MAX_LATENCY, KEY, REQUIRE, BUILD),
    ),
    "install": Command(
        "Check a bundle on this machine, then make it the current one.",
        "Copies a bundle under a root, checks it there, and then makes it the current one; the one before is kept.",
        f"{_PACKED} --root model",
        (BUNDLE, ROOT, DIGEST, KEY, REQUIRE, BUILD),
    ),
    "pull": Command(
        "Fetch a bundle from a registry, a web server or a file.",
        "Fetches a bundle, or what a target needs of it, and verifies every byte; continues an interrupted fetch.",
        "oci://registry.example.com/models/shufflenet_g3:1 --target orin",
        (
            Argument(
                "address",
                "oci://host/name:tag, oci-archive:FILE, https://server/dir/ or a folder.",
                metavar="ADDRESS",
            ),
            Argument(
                "out",
                "A new folder for the bundle.",
                Path,
                flag="--out",
                metavar="DIR",
                default_help="named after the address",
            ),
            TARGET,
            DIGEST,
            KEY,
            Argument(
                "reuse_from",
                "A bundle or install root whose files need not be fetched again.",
                Path,
                flag="--reuse-from",
                metavar="DIR",
                repeated=True,
            ),
            PLAIN_HTTP,
            CA,
            TIMEOUT,
        ),
    ),
    "status": Command(
        "Say what is installed under a root, and the state of this machine.",
        "Says what is installed under a root, and which software, clocks and power mode this machine has.",
        "--root model",
        (replace(ROOT, required=False),),
    ),
    "rollback": Command(
        "Make the bundle before the current one again.",
        "Makes the bundle before the current one again.",
        "--root model",
        (ROOT, KEY),
    ),
    "pardon": Command(
        "Allow a bundle again that failed three starts.",
        "Allows a bundle that failed three starts in a row to be installed and started again.",
        "0123456789ab --root model",
        (Argument("digest", "The first digits of the bundle's digest.", metavar="DIGEST"), ROOT),
    ),
    "clean": Command(
        "Find what killed commands left; remove it with --yes.",
        "Lists what killed commands left under an install root, and removes it with --yes.",
        "model --yes",
        (
            Argument("root", "The folder that bundles are installed under.", Path, metavar="DIR"),
            Argument("yes", "Remove what was found instead of only listing it.", bool, flag="--yes", default=False),
        ),
    ),
    "doctor": Command(
        "Say what this machine can do, and how to mend what it cannot.",
        "Reports what this machine can build, run and verify, and the remedy for each known problem.",
        "--target rtx40",
        (BUILD_TARGET, READ_BUNDLE),
    ),
}
