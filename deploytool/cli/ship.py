"""`deploytool push` and `deploytool ship`: send a bundle to a registry, to one file, or to a device."""

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
        str, typer.Argument(metavar="ADDRESS", help="Destination: oci://host:port/name:tag or oci-archive:FILE.tar.")
    ],
    plain_http: PlainHttp = False,
    ca: Ca = None,
    timeout: Timeout = None,
) -> Outcome:
    """Sends a bundle to an OCI registry, with one raw layer for each file, or writes it to one tar file.

    Example: deploytool push artifacts/shufflenet_g3/pack/bundle oci-archive:shufflenet_g3.tar
    """
    destination, manifest = addresses.parse(address, plain_http=plain_http, ca=ca), _read_complete(folder)
    if isinstance(destination, Archive):
        path = destination.path
        written = oci_archive.write(folder, manifest, path)
        document = {"file": str(path), "oci_digest": written.digest, "digest": manifest_digest(folder)}
        lines = [f"{path}: {disk.size(path.stat().st_size)}, digest {document['digest']}"]
        return _outcome(document, lines, f"python -m deploytool.device pull {address}")
    if isinstance(destination, Registry):
        credentials = auth.read_config(console.docker_config())
        pushed = transfer_push.push(
            folder, manifest, destination, credentials, ca=ca, timeout=timeout, say=console.note
        )
        lines = [
            f"{destination}: {disk.size(pushed.sent)} sent, {disk.size(pushed.there)} already there",
            f"  address by digest: {pushed.name}",
        ]
        return _outcome(pushed, lines, f"on the device: python -m deploytool.device pull {pushed.name}")
    raise BadInput(f"cannot push to {address}", "push to oci:// or oci-archive:, or copy the folder")


def ship(
    folder: Bundle,
    to: Annotated[
        str,
        typer.Argument(
            metavar="USER@DEVICE:/ROOT", help="The device, and the folder on it that bundles are installed under."
        ),
    ],
    target: Target = None,
    key: Key = None,
    install: Annotated[bool, typer.Option(help="Install the bundle on the device, if it has deploytool.")] = True,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="SSH port.")] = None,
    identity: Annotated[Path | None, typer.Option(metavar="FILE", help="The private key for SSH.")] = None,
    ssh_config: Annotated[Path | None, typer.Option(metavar="FILE", help="The configuration file of SSH.")] = None,
    python: Annotated[
        str, typer.Option(metavar="FILE", help="The Python on the device that deploytool is installed in.")
    ] = "python3",
    timeout: Timeout = None,
) -> Outcome:
    """Sends a device the files of a bundle that it lacks over SSH, verifies them there, and installs the bundle.

    With --require-signature, the signature is checked here before anything is sent, and again during the install.
    Example: deploytool ship artifacts/shufflenet_g3/pack/bundle me@orin:/opt/model --target orin
    """
    device, kind = addresses.parse_device(to), subset.parse(target)
    if key is not None:
        from deploytool.device import verify  # imports numpy

        verify.check_integrity(folder, verify.VerifyOptions(key=key))
    connection, manifest = SshTarget(port, identity, ssh_config, python), _read_complete(folder)
    shipped = ssh.ship(
        folder, manifest, device, connection, kind, key=key, install=install, timeout=timeout, say=console.note
    )
    lines = [f"{to}: {disk.size(shipped.sent)} sent, {disk.size(shipped.there)} already there, digest {shipped.digest}"]
    if shipped.installed:
        lines.append(f"  installed as the current bundle, runs on {shipped.tier}")
    elif install and not shipped.deploytool:
        lines.append(f"  not installed: {python} on the device has no deploytool; give the right one with --python")
    step = (
        None if shipped.installed else f"on the device: python -m deploytool.device install {shipped.folder} --root DIR"
    )
    return _outcome(shipped, lines, step)


def _read_complete(folder: Path) -> Manifest:
    """The manifest of a complete bundle; raises Refused if a file is wrong, and BadInput if engines were left out."""
    manifest = read_manifest(folder)
    if subset.read(folder) is not None:
        raise BadInput(f"{folder} is incomplete: it was fetched for one target", "send the complete bundle")
    check_files(folder, manifest)
    return manifest


def _outcome(document: object, lines: list[str], step: str | None) -> Outcome:
    """Prints the lines; the outcome has the first one as the verdict."""
    for line in lines:
        console.say(console.stdout_console(), line)
    return Outcome({"result": document}, lines[0], next=step)
