"""`deploytool pack`: a finished run as a bundle, which is all that a device needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from deploytool import bundle, pipeline
from deploytool.bundle import Manifest
from deploytool.cli import screen
from deploytool.errors import BadInput
from deploytool.spec import Options


def pack(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Path | None, typer.Option(help="A new folder.", show_default="RUN/pack/bundle")] = None,
    sequence: Annotated[int, typer.Option(min=0, help="A device refuses a lower one than it has.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Packs graphs, engines, golden cases and a build recipe into one folder that names its every byte.

    Example: deploytool pack artifacts/shufflenet_g3
    """
    console = screen.people(as_json=as_json)
    if out and out.exists():
        raise BadInput(f"{out} is there already", "choose another folder with --out")
    made = pipeline.extend("pack", Options(sequence=sequence), run)
    folder = made.path.parent
    if out:
        _copy(folder, out)
        folder = out
    manifest, seal = bundle.read(folder), bundle.seal(folder)
    if as_json:
        told = {"bundle": str(folder), "seal": seal, "digest": bundle.digest(manifest), "fresh": made.fresh}
        screen.document({**told, "manifest": manifest})
        return
    for line in _lines(folder, manifest, seal):
        screen.say(console, line)


def _copy(folder: Path, out: Path) -> None:
    """A copy that is there as a whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    bench = out.with_name(f".{out.name}.making")
    shutil.rmtree(bench, ignore_errors=True)
    shutil.copytree(folder, bench)
    bench.replace(out)


def _lines(folder: Path, manifest: Manifest, seal: str) -> list[str]:
    size = sum(file.size for file in bundle.every(manifest)) / 1e6
    lines = [
        f"{folder}: {manifest.name}, sequence {manifest.sequence}, {len(bundle.every(manifest))} files, {size:.1f} MB",
        f"  digest  {bundle.digest(manifest)} (the same for the same inputs: engines aside)",
        f"  seal    {seal} (of every byte)",
    ]
    for_ = [f"  {one.flavour} {one.version} for {', '.join(one.capabilities)}" for one in manifest.engines]
    return [*lines, *for_, f"Next, on the device: python -m deploytool.device verify {folder}"]
