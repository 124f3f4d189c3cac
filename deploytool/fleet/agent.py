"""The program that ssh starts on a device: runs deploytool there, also detached, and streams what a job prints.

It is sent as source and needs only Python 3.8 there, so it imports nothing of deploytool. A job is a list of commands
of `python -m deploytool.device` that run one after the other in a process of their own, which outlives the connection.
One job at a time works under a root. Everything about a job is in ROOT/jobs/ID: what it prints in `log`, its result in
`result.json`, which appears complete or not at all; the lock on `alive` is held as long as its process lives.

Commands on a bundle with a tool run with this tool, which a job installs once as ROOT/tools/NAME; on other bundles
with the deploytool of the Python that runs this program or, where it has none, with the tool that was used last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ID = re.compile(r"[a-z0-9-]{8,64}")
_KEPT = 20  # jobs that have ended
_BEAT_S, _POLL_S, _FOLLOW_S = 2.0, 0.1, 300.0
_BLOCK, _MAX_OUTPUT = 64 << 10, 16 << 20  # bytes of an answer's log, and of the document of a command
_LOST = "its process ended without a result: the device was restarted, or the process was killed"
_PIPES: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
_TOOLS, _INSTALLER = "tools", "tool/install.py"
_FIND = """
import sys
from importlib import util
sys.path = [entry for entry in sys.path if entry]
sys.exit(util.find_spec("deploytool") is None)
"""
_RUN = """
import sys
sys.path = [entry for entry in sys.path if entry]  # imports nothing from the folder of the login
from deploytool.device.__main__ import main
main()
"""


class Failure(Exception):
    """A problem that is reported to the host in one line."""


class Missing(Failure):
    """There is no deploytool."""


def main() -> None:
    """Reads a request, and answers it in lines of JSON."""
    try:
        request = json.loads(sys.stdin.buffer.readline())
        {"run": _run_now, "start": _start, "follow": _follow}[request["do"]](request)
    except Failure as failure:
        _answer({"problem": str(failure), **({"missing": True} if isinstance(failure, Missing) else {})})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _answer({"problem": "the request is invalid"})
    except BrokenPipeError:
        return  # the connection was interrupted
    except OSError as error:
        _answer({"problem": f"{error.filename or 'a file'}: {error.strerror}"})


def _answer(document: dict[str, Any]) -> None:
    raw = b"deploytool:" + json.dumps(document).encode() + b"\n"
    while raw:
        raw = raw[os.write(1, raw) :]


def _run_now(request: dict[str, Any]) -> None:
    """Runs one command at once and answers with its result; a sign of life goes out every two seconds."""
    root = Path(request["root"])
    line, tool = _deploytool(root, _current_bundle(root))
    with subprocess.Popen([*line, *request["command"]], **_PIPES) as child:
        try:
            while True:
                try:
                    stdout, stderr = child.communicate(timeout=_BEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    _answer({"beat": True})
        finally:
            child.kill()
    _answer({"done": _outcome(request["command"], child.returncode, stdout, stderr, 0.0), "tool": tool})


def _outcome(command: list[str], code: int, stdout: bytes, stderr: bytes, seconds: float) -> dict[str, Any]:
    """A command that has ended, with the document that it printed."""
    printed = stdout[:_MAX_OUTPUT].decode(errors="replace")
    complained = stderr[-2000:].decode(errors="replace")
    return {"command": command, "code": code, "printed": printed, "complained": complained, "seconds": seconds}


def _start(request: dict[str, Any]) -> None:
    """Starts a job, answers with its name, and follows it; a job with the same request that is at work is taken."""
    if fcntl is None:
        raise Failure("jobs need a Unix system")
    if not _ID.fullmatch(request["id"]):
        raise Failure("the name of the job is invalid")
    jobs = Path(request["root"]) / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    with (jobs / "start").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = _same(jobs, request) or jobs / request["id"]
        if not (_is_alive(job) or (job / "started").exists()):
            _remove_old(jobs)
            _spawn(job, request)
        (job / "started").touch()
    _answer({"job": job.name})
    _follow({"root": request["root"], "job": job.name, "offset": 0})


def _same(jobs: Path, request: dict[str, Any]) -> Path | None:
    """The job with the same request that is still at work; None if there is none."""
    for folder in jobs.iterdir():
        if _is_alive(folder):
            with suppress(OSError, ValueError, KeyError, TypeError):
                if json.loads((folder / "request.json").read_bytes())["same"] == request["same"]:
                    return folder
    return None


def _is_alive(folder: Path) -> bool:
    """Whether the process of a job lives: it holds the lock."""
    try:
        with (folder / "alive").open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _spawn(job: Path, request: dict[str, Any]) -> None:
    """Starts the process of a job in a session of its own; it keeps the lock and nothing of the connection."""
    job.mkdir(exist_ok=True)
    (job / "request.json").write_text(json.dumps(request))
    if request["key"]:
        (job / "key.pem").write_text(request["key"])
    with (job / "alive").open("wb") as alive, (job / "log").open("ab") as log:
        fcntl.flock(alive, fcntl.LOCK_EX)
        if os.fork() == 0:
            _detach(log.fileno(), alive.fileno())
            try:
                _write(job / "result.json", _carry_out(job, request))
            finally:
                os._exit(0)


def _detach(log: int, alive: int) -> None:
    """Leaves the session of the connection, and closes all its files."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, alive)
    os.closerange(alive + 1, 1024)


def _write(path: Path, document: dict[str, Any]) -> None:
    """Writes a file beside its place, and renames it."""
    making = path.with_name(f".{path.name}.making")
    with making.open("w") as opened:
        json.dump(document, opened)
        opened.flush()
        os.fsync(opened.fileno())
    making.rename(path)


def _carry_out(job: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Waits for the other jobs of the root, and runs the commands of this one down to the first that fails."""
    begun, root = time.time(), Path(request["root"])
    outcome: dict[str, Any] = {"steps": [], "undone": None, "last": None, "problem": "", "tool": ""}
    try:
        with (job.parent / "lock").open("ab") as lock:
            _wait_for(lock)
            _check_current(root, request["current"])
            _ensure_tool(root, Path(request["bundle"]), request["digest"], lock)
            line, outcome["tool"] = _deploytool(root, Path(request["bundle"]))
            _run_steps(job, line, request, outcome)
            _remove_old_tools(root, outcome["tool"])
    except Failure as failure:
        outcome["problem"] = str(failure)
    except OSError as error:
        outcome["problem"] = f"{error.filename or 'a file'}: {error.strerror}"
    return dict(outcome, began=begun, ended=time.time())


def _run_steps(job: Path, line: list[str], request: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Runs the commands of a job by the start of a command line, and adds what became of them to its outcome."""
    for number, command in enumerate(request["steps"]):
        outcome["steps"].append(_command(job, line, command))
        if outcome["steps"][-1]["code"]:
            if number and request["undo"]:
                outcome["undone"] = _command(job, line, request["undo"])
            break
        if not number and request["remove"]:
            shutil.rmtree(request["remove"], ignore_errors=True)
    if request["last"]:
        outcome["last"] = _command(job, line, request["last"])


def _wait_for(lock: Any) -> None:
    """Takes the lock of the root; says so if another job has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(1, b"waiting for another job on this device\n")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _check_current(root: Path, expected: str) -> None:
    """Raises Failure if another bundle than the expected one is the current one."""
    if not expected:
        return
    try:
        current = json.loads((root / "current").read_bytes())["current"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(f"what is installed in {root} cannot be read") from None
    if current != expected:
        raise Failure(f"the current bundle is {str(current)[:12]} by now, not {expected[:12]}")


def _command(job: Path, line: list[str], command: list[str]) -> dict[str, Any]:
    """Runs one command; what it says goes to the log, and its document into the result."""
    begun = time.monotonic()
    with (job / "complaints").open("w+b") as complaints:
        with subprocess.Popen([*line, *command], **_PIPES) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            reader = threading.Thread(target=_copy, args=(child.stderr, complaints))
            reader.start()
            stdout = child.stdout.read()
            reader.join()
        size = complaints.seek(0, os.SEEK_END)
        complaints.seek(max(0, size - 2000))
        return _outcome(command, child.returncode, stdout, complaints.read(), time.monotonic() - begun)


def _copy(source: Any, to: Any) -> None:
    """Copies what a command says to the log and to a file."""
    for line in source:
        os.write(1, line)
        to.write(line)


def _deploytool(root: Path, bundle: Path) -> tuple[list[str], str]:
    """The start of the command line of the deploytool for a bundle, and the name of its tool, empty for the own one.

    Raises Missing if there is none.
    """
    tools = sorted((root / _TOOLS).glob("[0-9a-f]*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for name in (_tool_name(bundle), "", *(folder.name for folder in tools)):
        if _has_deploytool(_python(root, name)):
            return [*_python(root, name), "-c", _RUN], name
    raise Missing("deploytool is not installed there")


def _python(root: Path, tool: str) -> list[str]:
    """The start of a command line that runs the Python of a tool, or the one that runs this program."""
    return [str(root / _TOOLS / tool / "bin" / "python"), "-I"] if tool else [sys.executable]


def _current_bundle(root: Path) -> Path:
    """The folder of the current bundle; one that does not exist if nothing is installed."""
    try:
        return root / "bundles" / str(json.loads((root / "current").read_bytes())["current"])
    except (OSError, ValueError, KeyError, TypeError):
        return root / "bundles" / "none"


def _tool_files(bundle: Path) -> dict[str, str]:
    """The SHA-256 of each file of a bundle's tool, by its path; none if the bundle has no tool."""
    try:
        listed = json.loads((bundle / "manifest.json").read_bytes())["tool"]
        return {str(file["path"]): str(file["sha256"]) for file in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _tool_name(bundle: Path) -> str:
    """The name of a bundle's tool, which follows from the content of its files; empty if the bundle has none."""
    listed = sorted(_tool_files(bundle).items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else ""


def _has_deploytool(line: list[str]) -> bool:
    """Whether a Python starts and finds deploytool: that of a tool does not after the Python of the system changed."""
    with suppress(OSError):
        found = subprocess.run([*line, "-c", _FIND], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return found.returncode == 0
    return False


def _ensure_tool(root: Path, bundle: Path, digest: str, lock: Any) -> None:
    """Installs the tool of a bundle, if it has one that is not installed and whole.

    Its installer makes the environment beside its place and renames it, so that one that is there is complete. It has
    the lock of the root too: what is unfinished when the lock is free was left by an installer that has ended.
    """
    name, tools = _tool_name(bundle), root / _TOOLS
    if not name or _has_deploytool(_python(root, name)):
        return
    _check_file(bundle / "manifest.json", digest)
    _check_file(bundle / _INSTALLER, _tool_files(bundle).get(_INSTALLER, ""))  # it checks the other files
    tools.mkdir(exist_ok=True)
    for unfinished in tools.glob(".*"):
        shutil.rmtree(str(unfinished), ignore_errors=True)
    if (tools / name).exists():
        _remove_tool(tools / name)
    os.write(1, b"installing the deploytool of the bundle\n")
    command = [sys.executable, "-I", str(bundle / _INSTALLER), str(tools / name), "--install-only", "--digest", digest]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, pass_fds=[lock.fileno()])
    if done.returncode or not _has_deploytool(_python(root, name)):
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        why = said[-1] if said else f"its installer ended with {done.returncode}"
        raise Failure(f"the deploytool of the bundle cannot be installed: {why}")


def _check_file(path: Path, digest: str) -> None:
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise Failure(f"{path} is not the file of the bundle")


def _remove_old_tools(root: Path, used: str) -> None:
    """Removes the tools of bundles that are no longer installed, but for the one that was used."""
    kept = {used, *(_tool_name(bundle) for bundle in (root / "bundles").glob("*"))}
    for folder in (root / _TOOLS).glob("[0-9a-f]*"):
        if folder.name not in kept:
            _remove_tool(folder)


def _remove_tool(folder: Path) -> None:
    """Renames a tool, so that nothing starts it any more, and removes it."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(str(aside), ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(str(aside), ignore_errors=True)


def _follow(request: dict[str, Any]) -> None:
    """Answers with what a job prints from an offset on, then with its result; ends by itself after five minutes."""
    job, offset = Path(request["root"]) / "jobs" / request["job"], request["offset"]
    if not _ID.fullmatch(request["job"]) or not (job / "started").exists():
        raise Failure(f"there is no job {request['job']}")
    end, said = time.monotonic() + _FOLLOW_S, 0.0
    while time.monotonic() < end:
        alive = _is_alive(job)
        with (job / "log").open("rb") as log:
            log.seek(offset)
            block = log.read(_BLOCK)
        if alive and len(block) < _BLOCK:
            block = block[: block.rfind(b"\n") + 1]
        if block:
            offset += len(block)
            _answer({"log": block.decode(errors="replace"), "offset": offset})
            said = time.monotonic()
        elif not alive:
            _answer({"result": _result(job)})
            return
        elif time.monotonic() - said > _BEAT_S:
            _answer({"beat": True})
            said = time.monotonic()
        else:
            time.sleep(_POLL_S)
    _answer({"more": True})


def _result(job: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((job / "result.json").read_bytes()))
    except OSError:
        return {"steps": [], "undone": None, "last": None, "problem": _LOST, "tool": "", "began": 0.0, "ended": 0.0}


def _remove_old(jobs: Path) -> None:
    """Removes the oldest jobs that have ended."""
    ended = [folder for folder in jobs.iterdir() if folder.is_dir() and not _is_alive(folder)]
    for folder in sorted(ended, key=lambda folder: folder.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(str(folder), ignore_errors=True)


if __name__ == "__main__":
    main()
