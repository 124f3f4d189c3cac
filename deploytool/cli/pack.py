"""`deploytool pack`: a finished run as a bundle, which is all that a device needs."""

from __future__ import annotations

import glob
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MAX_MEMORY_MIB,
    Manifest,
    all_files,
    content_digest,
    manifest_digest,
    read_manifest,
)
from deploytool.cli import console, interrupt, summary
from deploytool.cli.command import Outcome
from deploytool.errors import BadInput
from deploytool.host import disk, files, owner
from deploytool.spec import Options, Stage


def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for the bundle.", show_default=f"RUN/{Stage.PACK}/bundle"),
    ] = None,
    sequence: Annotated[
        int, typer.Option(min=0, help="The sequence number; a device refuses a lower one than it has.")
    ] = 1,
) -> Outcome:
    """Packs graphs, engines, golden cases and a build recipe into one folder that names its every byte.

    The device also needs deploytool itself, which is on no package index: `pip wheel --no-deps -w dist .` in the
    checkout makes the wheel to install there, with onnxruntime.

    Example: deploytool pack artifacts/shufflenet_g3
    """
    from deploytool.pipeline import runner  # here begins numpy

    if out and out.exists():
        raise BadInput(f"{out} is there already", "choose another folder with --out")
    with interrupt.sweeping(partial(runner.sweep, run)):
        made = runner.extend(Stage.PACK, Options(sequence=sequence), run)
    folder = made.path.parent
    if out:
        _copy(folder, out)
        folder = out
    manifest, digest = read_manifest(folder), manifest_digest(folder)
    for line in _lines(folder, manifest, digest):
        console.say(console.stdout_console(), line)
    document = {
        "bundle": str(folder),
        "digest": digest,
        "content_digest": content_digest(manifest),
        "fresh": made.fresh,
    }
    return Outcome({**document, "manifest": manifest}, f"{folder}: digest {digest}", next=summary.on_device(folder))


def _copy(folder: Path, out: Path) -> None:
    """A copy that is there as a whole or not at all, every byte hashed on its way."""
    out.parent.mkdir(parents=True, exist_ok=True)
    size = sum(file.size for file in all_files(read_manifest(folder)))
    disk.check(out.parent, size, out.name)
    bench = out.with_name(f".{out.name}.{owner.name()}{files.UNFINISHED}")
    clear = partial(files.remove, bench)
    files.sweep(out.parent, f".{glob.escape(out.name)}.*{files.UNFINISHED}")
    with interrupt.sweeping(clear):
        try:
            with disk.writing(bench, named=out, needed=size):
                _fill(folder, bench)
            bench.replace(out)
        finally:
            clear()
    files.sync_folder(out.parent)


def _fill(folder: Path, bench: Path) -> None:
    for file in all_files(read_manifest(folder)):
        (bench / file.path).parent.mkdir(parents=True, exist_ok=True)
        files.verify_file(folder / file.path, file.size, file.sha256, bench / file.path)
    files.publish(bench / MANIFEST_FILE, files.read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
    for inside in (*(path for path in bench.rglob("*") if path.is_dir()), bench):
        files.sync_folder(inside)


def _lines(folder: Path, manifest: Manifest, digest: str) -> list[str]:
    inside = all_files(manifest)
    size = disk.size(sum(file.size for file in inside))
    lines = [
        f"{folder}: {manifest.name}, sequence {manifest.sequence}, {len(inside)} files, {size}",
        f"  content {content_digest(manifest)} (the same for the same inputs: engines aside)",
        f"  digest  {digest} (of every byte)",
    ]
    for_ = [f"  {one.flavour} {one.version} for {', '.join(one.capabilities)}" for one in manifest.engines]
    return [*lines, _memory(manifest), *for_]


def _memory(manifest: Manifest) -> str:
    stated = [graph.memory_mib for graph in manifest.graphs if graph.memory_mib is not None]
    if len(stated) < len(manifest.graphs):
        return f"  memory  not known from the shapes: verifying on a CPU may take {MAX_MEMORY_MIB} MiB"
    return f"  memory  verifying on a CPU may take {max(stated)} MiB"
