"""Makes the wheel of the deploytool that runs, installed or in a checkout, without pip and without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from deploytool import serde
from deploytool.errors import BadInput

_PACKAGE = Path(__file__).parents[1]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip archive: the same files make the same bytes
_MODE = 0o644 << 16
_WHEEL = "Wheel-Version: 1.0\nGenerator: deploytool\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_COPIED = ("METADATA", "entry_points.txt", "licenses/LICENSE")


def name() -> str:
    """The file name of the wheel. Raises BadInput if deploytool is not installed."""
    return f"deploytool-{_distribution().version}-py3-none-any.whl"


def digest() -> str:
    """The digest of what goes into the wheel, its metadata included."""
    return serde.digest([[path, hashlib.sha256(content).hexdigest()] for path, content in _members()])


def content() -> bytes:
    """The bytes of the wheel; the same files give the same bytes."""
    buffer, record = io.BytesIO(), f"{_info()}/RECORD"
    lines = [f"{path},sha256={_record_digest(body)},{len(body)}" for path, body in _members()]
    listed = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, body in (*_members(), (record, listed)):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = _MODE
            archive.writestr(entry, body, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _members() -> Iterator[tuple[str, bytes]]:
    """The path and content of every file but the record: the package with the zoo, then the metadata."""
    zoo = _PACKAGE / "models"
    folders = {"deploytool": _PACKAGE} | ({} if zoo.is_dir() else {"deploytool/models": _PACKAGE.with_name("models")})
    for prefix, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes()
    texts = {each: _distribution().read_text(each) for each in _COPIED}
    for each, text in {**texts, "WHEEL": _WHEEL}.items():
        if text:
            yield f"{_info()}/{each}", text.encode()


def _distribution() -> Distribution:
    try:
        return distribution("deploytool")
    except PackageNotFoundError as error:
        problem = "deploytool is not installed here, so its wheel cannot be made"
        raise BadInput(problem, "install it: pip install -e . in the checkout") from error


def _info() -> str:
    return f"deploytool-{_distribution().version}.dist-info"


def _record_digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
