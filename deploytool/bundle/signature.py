"""Holds a bundle against its signature, in the format of OpenSSF Model Signing, with `cryptography` and nothing else.

The file is a Sigstore bundle; in it lies a DSSE envelope, and in that an in-toto statement that names every file with
its SHA-256 (https://github.com/ossf/model-signing-spec). What is written in any other way is refused: one signature
has one text. Paths that the statement wants ignored are not: nothing lies in a bundle unsigned but the signature.
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

from deploytool.bundle.manifest import BESIDE, LONGEST_MANIFEST, MANIFEST_FILE, SIGNATURE_FILE
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
UNSIGNED = tuple(name for name in BESIDE if name != MANIFEST_FILE)  # the signature itself, above all
_LONGEST_KEY = 64 << 10  # bytes


def check(folder: Path, digest: str, key: Path) -> int:
    """How many files of a bundle are signed by the key: every one that is there, the manifest first.

    `digest` is the SHA-256 of the manifest as read; `key` is a file with a public key in PEM. A file that is missing is
    for the signed manifest to tell, which knows what a device may leave out. Raises BadInput if there is no such key,
    Refused if the bundle is not signed, or by another key, or is not as it was when it was signed.
    """
    place = folder / SIGNATURE_FILE
    there = place.is_symlink() or place.exists()
    return _hold(folder, named(files.read(place, LONGEST_MANIFEST) if there else None, digest, key, str(folder)))


def named(raw: bytes | None, digest: str, key: Path, where: str) -> dict[str, str]:
    """Every file that a signature by the key names, with its SHA-256; the manifest, of this digest, is among them.

    `raw` is the signature, None if there is none, and `where` says whose. Raises what `check` raises.
    """
    public, it = _public(key), f"the signature of {where}"
    if raw is None:
        raise Refused(f"{where} is not signed", "get the signed bundle, or `deploytool sign` it where it was made")
    try:
        signed = _signed(_payload(raw, public))
    except InvalidSignature as error:
        raise Refused(f"{it} is not by the key {key}, or is damaged", files.AGAIN) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise Refused(f"{it} is no signature of the kind deploytool makes: {error}", files.AGAIN) from error
    if signed.get(MANIFEST_FILE) != digest:
        raise Refused(f"{it} is for another bundle", files.AGAIN)
    return signed


def _public(key: Path) -> ec.EllipticCurvePublicKey:
    try:
        with key.open("rb") as opened:
            public = load_pem_public_key(opened.read(_LONGEST_KEY))
    except OSError as error:
        raise BadInput(f"{key} cannot be read: {error.strerror}", "give the signer's public key, in PEM") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        remedy = "openssl ec -in PRIVATE.pem -pubout -out PUBLIC.pem writes one"
        raise BadInput(f"{key} is no public key in PEM", remedy) from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in CURVES:
        raise BadInput(f"{key} is no key on {', '.join(CURVES)}", "sign with such a key, and give its public half")
    return public


def _payload(raw: bytes, public: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of the envelope, once its signature holds; nothing in it is parsed before."""
    outer = _fields(_json(raw), ["dsseEnvelope", "mediaType", "verificationMaterial"])
    material = _fields(outer["verificationMaterial"], ["publicKey", "tlogEntries"])
    envelope = _fields(outer["dsseEnvelope"], ["payload", "payloadType", "signatures"])
    (one,) = envelope["signatures"]
    one = _fields(one, ["keyid", "sig"])
    same = (outer["mediaType"], envelope["payloadType"], one["keyid"], material["tlogEntries"])
    if same != (_BUNDLE, _PAYLOAD, "", []):
        raise ValueError("it is of another type")
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if _fields(material["publicKey"], ["hint"])["hint"] != hashlib.sha256(pem).hexdigest():
        raise InvalidSignature
    payload = _decoded(envelope["payload"])
    before = f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode()
    public.verify(_decoded(one["sig"]), before + payload, ec.ECDSA(_CURVES[public.curve.name]))
    return payload


def _signed(payload: bytes) -> dict[str, str]:
    """Every file that a statement names, with its SHA-256."""
    statement = _fields(_json(payload), ["_type", "predicate", "predicateType", "subject"])
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise ValueError("it makes another statement")
    (subject,) = statement["subject"]
    how = statement["predicate"]["serialization"]
    if (how["method"], how["hash_type"], how["allow_symlinks"]) != ("files", "sha256", False):
        raise ValueError("it was not made file by file with SHA-256 and without links")
    resources = [_fields(each, ["algorithm", "digest", "name"]) for each in statement["predicate"]["resources"]]
    if any(each["algorithm"] != "sha256" for each in resources):
        raise ValueError("a digest is no SHA-256")
    signed = {str(each["name"]): str(each["digest"]) for each in resources}
    if len(signed) != len(resources):
        raise ValueError("it names a file twice")
    total = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources))
    if subject["digest"] != {"sha256": total.hexdigest()}:
        raise ValueError("its digests do not make up its own")
    return signed


def _hold(folder: Path, signed: Mapping[str, str]) -> int:
    """How many files there are beside the signature; each of them is signed, with the bytes it has."""
    found = sorted({path for path, mode in files.listing(folder) if not stat.S_ISDIR(mode)} - set(UNSIGNED))
    for path in found:
        if path not in signed:
            raise Refused(f"{folder / path} is not signed", files.AGAIN)
    for path in found:
        files.verify_file(folder / path, (folder / path).lstat().st_size, signed[path])
    return len(found)


def _json(raw: bytes) -> Any:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("it says something twice")
        return dict(pairs)

    return json.loads(raw.decode("utf-8"), object_pairs_hook=once)


def _fields(data: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(data, dict) or sorted(data) != sorted(names):
        raise ValueError(f"it should hold {', '.join(names)}, and those only")
    return data


def _decoded(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("its base64 has other bits than it needs")
    return raw
