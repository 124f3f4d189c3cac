"""What the campaigns tamper with: a finished run of a tiny model, its bundle, signed, and the keys."""

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
_LARGE = 16 << 20  # bytes: of files that have holes
Tree = dict[str, tuple[str, bytes]]  # by path: what it is, and its bytes or where it points


@dataclass(frozen=True)
class Ground:
    """Everything lies in `home`, and nobody changes it."""

    home: Path

    @property
    def run(self) -> Path:
        """A finished run."""
        return self.home / "run"

    @property
    def bundle(self) -> Path:
        """Its bundle, signed by `key`, with an engine of a few bytes."""
        return self.home / "bundle"

    @property
    def tar(self) -> Path:
        """The same in one file."""
        return self.home / "bundle.tar"

    @property
    def root(self) -> Path:
        """Where the bundle is installed."""
        return self.home / "root"

    @property
    def key(self) -> Path:
        """The public key of who signed it."""
        return self.home / "ours.pub.pem"

    @property
    def private(self) -> Path:
        """The private one."""
        return self.home / "ours.pem"

    @property
    def theirs(self) -> Path:
        """A signature of the same bundle by somebody else."""
        return self.home / "theirs.sig"


def made(home: Path, run: Path | None = None) -> Ground:
    """The ground; made once, from a run of its own or from a packed one that is there."""
    ground = Ground(home)
    if (home / "ready").exists():
        return ground
    home.mkdir(parents=True, exist_ok=True)
    if run is None:
        _ran(ground.run)
    else:
        shutil.copytree(run, ground.run)
    _documents(ground.run)
    _small(Path(shutil.copytree(ground.run / "pack" / "bundle", ground.bundle)))
    private, _ = keys(home, "theirs")
    sign.sign(ground.bundle, private)
    shutil.copy(ground.bundle / SIGNATURE_FILE, ground.theirs)
    private, _ = keys(home, "ours")
    sign.sign(ground.bundle, private)
    oci_archive.write(ground.bundle, read_manifest(ground.bundle), ground.tar)
    install.install(ground.bundle, ground.root, lambda _: None)
    (home / "ready").touch()
    return ground


def _ran(home: Path) -> None:
    decisions = targets.plan_engines(("rtx40",))
    options = dataclasses.replace(QUICK, targets=decisions, engines=targets.engines(decisions))
    list(runner.run(Job(TINY, options), PIPELINE, home))
    runner.extend(Stage.PACK, options, home)


def _documents(run: Path) -> None:
    """What `bench`, `blame`, and a device leave beside a run."""
    result.write(run, benched.benchmark(run))
    layer = Layer("stem", "t", "/stem/Conv", "Conv", 1.0, 0.1)
    finding = Finding(Stage.EXPORT, "eager", "stem", False, layer, None)
    blame.write(run, blame.graph_digests(run), Blame((BlamedGraph(Stage.EXPORT, (), (layer,)),), (0, 1), finding))
    shown = commands.verify(run / "pack" / "bundle", say=lambda _: None).document
    (run / "devices").mkdir()
    (run / "devices" / "device.json").write_text(serde.text({"result": shown, "error": None}), encoding="utf-8")


def _small(folder: Path) -> None:
    """The engine in a few bytes, which nothing here runs, and a sequence that can be lowered."""
    manifest = read_manifest(folder)
    engines = []
    for engine in manifest.engines:
        (folder / engine.file.path).write_bytes(b"no engine" * 50)
        engines.append(dataclasses.replace(engine, file=describe_file(folder, engine.file.path, Role.ENGINE)))
    write_manifest(folder, dataclasses.replace(manifest, engines=tuple(engines), sequence=SEQUENCE))


def rehashed(folder: Path, manifest: Manifest | None = None) -> None:
    """Makes the manifest name the files as they are now."""
    manifest = manifest or read_manifest(folder)
    files = tuple(describe_file(folder, file.path, file.role) for file in manifest.files)
    engines = tuple(
        dataclasses.replace(engine, file=describe_file(folder, engine.file.path, engine.file.role))
        for engine in manifest.engines
    )
    write_manifest(folder, dataclasses.replace(manifest, files=files, engines=engines))


def tree(folder: Path) -> Tree:
    """Everything below a folder, links as links."""
    if not folder.is_dir():
        return {"": ("gone", b"")}
    found: Tree = {}
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(above, name)
            found[str(path.relative_to(folder))] = _entry(path)
    return found


def _entry(path: Path) -> tuple[str, bytes]:
    if path.is_symlink():
        return "link", os.fsencode(os.readlink(path))  # noqa: PTH115
    if path.is_dir():
        return "folder", b""
    if path.is_file() and path.stat().st_size > _LARGE:
        return "large", str(path.stat().st_size).encode()
    return ("file", path.read_bytes()) if path.is_file() else ("other", b"")


def restore(clean: Tree, folder: Path) -> None:
    """The folder as it was: only what changed is written."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    folder.mkdir(exist_ok=True)
    now = tree(folder)
    for name in sorted(now, reverse=True):
        if now[name] != clean.get(name):
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for name, (kind, content) in sorted(clean.items()):
        path = folder / name
        if kind == "folder":
            path.mkdir(exist_ok=True)
        elif not path.exists() or path.stat().st_nlink > 1 or now.get(name) != (kind, content):
            path.unlink(missing_ok=True)
            path.write_bytes(content)
        if path.stat().st_mode & 0o777 not in (0o644, 0o755):
            path.chmod(0o755 if kind == "folder" else 0o644)
