"""Parsing of addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.transfer import addresses
from deploytool.transfer.addresses import Address, Archive, Device, Folder, Registry, Web

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected", "stem"),
    [
        ("oci://host/a/b:1", Registry("https://host", "a/b", "1"), "b"),
        ("oci://host:5000/m", Registry("https://host:5000", "m", "latest"), "m"),
        ("oci://127.0.0.1:5000/m:x", Registry("http://127.0.0.1:5000", "m", "x"), "m"),
        ("oci://localhost/m:x", Registry("http://localhost", "m", "x"), "m"),
        ("oci://[::1]:5000/m:x", Registry("http://[::1]:5000", "m", "x"), "m"),
        (f"oci://host/m@{DIGEST}", Registry("https://host", "m", "latest", DIGEST), "m"),
        (f"oci://host/m:1@{DIGEST}", Registry("https://host", "m", "1", DIGEST), "m"),
        ("oci-archive:/x/m.tar", Archive(Path("/x/m.tar")), "m"),
        ("https://host/x/m", Web("https://host/x/m/"), "m"),
        ("http://127.0.0.1:1/", Web("http://127.0.0.1:1/"), "bundle"),
        ("/media/stick/m", Folder(Path("/media/stick/m")), "m"),
    ],
)
def test_an_address_is_parsed(text: str, expected: Address, stem: str) -> None:
    assert addresses.parse(text) == expected
    assert addresses.bundle_name(expected) == stem


@pytest.mark.parametrize(
    "text",
    [
        *("oci://host", "oci://host/", "oci://host/A:1", "oci://me:secret@host/m:1", "oci://host/m:1:2"),
        *("oci://host/../m:1", "oci://host/m@sha256:12", "oci://host/m?x=1", "oci://host/m:1\n", "oci:///m:1"),
        *("http://host/m", "https:///m", "https://me@host/m", "https://host/m?x=1", "ftp://host/m", "file:///m"),
        *(
            "https://host/m#x",
            "https://host/m\n",
            "https://[x/m",
            "https://host:x/m",
            "https://host:65536/m",
            "https://host:0/m",
        ),
        *("oci://host:65536/m:1", "oci://host:0/m:1", "oci://[:::::]/m:1", f"oci://host/m:{'a' * 129}"),
        *("http://127.0.0.1.example/m", "http://localhost.example/m"),
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        addresses.parse(text)


def test_plain_http_needs_an_option() -> None:
    assert addresses.parse("oci://host/m:1", plain_http=True) == Registry("http://host", "m", "1")
    assert addresses.parse("http://host/m", plain_http=True) == Web("http://host/m/")


def test_a_registry_address_is_formatted_as_it_was_parsed() -> None:
    for text in ("oci://host:5000/a/b:1", f"oci://host/m@{DIGEST}"):
        assert str(addresses.parse(text)) == text


def test_a_device_address_is_parsed() -> None:
    assert addresses.parse_device("me@orin:/opt/model") == Device("me@orin", "/opt/model")
    assert addresses.parse_device("orin.local:/x y") == Device("orin.local", "/x y")
    assert addresses.parse_device("me@[fe80::1]:/x") == Device("me@fe80::1", "/x")
