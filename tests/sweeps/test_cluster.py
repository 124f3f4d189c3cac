"""Schedulers and workers as processes of their own: kills, TLS, disks of their own, other versions."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploytool.errors import BadInput, DeployError, MissingBackend, Unreachable
from deploytool.results.sweep import CellState, Sweep
from deploytool.sweeps import cluster, local_files
from deploytool.sweeps.cluster_options import ClusterOptions
from tests.sweeps.conftest import FakeSweep, Processes, wait_for
from tests.sweeps.fake_child import CONTENT

OTHER_DISK = """
from deploytool.sweeps import store
store.is_shared = lambda out, nonce: False
"""
OTHER_TORCH = """
from deploytool.sweeps import keys
theirs = {**keys.versions(), "torch": "1.0"}
keys.versions = lambda: theirs
"""


def in_background(action: Callable[[], Sweep]) -> tuple[threading.Thread, list[Sweep | Exception]]:
    """Starts a sweep in a thread; its result, or what it raised, is put into the list."""
    found: list[Sweep | Exception] = []

    def act() -> None:
        try:
            found.append(action())
        except DeployError as error:
            found.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread, found


def test_a_cluster_in_this_process_takes_next_to_no_processor_time(tmp_path: Path) -> None:
    """Cells use every processor; with Dask's own settings the cluster took 8 % of one, now it takes 1 %."""
    with cluster.connected(ClusterOptions(), 2, tmp_path) as connected:
        assert len(connected.workers()) == 2
        time.sleep(1)
        before = time.process_time()
        time.sleep(4)
        assert time.process_time() - before < 0.04 * 4


def at(dask: Processes, wait_s: float = 60.0) -> ClusterOptions:
    return ClusterOptions(scheduler=dask.address, wait_s=wait_s)


def test_a_server_that_says_nothing_is_no_scheduler(fake: FakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match="no scheduler answers"):
            fake.run(cluster=ClusterOptions(scheduler=address))


def test_a_killed_worker_costs_only_the_cell_in_hand(fake: FakeSweep, dask: Processes) -> None:
    dask.scheduler()
    victims = [dask.worker(), dask.worker()]
    fake.control(sleep=0.5)
    thread, found = in_background(lambda: fake.run(cluster=at(dask), batches=(1, 2)))
    wait_for(fake.log)
    victims[0].kill()
    thread.join(60)
    assert isinstance(found[0], Sweep)
    assert found[0].count(CellState.PASSED) == 6
    assert set(fake.cells_made()) == {cell.cell.name for cell in found[0].cells}
    assert len(fake.cells_made()) <= 7


def test_a_scheduler_that_ends_is_one_line_and_the_same_command_goes_on(
    fake: FakeSweep, dask: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploytool.sweeps.cluster._CONNECT_S", 2)
    scheduler = dask.scheduler()
    dask.worker()
    fake.control(sleep=0.5)
    thread, found = in_background(lambda: fake.run(cluster=at(dask)))
    wait_for(lambda: [*fake.out.glob("*/cell.json")])
    scheduler.kill()
    thread.join(60)
    assert isinstance(found[0], Unreachable)
    assert "is lost" in str(found[0])
    assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR), "it would print a line of its own"
    made = fake.run(cluster=ClusterOptions(workers=1))
    assert made.count(CellState.PASSED) == 3
    assert made.reused >= 1


def test_a_scheduler_that_is_restarted_gets_the_work_again(fake: FakeSweep, dask: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scheduler = dask.scheduler(port=port)
    dask.worker()
    fake.control(sleep=0.5)
    thread, found = in_background(lambda: fake.run(cluster=at(dask)))
    wait_for(fake.log)
    scheduler.kill()
    scheduler.wait()
    dask.scheduler(port=port)
    dask.worker()
    thread.join(90)
    assert isinstance(found[0], Sweep)
    assert found[0].count(CellState.PASSED) == 3


def test_workers_with_a_disk_of_their_own_get_and_give_files_by_digest(
    fake: FakeSweep, dask: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fake.folder)
    weights = fake.folder / "w.pth"
    weights.write_bytes(b"w" * (local_files.PIECE_BYTES + 10))
    preload, home = fake.folder / "preload.py", fake.folder / "home"
    preload.write_text(OTHER_DISK)
    dask.scheduler()
    dask.worker("--preload", str(preload), env=[f"HOME={home}"])
    (home / ".cache" / "deploytool").mkdir(parents=True)
    made = fake.run(models=("mixnet_s",), targets=("orin", "rtx40"), weights=("w.pth",), cluster=at(dask))
    assert made.count(CellState.PASSED) == 2
    mirror = local_files.cache().relative_to(Path.home())
    (mirrored,) = (home / mirror / "disk").iterdir()
    assert (mirrored / str(weights).lstrip("/")).stat().st_size == weights.stat().st_size
    for cell in made.cells:
        file = fake.out / cell.folder / "fp16" / "model.onnx"
        assert file.stat().st_size == cell.sizes["fp16/model.onnx"]
        assert not (mirrored / str(file).lstrip("/")).exists()  # fetched, so that it was removed there
    again = fake.run(models=("mixnet_s",), targets=("orin", "rtx40"), weights=("w.pth",), cluster=at(dask))
    assert again.reused == 2


def test_large_results_come_home_whole(fake: FakeSweep, dask: Processes) -> None:
    preload, home = fake.folder / "preload.py", fake.folder / "home"
    preload.write_text(OTHER_DISK)
    dask.scheduler()
    dask.worker("--preload", str(preload), env=[f"HOME={home}"])
    fake.run(models=("mixnet_s",), cluster=at(dask))
    (mirrored,) = (home / ".cache" / "deploytool" / "sweeps" / "disk").iterdir()
    control = mirrored / str(fake.folder).lstrip("/") / "control.json"
    control.write_text(json.dumps({"shufflenet_g3-fp16-quick": "large"}))
    made = fake.run(models=("shufflenet_g3",), cluster=at(dask))
    (cell,) = made.cells
    assert (fake.out / cell.folder / "fp16" / "model.onnx").read_bytes().endswith(CONTENT)


def test_a_worker_with_other_versions_is_refused(fake: FakeSweep, dask: Processes) -> None:
    preload = fake.folder / "preload.py"
    preload.write_text(OTHER_TORCH)
    dask.scheduler()
    dask.worker("--preload", str(preload))
    with pytest.raises(MissingBackend, match=r"worker tcp://\S+ has torch 1\.0, and this machine 2"):
        fake.run(cluster=at(dask))
    assert not fake.log()


def test_a_scheduler_without_workers_is_one_line(fake: FakeSweep, dask: Processes) -> None:
    dask.scheduler()
    with pytest.raises(Unreachable, match="no worker for") as caught:
        fake.run(cluster=at(dask, wait_s=1.0))
    assert "dask worker" in caught.value.remedy


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a certificate for 127.0.0.1, and another authority: ca.pem, own.pem, own.key, other.*."""
    folder = tmp_path_factory.mktemp("tls")
    for prefix in ("", "other-"):
        authority = ec.generate_private_key(ec.SECP256R1())
        ca = certificate("authority", authority.public_key(), "authority", authority, is_authority=True)
        own = ec.generate_private_key(ec.SECP256R1())
        leaf = certificate("localhost", own.public_key(), "authority", authority, is_authority=False)
        (folder / f"{prefix}ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        (folder / f"{prefix}own.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{prefix}own.key").write_bytes(own.private_bytes(*form))
    return folder


def certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(signer, hashes.SHA256())
    )


def tls(folder: Path, prefix: str = "") -> list[str]:
    files = {"ca-file": "ca.pem", "cert": "own.pem", "key": "own.key"}
    return [part for name, file in files.items() for part in (f"--tls-{name}", str(folder / f"{prefix}{file}"))]


def with_tls(dask: Processes, folder: Path, prefix: str = "", address: str = "") -> ClusterOptions:
    return ClusterOptions(
        scheduler=address or dask.address,
        tls_ca=folder / f"{prefix}ca.pem",
        tls_cert=folder / f"{prefix}own.pem",
        tls_key=folder / f"{prefix}own.key",
    )


def test_a_scheduler_with_tls(fake: FakeSweep, dask: Processes, certificates: Path) -> None:
    dask.scheduler(*tls(certificates), protocol="tls")
    dask.worker(*tls(certificates))
    made = fake.run(models=("mixnet_s",), cluster=with_tls(dask, certificates))
    assert made.count(CellState.PASSED) == 1
    with pytest.raises(BadInput, match=r"TLS with tls://.* failed"):
        fake.run(cluster=with_tls(dask, certificates, "other-"))
    with pytest.raises(BadInput, match="needs certificates") as caught:
        fake.run(cluster=at(dask))
    assert "--tls-ca" in caught.value.remedy
    with pytest.raises(Unreachable, match="no scheduler answers") as other:
        fake.run(cluster=ClusterOptions(scheduler=dask.address.replace("tls", "tcp")))
    assert "does it expect tls://" in other.value.remedy


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [  # as OpenSSL says it
        ("certificate verify failed: certificate has expired", "renew the certificate of the scheduler"),
        (
            "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired",
            "renew the certificate of --tls-cert",
        ),
        ("certificate verify failed: self-signed certificate", "the authority that the scheduler trusts"),
    ],
)
def test_an_expired_certificate_is_told_from_a_wrong_one(reason: str, remedy: str) -> None:
    error = cluster._connection_error("tls://host:1", ssl.SSLError(1, reason))
    assert isinstance(error, BadInput)
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (ClusterOptions(scheduler="tcp://127.0.0.1:1"), "no scheduler answers at tcp://127.0.0.1:1"),
        (ClusterOptions(scheduler="nowhere"), "nowhere is not the address of a scheduler"),
        (ClusterOptions(scheduler="tls://127.0.0.1:1", tls_ca=Path("none.pem")), "there is no file none.pem"),
        (ClusterOptions(tls_ca=Path("none.pem")), "no scheduler to use them with"),
        (ClusterOptions(scheduler="tcp://127.0.0.1:1", slurm=Path("jobs.yaml")), "mutually exclusive"),
        (ClusterOptions(slurm=Path("none.yaml")), "none.yaml is not a configuration of dask-jobqueue"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line(
    fake: FakeSweep, monkeypatch: pytest.MonkeyPatch, options: ClusterOptions, problem: str
) -> None:
    monkeypatch.setattr("deploytool.sweeps.cluster._CONNECT_S", 1)
    with pytest.raises(DeployError, match=problem):
        fake.run(cluster=options)
