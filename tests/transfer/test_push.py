"""Pushes to a registry: whole bundles, changed files only, and resumed uploads."""

from __future__ import annotations

import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploytool.bundle.manifest import manifest_digest, read_manifest
from deploytool.errors import BadInput, Refused, Unreachable
from deploytool.transfer import addresses, oci, push
from deploytool.transfer.auth import Credentials
from deploytool.transfer.http import HttpClient
from tests.transfer import servers, small
from tests.transfer.servers import Proxy, Registry
from tests.transfer.trips import CHUNK, address, ignore, kill_after, pull_bundle, push_bundle, wait_until_idle


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.sweep)])
def test_round_trips(served: Registry, tmp_path: Path, count: int) -> None:
    for number in range(count):
        folder = small.make_bundle(tmp_path / f"in{number}", number + 1000 * count)
        sent = push_bundle(folder, served.port, f"trip/{count}/m{number}")
        for reference, source_address in (("tag", address(served, f"trip/{count}/m{number}")), ("digest", sent.name)):
            result = pull_bundle(source_address, tmp_path / f"out{number}{reference}")
            assert small.contents(Path(result.folder)) == small.contents(folder)
            assert result.digest == sent.digest == manifest_digest(folder)
        assert not list(tmp_path.glob(".*"))


def test_existing_files_are_neither_sent_nor_fetched_again(served: Registry, tmp_path: Path) -> None:
    first_bundle, second_bundle = (
        small.make_bundle(tmp_path / "one", 3, 50_000),
        small.make_bundle(tmp_path / "two", 3, 50_000, sequence=2),
    )
    first, again, second = (
        push_bundle(folder, served.port, "again") for folder in (first_bundle, first_bundle, second_bundle)
    )
    assert first.sent > 350_000
    assert again.sent == 0
    assert second.sent < 10_000  # the manifest
    out = tmp_path / "out"
    assert pull_bundle(address(served, "again"), out).here == 0
    assert pull_bundle(address(served, "again"), out).fetched == 0
    assert pull_bundle(address(served, "again"), tmp_path / "more", reuse_from=(out,)).fetched == 0
    with pytest.raises(BadInput, match="already exists"):
        pull_bundle(first.name, out)
    assert pull_bundle(first.name, tmp_path / "old", reuse_from=(out,)).fetched == 0
    assert small.contents(tmp_path / "old") == small.contents(first_bundle)


_PUSH = """
import sys
from pathlib import Path
from tests.transfer import trips as it
it.push_bundle(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], it.CHUNK)
"""


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.sweep)])
def test_a_killed_push_is_not_visible_and_resumes(served: Registry, proxy: Proxy, tmp_path: Path, count: int) -> None:
    rng, alive = random.Random(count), 0
    for number in range(count):
        folder = small.make_bundle(tmp_path / f"in{number}", 7000 + number + 100 * count, 600_000)
        sizes = [len(raw) for raw in small.contents(folder).values()]
        total, largest = sum(sizes), max(sizes)
        name = f"killed/{count}/m{number}"
        proxy.reset()
        alive += kill_after(_PUSH, [str(folder), str(proxy.port), name], proxy, "up", rng.randrange(total))
        wait_until_idle(proxy)
        if f"m{number}" not in served.repositories():
            with pytest.raises(BadInput, match="there is no"):
                pull_bundle(address(served, name), tmp_path / "out")
        sent = push_bundle(folder, proxy.port, name, CHUNK)
        assert proxy.up <= total + largest + 40_000, (proxy.up, total)  # with headers, and at most one file sent twice
        pull_bundle(sent.name, tmp_path / f"out{number}")
        assert small.contents(tmp_path / f"out{number}") == small.contents(folder)
        assert not list(tmp_path.glob(".*"))
    assert alive >= count - 1


def test_a_push_that_was_interrupted_between_chunks_sends_only_the_rest(
    served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sent = small.make_bundle(tmp_path / "in", 23, 600_000), list[int]()
    send_chunk = push._Sender._send_chunk

    def interrupt(sender: push._Sender, upload: push._Upload, block: bytes) -> str:
        if len(sent) == 1:
            raise KeyboardInterrupt
        sent.append(len(block))
        return send_chunk(sender, upload, block)

    monkeypatch.setattr(push._Sender, "_send_chunk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        push_bundle(folder, served.port, "interrupted", CHUNK)
    monkeypatch.undo()
    assert sent == [CHUNK]
    small_files = sum(len(raw) for raw in small.contents(folder).values() if len(raw) <= CHUNK)
    rest = push_bundle(folder, served.port, "interrupted", CHUNK).sent - len(_config(folder))
    assert rest == sum(len(raw) for raw in small.contents(folder).values()) - small_files - CHUNK
    pull_bundle(address(served, "interrupted"), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


def _config(folder: Path) -> bytes:
    return oci.build_artifact(folder, read_manifest(folder)).config


_CUTS = [900_000, *(pytest.param(cut, marks=pytest.mark.sweep) for cut in (150_000, 2_500_000))]


@pytest.mark.parametrize("cut", _CUTS)
def test_a_push_fails_when_its_connection_is_cut_and_a_second_completes_it(
    served: Registry, proxy: Proxy, tmp_path: Path, cut: int
) -> None:
    folder = small.make_bundle(tmp_path / "in", cut, 600_000)
    proxy.cut_up = cut
    with pytest.raises(Unreachable):
        push_bundle(folder, proxy.port, f"line/{cut}", CHUNK)
    with pytest.raises(BadInput, match="there is no"):
        pull_bundle(address(served, f"line/{cut}"), tmp_path / "out")
    proxy.reset()
    push_bundle(folder, proxy.port, f"line/{cut}", CHUNK)
    total = sum(len(raw) for raw in small.contents(folder).values())
    assert proxy.up <= total - cut + 600_000 + CHUNK + 40_000  # this registry discards an interrupted upload
    pull_bundle(address(served, f"line/{cut}"), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_a_bundle_in_a_read_only_folder_is_sent(
    served: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small.make_bundle(tmp_path / "in", 13, 600_000)
    monkeypatch.setattr("deploytool.host.files.publish", lambda path, raw: (_ for _ in ()).throw(PermissionError()))
    push_bundle(folder, served.port, "readonly", CHUNK)
    monkeypatch.undo()
    pull_bundle(address(served, "readonly"), tmp_path / "out")
    assert small.contents(tmp_path / "out") == small.contents(folder)


def test_a_missing_name_and_a_missing_server_are_errors(served: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no oci://"):
        pull_bundle(address(served, "nothing"), tmp_path / "out")
    with pytest.raises(Unreachable, match="does not answer"):
        pull_bundle(f"oci://127.0.0.1:{servers.free_port()}/a:1", tmp_path / "out")
    with pytest.raises(BadInput, match="a push needs a tag"):
        push.push(
            small.make_bundle(tmp_path / "in", 11),
            read_manifest(tmp_path / "in"),
            addresses.Registry("http://127.0.0.1:1", "a", "1", "sha256:" + "0" * 64),
            Credentials(),
            say=ignore,
        )
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_file_that_differs_from_its_manifest_is_not_sent(served: Registry, tmp_path: Path) -> None:
    folder = small.make_bundle(tmp_path / "in", 17)
    (folder / small.ORIN).write_bytes(bytes((folder / small.ORIN).stat().st_size))
    with pytest.raises(Refused, match="has other bytes than the manifest says"):
        push_bundle(folder, served.port, "forged")
    with pytest.raises(BadInput, match="there is no oci://"):
        pull_bundle(address(served, "forged"), tmp_path / "out")


class Odd(http.server.BaseHTTPRequestHandler):
    """A registry that has nothing and takes everything, but for the answers of the test; it notes what it is asked.

    To what is to be answered with the status 0 it hangs up.
    """

    protocol_version = "HTTP/1.1"
    answers: dict[str, tuple[int, dict[str, str]]]
    asked: list[tuple[str, str]]

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = f"{self.command} {'manifests' if '/manifests/' in self.path else 'blobs'}"
        usual = {"HEAD blobs": 404, "POST blobs": 202, "PATCH blobs": 202}.get(kind, 201)
        status, headers = self.answers.get(kind, (usual, {}))
        self.asked.append((kind, self.path))
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Location": "/v2/m/blobs/uploads/1", "Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def odd(answers: dict[str, tuple[int, dict[str, str]]]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    asked: list[tuple[str, str]] = []
    methods = {f"do_{method}": Odd.answer for method in ("HEAD", "GET", "POST", "PUT", "PATCH")}
    handler = type("Answering", (Odd,), {"answers": answers, "asked": asked, **methods})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


@pytest.mark.parametrize(
    ("answers", "size", "kind"),
    [
        ({"POST blobs": (404, {})}, 300, BadInput),
        ({"PUT blobs": (400, {})}, 300, BadInput),
        ({"PUT manifests": (400, {})}, 300, BadInput),
        ({"PATCH blobs": (416, {})}, CHUNK, Unreachable),
        *(
            ({"POST blobs": (202, {"Location": to})}, 300, Unreachable)
            for to in ("http://[::/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://a:0/x")
        ),
        ({"PATCH blobs": (202, {"Location": "http://[::/x"})}, CHUNK, Unreachable),
    ],
    ids=str,
)
def test_a_registry_that_takes_no_part_or_sends_it_astray_publishes_nothing(
    tmp_path: Path, answers: dict[str, tuple[int, dict[str, str]]], size: int, kind: type[Exception]
) -> None:
    folder = small.make_bundle(tmp_path / "in", 31, size)
    with odd(answers) as (port, asked):
        with pytest.raises(kind):
            push_bundle(folder, port, "m", CHUNK)
        assert "PUT manifests" in answers or "PUT manifests" not in [each for each, _ in asked]
    with odd({}) as (port, asked):
        push_bundle(folder, port, "m", CHUNK)
        assert [each for each, _ in asked].index("PUT manifests") == len(asked) - 1


@pytest.mark.parametrize(("length", "sent"), [("1", True), ("4", False)])
def test_a_blob_of_another_size_is_not_the_one_that_is_sent(tmp_path: Path, length: str, sent: bool) -> None:
    with odd({"HEAD blobs": (200, {"Content-Length": length})}) as (port, asked):
        place = addresses.Registry(f"http://127.0.0.1:{port}", "m", "1")
        client = HttpClient(place.base)
        push._Sender(client, place, tmp_path / "record", CHUNK).send_bytes(b"blob")
        client.close()
    assert ("PUT blobs" in [each for each, _ in asked]) is sent


def test_an_upload_of_another_registry_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small.make_bundle(tmp_path / "in", 33, CHUNK)
    with odd({"PATCH blobs": (500, {})}) as (port, first), pytest.raises(Unreachable):
        push_bundle(folder, port, "m", CHUNK)
    assert "PATCH blobs" in [each for each, _ in first]
    before = len(first)
    with odd({}) as (port, second):
        push_bundle(folder, port, "m", CHUNK)
    assert "GET blobs" not in [each for each, _ in second]
    assert len(first) == before


@pytest.mark.parametrize(("kind", "size", "times"), [("PATCH blobs", CHUNK, 3), ("PUT blobs", 300, 1)])
def test_a_part_is_not_sent_twice_unless_the_registry_was_asked_what_it_has(
    tmp_path: Path, kind: str, size: int, times: int
) -> None:
    """The connection may be an old one that the registry has closed, but it may have taken the part too."""
    with odd({kind: (0, {})}) as (port, asked), pytest.raises(Unreachable):
        push_bundle(small.make_bundle(tmp_path / "in", 34, size), port, "m", CHUNK)
    assert [each for each, _ in asked].count(kind) == times


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_what_is_sent_follows_no_redirect(method: str) -> None:
    answers: dict[str, tuple[int, dict[str, str]]] = {}
    with odd({}) as (there, asked), odd(answers) as (here, _):
        answers[f"{method} blobs"] = 307, {"Location": f"http://127.0.0.1:{there}/"}
        client = HttpClient(f"http://127.0.0.1:{here}")
        assert client.ask(method, "/v2/m/blobs/", b"secret").status == 307
        client.close()
    assert not asked
