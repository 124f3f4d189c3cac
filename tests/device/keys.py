"""Keys for tests, and every way to tamper with a signature."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploytool.bundle.manifest import SIGNATURE_FILE
from deploytool.device import verify
from deploytool.device.verify import VerifyOptions
from deploytool.errors import Refused
from tests.device import small

Keys = tuple[Path, Path]


def keys(folder: Path, name: str, private: Any = None) -> Keys:
    """A private and a public key, each in its file."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    one, other = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    one.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    other.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return one, other


def refused(folder: Path, key: Path) -> bool:
    try:
        verify.check_integrity(folder, VerifyOptions(key=key))
    except Refused:
        return True
    return False


def flipped(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def in_the_signature_file(folder: Path, rng: random.Random) -> None:
    flipped(folder / SIGNATURE_FILE, rng)


def inside(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the envelope: what is encoded in it stays well encoded."""
    place = folder / SIGNATURE_FILE
    data = json.loads(place.read_text())
    edit(data["dsseEnvelope"])
    place.write_text(json.dumps(data))


def one_bit(text: str, rng: random.Random) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return base64.b64encode(raw).decode()


def in_the_signature(folder: Path, rng: random.Random) -> None:
    def edit(envelope: dict[str, Any]) -> None:
        envelope["signatures"][0]["sig"] = one_bit(envelope["signatures"][0]["sig"], rng)

    inside(folder, edit)


def in_the_payload(folder: Path, rng: random.Random) -> None:
    def edit(envelope: dict[str, Any]) -> None:
        envelope["payload"] = one_bit(envelope["payload"], rng)

    inside(folder, edit)


def in_a_file(folder: Path, rng: random.Random) -> None:
    flipped(rng.choice([path for path in small.paths(folder) if path.name != SIGNATURE_FILE]), rng)


def no_signature(folder: Path, rng: random.Random) -> None:
    (folder / SIGNATURE_FILE).unlink()


def linked_signature(folder: Path, rng: random.Random) -> None:
    kept = folder.with_name(f"{folder.name}.linked")
    (folder / SIGNATURE_FILE).rename(kept)
    (folder / SIGNATURE_FILE).symlink_to(kept)


OURS = (in_the_signature_file, in_the_signature, in_the_payload, in_a_file, no_signature, linked_signature)
OF_FILES = (small.extra, small.missing, small.rename, small.swap, small.manifest_bytes, small.old)
