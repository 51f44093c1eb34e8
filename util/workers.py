"""The workers of a stage: processes of this machine, or those of a Dask cluster on any number of machines.

A case whose worker dies is done again by another one, and a case that kills its workers is told as failed.
Dask (https://distributed.dask.org) carries the work. Never more cases are handed out than there are workers,
so that a dying one takes few cases along; those that died with their workers are tried once more, alone, so
that none is blamed for another's end, and each has had a machine's memory to itself.
"""

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 8
PATIENCE_SECONDS = 120  # without an answer, until it is looked whether there are workers still
TRIES = 2              # of a case whose local workers die; a cluster has its own allowed-failures
# What Dask sets otherwise also makes malloc give memory back at once, which doubles the time of networks.
THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                 "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
START_WORKERS = "dask worker {address} --nthreads 1 --nworkers <number>"


@contextmanager
def local_workers(count: int) -> Iterator["Client"]:
    """Start processes of this machine, a thread each; they end with the context.

    They speak TLS with certificates of their own, so that no other user of the machine can give them work.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.scheduler.allowed-failures": TRIES - 1,
                "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_COUNTS, 1)}
    with dask.config.set(settings), ExitStack() as stack:
        with _ignored_interrupts():
            cluster = stack.enter_context(LocalCluster(
                n_workers=count, threads_per_worker=1, memory_limit=None, security=True,
                dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL))
        yield stack.enter_context(Client(cluster))


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Have processes that are started meanwhile leave Ctrl-C to this one, which ends them in order."""
    if threading.current_thread() is not threading.main_thread():  # where handlers cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def cluster_workers(address: str) -> Iterator["Client"]:
    """Connect to a Dask scheduler whose workers can stand in for this process.

    Args:
        address: `host:port`.

    Raises:
        InputError: nothing answers, there is no worker, or a worker would not do what this process does.
    """
    from util.worker_check import check_workers

    with _connected(address) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise InputError(f"--scheduler {address}: expected workers, found none; start some with: "
                             f"{START_WORKERS.format(address=address)}") from error
        check_workers(client, address)
        yield client


def _connected(address: str) -> "Client":
    """Return a connection to a scheduler.

    Raises:
        InputError: nothing answers.
    """
    from distributed import Client

    for name in ("client", "core", "comm"):
        logging.getLogger(f"distributed.{name}").setLevel(logging.CRITICAL)  # this module says what matters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions, which are checked with more care
        try:
            return Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler {address}: expected a Dask scheduler, found none "
                             f"({type(error).__name__}); start one with: dask scheduler") from error


def answers(client: "Client", attempt: Callable[[str], Any],
            cases: Sequence[str]) -> Iterator[tuple[str, Any, str | None]]:
    """Have cases done by a cluster's workers.

    Yields:
        Each case when it is done, what `attempt` returned, and if nothing did, why.

    Raises:
        InputError: the connection to the scheduler is lost.
    """
    from distributed import KilledWorker

    killed = []
    for case, future in _futures(client, attempt, cases):
        if isinstance(future.exception(), KilledWorker):
            killed.append(case)
        else:
            yield case, *_answer(future)
    for case in killed:
        for _, future in _futures(client, attempt, [case]):
            yield case, *_answer(future)


def _futures(client: "Client", attempt: Callable[[str], Any],
             cases: Sequence[str]) -> Iterator[tuple[str, "Future"]]:
    """Yield cases that are done, well or badly; as many are in work as there are workers."""
    from distributed import CancelledError, wait

    from util.worker_check import software

    waiting, running, here = iter(cases), dict["Future", str](), software()
    while True:
        try:
            places = max(1, sum(client.nthreads().values()))  # one waits where no worker is there just now
            for case in islice(waiting, max(0, places - len(running))):
                running[client.submit(_on_worker, Path.cwd(), here, attempt, case, pure=False)] = case
            if not running:
                return
            done = wait(list(running), PATIENCE_SECONDS, "FIRST_COMPLETED").done
        except TimeoutError:
            _tell_if_alone(client)
            continue
        except (CancelledError, OSError) as error:
            raise InputError("--scheduler: expected the scheduler to stay, found the connection to it lost; "
                             "start it again, and this command: complete cases are kept") from error
        yield from [(running.pop(future), future) for future in done]


def _tell_if_alone(client: "Client") -> None:
    """Warn that nobody is at work, so that a progress bar that stands has its reason."""
    if not client.nthreads():
        print("warning: --scheduler: no worker is left; waiting for one", file=sys.stderr)


def _on_worker(folder: Path, wanted: Mapping[str, str], attempt: Callable[[str], Any], case: str) -> Any:
    """Do a case where the paths of this command line, which may be relative, are meant.

    Raises:
        InputError: this worker, which may have come when the others had been checked, has other software.
    """
    from util.worker_check import SETTLE, differences, software

    other = differences(wanted, software())
    if other:
        raise InputError(f"worker {socket.gethostname()}: expected the software of the process that asks, "
                         f"found {', '.join(other)}; {SETTLE}")
    os.chdir(folder)
    return attempt(case)


def _answer(future: "Future") -> tuple[Any, str | None]:
    """Return what was answered, or why nothing was."""
    from distributed import KilledWorker

    try:
        return future.result(), None
    except KilledWorker:
        return None, "the processes that tried it ended, at last alone; it needs more memory than there is"
    except Exception as error:  # of the transport: the work's own errors are answers
        return None, f"no worker could do it ({type(error).__name__}: {error})"
