"""Tells by its first bytes what a file is, so that each kind gets the reader, or the refusal, that it deserves."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from enum import Enum
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from deploytool.checkpoints.naming import quoted
from deploytool.errors import BadInput


class Format(Enum):
    """What can hold weights; the value is what messages call it."""

    SAFETENSORS = "a safetensors file"
    TENSORS = "a torch file of tensors"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORTED = "a torch.export archive"
    MODULE = "a whole pickled module"
    OBJECT = "a torch file of more than tensors"
    OLD_PICKLE = "an old-style pickle"


AGAIN = "fetch the file again"
_PICKLE_LIMIT = 16 << 20  # bytes; a thousand tensors take 0.1 MiB
_CODE_LIMIT = 16 << 20  # bytes of source code in an archive
_HARMLESS = re.compile(
    r"collections (OrderedDict|defaultdict)|torch \w+Storage|torch (Size|device|float\d+|bfloat16|int\d+)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
)


def identify(file: BinaryIO, size: int) -> tuple[Format, str]:
    """The format of a file of `size` bytes, and why it counts as code where that is not plain from its format.

    Raises BadInput for what cannot hold weights, or is damaged.
    """
    start = file.read(64)
    if size == 0:
        raise BadInput("the checkpoint is an empty file", AGAIN)
    if start[8:9] == b"{":  # first of all: the length of a header before it can look like anything below
        return Format.SAFETENSORS, ""
    if start.startswith(b"version https://git-lfs"):
        raise BadInput("this is a git-LFS pointer, not the checkpoint itself", "run `git lfs pull` where it came from")
    if start.lstrip().startswith(b"<"):
        raise BadInput("this is a web page, not a checkpoint", "download the file itself, not the page about it")
    if start.startswith(b"PK"):
        return _inside_zip(file, size)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return Format.OLD_PICKLE, ""
    raise BadInput(f"this is no checkpoint: it begins with {start[:8]!r}", "give a .safetensors, .pth or .pt file")


def _inside_zip(file: BinaryIO, size: int) -> tuple[Format, str]:
    try:
        archive = ZipFile(file)
    except BadZipFile:
        raise BadInput("the checkpoint is cut short: the list of its entries is missing", AGAIN) from None
    with archive:
        inside = {name.partition("/")[2] for name in archive.namelist()}
        code = Format.TORCHSCRIPT if "constants.pkl" in inside else None
        if {"archive_format", "models/model.json", "serialized_exported_program.json"} & inside:
            code = Format.EXPORTED
        _check_entries(archive, size, may_compress=code is not None)
        damaged = archive.testzip()  # torch never looks at these sums
        if damaged is not None:
            raise BadInput(f"the checkpoint is damaged: {quoted(damaged)} does not match its checksum", AGAIN)
        return (code, "") if code else _inside_torch_file(archive)


def _check_entries(archive: ZipFile, size: int, *, may_compress: bool) -> None:
    """Refuses what would grow when it is read, before any of it is; torch compresses source code, never tensors."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != ZIP_STORED and not may_compress:
            raise BadInput(f"{quoted(entry.filename)} is compressed, which torch never does", "save it with torch.save")
    if sum(entry.file_size for entry in entries) > size + (_CODE_LIMIT if may_compress else 0):
        raise BadInput(f"the checkpoint claims to hold more than its {size:,} bytes", AGAIN)
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise BadInput("the checkpoint holds two entries of one name", "save it with torch.save")


def _inside_torch_file(archive: ZipFile) -> tuple[Format, str]:
    found = [entry for entry in archive.infolist() if entry.filename.partition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise BadInput("this zip archive was not written by torch: it has no data.pkl", "give a .pth or .pt file")
    if found[0].file_size > _PICKLE_LIMIT:
        raise BadInput("the checkpoint's data.pkl is too large for a list of tensors", "save only its state_dict()")
    foreign = list(_foreign_names(archive.read(found[0])))
    if not foreign:
        return Format.TENSORS, ""
    is_module = any(name.startswith("torch.nn.modules.") for name in foreign)
    return Format.MODULE if is_module else Format.OBJECT, f" (it names {quoted(foreign[0])})"


def _foreign_names(pickled: bytes) -> Iterator[str]:
    """What unpickling would import beyond the few names that tensors need."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and not _HARMLESS.fullmatch(str(argument)):
            yield str(argument).replace(" ", ".")
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield opcode.name
