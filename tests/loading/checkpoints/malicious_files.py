"""Malicious and damaged checkpoint files, generated deterministically."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tests.tiny import tiny

File = tuple[str, bytes]
MIB = 1 << 20


def saved(content: object) -> bytes:
    target = io.BytesIO()
    torch.save(content, target)
    return target.getvalue()


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(tiny().state_dict())


def flipped_bits(count: int = 80) -> Iterator[File]:
    """One bit flipped in the tensor data of a torch file."""
    good, rng = saved(state()), random.Random(1)
    data = next(iter(state().values())).numpy().tobytes()
    start = good.index(data)
    for case in range(count):
        corrupt = bytearray(good)
        corrupt[start + rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield f"flipped-{case}.pth", bytes(corrupt)


def truncated() -> Iterator[File]:
    """Files without their end."""
    for suffix, good in (("pth", saved(state())), ("safetensors", save(state()))):
        for case in range(30):
            yield f"cut-{case}.{suffix}", good[: len(good) * case // 30]


class Payload:
    """Calls `function` with `arguments` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def payloads(probe: Path) -> Iterator[File]:
    """Pickles in checkpoint files that create the file `probe` when they are loaded."""
    create = f"open({str(probe)!r}, 'w').close()"
    calls = {
        "system": Payload(os.system, f"touch {probe}"),
        "exec": Payload(exec, create),
        "eval": Payload(eval, create),
        "popen": Payload(subprocess.call, ["touch", str(probe)]),
        "open": Payload(open, str(probe), "w"),
    }
    for name, payload in calls.items():
        yield f"payload-{name}.pth", saved(payload)
        yield f"payload-{name}-beside.pth", saved({**state(), "stem.0.weight": payload})
        yield f"payload-{name}-around.pth", saved({"state_dict": state(), "args": payload})
        for protocol in range(6):
            pickled = pickle.dumps({"state_dict": payload}, protocol=protocol)
            yield f"payload-{name}-{protocol}.pkl", pickled
            yield f"payload-{name}-{protocol}.pth", zipped({"archive/data.pkl": pickled, "archive/version": b"3"})


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def entries_of(good: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def bombs() -> Iterator[File]:
    """Small files that expand to large tensors or objects."""
    large = saved({"stem.0.weight": torch.zeros(128 * MIB // 4)})
    entries = entries_of(large)
    for name, method in (("deflate", zipfile.ZIP_DEFLATED), ("bzip2", zipfile.ZIP_BZIP2)):
        yield f"bomb-{name}.pth", zipped(entries, method)
    script = {**entries, "archive/constants.pkl": b"", "archive/code/model.py": b" " * 64 * MIB}
    yield "bomb-script.pt", zipped(script, zipfile.ZIP_DEFLATED)

    target = io.BytesIO(saved({"stem.0.weight": torch.zeros(MIB // 4)}))
    with zipfile.ZipFile(target, "a") as archive:
        data = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
        for number in range(200):  # entries with overlapping data
            overlapping = copy.copy(data)
            overlapping.filename = f"archive/data/{number + 1}"
            archive.filelist.append(overlapping)
        archive.comment = b"rewritten"
    yield "bomb-overlap.pth", target.getvalue()

    honest = saved({"stem.0.weight": torch.zeros(8, 3, 3, 3)})
    entries = entries_of(honest)
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    claim = entries[pickled].replace(b"(K\x08K\x03K\x03K\x03t", b"(\x8a\x05\x00\x00\x00\x00\x01K\x03K\x03K\x03t")
    assert claim != entries[pickled]
    yield "bomb-claimed-shape.pth", zipped({**entries, pickled: claim})
    yield "bomb-bytearray.pth", saved({"stem.0.weight": Payload(bytearray, 1 << 33)})
    yield "bomb-pickle.pth", zipped({"archive/data.pkl": b"\x80\x02" + b"N0" * 16 * MIB})
    yield "bomb-expanded.pth", saved({**state(), "stem.0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)})


def floods() -> Iterator[File]:
    """Pickles of a few megabytes that create millions of objects."""
    good = entries_of(saved(state()))
    for name, step in {"lists": b"]", "dicts": b"}", "marks": b"(", "sets": b"\x8f", "tuples": b")0)"}.items():
        pickled = b"\x80\x02" + step * ((6 << 20) // len(step)) + b"."
        yield f"flood-{name}.pth", zipped({**good, "archive/data.pkl": pickled})


def safetensors_claims() -> Iterator[File]:
    """Headers with invalid lengths, shapes and offsets."""
    good = save(state())
    size = int.from_bytes(good[:8], "little")
    for claim in (0, 1, size - 1, size + 1, len(good) - 8, len(good) - 7, 10**8, 10**8 + 1, 2**32, 2**63, 2**64 - 1):
        yield f"header-{claim}.safetensors", struct.pack("<Q", claim) + good[8:]
    weight: dict[str, Any] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    claims: dict[str, Any] = {
        "shape": {**weight, "shape": [2, 3]},
        "huge": {**weight, "shape": [1 << 40, 1 << 40]},
        "negative": {**weight, "shape": [-2, -2]},
        "beyond": {**weight, "data_offsets": [0, 1 << 50]},
        "backwards": {**weight, "data_offsets": [16, 0]},
        "hole": {**weight, "data_offsets": [4, 20]},
        "type": {**weight, "dtype": "F31"},
        "nothing": {},
        "list": [],
    }
    for name, claim in claims.items():
        yield f"claim-{name}.safetensors", framed(json.dumps({"stem.0.weight": claim}).encode(), bytes(16))
    twice = b'{"a":%b,"b":%b}' % ((json.dumps(weight).encode(),) * 2)
    yield "claim-overlap.safetensors", framed(twice, bytes(16))
    yield "claim-deep.safetensors", framed(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, bytes(16))
    yield "claim-text.safetensors", framed(b"{not json", bytes(16))
    yield "claim-large-header.safetensors", framed(b"{" + b" " * 5 * MIB + b"}", b"")
    for case in range(size):
        if case % 40 == 0:
            yield f"header-quote-{case}.safetensors", good[: 8 + case] + b"\x00" + good[9 + case :]


def framed(header: bytes, numbers: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + numbers


def odd_tensors() -> Iterator[File]:
    """Torch files with values that no state dict of the zoo contains."""
    weight = state()["stem.0.weight"]
    odd: dict[str, object] = {
        "nan": weight * float("nan"),
        "inf": weight / 0,
        "large": weight.double() * 1e300,
        "int": weight.int(),
        "bool": weight.bool(),
        "complex": weight.to(torch.complex64),
        "sparse": weight.to_sparse(),
        "meta": weight.to("meta"),
        "number": 3,
        "text": "weight",
        "none": None,
        "list": [1.0, 2.0],
        "nested": {"weight": weight},
    }
    for name, value in odd.items():
        yield f"odd-{name}.pth", saved({**state(), "stem.0.weight": value})
    for name, content in {"list": [weight], "tensor": weight, "number": 7, "empty": {}, "keys": {1: weight}}.items():
        yield f"odd-file-{name}.pth", saved(content)


def other_files() -> Iterator[File]:
    """Results of failed downloads, and files of other formats."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    pages = (b"<!DOCTYPE html><html>404</html>", b"\n <html>", b"<?xml version='1.0'?><Error/>")
    for suffix in ("pth", "safetensors", "pt"):
        yield f"pointer.{suffix}", pointer
        yield f"empty.{suffix}", b""
        for number, page in enumerate(pages):
            yield f"page-{number}.{suffix}", page
    others = (b"\x00", b"GGUF\x03\x00\x00\x00", b"\x89HDF\r\n\x1a\n", b"\x08\x08\x12\x07pytorch", b"{}", b"PK", b"\x80")
    for number, content in enumerate((*others, b"\x80\x02", b"PK\x03\x04", bytes(range(256)))):
        yield f"other-{number}.pth", content
    good = entries_of(saved(state()))
    named = {name.partition("/")[2]: content for name, content in good.items()}
    yield "zip-empty.pth", zipped({})
    yield "zip-document.pth", zipped({"word/document.xml": b"<w/>"})
    yield "zip-no-folder.pth", zipped(named)
    yield "zip-two-pickles.pth", zipped({**good, "other/data.pkl": named["data.pkl"]})
    yield "zip-two-cases.pth", zipped({**good, "archive/DATA.PKL": named["data.pkl"]})
    for name, content in named.items():
        if name.startswith("data/") and content:
            yield (
                f"zip-no-{name.replace('/', '-')}.pth",
                zipped({k: v for k, v in good.items() if not k.endswith(name)}),
            )
    for length in range(0, len(named["data.pkl"]), 60):
        yield f"zip-pickle-{length}.pth", zipped({**good, "archive/data.pkl": named["data.pkl"][:length]})


def write_all(folder: Path, probe: Path) -> list[Path]:
    """Writes all files to `folder`."""
    makers = (
        flipped_bits(),
        truncated(),
        payloads(probe),
        bombs(),
        floods(),
        safetensors_claims(),
        odd_tensors(),
        other_files(),
    )
    paths = []
    for name, content in (file for maker in makers for file in maker):
        path = folder / name
        assert not path.exists()
        path.write_bytes(content)
        paths.append(path)
    return paths
