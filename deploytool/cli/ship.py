"""`deploytool push` and `deploytool ship`: a bundle on its way to a registry, into one file, or to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool import bundle, only
from deploytool.bundle import Manifest
from deploytool.cli import screen
from deploytool.errors import BadInput
from deploytool.shipping import archive, logins, places, registry, shipment
from deploytool.shipping.places import Archive, Registry
from deploytool.shipping.shipment import Door

_Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
_Ca = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificates (PEM) of who vouches for the server.")]
_Key = Annotated[Path | None, typer.Option("--require-signature", help="The public key that must have signed it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def push(
    folder: _Bundle,
    address: Annotated[str, typer.Argument(help="oci://host:port/name:tag, or oci-archive:FILE.tar.")],
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Without encryption, also to others.")] = False,
    ca: _Ca = None,
    as_json: _Json = False,
) -> None:
    """Sends a bundle to an OCI registry, one raw layer for every file, or puts it into one file.

    Example: deploytool push artifacts/shufflenet_g3/pack/bundle oci-archive:shufflenet_g3.tar
    """
    place, manifest = places.parse(address, plain_http=plain_http, ca=ca), _whole(folder)
    if isinstance(place, Archive):
        made, size = archive.write(folder, manifest, place.path), place.path
        told = {"file": str(place.path), "digest": made.digest, "seal": bundle.seal(folder)}
        _tell(told, [f"{size}: {size.stat().st_size / 1e6:.1f} MB, seal {told['seal']}"], as_json=as_json)
    elif isinstance(place, Registry):
        pushed = registry.push(folder, manifest, place, logins.read(screen.logins()), ca=ca, say=_say)
        lines = [
            f"{place}: {pushed.sent / 1e6:.1f} MB sent, {pushed.there / 1e6:.1f} MB were there",
            f"  {pushed.name} is this very bundle",
        ]
        _tell(pushed, lines, as_json=as_json)
    else:
        raise BadInput(f"{address} takes no bundle", "push to oci:// or oci-archive:, or copy the folder")


def ship(
    folder: _Bundle,
    to: Annotated[str, typer.Argument(metavar="USER@DEVICE:/ROOT", help="Where bundles are installed there.")],
    target: Annotated[str | None, typer.Option("--for", help="Leave out the engines for other targets.")] = None,
    key: _Key = None,
    install: Annotated[bool, typer.Option(help="Install it there, if deploytool is there.")] = True,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of ssh.")] = None,
    identity: Annotated[Path | None, typer.Option(help="A private key for ssh.")] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="A configuration file for ssh.")] = None,
    python: Annotated[str, typer.Option(help="The Python there that has deploytool.")] = "python3",
    as_json: _Json = False,
) -> None:
    """Sends a device the files that it lacks, over ssh, has them verified there, and installs the bundle.

    A signature that is required is checked here before anything is sent, and by the install there.
    Example: deploytool ship artifacts/shufflenet_g3/pack/bundle me@orin:/opt/model --for orin
    """
    device, kind = places.device(to), only.wanted(target)
    if key is not None:
        from deploytool.device import verify  # here begins numpy

        verify.papers(folder, verify.Asked(key=key))
    door, manifest = Door(port, identity, ssh_config, python), _whole(folder)
    shipped = shipment.ship(folder, manifest, device, door, kind, key=key, install=install, say=_say)
    lines = [f"{to}: {shipped.sent / 1e6:.1f} MB sent, {shipped.there / 1e6:.1f} MB were there, seal {shipped.seal}"]
    if shipped.installed:
        lines.append(f"  installed and current: {shipped.tier} serves")
    elif install and not shipped.deploytool:
        lines.append(f"  not installed: {python} there has no deploytool; name the one that has with --python")
    if not shipped.installed:
        lines.append(f"  {shipped.folder} is whole: python -m deploytool.device install {shipped.folder} --root DIR")
    _tell(shipped, lines, as_json=as_json)


def _whole(folder: Path) -> Manifest:
    """The manifest of a bundle of which nothing is missing. Raises Refused, or BadInput if engines were left out."""
    manifest = bundle.read(folder)
    if only.read(folder) is not None:
        raise BadInput(f"{folder} was fetched for one target and is not the whole bundle", "send it from where it is")
    bundle.check(folder, manifest)
    return manifest


def _tell(document: object, lines: list[str], *, as_json: bool) -> None:
    if as_json:
        screen.document({"result": document, "error": None})
        return
    for line in lines:
        screen.say(screen.people(as_json=False), line)


def _say(line: str) -> None:
    typer.echo(line, err=True)
