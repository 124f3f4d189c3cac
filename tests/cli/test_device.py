"""The device commands with both command lines: deploytool, and python -m deploytool.device."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploytool.bundle.manifest import (
    all_files,
    check_files,
    content_digest,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from tests.conftest import Command


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["error"] is None
    return document["result"]


def test_verify_prints_the_backend_and_why_faster_ones_are_skipped(cli: Command, packed: Path) -> None:
    done = cli("verify", str(packed))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{packed}: tiny, sequence 1, digest {manifest_digest(packed)[:12]}"
    words = [line.split("  ")[1] for line in lines[1:-1]]
    tiers = ["engine", "built here", "ORT TensorRT", "ORT CUDA", "ORT CPU"]
    assert [word.strip() for word in words] == ["digests", "sequence", "target", "runtime", *tiers]
    assert sum("skipped: no CUDA GPU answers here" in line for line in lines) == 4
    assert "works: error" in lines[-2]
    assert "ms at batch 1" in lines[-2]
    assert lines[-1] == "It works here: ORT CPU serves."


def test_require_refuses_a_slower_backend(cli: Command, packed: Path) -> None:
    done = cli("verify", str(packed), "--require", "trt", "--json")
    assert done.returncode == 6
    document = json.loads(done.stdout)
    assert document["error"]["exit_code"] == 6
    assert document["error"]["problem"].startswith("trt is required, and only ORT CPU works here: engine: no CUDA GPU")
    assert document["result"]["tried"][-1]["status"] == "measured"


def test_quiet_prints_only_the_verdict_or_the_error(cli: Command, packed: Path) -> None:
    done = cli("verify", str(packed), "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("It works here: ")
    assert done.stdout.count("\n") == 1
    failed = cli("verify", str(packed), "--require", "trt", "-q")
    assert (failed.returncode, failed.stdout) == (6, "")
    assert [line[:4] for line in failed.stderr.splitlines()] == ["depl", "  → "]


def changed(folder: Path) -> None:
    (folder / "recipe.json").write_text("{}")


def unlisted(folder: Path) -> None:
    (folder / "libplugin.so").write_text("")


def missing(folder: Path) -> None:
    shutil.rmtree(folder / "golden")


@pytest.mark.parametrize("tamper", [changed, unlisted, missing])
def test_a_changed_bundle_is_refused(
    cli: Command, packed: Path, tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    tamper(folder)
    done = cli("verify", str(folder), "--json")
    assert done.returncode == 8
    assert json.loads(done.stdout)["error"]["exit_code"] == 8
    assert "Traceback" not in done.stderr


def test_a_signed_bundle_is_accepted_only_with_the_key_that_signed_it(
    cli: Command, deploytool: Command, packed: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "bundle"))
    private, public = make_keys(tmp_path, "ours")
    _, foreign = make_keys(tmp_path, "theirs")
    verify = ["verify", str(folder), "--json", "--require-signature"]
    assert "is not signed" in cli(*verify, public).stderr
    done = deploytool("sign", str(folder), "--key", private)
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'model.sig'}: {len(all_files(read_manifest(folder))) + 1} files signed" in done.stdout
    assert result_of(cli(*verify, public))["steps"][0]["name"] == "signature"
    picture = str(packed / "golden" / "case_0.png")
    root = ["--root", str(tmp_path / "root")]
    for command in (
        ["verify", str(folder)],
        ["build", str(folder)],
        ["run", str(folder), picture],
        ["bench", str(folder)],
        ["install", str(folder), *root],
    ):
        refused = cli(*command, "--require-signature", foreign)
        assert refused.returncode == 8, command
        assert f"is not by the key {foreign}" in refused.stderr
    assert result_of(cli("install", str(folder), *root, "--require-signature", public, "--json"))["pointer"]
    assert cli("run", root[1], picture, "--require-signature", public).returncode == 0
    assert cli("install", str(repacked(folder, tmp_path)), *root).returncode == 0
    assert "is not by the key" in cli("rollback", *root, "--require-signature", foreign).stderr
    assert cli("rollback", *root, "--require-signature", public).returncode == 0


def repacked(folder: Path, tmp_path: Path) -> Path:
    """The same bundle with another sequence, unsigned."""
    later = Path(shutil.copytree(folder, tmp_path / "later"))
    (later / "model.sig").unlink()
    write_manifest(later, replace(read_manifest(later), sequence=2))
    return later


def make_keys(folder: Path, name: str) -> tuple[str, str]:
    private = ec.generate_private_key(ec.SECP256R1())
    private_path, public_path = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private_path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public_path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(private_path), str(public_path)


def test_run_prints_the_classes_of_images(cli: Command, packed: Path) -> None:
    images = [str(packed / "golden" / f"case_{number}.png") for number in (0, 1)]
    result = result_of(cli("run", str(packed), *images, "--top", "3", "--json"))
    assert result["tier"] == "ORT CPU"
    assert [guess["picture"] for guess in result["guesses"]] == images
    for guess in result["guesses"]:
        assert len(guess["classes"]) == 3
        assert guess["scores"] == sorted(guess["scores"], reverse=True)
    assert cli("run", str(packed), str(packed / "none.png")).returncode == 2
    refused = cli("run", str(packed), str(packed / "recipe.json"))
    assert refused.returncode == 2
    assert "cannot be read as a picture" in refused.stderr


def test_bench_times_every_backend_that_works(cli: Command, packed: Path) -> None:
    result = result_of(cli("bench", str(packed), "--seconds", "0.1", "--json"))
    (measured,) = [trial for trial in result["tried"] if trial["status"] == "measured"]
    assert measured["trial"]["latency_ms"] > 0
    assert measured["trial"]["p90_ms"] >= measured["trial"]["latency_ms"]


def test_bench_fails_if_the_backend_that_serves_takes_too_long(cli: Command, packed: Path) -> None:
    limited = ("bench", str(packed), "--seconds", "0.1", "--max-latency")
    assert cli(*limited, "1e6").returncode == 0
    done = cli(*limited, "0.001")
    assert done.returncode == 4
    assert "ORT CPU takes" in done.stderr
    assert "and 0.001 ms are allowed" in done.stderr


def test_install_and_roll_back(cli: Command, packed: Path, tmp_path: Path) -> None:
    root, later = str(tmp_path / "root"), Path(shutil.copytree(packed, tmp_path / "later"))
    text = (later / "manifest.json").read_text().replace('"sequence": 1', '"sequence": 2')
    (later / "manifest.json").write_text(text)
    first = result_of(cli("install", str(packed), "--root", root, "--json"))["pointer"]
    digest = manifest_digest(later)
    second = result_of(cli("install", str(later), "--root", root, "--digest", digest, "--json"))["pointer"]
    assert (second["current"], second["previous"]) == (manifest_digest(later), first["current"])
    assert cli("verify", str(packed), "--root", root).returncode == 8  # lower sequence
    picture = str(packed / "golden" / "case_0.png")
    assert result_of(cli("run", root, picture, "--json"))["guesses"]
    back = cli("rollback", "--root", root)
    assert back.returncode == 0
    assert f"current {first['current'][:12]}, previous {second['current'][:12]}" in back.stdout


def test_build_without_a_gpu_is_refused(cli: Command, packed: Path) -> None:
    done = cli("build", str(packed))
    assert done.returncode == 5
    assert "no CUDA GPU answers here" in done.stderr


def test_both_command_lines_list_the_device_commands(deploytool: Command, device_cli: Command) -> None:
    commands = {"verify", "build", "run", "bench", "install", "status", "rollback", "pardon", "clean", "doctor"}
    for done in (deploytool("--help"), device_cli("--help")):
        assert commands <= set(done.stdout.split())


def test_pack_writes_a_new_folder_and_prints_the_next_step(deploytool: Command, run_copy: Path, tmp_path: Path) -> None:
    done = deploytool("pack", str(run_copy), "--out", str(tmp_path / "bundle"), "--sequence", "4")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "bundle")
    check_files(tmp_path / "bundle", manifest)
    assert manifest.sequence == 4
    assert manifest_digest(tmp_path / "bundle") in done.stdout
    assert f"Next: on the device: python -m deploytool.device verify {tmp_path / 'bundle'}" in done.stdout
    assert deploytool("pack", str(run_copy), "--out", str(tmp_path / "bundle")).returncode == 2
    document = json.loads(deploytool("pack", str(run_copy), "--json").stdout)
    assert document["digest"] == manifest_digest(run_copy / "pack" / "bundle")
    assert document["content_digest"] == content_digest(read_manifest(run_copy / "pack" / "bundle"))
    assert deploytool("pack", str(tmp_path / "bundle")).returncode == 2


def test_export_with_pack_writes_a_bundle_if_it_succeeds(deploytool: Command, tmp_path: Path) -> None:
    tiny = f"{Path(__file__).parents[1] / 'tiny.py'}:tiny"
    options = ["--input", "3x32x32", "--images", "4", "--seconds", "0.1", "--out", "run", "--pack", "--sequence", "5"]
    document = json.loads(deploytool("export", tiny, *options, "--json").stdout)
    assert document["error"] is None
    assert document["artifacts"][-1]["file"] == "pack/bundle/manifest.json"
    manifest = read_manifest(tmp_path / "run" / "pack" / "bundle")
    assert (manifest.sequence, manifest.engines) == (5, ())
    shown = deploytool("show", "run").stdout.splitlines()[-1]
    assert "verify run/pack/bundle" in shown
    assert "deploytool pack" not in shown
    shutil.rmtree(tmp_path / "run" / "pack")
    assert deploytool("export", tiny, *options, "--min-speedup", "1000").returncode == 4
    assert not (tmp_path / "run" / "pack").exists()
