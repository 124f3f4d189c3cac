"""Tells by its first bytes what a file is, so that each kind gets the reader, or the refusal, that it deserves."""

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
    """What can hold weights; the value is what messages call it."""

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
    """What a file is.

    why: why it counts as code, where that is not plain from its format.
    set_aside: the classes in it that hold no tensors (`argparse.Namespace`), whose objects are not made.
    """

    format: Format
    why: str = ""
    set_aside: tuple[str, ...] = ()


DOWNLOAD_AGAIN = "fetch the file again"
_PICKLE_LIMIT = 16 << 20  # bytes; a thousand tensors take 0.1 MiB
_STEPS_LIMIT = 500_000  # of a pickle, each of which may make an object of a hundred bytes; a tensor takes some thirty
_CODE_LIMIT = 16 << 20  # bytes of source code in an archive
_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first before 1.6
_HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|torch \w+Storage|torch\.storage \w+Storage|_codecs encode"
    r"|torch (Size|device|Tensor|u?int\d+|b?float\d+\w*|bool|complex\d+)|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter|parameter_with_state)|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.serialization _get_layout|builtins set"
)
_DATA = re.compile(  # of Python's own modules, which could also run things
    r"argparse Namespace|types SimpleNamespace|pathlib\S* (Pure)?(Posix|Windows)?Path|datetime \w+|uuid UUID"
    r"|collections (deque|defaultdict)|decimal Decimal|fractions Fraction"
    r"|builtins (frozenset|slice|range|dict|list|tuple|int|float|str|bool|object)"
)


def identify(file: BinaryIO, size: int) -> Identity:
    """What a file of `size` bytes is.

    Raises BadInput for what cannot hold weights, or is damaged.
    """
    start = file.read(64)
    if size == 0:
        raise BadInput("the checkpoint is an empty file", DOWNLOAD_AGAIN)
    if start[8:9] == b"{":  # first of all: the length of a header before it can look like anything below
        return Identity(Format.SAFETENSORS)
    if start.startswith(b"version https://git-lfs"):
        raise BadInput("this is a git-LFS pointer, not the checkpoint itself", "run `git lfs pull` where it came from")
    if start.lstrip().startswith(b"<"):
        raise BadInput("this is a web page, not a checkpoint", "download the file itself, not the page about it")
    if start.startswith(b"PK"):
        return _inside_zip(file, size)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        file.seek(0)
        return _legacy(file.read(_PICKLE_LIMIT), size)
    raise BadInput(f"this is no checkpoint: it begins with {start[:8]!r}", "give a .safetensors, .pth or .pt file")


def _inside_zip(file: BinaryIO, size: int) -> Identity:
    try:
        archive = ZipFile(file)
    except BadZipFile:
        raise BadInput("the checkpoint is cut short: the list of its entries is missing", DOWNLOAD_AGAIN) from None
    with archive:
        inside = {name.partition("/")[2] for name in archive.namelist()}
        code = Format.TORCHSCRIPT if "constants.pkl" in inside else None
        if {"archive_format", "models/model.json", "serialized_exported_program.json"} & inside:
            code = Format.EXPORTED
        _check_entries(archive, size, may_compress=code is not None)
        damaged = archive.testzip()  # torch never looks at these sums
        if damaged is not None:
            raise BadInput(f"the checkpoint is damaged: {quoted(damaged)} does not match its checksum", DOWNLOAD_AGAIN)
        return Identity(code) if code else _inside_torch_file(archive)


def _check_entries(archive: ZipFile, size: int, *, may_compress: bool) -> None:
    """Refuses what would grow when it is read, before any of it is; torch compresses source code, never tensors."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != ZIP_STORED and not may_compress:
            raise BadInput(f"{quoted(entry.filename)} is compressed, which torch never does", "save it with torch.save")
    if sum(entry.file_size for entry in entries) > size + (_CODE_LIMIT if may_compress else 0):
        raise BadInput(f"the checkpoint claims to hold more than its {size:,} bytes", DOWNLOAD_AGAIN)
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise BadInput("the checkpoint holds two entries of one name", "save it with torch.save")


def _inside_torch_file(archive: ZipFile) -> Identity:
    found = [entry for entry in archive.infolist() if entry.filename.partition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise BadInput("this zip archive was not written by torch: it has no data.pkl", "give a .pth or .pt file")
    if found[0].file_size > _PICKLE_LIMIT:
        raise BadInput("the checkpoint's data.pkl is too large for a list of tensors", "save only its state_dict()")
    return _of_names(set(_foreign_names(archive.read(found[0]))), Format.TENSORS)


def _legacy(start: bytes, size: int) -> Identity:
    """Of the five pickles before 1.6, the fourth is what was saved; the numbers come behind the fifth."""
    pickles = BytesIO(start)
    try:
        if [argument for _, argument, _ in pickletools.genops(pickles) if isinstance(argument, int)][1:] != [_MAGIC]:
            return Identity(Format.OLD_PICKLE)
        foreign = [name for _ in range(3) for name in _foreign_names(pickles, size)]
    except BadInput:
        raise
    except Exception:  # pickletools raises whatever the bytes lead it to
        return Identity(Format.OLD_PICKLE)
    return _of_names(set(foreign), Format.LEGACY)


def _of_names(foreign: set[str], harmless: Format) -> Identity:
    """What a file with these names in its pickle is; `harmless` unless there are some that could run something."""
    if any(name.startswith("torch.nn.modules.") for name in foreign):
        own = sorted(foreign, key=lambda name: (name.startswith(("torch.", "builtins", "collections")), name))
        return Identity(Format.MODULE, f" (it names {quoted(own[0].replace(' ', '.'))})")
    acting = sorted(name for name in foreign if not _holds_only_data(name))
    if acting:
        return Identity(Format.OBJECT, f" (it names {quoted(acting[0].replace(' ', '.'))})")
    return Identity(harmless, set_aside=tuple(sorted(name.replace(" ", ".") for name in foreign)))


def _holds_only_data(name: str) -> bool:
    """Whether objects of this class can be left out: nobody's library is called, whatever it is."""
    root = re.split(r"[. ]", name)[0]
    known = root in sys.stdlib_module_names or root == "torch"
    if name.startswith("torch.optim."):
        return True
    return " " in name and (not known or _DATA.fullmatch(name) is not None)


def _today(name: str) -> str:
    """A name of Python 2, which the pickles of torch use, as it is since."""
    module, _, attribute = name.partition(" ")
    return " ".join(NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute)))


def _foreign_names(pickled: bytes | BytesIO, size: int | None = None) -> Iterator[str]:
    """What unpickling would import beyond the few names that tensors need, as `module name`.

    size: the bytes of the file, of which no tensor can have more numbers. Raises BadInput if one claims to, or if the
    pickle takes more steps than any list of tensors.
    """
    number = 0
    for step, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if step > _STEPS_LIMIT:
            problem = "the checkpoint's pickle makes more objects than any list of tensors"
            raise BadInput(problem, "save only its state_dict()")
        if opcode.name == "GLOBAL" and not _HARMLESS.fullmatch(name := _today(str(argument))):
            yield name
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield opcode.name
        elif opcode.name == "BINPERSID" and size is not None and number > size:
            raise BadInput(f"the checkpoint claims a tensor of {number:,} numbers, which cannot be", DOWNLOAD_AGAIN)
        elif isinstance(argument, int) and "PUT" not in opcode.name and "GET" not in opcode.name:
            number = argument
