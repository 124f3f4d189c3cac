"""The device's commands at the front door: `verify`, `build`, `run`, `bench`, `install` and `rollback`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import completion, console
from deploytool.cli.command import Outcome

if TYPE_CHECKING:
    from deploytool.device.output import CommandOutput


class MinimumBackend(str, Enum):
    """Minimum acceptable backend."""

    trt = "trt"
    cuda = "cuda"
    cpu = "cpu"


_Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Require = Annotated[
    MinimumBackend | None, typer.Option(help="Minimum acceptable backend: fail if only a slower one works.")
]
Build = Annotated[bool, typer.Option("--build", help="Build an engine on this machine first, if it can.")]
_Root = Annotated[Path, typer.Option(metavar="DIR", help="The folder that bundles are installed under.")]
_Digest = Annotated[
    str | None, typer.Option(metavar="SHA-256", help="The digest that the bundle must have; any other is refused.")
]
Key = Annotated[
    Path | None,
    typer.Option("--require-signature", metavar="FILE", help="The public key (PEM) that must have signed the bundle."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="Leave out engines for other targets than this one.",
        autocompletion=completion.target,
    ),
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", min=0.001, help="Give up after this many seconds.")]
Ca = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Certificates (PEM) of the authorities to trust for the server.")
]


def verify(
    bundle: _Bundle,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Refuse a bundle older than the one installed under this folder.")
    ] = None,
    digest: _Digest = None,
    key: Key = None,
    require: Require = None,
    build: Build = False,
) -> Outcome:
    """Checks a bundle's bytes and age, then what it computes on this machine, and says what serves and how fast.

    Example: deploytool verify artifacts/shufflenet_g3/pack/bundle
    """
    from deploytool.device import commands  # here begins numpy

    told = commands.verify(
        bundle, root=root, digest=digest, key=key, require=_word(require), build=build, say=console.note
    )
    return _outcome(told)


def build(bundle: _Bundle, key: Key = None) -> Outcome:
    """Builds an engine for this machine from the bundle's graph, proves it, and keeps it beside the bundle.

    Example: deploytool build artifacts/shufflenet_g3/pack/bundle
    """
    from deploytool.device import commands

    return _outcome(commands.build(bundle, key=key, say=console.note))


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or an install root.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to name.")] = 5,
    key: Key = None,
    require: Require = None,
) -> Outcome:
    """Says what the model sees in pictures, by the first way that works here.

    Example: deploytool run artifacts/shufflenet_g3/pack/bundle photograph.jpg
    """
    from deploytool.device import commands

    return _outcome(commands.run(bundle, images, top=top, key=key, require=_word(require)))


def bench(bundle: Path, seconds: float, key: Path | None, require: MinimumBackend | None, *, build: bool) -> Outcome:
    """Times every way to run the bundle that works here, each in a process of its own."""
    from deploytool.device import commands

    told = commands.bench(bundle, seconds=seconds, key=key, require=_word(require), build=build, say=console.note)
    return _outcome(told)


def install(
    bundle: _Bundle,
    root: _Root,
    digest: _Digest = None,
    key: Key = None,
    require: Require = None,
    build: Build = False,
) -> Outcome:
    """Copies a bundle under a root, proves it there, and only then turns to it; the one before is kept.

    Example: deploytool install artifacts/shufflenet_g3/pack/bundle --root model
    """
    from deploytool.device import commands

    told = commands.install(bundle, root, digest=digest, key=key, require=_word(require), build=build, say=console.note)
    return _outcome(told)


def pull(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="oci://host/name:tag, oci-archive:FILE, https://server/dir/ or a folder."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for the bundle.", show_default="named after the address"),
    ] = None,
    target: Target = None,
    digest: _Digest = None,
    key: Key = None,
    reuse_from: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A bundle or install root whose files need not be fetched again."),
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Allow unencrypted HTTP to other machines too.")
    ] = False,
    ca: Ca = None,
    timeout: Timeout = None,
) -> Outcome:
    """Fetches a bundle, or what a target needs of it, every byte verified as it comes; a cut fetch goes on.

    Example: deploytool pull oci://registry.example.com/models/shufflenet_g3:1 --target orin
    """
    from deploytool.device import commands

    told = commands.pull(
        address,
        out,
        target=target,
        digest=digest,
        key=key,
        reuse_from=reuse_from or (),
        plain_http=plain_http,
        ca=ca,
        timeout=timeout,
        logins=console.logins(),
        say=console.note,
    )
    return _outcome(told)


def rollback(root: _Root, key: Key = None) -> Outcome:
    """Turns back to the bundle before.

    Example: deploytool rollback --root model
    """
    from deploytool.device import commands

    return _outcome(commands.rollback(root, key=key))


def pardon(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="The first digits of the bundle's digest.")],
    root: _Root,
) -> Outcome:
    """Lets a bundle that was given up after three failed starts be installed and started again.

    Example: deploytool pardon 0123456789ab --root model
    """
    from deploytool.device import commands

    return _outcome(commands.pardon(digest, root))


def _outcome(told: CommandOutput) -> Outcome:
    for line in told.lines:
        console.say(console.stdout_console(), line)
    return Outcome({"result": told.document}, told.lines[told.verdict], told.failure)


def _word(require: MinimumBackend | None) -> str | None:
    return require.value if require else None
