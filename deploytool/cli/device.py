"""The device's commands at the front door: `verify`, `build`, `run`, `bench`, `install` and `rollback`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import screen

if TYPE_CHECKING:
    from deploytool.device.commands import Told


class Least(str, Enum):
    """The least that will do."""

    trt = "trt"
    cuda = "cuda"
    cpu = "cpu"


_Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Require = Annotated[Least | None, typer.Option(help="Fail if only something slower works.")]
Build = Annotated[bool, typer.Option("--build", help="Build an engine here first, where one can.")]
_Root = Annotated[Path, typer.Option(help="Where bundles are installed.")]
_Seal = Annotated[str | None, typer.Option(help="The seal of the bundle you mean; any other is refused.")]
Key = Annotated[Path | None, typer.Option("--require-signature", help="The public key that must have signed it.")]
_Address = Annotated[str, typer.Argument(help="oci://host/name:tag, oci-archive:FILE, https://host/dir/, or a folder.")]
_Ca = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificates (PEM) of who vouches for the server.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def verify(
    bundle: _Bundle,
    root: Annotated[Path | None, typer.Option(help="Refuse what is older than what is installed there.")] = None,
    seal: _Seal = None,
    key: Key = None,
    require: Require = None,
    build: Build = False,
    as_json: Json = False,
) -> None:
    """Checks a bundle's bytes and age, then what it computes on this machine, and says what serves and how fast.

    Example: deploytool verify artifacts/shufflenet_g3/pack/bundle
    """
    from deploytool.device import commands  # here begins numpy

    told = commands.verify(bundle, root=root, seal=seal, key=key, require=_word(require), build=build, say=_say)
    _show(told, as_json=as_json)


def build(bundle: _Bundle, key: Key = None, as_json: Json = False) -> None:
    """Builds an engine for this machine from the bundle's graph, proves it, and keeps it beside the bundle."""
    from deploytool.device import commands

    _show(commands.build(bundle, key=key, say=_say), as_json=as_json)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or an install root.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes.")] = 5,
    key: Key = None,
    require: Require = None,
    as_json: Json = False,
) -> None:
    """Says what the model sees in pictures, by the first way that works here."""
    from deploytool.device import commands

    _show(commands.run(bundle, images, top=top, key=key, require=_word(require)), as_json=as_json)


def bench(bundle: Path, seconds: float, key: Path | None, require: Least | None, *, build: bool, as_json: bool) -> None:
    """Times every way to run the bundle that works here, each in a process of its own."""
    from deploytool.device import commands

    told = commands.bench(bundle, seconds=seconds, key=key, require=_word(require), build=build, say=_say)
    _show(told, as_json=as_json)


def install(
    bundle: _Bundle,
    root: _Root,
    seal: _Seal = None,
    key: Key = None,
    require: Require = None,
    build: Build = False,
    as_json: Json = False,
) -> None:
    """Copies a bundle under a root, proves it there, and only then turns to it; the one before is kept."""
    from deploytool.device import commands

    told = commands.install(bundle, root, seal=seal, key=key, require=_word(require), build=build, say=_say)
    _show(told, as_json=as_json)


def pull(
    address: Annotated[
        str, typer.Argument(help="oci://host/name:tag, oci-archive:FILE, https://server/dir/ or a folder")
    ],
    out: Annotated[Path | None, typer.Option(help="A new folder.", show_default="named after the address")] = None,
    target: Annotated[str | None, typer.Option("--for", help="Leave out the engines for other targets.")] = None,
    seal: _Seal = None,
    key: Key = None,
    near: Annotated[list[Path] | None, typer.Option(help="A bundle or install root here: its files stay.")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Without encryption, also to others.")] = False,
    ca: _Ca = None,
    as_json: Json = False,
) -> None:
    """Fetches a bundle, or what a target needs of it, every byte verified as it comes; a cut fetch goes on.

    Example: deploytool pull oci://registry.example.com/models/shufflenet_g3:1 --for orin
    """
    from deploytool.device import commands

    told = commands.pull(
        address,
        out,
        target=target,
        seal=seal,
        key=key,
        near=near or (),
        plain_http=plain_http,
        ca=ca,
        logins=screen.logins(),
        say=_say,
    )
    _show(told, as_json=as_json)


def rollback(root: _Root, key: Key = None, as_json: Json = False) -> None:
    """Turns back to the bundle before."""
    from deploytool.device import commands

    _show(commands.rollback(root, key=key), as_json=as_json)


def _show(told: Told, *, as_json: bool) -> None:
    if as_json:
        screen.document({"result": told.document, "error": screen.told(told.failure)})
    else:
        for line in told.lines:
            screen.say(screen.people(as_json=False), line)
    if told.failure:
        screen.failure(told.failure)
        raise typer.Exit(told.failure.exit_code)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _word(require: Least | None) -> str | None:
    return require.value if require else None
