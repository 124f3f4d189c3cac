"""Checks the signature of a bundle, in the format of OpenSSF Model Signing, with `cryptography` alone.

The signature file is a Sigstore bundle with a DSSE envelope, whose payload is an in-toto statement that lists every
file with its SHA-256 (https://github.com/ossf/model-signing-spec). Any other form is refused. Paths that the statement
wants ignored are checked too: only the signature itself is unsigned.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from deploytool.bundle.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    SIGNATURE_FILE,
    UNLISTED_FILES,
    all_files,
    manifest_bytes,
    manifest_digest_of,
    parse_manifest,
)
from deploytool.errors import BadInput, Refused
from deploytool.host import files

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT, _PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
_CURVES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
CURVES = tuple(_CURVES)
UNSIGNED = tuple(name for name in UNLISTED_FILES if name != MANIFEST_FILE)  # the signature itself among them
_MAX_KEY_BYTES = 64 << 10


def check(folder: Path, digest: str, key: Path) -> int:
    """Checks that the key signed every file of a bundle, and returns their number.

    `digest` is the SHA-256 of the manifest as read; `key` is a file with a public key in PEM. Missing files are not
    reported here: the signed manifest defines which files may be left out. Raises BadInput if there is no such key,
    Refused if the bundle is not signed, is signed by another key, or has changed since it was signed.
    """
    path = folder / SIGNATURE_FILE
    is_signed = path.is_symlink() or path.exists()
    raw = files.read(path, MAX_MANIFEST_BYTES) if is_signed else None
    signed = signed_files(raw, digest, key, str(folder))
    return _check_files(folder, signed, _sizes(folder, digest))


def signed_files(raw: bytes | None, digest: str, key: Path, source: str) -> dict[str, str]:
    """The files that a signature by the key lists, with their SHA-256; the manifest with this digest is among them.

    `raw` is the signature file, None if there is none, and `source` names the bundle in errors. Raises what `check`
    raises.
    """
    public, name = public_key(key), f"the signature of {source}"
    if raw is None:
        raise Refused(f"{source} is not signed", "get the signed bundle, or `deploytool sign` it where it was made")
    try:
        signed = _listed_files(_payload(raw, public))
    except InvalidSignature as error:
        raise Refused(f"{name} is not by the key {key}, or is damaged", files.FETCH_AGAIN) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise Refused(f"{name} is not in the form that deploytool writes: {error}", files.FETCH_AGAIN) from error
    if signed.get(MANIFEST_FILE) != digest:
        raise Refused(f"{name} is for another bundle", files.FETCH_AGAIN)
    return signed


def public_key(key: Path) -> ec.EllipticCurvePublicKey:
    """The public key in a file (PEM); raises BadInput if it has none on a curve of `CURVES`."""
    try:
        with key.open("rb") as file:
            public = load_pem_public_key(file.read(_MAX_KEY_BYTES))
    except OSError as error:
        raise BadInput(f"{key} cannot be read: {error.strerror}", "give the signer's public key, in PEM") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        remedy = "openssl ec -in PRIVATE.pem -pubout -out PUBLIC.pem writes one"
        raise BadInput(f"{key} is not a public key in PEM", remedy) from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in CURVES:
        raise BadInput(f"{key} is not a key on {', '.join(CURVES)}", "sign with such a key, and give its public key")
    return public


def _payload(raw: bytes, public: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of the envelope, after its signature was verified; it is not parsed before."""
    outer = _fields(_json(raw), ["dsseEnvelope", "mediaType", "verificationMaterial"])
    material = _fields(outer["verificationMaterial"], ["publicKey", "tlogEntries"])
    envelope = _fields(outer["dsseEnvelope"], ["payload", "payloadType", "signatures"])
    (entry,) = envelope["signatures"]
    entry = _fields(entry, ["keyid", "sig"])
    types = (outer["mediaType"], envelope["payloadType"], entry["keyid"], material["tlogEntries"])
    if types != (_BUNDLE, _PAYLOAD, "", []):
        raise ValueError("it is of another type")
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if _fields(material["publicKey"], ["hint"])["hint"] != hashlib.sha256(pem).hexdigest():
        raise InvalidSignature
    payload = _base64(envelope["payload"])
    prefix = f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode()
    public.verify(_base64(entry["sig"]), prefix + payload, ec.ECDSA(_CURVES[public.curve.name]))
    return payload


def _listed_files(payload: bytes) -> dict[str, str]:
    """The files that a statement lists, with their SHA-256."""
    statement = _fields(_json(payload), ["_type", "predicate", "predicateType", "subject"])
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise ValueError("its statement is of another type")
    (subject,) = statement["subject"]
    serialization = statement["predicate"]["serialization"]
    method = (serialization["method"], serialization["hash_type"], serialization["allow_symlinks"])
    if method != ("files", "sha256", False):
        raise ValueError("its files were not hashed one by one with SHA-256, symbolic links excluded")
    resources = [_fields(resource, ["algorithm", "digest", "name"]) for resource in statement["predicate"]["resources"]]
    if any(resource["algorithm"] != "sha256" for resource in resources):
        raise ValueError("a digest is not a SHA-256")
    signed = {str(resource["name"]): str(resource["digest"]) for resource in resources}
    if len(signed) != len(resources):
        raise ValueError("it lists a file twice")
    total = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources))
    if subject["digest"] != {"sha256": total.hexdigest()}:
        raise ValueError("its total digest does not match the digests of its files")
    return signed


def _sizes(folder: Path, digest: str) -> dict[str, int]:
    """The sizes in bytes of the manifest with that digest, which is signed, and of the files that it lists."""
    raw = manifest_bytes(folder)
    if manifest_digest_of(raw) != digest:
        raise Refused(f"{folder} changed while it was checked", "check it where no other process writes")
    return {MANIFEST_FILE: len(raw), **{file.path: file.size for file in all_files(parse_manifest(raw, folder))}}


def _check_files(folder: Path, signed: Mapping[str, str], sizes: Mapping[str, int]) -> int:
    """Checks that every file except the signature is signed with its present bytes, and returns their number.

    A file of another size is not read: a sparse file of terabytes would take hours.
    """
    present = sorted({path for path, mode in files.listing(folder) if not stat.S_ISDIR(mode)} - set(UNSIGNED))
    for path in present:
        if path not in signed:
            raise Refused(f"{folder / path} is not signed", files.FETCH_AGAIN)
        if path not in sizes:
            raise Refused(f"{folder / path} is not in the manifest", files.FETCH_AGAIN)
    for path in present:
        files.verify_file(folder / path, sizes[path], signed[path])
    return len(present)


def _json(raw: bytes) -> Any:
    def reject_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    return json.loads(raw.decode("utf-8"), object_pairs_hook=reject_duplicates)


def _fields(data: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(data, dict) or sorted(data) != sorted(names):
        raise ValueError(f"it must contain exactly {', '.join(names)}")
    return data


def _base64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("its base64 is not canonical")
    return raw
