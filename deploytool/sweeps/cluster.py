"""The Dask cluster of a sweep: one in this process, one at an address, or jobs of Slurm; only text travels.

Dask schedules and repeats what a dead worker had; everything else is plain functions that take and return text.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.comm.core import connect
from distributed.security import Security

from deploytool.errors import BadInput, DeployError, Unreachable
from deploytool.host import exception_text
from deploytool.sweeps import slurm
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.worker import ChildGone

_RETRIES = 2  # of a job whose process was killed, beside those of jobs whose worker was
_CONNECT_S = 15
_LOOPBACK = "127.0.0.1:0"
_IDLE: Mapping[str, Any] = {  # what Dask does all the time on behalf of short tasks: here it would slow the cells
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "1s",
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.profile.enabled": False,
}
_SILENT = ("distributed", "distributed.client", "tornado.application")  # what fails is said in one line, by errors
_START_WORKERS = "start some: dask worker ADDRESS --nthreads 1, with deploytool[cpu,sweep]"
_MAX_CAUSES = 8  # exceptions that are looked at, of one that another caused
_TLS_OPTIONS = "--tls-ca, --tls-cert and --tls-key"
_AGAIN = "run the same command again: it continues from the finished cells"


Text = Callable[[str], str]


@dataclass(frozen=True)
class WorkerInfo:
    """A worker: its address, and that of its machine."""

    address: str
    host: str


@dataclass(frozen=True)
class Done:
    """The end of a job: the answer as text, or how it failed. `again`: nothing is wrong with the job itself."""

    key: str
    text: str = ""
    problem: str = ""
    again: bool = False


class Cluster:
    """A connected cluster. Its methods raise Unreachable if the scheduler is gone.

    `awaits_workers` says whether workers may still come by themselves, and `no_worker_remedy` what to do if none does.
    """

    def __init__(
        self,
        client: Client,
        *,
        is_embedded: bool,
        name: str,
        awaits_workers: Callable[[], bool] = lambda: False,
        no_worker_remedy: str = _START_WORKERS,
    ) -> None:
        self._client, self.is_embedded, self._name = client, is_embedded, name
        self.awaits_workers, self.no_worker_remedy = awaits_workers, no_worker_remedy
        self._futures: dict[str, Future[str]] = {}

    @property
    def dashboard(self) -> str:
        """The address of Dask's own page; empty if it has none."""
        link = self._client.dashboard_link if importlib.util.find_spec("bokeh") else None
        return link or ""

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers that the scheduler has now, in a stable order."""
        self.check()
        known: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1).get("workers", {})
        return tuple(WorkerInfo(address, known[address]["host"]) for address in sorted(known))

    def check(self) -> None:
        """Raises Unreachable if the scheduler is gone."""
        if self._client.status not in ("running", "connecting"):
            raise _gone(self._name)

    def submit(self, key: str, function: Text, text: str, worker: str, done: Callable[[Done], None]) -> None:
        """Gives a job to a worker, or to another one if that one dies; `done` is called from another thread."""
        self.check()
        future = self._client.submit(
            *(function, text), key=key, workers=[worker], allow_other_workers=True, retries=_RETRIES, pure=False
        )
        self._futures[key] = future
        future.add_done_callback(lambda finished: done(self._outcome(key, finished)))

    def call_all(self, function: Text, text: str) -> dict[str, str | Exception]:
        """Calls a function on every worker at once: what it returned or raised, by the worker's address."""
        answers: dict[str, str | Exception] = self._client.run(function, text, on_error="return")
        return answers

    def call(self, worker: str, function: Text, text: str) -> str:
        """Calls a function on one worker at once; raises Unreachable if the worker is gone."""
        try:
            return str(self._client.run(function, text, workers=[worker])[worker])
        except (OSError, KeyError, ValueError) as error:
            raise Unreachable(f"{worker} does not answer: {exception_text.one_line(error)}", _AGAIN) from error

    def forget(self, key: str) -> None:
        """Lets the scheduler and the worker forget a job."""
        future = self._futures.pop(key, None)
        if future is not None:
            future.release()

    def _outcome(self, key: str, future: Future[str]) -> Done:
        if future.status == "finished":
            try:
                return Done(key, str(future.result()))
            except Exception as error:  # the worker died between the end of the job and this call
                return Done(key, problem=exception_text.describe(error), again=True)
        if future.status == "error":
            raised = future.exception()
            return Done(key, problem=_failure_text(raised))
        return Done(key, problem="the scheduler lost it", again=True)


@contextmanager
def connected(options: ClusterOptions, workers: int, out: Path) -> Iterator[Cluster]:
    """A cluster for the sweep in `out`, with as many workers as stated where it starts them; it is closed afterwards.

    Jobs of Slurm become workers when Slurm has room for them.
    """
    with ExitStack() as stack:
        for name in _SILENT:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if options.scheduler:
            security = _security(options)
            client = stack.enter_context(_client(options.scheduler, security, options.scheduler))
            yield Cluster(client, is_embedded=False, name=options.scheduler)
        elif options.slurm:
            jobs = stack.enter_context(slurm.started(options.slurm, workers, out))
            client = stack.enter_context(_client(jobs, None, "the cluster"))
            yield Cluster(
                client,
                is_embedded=False,
                name="the cluster",
                awaits_workers=lambda: slurm.has_jobs(jobs),
                no_worker_remedy=slurm.no_worker_remedy(out),
            )
        else:
            stack.enter_context(dask.config.set(_IDLE))
            client = stack.enter_context(_client(stack.enter_context(_local(workers)), None, "the cluster"))
            yield Cluster(client, is_embedded=True, name="the cluster")


def _local(workers: int) -> LocalCluster:
    """A cluster in this process: every job is a process of its own already."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        memory_limit=0,
        dashboard_address=_LOOPBACK,  # by default it would listen on every interface
        worker_dashboard_address=_LOOPBACK,
        silence_logs=False,
    )


def _client(address: Any, security: Security | None, name: str) -> Client:
    """A client; raises Unreachable or BadInput, in one line, if the scheduler cannot be reached."""
    try:
        if isinstance(address, str):
            with ThreadPoolExecutor(1) as pool:  # the caller may have an event loop, as in a notebook
                pool.submit(asyncio.run, _greet(address, security or Security())).result()
        return Client(address, security=security, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise _connection_error(name, error) from error


async def _greet(address: str, security: Security) -> None:
    """Connects once: a client would wait without end for a server that is no scheduler and says nothing."""
    arguments = security.get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, timeout=_CONNECT_S, **arguments), _CONNECT_S)
    await comm.close()


def _connection_error(name: str, error: Exception) -> DeployError:
    """The error for a scheduler that cannot be reached, from the messages of the exception and its causes."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < _MAX_CAUSES:
        chain.append(cause)
    text = " ".join(f"{type(each).__name__} {each}" for each in chain)
    if "ssl_context" in text:
        return BadInput(f"{name} needs certificates", f"give {_TLS_OPTIONS}, or Dask's own configuration of them")
    if any(isinstance(each, ssl.SSLError) for each in chain) or "certificate" in text or "SSL" in text:
        reason = next((each for each in chain if isinstance(each, ssl.SSLError)), error)
        problem = f"TLS with {name} failed: {exception_text.one_line(reason)}"
        return BadInput(problem, _tls_remedy(text))
    if isinstance(error, ValueError):
        return BadInput(f"{name} is not the address of a scheduler", "write --scheduler tcp://HOST:8786")
    hint = f"start one there (`dask scheduler`), or check the address{_other_protocol(name)}"
    return Unreachable(f"no scheduler answers at {name}: {exception_text.one_line(error)}", hint)


def _tls_remedy(text: str) -> str:
    """What helps against a failed handshake; the scheduler says by an alert that it refuses our certificate."""
    if "expired" not in text.lower():
        return f"check that {_TLS_OPTIONS} come from the authority that the scheduler trusts"
    whose = "--tls-cert" if "alert" in text.lower() else "the scheduler, or that of --tls-ca,"
    return f"renew the certificate of {whose} (openssl x509 -enddate -noout -in FILE), and check the clocks"


def _other_protocol(name: str) -> str:
    """A hint for the scheduler that expects TLS, or does not; empty if nothing listens at the address."""
    scheme, _, place = name.partition("://")
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return ""
    return f"; something listens there: does it expect {'tls' if scheme == 'tcp' else 'tcp'}://?"


def _gone(name: str) -> Unreachable:
    return Unreachable(f"the connection to {name} is lost", _AGAIN)


def _failure_text(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return f"{error.allowed_failures + 1} workers died while they had it"
    return exception_text.one_line(error) if isinstance(error, ChildGone) else exception_text.describe(error)


def _security(options: ClusterOptions) -> Security | None:
    """The certificates for a scheduler; None for Dask's own configuration. Raises BadInput for a missing file."""
    files = {"tls_ca_file": options.tls_ca, "tls_client_cert": options.tls_cert, "tls_client_key": options.tls_key}
    if not any(files.values()):
        return None
    for path in files.values():
        if path is None:
            raise BadInput("a certificate for TLS is missing", f"give all of {_TLS_OPTIONS}")
        if not path.is_file():
            raise BadInput(f"there is no file {path}", f"check the paths after {_TLS_OPTIONS}")
    try:
        security = Security(require_encryption=True, **{name: str(path) for name, path in files.items()})
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        problem = f"the certificates cannot be used: {exception_text.one_line(error)}"
        raise BadInput(problem, "give PEM files, the key without a password") from error
    return security
