"""`deploytool pack`: packs a finished run into a bundle for a device."""

from __future__ import annotations

import glob
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deploytool.bundle import tool, tool_wheel
from deploytool.bundle.int8 import choice_lines
from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MAX_MEMORY_MIB,
    TOOL_FOLDER,
    Engine,
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
from deploytool.results import report
from deploytool.results.artifact import Kind
from deploytool.spec import Options, Precision, Stage


def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for the bundle.", show_default=f"RUN/{Stage.PACK}/bundle"),
    ] = None,
    sequence: Annotated[
        int, typer.Option(min=0, help="Sequence number; a device refuses a bundle with a lower one than it has.")
    ] = 1,
    with_tool: Annotated[
        bool, typer.Option("--with-tool", help="Add the wheel of deploytool and a program that installs it offline.")
    ] = False,
    wheel: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="With --with-tool: a wheel that the device lacks, such as numpy's; repeat."),
    ] = None,
) -> Outcome:
    """Packs graphs, engines, golden cases and a build recipe into one folder, with the digest of every file.

    The device also needs numpy, Pillow, onnxruntime and deploytool itself, which is not on a package index:
    --with-tool packs it, and --wheel what else the device has not.

    Example: deploytool pack artifacts/shufflenet_g3 --with-tool --wheel onnxruntime-…-cp310-…_aarch64.whl
    """
    from deploytool.pipeline import runner  # imports numpy

    if out and out.exists():
        raise BadInput(f"{out} already exists", "choose another folder with --out")
    if wheel and not with_tool:
        raise BadInput("--wheel adds to --with-tool, which was not given", "give both, or leave --wheel out")
    wheels = tool.wheels(wheel or [])
    options = Options(sequence=sequence, tool=tool_wheel.digest() if with_tool else "", wheels=wheels)
    with interrupt.sweeping(partial(runner.sweep, run)):
        artifact = runner.extend(Stage.PACK, options, run)
    folder = artifact.path.parent
    if out:
        _copy(folder, out)
        folder = out
    manifest, digest = read_manifest(folder), manifest_digest(folder)
    for line in (*_lines(folder, manifest, digest), *_fp8_lines(run, manifest)):
        console.say(console.stdout_console(), line)
    document = {
        "bundle": str(folder),
        "digest": digest,
        "content_digest": content_digest(manifest),
        "fresh": artifact.fresh,
    }
    return Outcome({**document, "manifest": manifest}, f"{folder}: digest {digest}", next=summary.on_device(folder))


def _copy(folder: Path, out: Path) -> None:
    """Copies a bundle and verifies every byte; `out` appears only when the copy is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    size = sum(file.size for file in all_files(read_manifest(folder)))
    disk.check(out.parent, size, out.name)
    unfinished = out.with_name(f".{out.name}.{owner.name()}{files.UNFINISHED}")
    clear = partial(files.remove, unfinished)
    files.sweep(out.parent, f".{glob.escape(out.name)}.*{files.UNFINISHED}")
    with interrupt.sweeping(clear):
        try:
            with disk.writing(unfinished, named=out, needed=size):
                _fill(folder, unfinished)
            unfinished.replace(out)
        finally:
            clear()
    files.sync_folder(out.parent)


def _fill(folder: Path, unfinished: Path) -> None:
    """Copies the files of a bundle, verified, and its manifest last."""
    for file in all_files(read_manifest(folder)):
        (unfinished / file.path).parent.mkdir(parents=True, exist_ok=True)
        files.verify_file(folder / file.path, file.size, file.sha256, unfinished / file.path)
    files.publish(unfinished / MANIFEST_FILE, files.read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
    for directory in (*(path for path in unfinished.rglob("*") if path.is_dir()), unfinished):
        files.sync_folder(directory)


def _lines(folder: Path, manifest: Manifest, digest: str) -> list[str]:
    packed = all_files(manifest)
    size = disk.size(sum(file.size for file in packed))
    lines = [
        f"{folder}: {manifest.name}, sequence {manifest.sequence}, {len(packed)} files, {size}",
        f"  content {content_digest(manifest)} (engines excluded: the same inputs give the same)",
        f"  digest  {digest} (of every byte)",
    ]
    engines = [f"  {_engine_text(engine)}" for engine in manifest.engines]
    choices = [f"  {line}" for line in choice_lines(manifest.int8_for)]
    return [*lines, _memory_line(manifest), *engines, *choices, *_tool_lines(folder, manifest)]


def _fp8_lines(run: Path, manifest: Manifest) -> list[str]:
    """Why the bundle has no FP8 graph though the run has one."""
    made = report.read(run / Stage.VALIDATE / Kind.REPORT.value).fp8
    if made is None or any(each.precision is Precision.FP8 for each in manifest.int8):
        return []
    return ["  FP8     is not packed: the report does not find its graph `not worse` as quantised"]


def _tool_lines(folder: Path, manifest: Manifest) -> list[str]:
    """The wheels in the bundle, and the command that installs them on the device."""
    wheels = [Path(file.path).name for file in manifest.tool if file.path.endswith(".whl")]
    if not wheels:
        return []
    installer = folder / TOOL_FOLDER / tool.INSTALLER
    return [f"  tool    {', '.join(wheels)}; on the device: python3 {installer} ENV"]


def _engine_text(engine: Engine) -> str:
    """An engine and the GPUs that it is for; its precision if that is not FP16."""
    text = f"{engine.flavour} {engine.version} for {', '.join(engine.capabilities)}"
    return text if engine.precision is Precision.FP16 else f"{text} in {engine.precision.upper()}"


def _memory_line(manifest: Manifest) -> str:
    """The memory that `verify` may take on a CPU, by the largest graph."""
    stated = [graph.memory_mib for graph in manifest.graphs if graph.memory_mib is not None]
    if len(stated) < len(manifest.graphs):
        return f"  memory  unknown from the shapes: verification on a CPU may take {MAX_MEMORY_MIB} MiB"
    return f"  memory  verification on a CPU may take {max(stated)} MiB"
