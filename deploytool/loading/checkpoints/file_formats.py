"""Identifies the format of a checkpoint file from its content, and rejects damaged and malicious files."""

from __future__ import annotations

import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from deploytool.errors import BadInput
from deploytool.loading.checkpoints.key_maps import quoted


class Format(Enum):
    """Formats that can contain weights; the value is the name in messages."""

    SAFETENSORS = "a safetensors file"
    TENSORS = "a torch file of tensors"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORTED = "a torch.export archive"
    MODULE = "a whole pickled module"
    OBJECT = "a torch file of more than tensors"
    LEGACY = "a torch file of tensors, as torch wrote it before 1.6"
    OLD_PICKLE = "an old-style pickle"


@dataclass(frozen=True)
class Identity:
    """The format of a file.

    reason: why it counts as code, if the format alone does not say so.
    replaced_classes: classes of objects that are no tensors (`argparse.Namespace`); stand-ins replace the objects.
    """

    format: Format
    reason: str = ""
    replaced_classes: tuple[str, ...] = ()


DOWNLOAD_AGAIN = "download the file again"
_MAX_PICKLE_BYTES = 16 << 20  # a thousand tensors take 0.1 MiB
_MAX_OPCODES = 500_000  # of a pickle; each may create an object of a hundred bytes; a tensor takes about thirty
_MAX_CODE_BYTES = 16 << 20  # of source code in an archive
_MAGIC = 0x1950A86A20F9469CFC6C  # at the start of files of torch.save before 1.6
_HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|torch \w+Storage|torch\.storage \w+Storage|_codecs encode"
    r"|torch (Size|device|Tensor|u?int\d+|b?float\d+\w*|bool|complex\d+)|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter|parameter_with_state)|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.serialization _get_layout|builtins set"
)
_DATA = re.compile(  # harmless classes of the standard library, whose other functions may run code
    r"argparse Namespace|types SimpleNamespace|pathlib\S* (Pure)?(Posix|Windows)?Path|datetime \w+|uuid UUID"
    r"|collections (deque|defaultdict)|decimal Decimal|fractions Fraction"
    r"|builtins (frozenset|slice|range|dict|list|tuple|int|float|str|bool|object)"
)


def identify(file: BinaryIO, size: int) -> Identity:
    """Identifies a file of `size` bytes; raises BadInput for a file without weights and for a damaged file."""
    start = file.read(64)
    if size == 0:
        raise BadInput("the checkpoint is an empty file", DOWNLOAD_AGAIN)
    if start[8:9] == b"{":  # first, because the header length in bytes 0 to 7 can match any magic number below
        return Identity(Format.SAFETENSORS)
    if start.startswith(b"version https://git-lfs"):
        raise BadInput("this is a git-LFS pointer, not the checkpoint itself", "run `git lfs pull` in its repository")
    if start.lstrip().startswith(b"<"):
        raise BadInput("this is a web page, not a checkpoint", "download the file itself, not the page about it")
    if start.startswith(b"PK"):
        return _identify_zip(file, size)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        file.seek(0)
        return _identify_legacy(file.read(_MAX_PICKLE_BYTES), size)
    raise BadInput(f"this is not a checkpoint: it begins with {start[:8]!r}", "give a .safetensors, .pth or .pt file")


def _identify_zip(file: BinaryIO, size: int) -> Identity:
    try:
        archive = ZipFile(file)
    except BadZipFile:
        raise BadInput("the checkpoint is truncated: the zip directory is missing", DOWNLOAD_AGAIN) from None
    with archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
        code_format = Format.TORCHSCRIPT if "constants.pkl" in names else None
        if {"archive_format", "models/model.json", "serialized_exported_program.json"} & names:
            code_format = Format.EXPORTED
        _check_entries(archive, size, may_compress=code_format is not None)
        damaged = archive.testzip()  # torch does not verify these checksums
        if damaged is not None:
            raise BadInput(f"the checkpoint is damaged: {quoted(damaged)} does not match its checksum", DOWNLOAD_AGAIN)
        return Identity(code_format) if code_format else _identify_torch_zip(archive)


def _check_entries(archive: ZipFile, size: int, *, may_compress: bool) -> None:
    """Rejects archives that would expand, before reading them; torch compresses source code, never tensors."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != ZIP_STORED and not may_compress:
            raise BadInput(f"{quoted(entry.filename)} is compressed, which torch never does", "save it with torch.save")
    if sum(entry.file_size for entry in entries) > size + (_MAX_CODE_BYTES if may_compress else 0):
        raise BadInput(f"the entries of the checkpoint add up to more than its {size:,} bytes", DOWNLOAD_AGAIN)
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise BadInput("the checkpoint contains two entries of the same name", "save it with torch.save")


def _identify_torch_zip(archive: ZipFile) -> Identity:
    pickles = [entry for entry in archive.infolist() if entry.filename.partition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise BadInput("this zip archive was not written by torch: it has no data.pkl", "give a .pth or .pt file")
    if pickles[0].file_size > _MAX_PICKLE_BYTES:
        raise BadInput("the checkpoint's data.pkl is too large for a list of tensors", "save only its state_dict()")
    return _classify(set(_unknown_globals(archive.read(pickles[0]))), Format.TENSORS)


def _identify_legacy(start: bytes, size: int) -> Identity:
    """Identifies a file of torch before 1.6: five pickles, the fourth with the saved object, then the tensor data."""
    pickles = BytesIO(start)
    try:
        if [argument for _, argument, _ in pickletools.genops(pickles) if isinstance(argument, int)][1:] != [_MAGIC]:
            return Identity(Format.OLD_PICKLE)
        unknown = [name for _ in range(3) for name in _unknown_globals(pickles, size)]
    except BadInput:
        raise
    except Exception:  # pickletools raises exceptions of many types for invalid bytes
        return Identity(Format.OLD_PICKLE)
    return _classify(set(unknown), Format.LEGACY)


def _classify(unknown: set[str], tensor_format: Format) -> Identity:
    """Classifies a pickle by its unknown globals: `tensor_format` unless one of them could run code."""
    if any(name.startswith("torch.nn.modules.") for name in unknown):
        user_first = sorted(unknown, key=lambda name: (name.startswith(("torch.", "builtins", "collections")), name))
        return Identity(Format.MODULE, f" (it references {quoted(user_first[0].replace(' ', '.'))})")
    callable_names = sorted(name for name in unknown if not _is_data_class(name))
    if callable_names:
        return Identity(Format.OBJECT, f" (it references {quoted(callable_names[0].replace(' ', '.'))})")
    return Identity(tensor_format, replaced_classes=tuple(sorted(name.replace(" ", ".") for name in unknown)))


def _is_data_class(name: str) -> bool:
    """Whether stand-ins can replace objects of this class; third-party classes are replaced and never imported."""
    root = re.split(r"[. ]", name)[0]
    known = root in sys.stdlib_module_names or root == "torch"
    if name.startswith("torch.optim."):
        return True
    return " " in name and (not known or _DATA.fullmatch(name) is not None)


def _python3_name(name: str) -> str:
    """Translates a Python 2 name, as in pickles of torch, to Python 3."""
    module, _, attribute = name.partition(" ")
    return " ".join(NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute)))


def _unknown_globals(pickled: bytes | BytesIO, size: int | None = None) -> Iterator[str]:
    """The names that unpickling would import, except those that tensors need, as `module name`.

    size: the bytes of the file, an upper limit for the elements of a tensor. Raises BadInput for a larger tensor, and
    for a pickle with more opcodes than any list of tensors.
    """
    number = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > _MAX_OPCODES:
            problem = "the checkpoint's pickle creates more objects than any list of tensors"
            raise BadInput(problem, "save only its state_dict()")
        if opcode.name == "GLOBAL" and not _HARMLESS.fullmatch(name := _python3_name(str(argument))):
            yield name
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield opcode.name
        elif opcode.name == "BINPERSID" and size is not None and number > size:
            problem = f"the checkpoint declares a tensor of {number:,} elements, more than the bytes of the file"
            raise BadInput(problem, DOWNLOAD_AGAIN)
        elif isinstance(argument, int) and "PUT" not in opcode.name and "GET" not in opcode.name:
            number = argument
