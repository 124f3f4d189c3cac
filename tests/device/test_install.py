"""There is always one intact current bundle, whatever install fails, is killed, or is older."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import deploytool.device
from deploytool import serde
from deploytool.bundle.manifest import manifest_digest, read_manifest, write_manifest
from deploytool.device import build, commands, install, verify
from deploytool.device.install import Pointer
from deploytool.device.verify import Integrity
from deploytool.errors import BadInput, NotVerified, Refused
from deploytool.host import disk, files, owner
from tests.conftest import ROOT
from tests.device.small import accept, make_bundle

_NAMED = "from deploytool.host import owner; print(owner.name())"


def reject(checked: Integrity) -> None:
    raise NotVerified("it does not run here", "try another")


def test_an_installed_bundle_is_current_in_the_folder_of_its_digest(packed: Path, root: Path, tmp_path: Path) -> None:
    source = make_bundle(packed, tmp_path / "a", 1, 1)
    pointer = install.install(source, root, accept)
    assert pointer == Pointer(manifest_digest(source), None, 1)
    folder = install.bundle_path(root, pointer.current)
    assert folder == root / "bundles" / manifest_digest(source)
    verify.check_integrity(folder)
    shutil.rmtree(source)
    verify.check_integrity(folder)


def refused_copy(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> str:
    """The reason why an install is refused if `meanwhile` runs between the integrity check and the copy."""
    monkeypatch.setattr(disk, "check", lambda *_: meanwhile())
    with pytest.raises(Refused) as caught:
        install.install(source, root, accept)
    assert install.read_pointer(root) is None
    assert not list(root.glob(".staging-*"))
    assert not list((root / "bundles").iterdir())
    return str(caught.value)


def test_a_file_changed_before_the_copy_is_refused(
    packed: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_bundle(packed, tmp_path / "a", 1, 1)
    graph = source / read_manifest(source).graphs[0].path
    raw = graph.read_bytes()
    reason = refused_copy(source, root, monkeypatch, lambda: graph.write_bytes(bytes([raw[0] ^ 1]) + raw[1:]))
    assert reason == f"{graph} has other bytes than the manifest says"


def test_a_corrupt_copy_is_refused(packed: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, original = make_bundle(packed, tmp_path / "a", 1, 1), files.verify_file

    def hold(path: Path, size: int, sha256: str, to: Path | None = None) -> None:
        original(path, size, sha256, to)
        if to is not None:
            to.write_bytes(bytes(size))

    monkeypatch.setattr(files, "verify_file", hold)
    assert ".staging-" in refused_copy(source, root, monkeypatch, lambda: None)


def test_a_manifest_changed_before_the_copy_is_refused(
    packed: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_bundle(packed, tmp_path / "a", 1, 1)
    changed = dataclasses.replace(read_manifest(source), sequence=2)
    reason = refused_copy(source, root, monkeypatch, lambda: write_manifest(source, changed))
    assert reason == f"{source} changed while it was copied"


def test_the_previous_bundle_is_kept_and_rollback_exchanges_the_two(packed: Path, root: Path, tmp_path: Path) -> None:
    first, second, third = (
        make_bundle(packed, tmp_path / name, number, number) for number, name in enumerate("abc", 1)
    )
    digests = [manifest_digest(folder) for folder in (first, second, third)]
    for folder in (first, second, third):
        install.install(folder, root, accept)
    assert install.read_pointer(root) == Pointer(digests[2], digests[1], 3)
    assert {path.name for path in (root / "bundles").iterdir()} == {digests[1], digests[2]}
    assert install.rollback(root) == Pointer(digests[1], digests[2], 3)
    assert install.rollback(root) == Pointer(digests[2], digests[1], 3)


def test_installing_the_same_bundle_again_changes_nothing(packed: Path, root: Path, tmp_path: Path) -> None:
    first, second = make_bundle(packed, tmp_path / "a", 1, 1), make_bundle(packed, tmp_path / "b", 2, 2)
    install.install(first, root, accept)
    before = install.install(second, root, accept)
    assert install.install(second, root, accept) == before


def test_a_lower_sequence_is_refused_even_after_a_rollback(packed: Path, root: Path, tmp_path: Path) -> None:
    first, second, third = (
        make_bundle(packed, tmp_path / name, number, number) for number, name in enumerate("abc", 1)
    )
    install.install(first, root, accept)
    install.install(third, root, accept)
    install.rollback(root)
    with pytest.raises(Refused, match="has sequence 2, and 3 was installed here"):
        install.install(second, root, accept)
    install.install(make_bundle(packed, tmp_path / "d", 3, 9), root, accept)  # the same sequence is accepted


def test_a_bundle_that_fails_verification_is_removed(packed: Path, root: Path, tmp_path: Path) -> None:
    first, second = make_bundle(packed, tmp_path / "a", 1, 1), make_bundle(packed, tmp_path / "b", 2, 2)
    with pytest.raises(NotVerified):
        install.install(first, root, reject)
    assert install.read_pointer(root) is None
    before = install.install(first, root, accept)
    with pytest.raises(NotVerified):
        install.install(second, root, reject)
    assert install.read_pointer(root) == before
    assert [path.name for path in (root / "bundles").iterdir()] == [before.current]
    assert not list(root.glob(".staging-*"))


def test_a_bundle_with_another_digest_than_expected_is_refused(packed: Path, root: Path, tmp_path: Path) -> None:
    source = make_bundle(packed, tmp_path / "a", 1, 1)
    with pytest.raises(Refused, match="is another bundle: its digest is"):
        install.install(source, root, accept, digest="0" * 64)
    assert install.install(source, root, accept, digest=manifest_digest(source)).current == manifest_digest(source)


def test_a_damaged_installed_bundle_is_replaced(packed: Path, root: Path, tmp_path: Path) -> None:
    source = make_bundle(packed, tmp_path / "a", 1, 1)
    folder = install.bundle_path(root, install.install(source, root, accept).current)
    (folder / "recipe.json").write_text("damaged")
    install.install(source, root, accept)
    verify.check_integrity(folder)


_INSTALL_WITHOUT_LOCKS = """
import fcntl, random, sys, time
from pathlib import Path
fcntl.flock = lambda *_: None
from deploytool.device import install
sources, root, end = Path(sys.argv[1]), Path(sys.argv[2]), time.time() + float(sys.argv[3])
problems = []
while time.time() < end:
    try:
        install.install(sources / random.choice("abcd"), root, lambda checked: None)
    except BaseException as error:
        problems.append(repr(error))
    current = install.bundle_path(root, install.read_pointer(root).current)
    if not (current / "manifest.json").exists():
        problems.append("the current bundle does not exist")
print(problems)
"""


def test_concurrent_installs_without_locks_leave_an_intact_bundle(packed: Path, root: Path, tmp_path: Path) -> None:
    for number, name in enumerate("abcd", 1):
        make_bundle(packed, tmp_path / name, 1, number)
    command = [sys.executable, "-c", _INSTALL_WITHOUT_LOCKS, str(tmp_path), str(root), "3"]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["[]"] * 3
    pointer = install.read_pointer(root)
    assert pointer is not None
    verify.check_integrity(install.bundle_path(root, pointer.current))
    assert not list(root.glob(".staging-*"))


def test_the_staging_folder_of_a_living_install_is_not_swept(packed: Path, root: Path, tmp_path: Path) -> None:
    install.install(make_bundle(packed, tmp_path / "a", 1, 1), root, accept)
    own_staging, unknown_staging = root / f".staging-{owner.name()}", root / ".staging-000000000000-1-1-00000000"
    process = subprocess.run([sys.executable, "-c", _NAMED], cwd=ROOT, capture_output=True, text=True, check=True)
    dead_staging = root / f".staging-{process.stdout.strip()}"
    for staging in (own_staging, unknown_staging, dead_staging):
        staging.mkdir()
    install.install(make_bundle(packed, tmp_path / "b", 2, 2), root, accept)
    assert (own_staging.exists(), unknown_staging.exists(), dead_staging.exists()) == (True, True, False)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"current": 3}'])
def test_a_damaged_pointer_is_bad_input(packed: Path, root: Path, tmp_path: Path, content: str) -> None:
    install.install(make_bundle(packed, tmp_path / "a", 1, 1), root, accept)
    (root / "current").write_text(content)
    with pytest.raises(BadInput, match="is damaged"):
        install.bundle_to_start(root)


def test_an_empty_root_is_bad_input(root: Path) -> None:
    root.mkdir()
    with pytest.raises(BadInput, match="nothing is installed"):
        install.bundle_to_start(root)
    with pytest.raises(BadInput, match="nothing is installed"):
        install.rollback(root)


_LOOP = """
import sys
from functools import partial
from pathlib import Path
from deploytool.device import install
root, *sources = map(Path, sys.argv[1:])
print("begins", flush=True)
while True:
    for source in sources:
        install.install(source, root, lambda checked: None)
"""


def test_twenty_killed_installs_leave_an_intact_current_bundle(packed: Path, root: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    sources = [make_bundle(packed, tmp_path / name, 1, seed) for seed, name in enumerate("ab")]
    install.install(sources[0], root, accept)
    begun = time.monotonic()
    for source in reversed(sources):
        install.install(source, root, accept)
    seconds = time.monotonic() - begun  # depends on the load of this machine
    digests, current_digests = {manifest_digest(source) for source in sources}, set()
    for _ in range(20):
        command = [sys.executable, "-c", _LOOP, str(root), *map(str, sources)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            time.sleep(rng.uniform(0, 2 * seconds))
            process.kill()
        pointer = install.read_pointer(root)
        assert pointer is not None
        verify.check_integrity(install.bundle_path(root, pointer.current))
        if pointer.previous:
            verify.check_integrity(install.bundle_path(root, pointer.previous))
        current_digests.add(pointer.current)
        assert pointer.current in digests
    assert current_digests == digests  # both bundles were current at some time
    install.install(sources[0], root, accept)
    assert {path.name for path in root.iterdir()} == {".lock", "bundles", "current"}


def test_built_engines_are_removed_with_their_bundle(packed: Path, root: Path, tmp_path: Path) -> None:
    first = install.bundle_path(root, install.install(make_bundle(packed, tmp_path / "a", 1, 1), root, accept).current)
    build.engine_path(first).mkdir()
    for number in (2, 3):
        install.install(make_bundle(packed, tmp_path / str(number), number, number), root, accept)
    assert not first.exists()
    assert not build.engine_path(first).exists()


def test_commands_on_an_empty_root_create_no_file(tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", tmp_path):
        for command in (install.rollback, partial(install.pardon, digest="0123"), install.bundle_to_start):
            with pytest.raises(BadInput, match=f"^nothing is installed in {missing}$"):
                command(missing)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["..", "a" * 63, "\udcff"])
def test_a_pointer_without_a_valid_digest_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "current").write_text(serde.text(Pointer(name, None, 1)))
    with pytest.raises(BadInput, match="is damaged: it contains a name that is not a digest"):
        install.read_pointer(tmp_path)


def forged(packed: Path, folder: Path) -> Path:
    """A consistent bundle in a folder named after another digest."""
    shutil.rmtree(folder)
    shutil.copytree(packed, folder)
    write_manifest(folder, dataclasses.replace(read_manifest(folder), name="forged"))
    return folder


def test_a_bundle_in_the_folder_of_another_digest_is_refused(packed: Path, tmp_path: Path) -> None:
    root, changed = tmp_path / "root", Path(shutil.copytree(packed, tmp_path / "later"))
    write_manifest(changed, dataclasses.replace(read_manifest(changed), sequence=2))
    first = install.install(packed, root, accept).current
    install.install(changed, root, accept)
    forged(packed, install.bundle_path(root, first))
    with pytest.raises(Refused, match="another bundle"):
        install.rollback(root)
    current = install.bundle_path(root, manifest_digest(changed))
    forged(packed, current)
    with pytest.raises(Refused, match="another bundle"):
        commands.run(root, [packed / "golden" / "case_0.png"], top=1)
    with pytest.raises(Refused, match="another bundle"), deploytool.device.open(root):
        pass
    install.install(changed, root, accept)
    assert read_manifest(current).name == "tiny"
