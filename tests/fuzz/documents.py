"""Tampered documents through their readers and the commands that read them: one line, and never half a result."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import deploytool.device
from deploytool import serde
from deploytool.bundle.manifest import (
    EngineRecipe,
    all_files,
    engine_recipe,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from deploytool.data import golden, inputs_file
from deploytool.loading import weights_file
from deploytool.pipeline import trust
from deploytool.report import html, run_data
from deploytool.results import blame
from deploytool.transfer import auth, ssh_receiver
from tests.fuzz import ground, judge, values
from tests.fuzz.ground import Ground
from tests.fuzz.judge import BACK, FRONT, Case, Seen

_ANY = (0, 2, 3, 5, 6, 7, 8, 9, 10)
_PAGES = 0.1  # of the cases that a page may be drawn from: matplotlib takes its time
_TOML = """[diff]
fail-if = ["parity>2x"]

[verify]
require = "cpu"
build = false

[pull]
near = ["x"]
timeout = 5.5

[bench]
batch = "1,8"
seconds = 0.5
"""

Edit = Callable[[bytes, random.Random], bytes]
Runs = Callable[[Case, random.Random], None]


@dataclass(frozen=True)
class Document:
    """Where it lies, how it is tampered with, and who reads it."""

    path: str
    edit: Edit
    runs: Runs


class Documents:
    """One batch of tampered documents, around a run, an install root and a bundle of its own."""

    name = "documents"

    def __init__(self, there: Ground, bench: Path) -> None:
        self.there, self.bench = there, bench
        self.run, self.root, self.bundle = bench / "run", bench / "root", bench / "bundle"
        shutil.copytree(there.run, self.run)
        shutil.copytree(there.root, self.root)
        shutil.copytree(there.bundle, self.bundle)
        shutil.copytree(there.run / "rewrite", bench / "run2" / "rewrite")
        (bench / "deploytool.toml").write_text(_TOML, encoding="utf-8")
        (bench / "other").mkdir()
        (bench / "other" / "config.json").write_text(json.dumps(_LOGINS), encoding="utf-8")
        (bench / "request").write_bytes(_request(there.bundle))
        os.environ["DOCKER_CONFIG"] = str(bench / "other")
        judge.fork_workers(remembers=True)
        self.documents = self._documents()

    def clean(self, case: Case) -> None:
        """Every reader on what nobody touched."""
        for name, document in self.documents.items():
            one = Case(f"clean {name}")
            document.runs(one, random.Random(0))
            case.codes += one.codes
            case.faults += one.faults

    def case(self, rng: random.Random) -> Case:
        """One document, tampered with, and put right again."""
        name = rng.choice(sorted(self.documents))
        document, case = self.documents[name], Case(name)
        path = self.bench / document.path
        raw = path.read_bytes()
        path.write_bytes(document.edit(raw, rng))
        document.runs(case, rng)
        path.write_bytes(raw)
        return case

    def _documents(self) -> Mapping[str, Document]:
        json_ = values.tampered
        rooms = sorted(path.parent.name for path in self.run.glob("*/receipt.json"))
        receipts = {
            f"receipt of {room}": Document(f"run/{room}/receipt.json", json_, partial(self._run, room))
            for room in rooms
        }
        return {
            "report": Document("run/validate/report.json", json_, partial(self._run, "validate")),
            "bench": Document("run/bench.json", json_, partial(self._run, "fp16")),
            "blame": Document("run/blame.json", json_, partial(self._run, "fp16")),
            "kept device": Document("run/devices/device.json", json_, partial(self._run, "fp16")),
            "device": Document("run/devices/device.json", json_, self._device),
            "proof": Document("run/faults/faults.json", json_, partial(self._run, "faults")),
            "weights": Document("run/load/weights.safetensors", _header, self._weights),
            "manifest": Document("bundle/manifest.json", json_, self._manifest),
            "signature": Document("bundle/model.sig", json_, self._signed),
            "recipe": Document("bundle/recipe.json", json_, self._recipe),
            "golden": Document("bundle/golden/golden.npz", _zipped, self._golden),
            "pointer": Document("root/current", json_, self._pointer),
            "configuration": Document("deploytool.toml", _toml, self._configuration),
            "log-ins": Document("other/config.json", json_, self._logins),
            "request": Document("request", json_, self._request),
            **receipts,
        }

    def _call(self, case: Case, name: str, door: str, *words: object) -> Seen:
        return case.seen(name, judge.call(door, *words), _ANY)

    def _tries(self, case: Case, name: str, work: Callable[[], object]) -> Seen:
        return case.seen(name, judge.attempt(work), _ANY)

    def _run(self, room: str, case: Case, rng: random.Random) -> None:
        run, clean = self.run, self.there.run
        self._call(case, "show", FRONT, "show", run, *rng.choice(([], ["--json"])))
        self._call(case, "diff", FRONT, "diff", clean, run, *rng.choice(([], ["--fail-if", "parity>2x"])))
        sealed = next((path for path in sorted((run / room).iterdir()) if path.name != "receipt.json"), run / room)
        self._call(case, "show FILE", FRONT, "show", sealed)
        self._tries(case, "facts", partial(run_data.read, run))
        self._tries(case, "trust", partial(trust.check, run, trust_code=False))
        if rng.random() < _PAGES:
            self._tries(case, "page", lambda: html.render(run_data.read(run)))
            self._tries(case, "several runs", partial(html.write_comparison, (run, clean), self.bench / "several.html"))
            self._call(case, "junit", FRONT, "report", run, "--junit", self.bench / "junit.xml")
        self._tries(case, "blame", partial(blame.read, run))

    def _device(self, case: Case, rng: random.Random) -> None:
        document = self.run / "devices" / "device.json"
        self._call(case, "diff", FRONT, "diff", document, document)
        self._call(case, "diff", FRONT, "diff", self.there.run / "devices" / "device.json", document)
        if rng.random() < _PAGES:
            self._call(case, "report --device", FRONT, "report", self.run, "--device", document)
            for path in (self.run / "devices").iterdir():
                if path != document:
                    path.unlink()

    def _weights(self, case: Case, rng: random.Random) -> None:
        path = self.run / "load" / "weights.safetensors"
        self._tries(case, "definition", partial(weights_file.definition, path))
        self._tries(case, "floats", partial(weights_file.float_values, path))
        self._tries(case, "trust", partial(trust.check, self.run, trust_code=True))
        self._call(case, "pack", FRONT, "pack", self.run)

    def _manifest(self, case: Case, rng: random.Random) -> None:
        self._call(case, "verify", BACK, "verify", self.bundle)
        self._call(case, "diff", FRONT, "diff", self.there.bundle, self.bundle)

    def _signed(self, case: Case, rng: random.Random) -> None:
        self._call(case, "verify", BACK, "verify", self.bundle, "--require-signature", self.there.key)

    def _recipe(self, case: Case, rng: random.Random) -> None:
        manifest = read_manifest(self.there.bundle)
        raw = (self.bundle / "recipe.json").read_bytes()
        self._tries(case, "decode", partial(_decoded, raw))
        ground.rehashed(self.bundle, manifest)
        now = read_manifest(self.bundle)
        self._tries(case, "recipe", partial(engine_recipe, self.bundle, now))
        self._call(case, "build", BACK, "build", self.bundle)
        write_manifest(self.bundle, manifest)

    def _golden(self, case: Case, rng: random.Random) -> None:
        path, manifest = self.bundle / "golden" / "golden.npz", read_manifest(self.there.bundle)
        self._tries(case, "golden", partial(golden.read, path))
        self._tries(case, "pixels", partial(golden.pixels, path))
        self._tries(case, "cases", partial(golden.read_cases, path))
        self._tries(case, "inputs", partial(inputs_file.declared, path))
        self._tries(case, "inputs", partial(inputs_file.read, path, manifest.inputs, manifest.free, 4))
        ground.rehashed(self.bundle, manifest)
        self._call(case, "verify", BACK, "verify", self.bundle)
        write_manifest(self.bundle, manifest)

    def _pointer(self, case: Case, rng: random.Random) -> None:
        root, pointer = self.root, self.root / "current"
        spoiled = pointer.read_bytes()
        for name, words in {
            "verify --root": ("verify", self.there.bundle, "--root", root),
            "rollback": ("rollback", "--root", root),
            "pardon": ("pardon", "7", "--root", root),
            "run": ("run", root, self.there.bundle / "golden" / "case_0.png"),
            "install": ("install", self.there.bundle, "--root", root),
        }.items():
            self._call(case, name, rng.choice((FRONT, BACK)), *words)
            pointer.write_bytes(spoiled)
        self._tries(case, "open", lambda: deploytool.device.open(root).__enter__())

    def _configuration(self, case: Case, rng: random.Random) -> None:
        named = ["--config", self.bench / "deploytool.toml"] if rng.random() < 0.5 else []
        other = self.there.bundle
        self._call(case, "diff", FRONT, "diff", *named, other, other)
        self._call(case, "verify", FRONT, "verify", *named, other)
        self._call(case, "bench", FRONT, "bench", *named, "nothing")
        self._call(case, "pull", FRONT, "pull", *named, "nothing")

    def _logins(self, case: Case, rng: random.Random) -> None:
        path = self.bench / "other" / "config.json"
        self._tries(case, "logins", lambda: auth.read_config(path).of("https://registry.example.com"))
        self._call(case, "pull", BACK, "pull", "nothing", "--out", "out")

    def _request(self, case: Case, rng: random.Random) -> None:
        """The receiver's, whose only answer is a line; it writes below its root or nowhere."""
        seen = _received(self.bench / "request", self.bench / "received.out")
        case.seen("receiver", seen, (0,))
        shutil.rmtree(self.bench / "place", ignore_errors=True)


_LOGINS = {
    "auths": {
        "https://registry.example.com": {"auth": "bWU6c2VjcmV0"},
        "other.example.com": {"username": "me", "password": "x"},
    },
    "credHelpers": {"third.example.com": "nothing"},
}


def _decoded(raw: bytes) -> None:
    try:
        serde.decode(EngineRecipe, serde.loads(raw))
    except serde.Malformed:
        return


def _request(folder: Path) -> bytes:
    """What `ship` asks a device for."""
    import base64

    beside = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in ("manifest.json", "model.sig")}
    files = [[file.path, file.size, file.sha256] for file in all_files(read_manifest(folder))]
    request = {
        "root": "place",
        "digest": manifest_digest(folder),
        "files": files,
        "beside": beside,
        "key": "",
        "install": False,
    }
    return json.dumps(request).encode() + b"\n"


def _received(request: Path, out: Path) -> Seen:
    """The receiver in a fork, with a request on its stdin and nothing behind it."""
    born = os.fork()
    if not born:
        code = 1
        try:
            raw = request.read_bytes().replace(b"\n", b" ") + b"\n"
            sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw)))
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            ssh_receiver.main()
            code = 0
        except BaseException as error:
            out.write_text(repr(error))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(born, 0)[1])
    return Seen(code, out.read_text(errors="replace"), "", () if code == 0 else (f"a traceback: {out.read_text()}",))


def _header(raw: bytes, rng: random.Random) -> bytes:
    """A weights file with another header; what it names is in the metadata, as JSON in JSON."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, rest = raw[8 : 8 + length], raw[8 + length :]
    if rng.random() < 0.5:
        whole = json.loads(header)
        whole["__metadata__"]["model"] = values.tampered(whole["__metadata__"]["model"].encode(), rng).decode(
            "utf-8", "replace"
        )
        header = json.dumps(whole).encode()
    else:
        header = values.tampered(header, rng)
    said = rng.choice((len(header), len(header), len(header), len(header) + 1, 0, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", said) + header + rest


def _zipped(raw: bytes, rng: random.Random) -> bytes:
    """Golden cases: bytes spoiled, a member with another header, or one that is a bomb."""
    if rng.random() < 0.4:
        return values.spoiled(raw, rng)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(held))
    kind, form, more = rng.randrange(7), zipfile.ZIP_STORED, 0
    if kind == 0:
        del held[name]
    elif kind == 1:
        held[rng.choice((f"../{name}", "reference.x.npy", "input.\x1b.npy", "more"))] = held[name]
    elif kind == 2:
        held[name], form, more = held[name][:200], zipfile.ZIP_DEFLATED, rng.choice((0, 300))
    elif kind == 3:
        sizes = rng.choice((b"(1000000000000,)", b"(-1, 3)", b"(99999, 99999, 9)", b"(2147483648,)", b"()"))
        start, end = held[name].find(b"(", 10), held[name].find(b")", 10) + 1
        head = held[name][:start] + sizes + held[name][end:]
        held[name] = head
    elif kind == 4:
        held[name] = held[name].replace(b"<f4", rng.choice((b"<f8", b"|O8", b"<U9", b"V99", b"<c8")))
    elif kind == 5:
        held[name] = values.spoiled(held[name], rng)
    else:
        words = [each for each in ("preprocessing.npy", "noise.npy", "edges.npy") if each in held]
        chosen = rng.choice(words)
        held[chosen] = _text(values.tampered(_told(held[chosen]), rng))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", form) as archive:
        for each, content in held.items():
            with archive.open(each, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(more if each == name else 0):  # mebibytes, one at a time: it is not we who are measured
                    member.write(bytes(1 << 20))
    return made.getvalue()


def _told(member: bytes) -> bytes:
    import numpy as np

    return str(np.load(io.BytesIO(member))).encode()


def _text(raw: bytes) -> bytes:
    import numpy as np

    made = io.BytesIO()
    np.save(made, np.array(raw.decode("utf-8", "replace")))
    return made.getvalue()


def _toml(raw: bytes, rng: random.Random) -> bytes:
    """A configuration with another value, key or table, or with its bytes spoiled."""
    if rng.random() < 0.3:
        return values.spoiled(raw, rng)
    lines = raw.decode().splitlines()
    at = rng.randrange(len(lines))
    odd = (
        "1",
        "-1",
        "nan",
        "inf",
        "true",
        '"x"',
        '"\\u001b[31m"',
        "[[1]]",
        "{a = 1}",
        "1979-05-27",
        "[" * 3000,
        '""',
        "1e400",
    )
    key = rng.choice(
        ("fail-if", "require", "trust-code", "config", "json", "a.b.c", '"\\n"', "key", "plain-http", "timeout")
    )
    lines[at] = rng.choice(
        (f"{lines[at].partition('=')[0]}= {rng.choice(odd)}", f"{key} = {rng.choice(odd)}", f"[{key}]", f"[[{key}]]")
    )
    return "\n".join(lines).encode()
