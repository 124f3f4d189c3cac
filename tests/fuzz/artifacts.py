"""Prepares the artifacts that the fuzz campaigns tamper with: a run of a tiny model, its signed bundle and keys."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploytool import serde, targets
from deploytool.benchmark import result
from deploytool.bundle import sign
from deploytool.bundle.manifest import SIGNATURE_FILE, Manifest, Role, describe_file, read_manifest, write_manifest
from deploytool.device import commands, install
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import blame
from deploytool.results.blame import Blame, BlamedGraph, Finding, Layer
from deploytool.spec import Job, Stage
from deploytool.transfer import oci_archive
from tests import benched
from tests.conftest import QUICK, TINY
from tests.device.keys import keys

SEQUENCE = 3
_SPARSE_BYTES = 16 << 20  # larger files are sparse and are compared by their size alone
Tree = dict[str, tuple[str, bytes]]  # by relative path: the kind, and the content or link target


@dataclass(frozen=True)
class Artifacts:
    """The paths of the artifacts in `home`; campaigns change copies only."""

    home: Path

    @property
    def run(self) -> Path:
        """A finished run."""
        return self.home / "run"

    @property
    def bundle(self) -> Path:
        """The run's bundle, signed by `key`, with an engine of a few bytes."""
        return self.home / "bundle"

    @property
    def tar(self) -> Path:
        """The bundle as an archive."""
        return self.home / "bundle.tar"

    @property
    def root(self) -> Path:
        """The install root with the bundle."""
        return self.home / "root"

    @property
    def key(self) -> Path:
        """The public key of the signature."""
        return self.home / "ours.pub.pem"

    @property
    def private(self) -> Path:
        """The private key of the signature."""
        return self.home / "ours.pem"

    @property
    def theirs(self) -> Path:
        """A signature of the same bundle by another key."""
        return self.home / "theirs.sig"


def prepare(home: Path, run: Path | None = None) -> Artifacts:
    """Prepares the artifacts once, from a new run or from `run`, which must be packed."""
    original = Artifacts(home)
    if (home / "ready").exists():
        return original
    home.mkdir(parents=True, exist_ok=True)
    if run is None:
        _export(original.run)
    else:
        shutil.copytree(run, original.run)
    _write_documents(original.run)
    _shrink_engines(Path(shutil.copytree(original.run / "pack" / "bundle", original.bundle)))
    private, _ = keys(home, "theirs")
    sign.sign(original.bundle, private)
    shutil.copy(original.bundle / SIGNATURE_FILE, original.theirs)
    private, _ = keys(home, "ours")
    sign.sign(original.bundle, private)
    oci_archive.write(original.bundle, read_manifest(original.bundle), original.tar)
    install.install(original.bundle, original.root, lambda _: None)
    (home / "ready").touch()
    return original


def _export(home: Path) -> None:
    decisions = targets.plan_engines(("rtx40",))
    options = dataclasses.replace(QUICK, targets=decisions, engines=targets.engines(decisions))
    list(runner.run(Job(TINY, options), PIPELINE, home))
    runner.extend(Stage.PACK, options, home)


def _write_documents(run: Path) -> None:
    """Writes the results of `bench`, `blame` and a device into the run."""
    result.write(run, benched.benchmark(run))
    layer = Layer("stem", "t", "/stem/Conv", "Conv", 1.0, 0.1)
    finding = Finding(Stage.EXPORT, "eager", "stem", False, layer, None)
    blame.write(run, blame.graph_digests(run), Blame((BlamedGraph(Stage.EXPORT, (), (layer,)),), (0, 1), finding))
    result_document = commands.verify(run / "pack" / "bundle", say=lambda _: None).document
    (run / "devices").mkdir()
    (run / "devices" / "device.json").write_text(
        serde.text({"result": result_document, "error": None}), encoding="utf-8"
    )


def _shrink_engines(folder: Path) -> None:
    """Replaces engines, which are never run here, by a few bytes, and sets a sequence that can be lowered."""
    manifest = read_manifest(folder)
    engines = []
    for engine in manifest.engines:
        (folder / engine.file.path).write_bytes(b"no engine" * 50)
        engines.append(dataclasses.replace(engine, file=describe_file(folder, engine.file.path, Role.ENGINE)))
    write_manifest(folder, dataclasses.replace(manifest, engines=tuple(engines), sequence=SEQUENCE))


def update_manifest(folder: Path, manifest: Manifest | None = None) -> None:
    """Updates the sizes and digests in the manifest."""
    manifest = manifest or read_manifest(folder)
    files = tuple(describe_file(folder, file.path, file.role) for file in manifest.files)
    engines = tuple(
        dataclasses.replace(engine, file=describe_file(folder, engine.file.path, engine.file.role))
        for engine in manifest.engines
    )
    write_manifest(folder, dataclasses.replace(manifest, files=files, engines=engines))


def tree(folder: Path) -> Tree:
    """All entries below a folder; symbolic links are not followed."""
    if not folder.is_dir():
        return {"": ("gone", b"")}
    entries: Tree = {}
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(above, name)
            entries[str(path.relative_to(folder))] = _entry(path)
    return entries


def _entry(path: Path) -> tuple[str, bytes]:
    if path.is_symlink():
        return "link", os.fsencode(os.readlink(path))  # noqa: PTH115
    if path.is_dir():
        return "folder", b""
    if path.is_file() and path.stat().st_size > _SPARSE_BYTES:
        return "large", str(path.stat().st_size).encode()
    return ("file", path.read_bytes()) if path.is_file() else ("other", b"")


def restore(clean: Tree, folder: Path) -> None:
    """Restores a folder; writes only what has changed."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    folder.mkdir(exist_ok=True)
    current = tree(folder)
    for name in sorted(current, reverse=True):
        if current[name] != clean.get(name):
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for name, (kind, content) in sorted(clean.items()):
        path = folder / name
        if kind == "folder":
            path.mkdir(exist_ok=True)
        elif not path.exists() or path.stat().st_nlink > 1 or current.get(name) != (kind, content):
            path.unlink(missing_ok=True)
            path.write_bytes(content)
        if path.stat().st_mode & 0o777 not in (0o644, 0o755):
            path.chmod(0o755 if kind == "folder" else 0o644)
