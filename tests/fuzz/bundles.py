"""Runs every command on tampered bundles: each must be refused, and none may break a command."""

from __future__ import annotations

import http.server
import json
import os
import random
import shutil
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deploytool.device
from deploytool import serde
from deploytool.bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE, SUBSET_FILE, UNLISTED_FILES, manifest_digest
from deploytool.device.install import Pointer
from tests.fuzz import archives, artifacts, judge, tampers
from tests.fuzz.artifacts import Artifacts, Tree
from tests.fuzz.judge import DEVICE_CLI, HOST_CLI, REFUSED, Case, CommandResult
from tests.fuzz.tampers import FILES, MANIFEST, SIGNATURE

_ANY = (0, 2, 3, 5, 6, 7, 8, 9)  # exit codes for a consistent forgery if no key or digest is required
_SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'
EITHER_CLI = "either command line"
_ARCHIVE_SHARE = 0.15  # share of the cases


class Bundles:
    """One batch of cases in a folder of its own."""

    name = "bundles"

    def __init__(self, original: Artifacts, scratch: Path) -> None:
        self.original, self.scratch = original, scratch
        self.clean_tree, self.root = artifacts.tree(original.bundle), artifacts.tree(original.root)
        self.digest = manifest_digest(original.bundle)
        self.folder, self.out = scratch / "bundle", scratch / "out"
        (scratch / "victim").mkdir()
        (scratch / "victim" / "file").write_bytes(b"not yours")
        (scratch / "bin").mkdir()
        (scratch / "bin" / "ssh").write_text(_SSH)
        (scratch / "bin" / "ssh").chmod(0o755)
        os.environ["PATH"] = f"{scratch / 'bin'}:{os.environ['PATH']}"
        os.environ["DOCKER_CONFIG"] = str(scratch / "no")
        artifacts.restore(self.clean_tree, self.folder)
        artifacts.restore(self.root, scratch / "root")
        self.url = _serve(scratch)
        self._expected = {path.name for path in scratch.iterdir()}
        judge.fork_workers(cache=True)

    def clean(self, case: Case) -> None:
        """Runs all commands on the original bundle."""
        _Commands(self, case, random.Random(0), Expected(), keyed=True).all()
        self._after(case)

    def case(self, rng: random.Random) -> Case:
        """One tampered bundle; each command runs on a random one of both command lines."""
        if rng.random() < _ARCHIVE_SHARE:
            return self._archive(rng)
        kind = rng.choice((FILES, FILES, FILES, MANIFEST, MANIFEST, SIGNATURE))
        tamper = rng.choice(tampers.TAMPERS[kind])
        case = Case(f"{kind} {tamper.__name__}")
        tamper(self.folder, rng, self.original)
        current = artifacts.tree(self.folder)
        changed = {name for name in {*current, *self.clean_tree} if current.get(name) != self.clean_tree.get(name)}
        listed, signed = (
            MANIFEST_FILE not in changed,
            self.signature_content(current) == self.signature_content(self.clean_tree),
        )
        files = kind != MANIFEST and bool(changed - set(UNLISTED_FILES))
        expected = Expected(files or (kind == FILES and not listed), not listed, not signed, changed)
        _Commands(self, case, rng, expected, keyed=kind == SIGNATURE or rng.random() < 0.5).all()
        self._after(case)
        return case

    @staticmethod
    def signature_content(tree: Tree) -> object:
        """The content of the signature, independent of its JSON formatting and the order of its keys."""
        kind, content = tree.get(SIGNATURE_FILE, ("", b""))
        with suppress(ValueError, RecursionError):
            return kind, json.dumps(json.loads(content), sort_keys=True)
        return content

    def _archive(self, rng: random.Random) -> Case:
        """A tampered archive, which only `pull` reads: the result must be the original bundle, or nothing."""
        tamper = rng.choice(archives.TAMPERS)
        case, path = Case(f"archive {tamper.__name__}"), self.scratch / "out.tar"
        tamper(path, self.original.tar.read_bytes(), rng)
        for options in (["--require-signature", self.original.key], ["--digest", self.digest], []):
            words = ("pull", f"oci-archive:{path}", "--out", self.out, *options)
            result = case.check(
                f"pull {' '.join(map(str, options[:1]))}",
                judge.call(rng.choice((HOST_CLI, DEVICE_CLI)), *words),
                (0, *REFUSED),
            )
            pulled, clean = artifacts.tree(self.out), dict(self.clean_tree)
            forged = not options and pulled.get(MANIFEST_FILE) != clean[MANIFEST_FILE]
            if "--require-signature" not in options:
                pulled.pop(SIGNATURE_FILE, None)
                clean.pop(SIGNATURE_FILE)
            if result.code == 0 and pulled != clean and not forged:
                case.add_fault(f"pull wrote another bundle: {_differences(pulled, clean)}")
            if result.code and self.out.exists():
                case.add_fault("pull failed and left a bundle")
            shutil.rmtree(self.out, ignore_errors=True)
            shutil.rmtree(self.scratch / ".out.fetching", ignore_errors=True)
        path.unlink()
        self._after(case)
        return case

    def _after(self, case: Case) -> None:
        """Checks that no other files were changed or left, and restores the folder."""
        if artifacts.tree(self.scratch / "victim") != {"file": ("file", b"not yours")}:
            case.add_fault("a file outside the bundle was changed")
            shutil.rmtree(self.scratch / "victim", ignore_errors=True)
            (self.scratch / "victim").mkdir()
            (self.scratch / "victim" / "file").write_bytes(b"not yours")
        for path in self.scratch.iterdir():
            if path.name in self._expected or path.name == "bundle":
                continue
            if path.name not in ("bundle.linked", "bundle.built", ".out.fetching", "out"):
                case.add_fault(f"leftover file: {path.name}")
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        artifacts.restore(self.clean_tree, self.folder)


@dataclass(frozen=True)
class Expected:
    """What was changed: files so that they differ from the manifest, the manifest, the signature, and all names."""

    files: bool = False
    manifest: bool = False
    signature: bool = False
    names: Collection[str] = ()

    def refused(self, *, key: bool = False, digest: bool = False) -> bool:
        """Whether a command that requires a key or a digest must refuse it."""
        return self.files or (digest and self.manifest) or (key and (self.manifest or self.signature))

    @property
    def whole(self) -> bool:
        """Whether everything but the signature is unchanged."""
        return not self.files and not self.manifest


class _Commands:
    """Runs every command on one tampered bundle and checks its results."""

    def __init__(self, campaign: Bundles, case: Case, rng: random.Random, expected: Expected, *, keyed: bool) -> None:
        self._campaign, self._case, self._rng, self._expected, self._keyed = campaign, case, rng, expected, keyed
        self._options = ["--require-signature", campaign.original.key] if keyed else []
        self._key = campaign.original.key if keyed else None
        self._image = campaign.original.bundle / "golden" / "case_0.png"

    def all(self) -> None:
        """Runs all commands in sequence; those that change the bundle come last."""
        folder, scratch = self._campaign.folder, self._campaign.scratch
        verify = self._rng.randrange(3)
        if verify == 0:
            self._check("verify", EITHER_CLI, "verify", folder)
        elif verify == 1:
            self._check("verify --root", EITHER_CLI, "verify", folder, "--root", scratch / "root")
        else:
            self._check("verify --digest", EITHER_CLI, "verify", folder, "--digest", self._campaign.digest, digest=True)
        self._check("build", EITHER_CLI, "build", folder)
        self._check("run", EITHER_CLI, "run", folder, self._image)
        self._check("bench", EITHER_CLI, "bench", folder, "--seconds", 0.1)
        self._case.check("open", judge.attempt(partial(_open, folder, self._key)), self._codes(key=self._keyed))
        self._install()
        self._push()
        self._pulls()
        other = self._rng.choice((folder, self._campaign.original.bundle))
        self._case.check("diff", judge.call(HOST_CLI, "diff", other, folder), _ANY)
        self._ship()
        self._sign()
        self._rollback()

    def _codes(self, *, key: bool = False, digest: bool = False) -> tuple[int, ...]:
        return REFUSED if self._expected.refused(key=key, digest=digest) else _ANY

    def _check(self, name: str, program: str, *words: object, digest: bool = False) -> CommandResult:
        """Runs a command that must verify the whole bundle against its manifest first."""
        options = [] if digest else self._options
        codes = self._codes(key=bool(options), digest=digest)
        return self._case.check(
            name, judge.call(self._random_cli() if program == EITHER_CLI else program, *words, *options), codes
        )

    def _random_cli(self) -> str:
        return self._rng.choice((HOST_CLI, DEVICE_CLI))

    def _install(self) -> None:
        root = self._campaign.scratch / "root"
        result = self._check("install", EITHER_CLI, "install", self._campaign.folder, "--root", root)
        current, before = (_installed(tree) for tree in (artifacts.tree(root), self._campaign.root))
        if (self._expected.refused(key=self._keyed) or result.code != 0) and current != before:
            self._case.add_fault(
                f"install ended with {result.code} and changed the root: {_differences(current, before)}"
            )
        if current != before:
            shutil.rmtree(root)
            artifacts.restore(self._campaign.root, root)

    def _push(self) -> None:
        out = self._campaign.out
        self._case.check(
            "push", judge.call(HOST_CLI, "push", self._campaign.folder, f"oci-archive:{out}"), self._codes()
        )
        is_same = not out.is_file() or out.read_bytes() == self._campaign.original.tar.read_bytes()
        if self._expected == Expected() and not is_same:
            self._case.add_fault("push wrote another archive")
        if self._expected.refused() and out.exists():
            self._case.add_fault("push refused the bundle and wrote a file")
        out.unlink(missing_ok=True)

    def _pulls(self) -> None:
        """Pulls from the folder, from a web server, and from an archive with reuse of the folder."""
        sources: tuple[tuple[str, list[object]], ...] = (
            ("pull folder", [self._campaign.folder]),
            ("pull http", [self._campaign.url]),
            (
                "pull --reuse-from",
                [f"oci-archive:{self._campaign.original.tar}", "--reuse-from", self._campaign.folder],
            ),
        )
        for name, words in sources:
            result = judge.call(self._random_cli(), "pull", *words, "--out", self._campaign.out, *self._options)
            if self._case.check(name, result, _ANY).code == 0:
                self._check_pulled(name, reuse_from="reuse" in name)
            shutil.rmtree(self._campaign.out, ignore_errors=True)
            shutil.rmtree(self._campaign.scratch / ".out.fetching", ignore_errors=True)

    def _check_pulled(self, name: str, *, reuse_from: bool) -> None:
        """Checks that the pulled bundle is the original, unless no key was required and the manifest is forged."""
        pulled, clean = artifacts.tree(self._campaign.out), dict(self._campaign.clean_tree)
        if self._campaign.signature_content(pulled) == self._campaign.signature_content(clean):
            pulled[SIGNATURE_FILE] = clean[SIGNATURE_FILE]
        if not reuse_from and not self._keyed:
            if self._expected.manifest and pulled.get(MANIFEST_FILE) != clean[MANIFEST_FILE]:
                return
            pulled.pop(SIGNATURE_FILE, None)
            clean.pop(SIGNATURE_FILE)
        if pulled != clean:
            self._case.add_fault(f"{name} ended with 0 and wrote another bundle: {_differences(pulled, clean)}")

    def _ship(self) -> None:
        root = self._campaign.out
        result = self._check("ship", HOST_CLI, "ship", self._campaign.folder, f"me@device:{root}", "--no-install")
        received = root / "received" / self._campaign.digest
        if result.code == 0 and received.is_dir():
            self._check_same_but_signature("ship", artifacts.tree(received))
        if self._expected.refused(key=self._keyed) and root.exists():
            self._case.add_fault("ship refused the bundle and sent a file")
        shutil.rmtree(root, ignore_errors=True)

    def _check_same_but_signature(self, name: str, tree: Tree) -> None:
        """Checks that a bundle is complete; neither its signature nor the permission to omit engines matters."""
        ignored = (SIGNATURE_FILE, SUBSET_FILE)
        clean = {path: entry for path, entry in self._campaign.clean_tree.items() if path not in ignored}
        tree = {path: entry for path, entry in tree.items() if path not in ignored}
        if tree != clean:
            self._case.add_fault(f"{name} wrote another bundle: {_differences(tree, clean)}")

    def _sign(self) -> None:
        """Signing must verify the bundle first; the previous signature is restored."""
        before = artifacts.tree(self._campaign.folder)
        words = ("sign", self._campaign.folder, "--key", self._campaign.original.private)
        result = self._case.check("sign", judge.call(HOST_CLI, *words), self._codes())
        if result.code == 0:
            (self._campaign.folder / SIGNATURE_FILE).unlink()
            if SIGNATURE_FILE in before:
                (self._campaign.folder / SIGNATURE_FILE).write_bytes(before[SIGNATURE_FILE][1])
        elif artifacts.tree(self._campaign.folder) != before:
            self._case.add_fault(f"sign ended with {result.code} and changed the bundle")

    def _rollback(self) -> None:
        """Replaces an installed bundle by the tampered one; the folder's name gives the expected digest."""
        root, digest, other = self._campaign.out, self._campaign.digest, "0" * 64
        installed = root / "bundles" / digest
        installed.parent.mkdir(parents=True)
        self._campaign.folder.rename(installed)
        required = {"key": self._keyed, "digest": True}
        self._write_pointer(root, other, digest)
        allowed: tuple[int, ...] = REFUSED if self._expected.refused(**required) else (0, *REFUSED)
        if self._expected == Expected():
            allowed = (0,)
        self._case.check(
            "rollback", judge.call(self._random_cli(), "rollback", "--root", root, *self._options), allowed
        )
        self._write_pointer(root, digest, other)
        if self._rng.random() < 0.5:
            self._case.check("open root", judge.attempt(partial(_open, root, self._key)), self._codes(**required))
        else:
            words = ("run", root, self._image, *self._options)
            self._case.check("run root", judge.call(self._random_cli(), *words), self._codes(**required))
        self._write_pointer(root, other, digest)
        words = ("install", self._campaign.original.bundle, "--root", root)
        if self._case.check("install over", judge.call(self._random_cli(), *words), (0,)).code == 0:
            self._check_same_but_signature("install over", artifacts.tree(installed))
        if installed.is_dir():
            installed.rename(self._campaign.folder)
        shutil.rmtree(root, ignore_errors=True)

    def _write_pointer(self, root: Path, current: str, previous: str) -> None:
        text = serde.text(Pointer(current, previous, artifacts.SEQUENCE))
        (root / "current").write_text(text, encoding="utf-8")


def _installed(root: Tree) -> Tree:
    """The installed entries, without locks and start records."""
    return {name: entry for name, entry in root.items() if not name.startswith((".lock", "starts"))}


def _open(folder: Path, key: Path | None) -> None:
    with deploytool.device.open(folder, require_signature=key):
        pass


def _differences(first: Tree, second: Tree) -> list[str]:
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))[:4]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        """Reports anything but a regular file as missing, because reading a pipe or device would block."""
        path = Path(self.translate_path(self.path))
        if path.is_dir() or not path.is_file():
            return self.send_error(404)
        return super().send_head()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect."""


def _serve(scratch: Path) -> str:
    """Serves the folder over HTTP in a thread of this process; returns the bundle's URL."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(scratch)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/bundle/"
