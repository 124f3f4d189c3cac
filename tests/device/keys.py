"""Key pairs for tests, and functions that tamper with a signature."""

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
    """Files with a new private key and its public key."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    private_path, public_path = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private_path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public_path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private_path, public_path


def is_refused(folder: Path, key: Path) -> bool:
    try:
        verify.check_integrity(folder, VerifyOptions(key=key))
    except Refused:
        return True
    return False


def flip_bit(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def flip_in_signature_file(folder: Path, rng: random.Random) -> None:
    flip_bit(folder / SIGNATURE_FILE, rng)


def edit_envelope(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the DSSE envelope of a signature; its JSON stays valid."""
    path = folder / SIGNATURE_FILE
    data = json.loads(path.read_text())
    edit(data["dsseEnvelope"])
    path.write_text(json.dumps(data))


def flip_bit_of_base64(text: str, rng: random.Random) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return base64.b64encode(raw).decode()


def flip_in_signature(folder: Path, rng: random.Random) -> None:
    def edit(envelope: dict[str, Any]) -> None:
        envelope["signatures"][0]["sig"] = flip_bit_of_base64(envelope["signatures"][0]["sig"], rng)

    edit_envelope(folder, edit)


def flip_in_payload(folder: Path, rng: random.Random) -> None:
    def edit(envelope: dict[str, Any]) -> None:
        envelope["payload"] = flip_bit_of_base64(envelope["payload"], rng)

    edit_envelope(folder, edit)


def flip_in_file(folder: Path, rng: random.Random) -> None:
    flip_bit(rng.choice([path for path in small.paths(folder) if path.name != SIGNATURE_FILE]), rng)


def remove_signature(folder: Path, rng: random.Random) -> None:
    (folder / SIGNATURE_FILE).unlink()


def link_signature(folder: Path, rng: random.Random) -> None:
    target = folder.with_name(f"{folder.name}.linked")
    (folder / SIGNATURE_FILE).rename(target)
    (folder / SIGNATURE_FILE).symlink_to(target)


SIGNATURE_TAMPERS = (
    flip_in_signature_file,
    flip_in_signature,
    flip_in_payload,
    flip_in_file,
    remove_signature,
    link_signature,
)
FILE_TAMPERS = (small.extra, small.missing, small.rename, small.swap, small.manifest_bytes, small.old)
