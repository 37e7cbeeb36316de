"""Run trainings one after another, or some at a time, and let them save when they have to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnnlib.interrupt import InterruptFlag, end_with_parent

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: of the run; two jobs of one name never run at the same time.
        command: returns the arguments after ``python``; called when the job starts.
        log: file to which its output is appended.
        goal: for people.
    """

    name: str
    command: Callable[[], list[str]]
    log: Path
    goal: str


#: A job's process, and the job.
Running = tuple[subprocess.Popen[bytes], Job]


@dataclass
class Outcome:
    """How a queue ended.

    Attributes:
        received: the signal that ended it, or None.
        out_of_time: the time was over before all jobs were done.
        failed: exit statuses of failed jobs by name.
    """

    received: signal.Signals | None = None
    out_of_time: bool = False
    failed: dict[str, int] = field(default_factory=dict)


def work_off(
    jobs: Sequence[Job], workers: int = 1, seconds: float = float("inf"), say: Callable[[str], None] = print
) -> Outcome:
    """Run jobs in order, ``workers`` at a time, until all are done, the time is over, or a signal comes.

    To end, it sends SIGTERM to the running jobs, upon which a training finishes its step and saves, and waits
    for them. A second Ctrl-C kills them and raises :class:`KeyboardInterrupt`. They get SIGTERM too when this
    process is killed. After a failure, later jobs of the same name are left out.
    """
    outcome, waiting = Outcome(), list(jobs)
    running: dict[str, Running] = {}
    deadline = time.monotonic() + seconds
    with InterruptFlag(announce=False) as interrupt, _none_outlives(running):
        stopping = False
        while True:
            late = time.monotonic() >= deadline
            if not (late or interrupt.raised):
                _start_jobs(waiting, running, workers, say)
            if not running:
                outcome.received, outcome.out_of_time = interrupt.received, late and bool(waiting)
                return outcome
            if (late or interrupt.raised) and not stopping:
                stopping = True
                say(f"Stopping {', '.join(running)}; everything is saved (Ctrl-C to end it at once)")
                for process, _ in running.values():
                    process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            _collect(waiting, running, outcome.failed, say, stopping=stopping)


def _start_jobs(
    waiting: list[Job], running: dict[str, Running], workers: int, say: Callable[[str], None]
) -> None:
    """Start waiting jobs whose names are not running, as long as there are free workers."""
    while len(running) < workers:
        job = next((job for job in waiting if job.name not in running), None)
        if job is None:
            return
        waiting.remove(job)
        say(f"{time.strftime('%H:%M:%S')}  {job.name}: {job.goal}")
        running[job.name] = (_start(job), job)


def _collect(
    waiting: list[Job],
    running: dict[str, Running],
    failed: dict[str, int],
    say: Callable[[str], None],
    *,
    stopping: bool,
) -> None:
    """Take jobs that ended from ``running``; put interrupted ones back and record failures."""
    for process, job in list(running.values()):
        status = process.poll()
        if status is None:
            continue
        del running[job.name]
        if stopping and status in (0, -signal.SIGTERM):  # SIGTERM ends a job that had not begun
            waiting.append(job)  # the next call finds out whether it was finished
        elif status:
            failed[job.name] = status
            waiting[:] = [other for other in waiting if other.name != job.name]
            now = time.strftime("%H:%M:%S")
            say(f"{now}  {job.name}: failed with status {status}; see the end of {job.log}")


@contextlib.contextmanager
def _none_outlives(running: dict[str, Running]) -> Iterator[None]:
    try:
        yield
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()


def _start(job: Job) -> "subprocess.Popen[bytes]":
    """Start a job with one thread, in a session of its own: Ctrl-C reaches it through this process alone."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as stream:
        return subprocess.Popen(
            [sys.executable, *job.command()],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGTERM),
        )
