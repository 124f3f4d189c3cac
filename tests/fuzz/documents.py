"""Runs readers and commands on tampered documents: each must succeed or fail with a one-line error."""

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
from tests.fuzz import artifacts, judge, values
from tests.fuzz.artifacts import Artifacts
from tests.fuzz.judge import DEVICE_CLI, HOST_CLI, Case, CommandResult

_ANY = (0, 2, 3, 5, 6, 7, 8, 9, 10)
_PAGE_SHARE = 0.1  # share of the cases that render a report page, because matplotlib is slow
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
Readers = Callable[[Case, random.Random], None]


@dataclass(frozen=True)
class Document:
    """The path of a document, the edit that tampers with it, and the readers to run."""

    path: str
    edit: Edit
    run_readers: Readers


class Documents:
    """One batch of tampered documents in copies of a run, an install root and a bundle."""

    name = "documents"

    def __init__(self, original: Artifacts, scratch: Path) -> None:
        self.original, self.scratch = original, scratch
        self.run, self.root, self.bundle = scratch / "run", scratch / "root", scratch / "bundle"
        shutil.copytree(original.run, self.run)
        shutil.copytree(original.root, self.root)
        shutil.copytree(original.bundle, self.bundle)
        shutil.copytree(original.run / "rewrite", scratch / "run2" / "rewrite")
        (scratch / "deploytool.toml").write_text(_TOML, encoding="utf-8")
        (scratch / "other").mkdir()
        (scratch / "other" / "config.json").write_text(json.dumps(_CREDENTIALS), encoding="utf-8")
        (scratch / "request").write_bytes(_request(original.bundle))
        os.environ["DOCKER_CONFIG"] = str(scratch / "other")
        judge.fork_workers(cache=True)
        self.documents = self._documents()

    def clean(self, case: Case) -> None:
        """Runs every reader on the original documents."""
        for name, document in self.documents.items():
            document_case = Case(f"clean {name}")
            document.run_readers(document_case, random.Random(0))
            case.codes += document_case.codes
            case.faults += document_case.faults

    def case(self, rng: random.Random) -> Case:
        """Tampers with one document, runs its readers and restores it."""
        name = rng.choice(sorted(self.documents))
        document, case = self.documents[name], Case(name)
        path = self.scratch / document.path
        raw = path.read_bytes()
        path.write_bytes(document.edit(raw, rng))
        document.run_readers(case, rng)
        path.write_bytes(raw)
        return case

    def _documents(self) -> Mapping[str, Document]:
        json_ = values.tamper
        stages = sorted(path.parent.name for path in self.run.glob("*/receipt.json"))
        receipts = {
            f"receipt of {stage}": Document(f"run/{stage}/receipt.json", json_, partial(self._run, stage))
            for stage in stages
        }
        return {
            "report": Document("run/validate/report.json", json_, partial(self._run, "validate")),
            "bench": Document("run/bench.json", json_, partial(self._run, "fp16")),
            "blame": Document("run/blame.json", json_, partial(self._run, "fp16")),
            "kept device": Document("run/devices/device.json", json_, partial(self._run, "fp16")),
            "device": Document("run/devices/device.json", json_, self._device),
            "proof": Document("run/faults/faults.json", json_, partial(self._run, "faults")),
            "weights": Document("run/load/weights.safetensors", _tamper_header, self._weights),
            "manifest": Document("bundle/manifest.json", json_, self._manifest),
            "signature": Document("bundle/model.sig", json_, self._signed),
            "recipe": Document("bundle/recipe.json", json_, self._recipe),
            "golden": Document("bundle/golden/golden.npz", _tamper_npz, self._golden),
            "pointer": Document("root/current", json_, self._pointer),
            "configuration": Document("deploytool.toml", _tamper_toml, self._configuration),
            "log-ins": Document("other/config.json", json_, self._logins),
            "request": Document("request", json_, self._request),
            **receipts,
        }

    def _call(self, case: Case, name: str, program: str, *words: object) -> CommandResult:
        return case.check(name, judge.call(program, *words), _ANY)

    def _attempt(self, case: Case, name: str, work: Callable[[], object]) -> CommandResult:
        return case.check(name, judge.attempt(work), _ANY)

    def _run(self, stage: str, case: Case, rng: random.Random) -> None:
        run, clean = self.run, self.original.run
        self._call(case, "show", HOST_CLI, "show", run, *rng.choice(([], ["--json"])))
        self._call(case, "diff", HOST_CLI, "diff", clean, run, *rng.choice(([], ["--fail-if", "parity>2x"])))
        artifact = next((path for path in sorted((run / stage).iterdir()) if path.name != "receipt.json"), run / stage)
        self._call(case, "show FILE", HOST_CLI, "show", artifact)
        self._attempt(case, "facts", partial(run_data.read, run))
        self._attempt(case, "trust", partial(trust.check, run, trust_code=False))
        if rng.random() < _PAGE_SHARE:
            self._attempt(case, "page", lambda: html.render(run_data.read(run)))
            self._attempt(
                case, "several runs", partial(html.write_comparison, (run, clean), self.scratch / "several.html")
            )
            self._call(case, "junit", HOST_CLI, "report", run, "--junit", self.scratch / "junit.xml")
        self._attempt(case, "blame", partial(blame.read, run))

    def _device(self, case: Case, rng: random.Random) -> None:
        document = self.run / "devices" / "device.json"
        self._call(case, "diff", HOST_CLI, "diff", document, document)
        self._call(case, "diff", HOST_CLI, "diff", self.original.run / "devices" / "device.json", document)
        if rng.random() < _PAGE_SHARE:
            self._call(case, "report --device", HOST_CLI, "report", self.run, "--device", document)
            for path in (self.run / "devices").iterdir():
                if path != document:
                    path.unlink()

    def _weights(self, case: Case, rng: random.Random) -> None:
        path = self.run / "load" / "weights.safetensors"
        self._attempt(case, "definition", partial(weights_file.definition, path))
        self._attempt(case, "floats", partial(weights_file.float_values, path))
        self._attempt(case, "trust", partial(trust.check, self.run, trust_code=True))
        self._call(case, "pack", HOST_CLI, "pack", self.run)

    def _manifest(self, case: Case, rng: random.Random) -> None:
        self._call(case, "verify", DEVICE_CLI, "verify", self.bundle)
        self._call(case, "diff", HOST_CLI, "diff", self.original.bundle, self.bundle)

    def _signed(self, case: Case, rng: random.Random) -> None:
        self._call(case, "verify", DEVICE_CLI, "verify", self.bundle, "--require-signature", self.original.key)

    def _recipe(self, case: Case, rng: random.Random) -> None:
        manifest = read_manifest(self.original.bundle)
        raw = (self.bundle / "recipe.json").read_bytes()
        self._attempt(case, "decode", partial(_decode, raw))
        artifacts.update_manifest(self.bundle, manifest)
        current = read_manifest(self.bundle)
        self._attempt(case, "recipe", partial(engine_recipe, self.bundle, current))
        self._call(case, "build", DEVICE_CLI, "build", self.bundle)
        write_manifest(self.bundle, manifest)

    def _golden(self, case: Case, rng: random.Random) -> None:
        path, manifest = self.bundle / "golden" / "golden.npz", read_manifest(self.original.bundle)
        self._attempt(case, "golden", partial(golden.read, path))
        self._attempt(case, "pixels", partial(golden.pixels, path))
        self._attempt(case, "cases", partial(golden.read_cases, path))
        self._attempt(case, "inputs", partial(inputs_file.declared, path))
        self._attempt(case, "inputs", partial(inputs_file.read, path, manifest.inputs, manifest.free, 4))
        artifacts.update_manifest(self.bundle, manifest)
        self._call(case, "verify", DEVICE_CLI, "verify", self.bundle)
        write_manifest(self.bundle, manifest)

    def _pointer(self, case: Case, rng: random.Random) -> None:
        root, pointer = self.root, self.root / "current"
        tampered = pointer.read_bytes()
        for name, words in {
            "verify --root": ("verify", self.original.bundle, "--root", root),
            "rollback": ("rollback", "--root", root),
            "pardon": ("pardon", "7", "--root", root),
            "run": ("run", root, self.original.bundle / "golden" / "case_0.png"),
            "install": ("install", self.original.bundle, "--root", root),
        }.items():
            self._call(case, name, rng.choice((HOST_CLI, DEVICE_CLI)), *words)
            pointer.write_bytes(tampered)
        self._attempt(case, "open", lambda: deploytool.device.open(root).__enter__())

    def _configuration(self, case: Case, rng: random.Random) -> None:
        config = ["--config", self.scratch / "deploytool.toml"] if rng.random() < 0.5 else []
        other = self.original.bundle
        self._call(case, "diff", HOST_CLI, "diff", *config, other, other)
        self._call(case, "verify", HOST_CLI, "verify", *config, other)
        self._call(case, "bench", HOST_CLI, "bench", *config, "nothing")
        self._call(case, "pull", HOST_CLI, "pull", *config, "nothing")

    def _logins(self, case: Case, rng: random.Random) -> None:
        path = self.scratch / "other" / "config.json"
        self._attempt(case, "logins", lambda: auth.read_config(path).of("https://registry.example.com"))
        self._call(case, "pull", DEVICE_CLI, "pull", "nothing", "--out", "out")

    def _request(self, case: Case, rng: random.Random) -> None:
        """The receiver must answer with one line and write only below its root."""
        result = _run_receiver(self.scratch / "request", self.scratch / "received.out")
        case.check("receiver", result, (0,))
        shutil.rmtree(self.scratch / "place", ignore_errors=True)


_CREDENTIALS = {
    "auths": {
        "https://registry.example.com": {"auth": "bWU6c2VjcmV0"},
        "other.example.com": {"username": "me", "password": "x"},
    },
    "credHelpers": {"third.example.com": "nothing"},
}


def _decode(raw: bytes) -> None:
    try:
        serde.decode(EngineRecipe, serde.loads(raw))
    except serde.Malformed:
        return


def _request(folder: Path) -> bytes:
    """A request of `ship` to a device."""
    import base64

    unlisted = {
        name: base64.b64encode((folder / name).read_bytes()).decode() for name in ("manifest.json", "model.sig")
    }
    files = [[file.path, file.size, file.sha256] for file in all_files(read_manifest(folder))]
    request = {
        "root": "place",
        "digest": manifest_digest(folder),
        "files": files,
        "beside": unlisted,
        "key": "",
        "install": False,
    }
    return json.dumps(request).encode() + b"\n"


def _run_receiver(request: Path, out: Path) -> CommandResult:
    """Runs the receiver in a fork, with the request as its whole standard input."""
    child = os.fork()
    if not child:
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
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return CommandResult(
        code, out.read_text(errors="replace"), "", () if code == 0 else (f"a traceback: {out.read_text()}",)
    )


def _tamper_header(raw: bytes, rng: random.Random) -> bytes:
    """Tampers with the header of a weights file, whose metadata contains JSON documents."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, rest = raw[8 : 8 + length], raw[8 + length :]
    if rng.random() < 0.5:
        document = json.loads(header)
        document["__metadata__"]["model"] = values.tamper(document["__metadata__"]["model"].encode(), rng).decode(
            "utf-8", "replace"
        )
        header = json.dumps(document).encode()
    else:
        header = values.tamper(header, rng)
    stated_length = rng.choice((len(header), len(header), len(header), len(header) + 1, 0, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", stated_length) + header + rest


def _tamper_npz(raw: bytes, rng: random.Random) -> bytes:
    """Tampers with golden cases: corrupt bytes, another array header, or a decompression bomb."""
    if rng.random() < 0.4:
        return values.corrupt(raw, rng)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(contents))
    kind, compression, padding_mib = rng.randrange(7), zipfile.ZIP_STORED, 0
    if kind == 0:
        del contents[name]
    elif kind == 1:
        contents[rng.choice((f"../{name}", "reference.x.npy", "input.\x1b.npy", "more"))] = contents[name]
    elif kind == 2:
        contents[name], compression, padding_mib = contents[name][:200], zipfile.ZIP_DEFLATED, rng.choice((0, 300))
    elif kind == 3:
        sizes = rng.choice((b"(1000000000000,)", b"(-1, 3)", b"(99999, 99999, 9)", b"(2147483648,)", b"()"))
        start, end = contents[name].find(b"(", 10), contents[name].find(b")", 10) + 1
        contents[name] = contents[name][:start] + sizes + contents[name][end:]
    elif kind == 4:
        contents[name] = contents[name].replace(b"<f4", rng.choice((b"<f8", b"|O8", b"<U9", b"V99", b"<c8")))
    elif kind == 5:
        contents[name] = values.corrupt(contents[name], rng)
    else:
        texts = [member for member in ("preprocessing.npy", "noise.npy", "edges.npy") if member in contents]
        chosen = rng.choice(texts)
        contents[chosen] = _to_npy(values.tamper(_read_text(contents[chosen]), rng))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for path, content in contents.items():
            with archive.open(path, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(padding_mib if path == name else 0):  # written in steps, to keep this process small
                    member.write(bytes(1 << 20))
    return buffer.getvalue()


def _read_text(member: bytes) -> bytes:
    import numpy as np

    return str(np.load(io.BytesIO(member))).encode()


def _to_npy(raw: bytes) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.array(raw.decode("utf-8", "replace")))
    return buffer.getvalue()


def _tamper_toml(raw: bytes, rng: random.Random) -> bytes:
    """Tampers with a configuration: another value, key or table, or corrupt bytes."""
    if rng.random() < 0.3:
        return values.corrupt(raw, rng)
    lines = raw.decode().splitlines()
    index = rng.randrange(len(lines))
    edge_cases = (
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
    lines[index] = rng.choice(
        (
            f"{lines[index].partition('=')[0]}= {rng.choice(edge_cases)}",
            f"{key} = {rng.choice(edge_cases)}",
            f"[{key}]",
            f"[[{key}]]",
        )
    )
    return "\n".join(lines).encode()
