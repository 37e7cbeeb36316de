"""Several processes on torch's elastic launcher: starting them here, and how each of them lives and ends.

``torchrun`` starts the processes on any number of machines. :func:`launch` does the same on one machine,
without torchrun.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from dnnlib import torchrun
from dnnlib.errors import UserError, out_of_memory
from dnnlib.interrupt import end_with_parent
from torch_utils import distributed, rendezvous

#: The signals of terminals, systems and schedulers, which the launcher passes on to the processes.
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")

#: Exit status after Ctrl-C, by the shell's convention.
INTERRUPTED = 128 + signal.SIGINT

_ENDED_DIR = "ELASTIC_ENDED_DIR"  # names the folder where processes that ended in good order leave a file
_GAVE_UP = "gave up"  # key of a failure that a restart would only repeat


def launch(
    command: Sequence[str], processes: int, *, max_restarts: int = 0, patience: float = distributed.TIMEOUT
) -> int:
    """Run ``python command...`` in several processes on this machine, with torch's elastic launcher.

    The processes meet at a free port of the loopback interface. They receive the signals in :data:`SIGNALS`.
    If one fails, the others are ended, and all are started again.

    Args:
        command: a script and its arguments.
        processes: how many.
        max_restarts: how often they are started again.
        patience: seconds that they may take to end in good order after a signal.

    Returns:
        the exit status. If all ended in good order: 0, or 130 after Ctrl-C. Otherwise 1, or 128 plus the
        number of the signal; the failure has then been printed to standard error.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    _silence_launcher()
    rendezvous.register()
    with (
        tempfile.TemporaryDirectory(prefix="launch-") as folder,
        _environment({_ENDED_DIR: folder, **rendezvous.loopback_only()}),
    ):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="local",
            rdzv_backend=rendezvous.BACKEND,
            max_restarts=max_restarts,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=os.path.join(folder, "logs")),
            signals_to_handle=",".join(SIGNALS),
            shutdown_timeout=int(patience),
        )
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            # The first failure is the cause; after it, the launcher ends the other ranks.
            first = min(failure.timestamp for failure in error.failures.values())
            return _failure_status(
                {r: failure.exitcode for r, failure in error.failures.items() if failure.timestamp == first}
            )
        except SignalException as error:
            ended_well = sum(path.name.startswith("rank") for path in Path(folder).iterdir())
            return _signal_status(error.sigval, in_order=ended_well == processes)
    return 0


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, environment variables have these values, for the processes that are started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _silence_launcher() -> None:
    """Silence torch's launcher: we already report failures."""
    # Its loggers exist once it is imported.
    import torch.distributed.elastic.agent.server.local_elastic_agent  # noqa: F401

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic") or name == "torch.distributed.launcher.api":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _failure_status(statuses: Mapping[int, int]) -> int:
    """The exit status after a failure, from those of the ranks that failed first.

    Names a rank that was killed; other failures have reported themselves.
    """
    for rank, status in sorted(statuses.items()):
        if status < 0 and -status != signal.SIGTERM:
            print(f"Error: rank {rank} was killed by {_signal_name(-status)}", file=sys.stderr, flush=True)
    return INTERRUPTED if set(statuses.values()) == {INTERRUPTED} else 1


def _signal_status(number: signal.Signals, *, in_order: bool) -> int:
    if number == signal.SIGINT:
        return INTERRUPTED
    return 0 if in_order else 128 + number


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


@contextmanager
def worker(
    *,
    cuda: bool,
    timeout: float,
    prepare_timeout: float,
    one_line: tuple[type[Exception], ...] = (UserError,),
) -> Iterator[None]:
    """The life of one process: joins the others, prints on rank 0 only, and ends all ranks if it fails.

    A failure is shown once, by the rank where it happened: as a traceback with the rank's number, or as one
    line for exceptions that need no traceback. The other ranks end silently.

    Args:
        cuda: see :func:`torch_utils.distributed.joined`, as for the timeouts.
        timeout: seconds.
        prepare_timeout: seconds.
        one_line: exceptions that the caller shows.

    Raises:
        SystemExit: status 1 after a failure. The first rank to fail raises an exception in ``one_line``
            itself.
    """
    with contextlib.ExitStack() as stack:
        if torchrun.rank() > 0:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        _begin(cuda=cuda)
        try:
            with distributed.joined(cuda=cuda, timeout=timeout, prepare_timeout=prepare_timeout):
                try:
                    yield
                except Exception as failure:
                    error = out_of_memory(failure) or failure
                    first = distributed.report_failure(error)
                    if isinstance(error, one_line):
                        remember(_GAVE_UP, str(error))
                    if first and isinstance(error, (*one_line, distributed.RankLost)):
                        if error is failure:
                            raise
                        raise error from failure
                    if first:
                        _show(error)
                    raise SystemExit(1) from failure
        except distributed.RankLost as error:
            print(f"Error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(1) from error
    _note_good_end()


def _begin(*, cuda: bool) -> None:
    # A launcher that is killed ends no process, and this process has a session of its own.
    end_with_parent(signal.SIGTERM)()
    if recall(_GAVE_UP) is not None:
        raise SystemExit(1)
    if torchrun.restarts():
        print(f"The processes were started again after a failure (number {torchrun.restarts()})", flush=True)
    if cuda:
        _take_gpu(torchrun.local_rank())


def _take_gpu(number: int) -> None:
    """Make the GPU of this number the process's own.

    Raises :class:`UserError` for the first missing number, SystemExit for those above.
    """
    there = torch.cuda.device_count()
    if number > there:
        raise SystemExit(1)
    if number == there:
        message = (
            f"{torchrun.local_world_size()} processes were started on this machine for its {there} GPUs; "
            "start one for each GPU"
        )
        remember(_GAVE_UP, message)
        raise UserError(f"{message}, or compute with --device=cpu")
    torch.cuda.set_device(number)


def _show(error: Exception) -> None:
    print(f"Rank {distributed.rank()} of {distributed.world_size()} failed:", file=sys.stderr)
    traceback.print_exception(error)
    sys.stderr.flush()


def _note_good_end() -> None:
    folder = os.environ.get(_ENDED_DIR)
    if folder is not None:
        (Path(folder) / f"rank{torchrun.rank()}").touch()


def remember(key: str, value: str) -> None:
    """Keep a value across restarts of the processes, until the launcher ends.

    Without a launcher that restarts, nothing is kept.
    """
    store = _lasting_store()
    if store is not None:
        store.set(key, value)


def recall(key: str) -> str | None:
    """The last value that :func:`remember` kept for the key, or None."""
    store = _lasting_store()
    return store.get(key).decode() if store is not None and store.check([key]) else None


def _lasting_store() -> dist.Store | None:
    """The launcher's own store; the part that ``torch.distributed`` uses is empty after a restart."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.PrefixStore(
        "lasting", dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30))
    )
