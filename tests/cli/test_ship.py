"""push and sign on the host, pull with both command lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploytool.bundle.manifest import manifest_digest
from tests.conftest import Command
from tests.device.keys import keys
from tests.transfer import authority, servers, small


def test_an_archive_is_pushed_and_pulled(deploytool: Command, cli: Command, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 1)
    assert deploytool("push", "in", "oci-archive:stick/m.tar").returncode == 0
    done = cli("pull", "oci-archive:stick/m.tar", "--target", "orin", "--digest", manifest_digest(folder), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert (result["folder"], result["left_out"]) == ("m", 1)
    assert set(small.contents(folder)) - set(small.contents(tmp_path / "m")) == {small.RTX40}
    assert cli("pull", "oci-archive:stick/m.tar", "--out", "all", "--reuse-from", "m").returncode == 0
    assert small.contents(tmp_path / "all") == small.contents(folder)
    assert cli("pull", "oci-archive:stick/m.tar").returncode == 2  # `m` exists, for orin only
    refused = deploytool("push", "m", "oci-archive:part.tar")
    assert refused.returncode == 2
    assert "is incomplete: it was fetched for one target" in refused.stderr


def test_pull_prints_its_files_only_with_verbose(deploytool: Command, cli: Command, tmp_path: Path) -> None:
    small.make_bundle(tmp_path / "in", 1)
    assert deploytool("push", "in", "oci-archive:m.tar").returncode == 0
    short = cli("pull", "oci-archive:m.tar", "--out", "short")
    long = cli("pull", "oci-archive:m.tar", "--out", "long", "--verbose")
    assert (short.returncode, long.returncode) == (0, 0)
    assert small.RTX40 not in short.stderr
    assert small.RTX40 in long.stderr
    assert len(short.stderr.splitlines()) == 1


def test_pull_checks_a_required_signature_before_it_writes(deploytool: Command, cli: Command, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 3)
    (private, public), (_, foreign) = (keys(tmp_path, name) for name in ("ours", "theirs"))
    assert deploytool("push", "in", "oci-archive:unsigned.tar").returncode == 0
    assert deploytool("sign", "in", "--key", str(private)).returncode == 0
    assert deploytool("push", "in", "oci-archive:signed.tar").returncode == 0
    for file, key, problem in (("unsigned", public, "is not signed"), ("signed", foreign, "is not by the key")):
        refused = cli("pull", f"oci-archive:{file}.tar", "--out", "out", "--require-signature", str(key), "--json")
        assert refused.returncode == 8
        assert problem in json.loads(refused.stdout)["error"]["problem"]
        assert not list(tmp_path.glob("*out*"))
    arguments = (
        "pull",
        "oci-archive:signed.tar",
        "--out",
        "out",
        "--target",
        "orin",
        "--require-signature",
        str(public),
    )
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"signed, by {public}" in done.stdout
    assert set(small.contents(folder)) - set(small.contents(tmp_path / "out")) == {small.RTX40}


def test_a_registry_over_tls_with_an_own_certificate_authority(
    deploytool: Command, cli: Command, tmp_path: Path
) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    folder, ours = small.make_bundle(tmp_path / "in", 4), authority.authority(tmp_path)
    with servers.registry(tmp_path, tls=ours.tls) as running:
        address = f"oci://127.0.0.1:{running.port}/m:1"
        pushed = deploytool("push", "in", address, "--ca", str(ours.ca))
        assert pushed.returncode == 0, pushed.stderr
        done = cli("pull", address, "--out", "out", "--ca", str(ours.ca))
        assert done.returncode == 0, done.stderr
        refused = cli("pull", address, "--out", "other", "--ca", str(authority.authority(tmp_path, "others").ca))
        assert refused.returncode == 2
        assert "is not trusted" in refused.stderr
        assert cli("pull", address, "--ca", str(ours.ca), "--plain-http").returncode == 2
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_a_registry_with_the_credentials_of_docker(deploytool: Command, cli: Command, tmp_path: Path) -> None:
    if not servers.REGISTRY:
        pytest.skip("no docker-registry on this machine: apt-get install docker-registry")
    folder = small.make_bundle(tmp_path / "in", 2)
    (tmp_path / "htpasswd").write_text(f"{servers.LOGIN}\n")
    (tmp_path / "login").mkdir()
    with servers.registry(tmp_path, f"auth: {{htpasswd: {{realm: r, path: {tmp_path / 'htpasswd'}}}}}\n") as running:
        address = f"oci://127.0.0.1:{running.port}/models/m:1"
        entry = {f"127.0.0.1:{running.port}": {"username": "me", "password": "secret"}}
        (tmp_path / "login" / "config.json").write_text(json.dumps({"auths": entry}))
        assert deploytool("push", "in", address, DOCKER_CONFIG=str(tmp_path)).returncode == 2
        pushed = deploytool("push", "in", address, "--json", DOCKER_CONFIG=str(tmp_path / "login"))
        assert pushed.returncode == 0, pushed.stderr
        name = json.loads(pushed.stdout)["result"]["name"]
        done = cli("pull", name, "--out", "out", DOCKER_CONFIG=str(tmp_path / "login"))
        assert done.returncode == 0, done.stderr
    assert "every byte verified" in done.stdout
    assert small.contents(tmp_path / "out") == small.contents(folder)
    assert cli("pull", address, "--out", "none").returncode == 9


def test_a_bundle_pulled_for_another_device_runs_its_graphs(packed: Path, deploytool: Command, cli: Command) -> None:
    assert deploytool("push", str(packed), "oci-archive:tiny.tar").returncode == 0
    assert cli("pull", "oci-archive:tiny.tar", "--target", "orin").returncode == 0
    done = cli("verify", "tiny")
    assert done.returncode == 0, done.stderr
    assert "1 engines for other devices than orin left out" in done.stdout
    assert "It works here: ORT CPU serves." in done.stdout
