"""`deploytool push` and `deploytool ship`: a bundle on its way to a registry, into one file, or to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploytool.bundle import subset
from deploytool.bundle.manifest import Manifest, check_files, manifest_digest, read_manifest
from deploytool.cli import console
from deploytool.cli.command import Outcome
from deploytool.cli.device import Bundle, Ca, Key, PlainHttp, Target, Timeout
from deploytool.errors import BadInput
from deploytool.host import disk
from deploytool.transfer import addresses, auth, oci_archive, ssh
from deploytool.transfer import push as transfer_push
from deploytool.transfer.addresses import Archive, Registry
from deploytool.transfer.ssh import SshTarget


def push(
    folder: Bundle,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="oci://host:port/name:tag, or oci-archive:FILE.tar.")
    ],
    plain_http: PlainHttp = False,
    ca: Ca = None,
    timeout: Timeout = None,
) -> Outcome:
    """Sends a bundle to an OCI registry, one raw layer for every file, or puts it into one file.

    Example: deploytool push artifacts/shufflenet_g3/pack/bundle oci-archive:shufflenet_g3.tar
    """
    place, manifest = addresses.parse(address, plain_http=plain_http, ca=ca), _whole(folder)
    if isinstance(place, Archive):
        made, size = oci_archive.write(folder, manifest, place.path), place.path
        document = {"file": str(place.path), "oci_digest": made.digest, "digest": manifest_digest(folder)}
        lines = [f"{size}: {disk.size(size.stat().st_size)}, digest {document['digest']}"]
        return _outcome(document, lines, f"python -m deploytool.device pull {address}")
    if isinstance(place, Registry):
        known = auth.read_config(console.docker_config())
        pushed = transfer_push.push(folder, manifest, place, known, ca=ca, timeout=timeout, say=console.note)
        lines = [
            f"{place}: {disk.size(pushed.sent)} sent, {disk.size(pushed.there)} were there",
            f"  {pushed.name} is this very bundle",
        ]
        return _outcome(pushed, lines, f"on the device: python -m deploytool.device pull {pushed.name}")
    raise BadInput(f"{address} takes no bundle", "push to oci:// or oci-archive:, or copy the folder")


def ship(
    folder: Bundle,
    to: Annotated[
        str,
        typer.Argument(metavar="USER@DEVICE:/ROOT", help="The folder on the device that bundles are installed under."),
    ],
    target: Target = None,
    key: Key = None,
    install: Annotated[bool, typer.Option(help="Install the bundle on the device, if deploytool is there.")] = True,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="SSH port.")] = None,
    identity: Annotated[Path | None, typer.Option(metavar="FILE", help="A private key for ssh.")] = None,
    ssh_config: Annotated[Path | None, typer.Option(metavar="FILE", help="A configuration file for ssh.")] = None,
    python: Annotated[
        str, typer.Option(metavar="FILE", help="The Python on the device that has deploytool.")
    ] = "python3",
    timeout: Timeout = None,
) -> Outcome:
    """Sends a device the files that it lacks, over ssh, has them verified there, and installs the bundle.

    A signature that is required is checked here before anything is sent, and by the install there.
    Example: deploytool ship artifacts/shufflenet_g3/pack/bundle me@orin:/opt/model --target orin
    """
    device, kind = addresses.parse_device(to), subset.parse(target)
    if key is not None:
        from deploytool.device import verify  # here begins numpy

        verify.check_integrity(folder, verify.VerifyOptions(key=key))
    door, manifest = SshTarget(port, identity, ssh_config, python), _whole(folder)
    shipped = ssh.ship(
        folder, manifest, device, door, kind, key=key, install=install, timeout=timeout, say=console.note
    )
    lines = [f"{to}: {disk.size(shipped.sent)} sent, {disk.size(shipped.there)} were there, digest {shipped.digest}"]
    if shipped.installed:
        lines.append(f"  installed and current: {shipped.tier} serves")
    elif install and not shipped.deploytool:
        lines.append(f"  not installed: {python} there has no deploytool; name the one that has with --python")
    step = None if shipped.installed else f"there: python -m deploytool.device install {shipped.folder} --root DIR"
    return _outcome(shipped, lines, step)


def _whole(folder: Path) -> Manifest:
    """The manifest of a bundle of which nothing is missing. Raises Refused, or BadInput if engines were left out."""
    manifest = read_manifest(folder)
    if subset.read(folder) is not None:
        raise BadInput(f"{folder} was fetched for one target and is not the whole bundle", "send it from where it is")
    check_files(folder, manifest)
    return manifest


def _outcome(document: object, lines: list[str], step: str | None) -> Outcome:
    for line in lines:
        console.say(console.stdout_console(), line)
    return Outcome({"result": document}, lines[0], next=step)
