"""Tampered bundles through every command that takes one: none is let through, none breaks a command."""

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
from deploytool.bundle.manifest import MANIFEST_FILE, SIGNATURE_FILE, UNLISTED_FILES, manifest_digest
from deploytool.device.install import Pointer
from tests.fuzz import archives, ground, judge, tampers
from tests.fuzz.ground import Ground, Tree
from tests.fuzz.judge import BACK, FRONT, REFUSED, Case, Seen
from tests.fuzz.tampers import FILES, MANIFEST, SIGNATURE

_ANY = (0, 2, 3, 5, 6, 7, 8, 9)  # what a command may end with where a forgery is whole and nobody asked who made it
_SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'
BOTH = "either door"
_ARCHIVES = 0.15  # of the cases


class Bundles:
    """One batch of cases in a folder of its own."""

    name = "bundles"

    def __init__(self, there: Ground, bench: Path) -> None:
        self.there, self.bench = there, bench
        self.clean_tree, self.root = ground.tree(there.bundle), ground.tree(there.root)
        self.digest = manifest_digest(there.bundle)
        self.folder, self.out = bench / "bundle", bench / "out"
        (bench / "victim").mkdir()
        (bench / "victim" / "file").write_bytes(b"not yours")
        (bench / "bin").mkdir()
        (bench / "bin" / "ssh").write_text(_SSH)
        (bench / "bin" / "ssh").chmod(0o755)
        os.environ["PATH"] = f"{bench / 'bin'}:{os.environ['PATH']}"
        os.environ["DOCKER_CONFIG"] = str(bench / "no")
        ground.restore(self.clean_tree, self.folder)
        ground.restore(self.root, bench / "root")
        self.url = _served(bench)
        self._expected = {each.name for each in bench.iterdir()}
        judge.fork_workers(remembers=True)

    def clean(self, case: Case) -> None:
        """All that the commands do with a bundle that nobody touched."""
        _Commands(self, case, random.Random(0), Expected(), keyed=True).all()
        self._after(case)

    def case(self, rng: random.Random) -> Case:
        """One tampered bundle, in half of the commands of the front and the others of the back door."""
        if rng.random() < _ARCHIVES:
            return self._archive(rng)
        kind = rng.choice((FILES, FILES, FILES, MANIFEST, MANIFEST, SIGNATURE))
        tamper = rng.choice(tampers.TAMPERS[kind])
        case = Case(f"{kind} {tamper.__name__}")
        tamper(self.folder, rng, self.there)
        now = ground.tree(self.folder)
        others = {name for name in {*now, *self.clean_tree} if now.get(name) != self.clean_tree.get(name)}
        listed, signed = MANIFEST_FILE not in others, self.said(now) == self.said(self.clean_tree)
        files = kind != MANIFEST and bool(others - set(UNLISTED_FILES))
        expected = Expected(files or (kind == FILES and not listed), not listed, not signed, others)
        _Commands(self, case, rng, expected, keyed=kind == SIGNATURE or rng.random() < 0.5).all()
        self._after(case)
        return case

    @staticmethod
    def said(now: Tree) -> object:
        """What a signature says: how it is laid out does not count."""
        kind, content = now.get(SIGNATURE_FILE, ("", b""))
        with suppress(ValueError, RecursionError):
            return repr((kind, json.loads(content)))
        return content

    def _archive(self, rng: random.Random) -> Case:
        """A tampered archive, which only `pull` takes: what lands is the bundle as it was, or nothing."""
        tamper = rng.choice(archives.TAMPERS)
        case, path = Case(f"archive {tamper.__name__}"), self.bench / "out.tar"
        tamper(path, self.there.tar.read_bytes(), rng)
        for asks in (["--require-signature", self.there.key], ["--digest", self.digest], []):
            words = ("pull", f"oci-archive:{path}", "--out", self.out, *asks)
            seen = case.seen(
                f"pull {' '.join(map(str, asks[:1]))}", judge.call(rng.choice((FRONT, BACK)), *words), (0, *REFUSED)
            )
            now, clean = ground.tree(self.out), dict(self.clean_tree)
            forged = not asks and now.get(MANIFEST_FILE) != clean[MANIFEST_FILE]
            if "--require-signature" not in asks:
                now.pop(SIGNATURE_FILE, None)
                clean.pop(SIGNATURE_FILE)
            if seen.code == 0 and now != clean and not forged:
                case.fault(f"pull brought something else: {_unlike(now, clean)}")
            if seen.code and self.out.exists():
                case.fault("pull failed and left a bundle")
            shutil.rmtree(self.out, ignore_errors=True)
            shutil.rmtree(self.bench / ".out.fetching", ignore_errors=True)
        path.unlink()
        self._after(case)
        return case

    def _after(self, case: Case) -> None:
        """Nobody else's files were touched, nothing lies about; and everything as it was."""
        if ground.tree(self.bench / "victim") != {"file": ("file", b"not yours")}:
            case.fault("a foreign folder was touched")
            shutil.rmtree(self.bench / "victim", ignore_errors=True)
            (self.bench / "victim").mkdir()
            (self.bench / "victim" / "file").write_bytes(b"not yours")
        for left in self.bench.iterdir():
            if left.name in self._expected or left.name == "bundle":
                continue
            if left.name not in ("bundle.linked", "bundle.built", ".out.fetching", "out"):
                case.fault(f"it left {left.name}")
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        ground.restore(self.clean_tree, self.folder)


@dataclass(frozen=True)
class Expected:
    """What is not as it was: bytes that the manifest does not name, the manifest itself, the signature, and which."""

    spoilt: bool = False
    manifest: bool = False
    signature: bool = False
    others: Collection[str] = ()

    def refused(self, *, key: bool = False, digest: bool = False) -> bool:
        """Whether whoever asks for a key or a digest must refuse it."""
        return self.spoilt or (digest and self.manifest) or (key and (self.manifest or self.signature))

    @property
    def whole(self) -> bool:
        """Whether all but the signature is as it was."""
        return not self.spoilt and not self.manifest


class _Commands:
    """Every command on one tampered bundle, and what is wrong with what it made."""

    def __init__(self, of: Bundles, case: Case, rng: random.Random, expected: Expected, *, keyed: bool) -> None:
        self._of, self._case, self._rng, self._expected, self._keyed = of, case, rng, expected, keyed
        self._asks = ["--require-signature", of.there.key] if keyed else []
        self._key = of.there.key if keyed else None
        self._picture = of.there.bundle / "golden" / "case_0.png"

    def all(self) -> None:
        """One after the other; those that change the bundle come last."""
        folder, bench = self._of.folder, self._of.bench
        verify = self._rng.randrange(3)
        if verify == 0:
            self._held("verify", BOTH, "verify", folder)
        elif verify == 1:
            self._held("verify --root", BOTH, "verify", folder, "--root", bench / "root")
        else:
            self._held("verify --digest", BOTH, "verify", folder, "--digest", self._of.digest, digest=True)
        self._held("build", BOTH, "build", folder)
        self._held("run", BOTH, "run", folder, self._picture)
        self._held("bench", BOTH, "bench", folder, "--seconds", 0.1)
        self._case.seen("open", judge.attempt(partial(_opened, folder, self._key)), self._codes(key=self._keyed))
        self._install()
        self._push()
        self._pulls()
        other = self._rng.choice((folder, self._of.there.bundle))
        self._case.seen("diff", judge.call(FRONT, "diff", other, folder), _ANY)
        self._ship()
        self._sign()
        self._rollback()

    def _codes(self, *, key: bool = False, digest: bool = False) -> tuple[int, ...]:
        return REFUSED if self._expected.refused(key=key, digest=digest) else _ANY

    def _held(self, name: str, door: str, *words: object, digest: bool = False) -> Seen:
        """A command that holds the whole bundle against its manifest, before anything else comes of it."""
        asks = [] if digest else self._asks
        codes = self._codes(key=bool(asks), digest=digest)
        return self._case.seen(name, judge.call(self._door() if door == BOTH else door, *words, *asks), codes)

    def _door(self) -> str:
        return self._rng.choice((FRONT, BACK))

    def _install(self) -> None:
        root = self._of.bench / "root"
        seen = self._held("install", BOTH, "install", self._of.folder, "--root", root)
        now, before = (_lasting(each) for each in (ground.tree(root), self._of.root))
        if (self._expected.refused(key=self._keyed) or seen.code != 0) and now != before:
            self._case.fault(f"install ended with {seen.code} and changed the root: {_unlike(now, before)}")
        if now != before:
            shutil.rmtree(root)
            ground.restore(self._of.root, root)

    def _push(self) -> None:
        out = self._of.out
        self._case.seen("push", judge.call(FRONT, "push", self._of.folder, f"oci-archive:{out}"), self._codes())
        same = not out.is_file() or out.read_bytes() == self._of.there.tar.read_bytes()
        if self._expected == Expected() and not same:
            self._case.fault("push made another archive of it")
        if self._expected.refused() and out.exists():
            self._case.fault("push wrote something of a bundle that it refused")
        out.unlink(missing_ok=True)

    def _pulls(self) -> None:
        """From the folder, from a web server, and with the folder near."""
        sources: tuple[tuple[str, list[object]], ...] = (
            ("pull folder", [self._of.folder]),
            ("pull http", [self._of.url]),
            ("pull --reuse-from", [f"oci-archive:{self._of.there.tar}", "--reuse-from", self._of.folder]),
        )
        for name, words in sources:
            seen = judge.call(self._door(), "pull", *words, "--out", self._of.out, *self._asks)
            if self._case.seen(name, seen, _ANY).code == 0:
                self._landed(name, reuse_from="near" in name)
            shutil.rmtree(self._of.out, ignore_errors=True)
            shutil.rmtree(self._of.bench / ".out.fetching", ignore_errors=True)

    def _landed(self, name: str, *, reuse_from: bool) -> None:
        """What was fetched is the bundle as it was, byte for byte; forged is only what nobody asked the maker of."""
        now, clean = ground.tree(self._of.out), dict(self._of.clean_tree)
        if self._of.said(now) == self._of.said(clean):
            now[SIGNATURE_FILE] = clean[SIGNATURE_FILE]
        if not reuse_from and not self._keyed:
            if self._expected.manifest and now.get(MANIFEST_FILE) != clean[MANIFEST_FILE]:
                return
            now.pop(SIGNATURE_FILE, None)
            clean.pop(SIGNATURE_FILE)
        if now != clean:
            self._case.fault(f"{name} ended with 0 and brought something else: {_unlike(now, clean)}")

    def _ship(self) -> None:
        root = self._of.out
        seen = self._held("ship", FRONT, "ship", self._of.folder, f"me@device:{root}", "--no-install")
        received = root / "received" / self._of.digest
        if seen.code == 0 and received.is_dir():
            self._same_but_signature("ship", ground.tree(received))
        if self._expected.refused(key=self._keyed) and root.exists():
            self._case.fault("ship sent something of a bundle that it refused")
        shutil.rmtree(root, ignore_errors=True)

    def _same_but_signature(self, name: str, now: Tree) -> None:
        clean = {path: each for path, each in self._of.clean_tree.items() if path != SIGNATURE_FILE}
        now = {path: each for path, each in now.items() if path != SIGNATURE_FILE}
        if now != clean:
            self._case.fault(f"{name} brought something else: {_unlike(now, clean)}")

    def _sign(self) -> None:
        """Who signs a bundle holds it against its manifest; the signature that it had is put back."""
        before = ground.tree(self._of.folder)
        words = ("sign", self._of.folder, "--key", self._of.there.private)
        seen = self._case.seen("sign", judge.call(FRONT, *words), self._codes())
        if seen.code == 0:
            (self._of.folder / SIGNATURE_FILE).unlink()
            if SIGNATURE_FILE in before:
                (self._of.folder / SIGNATURE_FILE).write_bytes(before[SIGNATURE_FILE][1])
        elif ground.tree(self._of.folder) != before:
            self._case.fault(f"sign ended with {seen.code} and changed the bundle")

    def _rollback(self) -> None:
        """The tampered bundle lies where an installed one did: by its place it is known which it must be."""
        root, digest, other = self._of.out, self._of.digest, "0" * 64
        place = root / "bundles" / digest
        place.parent.mkdir(parents=True)
        self._of.folder.rename(place)
        asked = {"key": self._keyed, "digest": True}
        self._points(root, other, digest)
        good: tuple[int, ...] = REFUSED if self._expected.refused(**asked) else (0, *REFUSED)
        if self._expected == Expected():
            good = (0,)
        self._case.seen("rollback", judge.call(self._door(), "rollback", "--root", root, *self._asks), good)
        self._points(root, digest, other)
        if self._rng.random() < 0.5:
            self._case.seen("open root", judge.attempt(partial(_opened, root, self._key)), self._codes(**asked))
        else:
            words = ("run", root, self._picture, *self._asks)
            self._case.seen("run root", judge.call(self._door(), *words), self._codes(**asked))
        self._points(root, other, digest)
        words = ("install", self._of.there.bundle, "--root", root)
        if self._case.seen("install over", judge.call(self._door(), *words), (0,)).code == 0:
            self._same_but_signature("install over", ground.tree(place))
        if place.is_dir():
            place.rename(self._of.folder)
        shutil.rmtree(root, ignore_errors=True)

    def _points(self, root: Path, current: str, previous: str) -> None:
        text = serde.text(Pointer(current, previous, ground.SEQUENCE))
        (root / "current").write_text(text, encoding="utf-8")


def _lasting(root: Tree) -> Tree:
    """What is installed, without locks and counts."""
    return {name: each for name, each in root.items() if not name.startswith((".lock", "starts"))}


def _opened(folder: Path, key: Path | None) -> None:
    with deploytool.device.open(folder, require_signature=key):
        pass


def _unlike(one: Tree, other: Tree) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))[:4]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        """Pipes and devices would keep it waiting: what is no plain file is not found."""
        path = Path(self.translate_path(self.path))
        if path.is_dir() or not path.is_file():
            return self.send_error(404)
        return super().send_head()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up in the middle is nobody's fault."""


def _served(bench: Path) -> str:
    """A web server of what lies in the folder, in a thread of this process; its address of the bundle."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(bench)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/bundle/"
