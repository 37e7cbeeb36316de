"""Trainings one after another, or some at a time, that end in good order when they are asked to."""

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
        name: of what it works on; two jobs of one name never run at the same time.
        command: makes the arguments after ``python``, when the job's turn has come.
        log: where its output is appended to.
        goal: what it leads to, for people.
    """

    name: str
    command: Callable[[], list[str]]
    log: Path
    goal: str


@dataclass
class Outcome:
    """How a queue ended.

    Attributes:
        received: the signal that ended it, or None.
        out_of_time: whether its time was over before its jobs were.
        failed: names and exit statuses of jobs that failed.
    """

    received: signal.Signals | None = None
    out_of_time: bool = False
    failed: dict[str, int] = field(default_factory=dict)


def work_off(
    jobs: Sequence[Job], workers: int = 1, seconds: float = float("inf"), say: Callable[[str], None] = print
) -> Outcome:
    """Run jobs in their order, ``workers`` at a time, until all are done, the time is over, or a signal
    comes.

    When it has to end, the running ones get SIGTERM, upon which a training finishes its step and saves its
    state, and are waited for. A second Ctrl-C kills them and raises :class:`KeyboardInterrupt`; SIGTERM
    reaches them too when this process is killed. After a failure the other names' jobs go on; the later ones
    of that name are left out.
    """
    outcome, waiting = Outcome(), list(jobs)
    running: dict[str, tuple[subprocess.Popen[bytes], Job]] = {}
    deadline = time.monotonic() + seconds
    with InterruptFlag(announce=False) as interrupt, _none_outlives(running):
        asked = False
        while True:
            late = time.monotonic() >= deadline
            while not (late or interrupt.raised) and len(running) < workers:
                job = next((job for job in waiting if job.name not in running), None)
                if job is None:
                    break
                waiting.remove(job)
                say(f"{time.strftime('%H:%M:%S')}  {job.name}: {job.goal}")
                running[job.name] = (_start(job), job)
            if not running:
                outcome.received, outcome.out_of_time = interrupt.received, late and bool(waiting)
                return outcome
            if (late or interrupt.raised) and not asked:
                asked = True
                say(f"Stopping {', '.join(running)}; everything is saved (Ctrl-C to end it at once)")
                for process, _ in running.values():
                    process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            for process, job in list(running.values()):
                status = process.poll()
                if status is None:
                    continue
                del running[job.name]
                if asked and status in (
                    0,
                    -signal.SIGTERM,
                ):  # whether it was finished shows next time; -15: it had not begun
                    waiting.append(job)
                elif status:
                    outcome.failed[job.name] = status
                    waiting = [other for other in waiting if other.name != job.name]
                    say(
                        f"{time.strftime('%H:%M:%S')}  {job.name}: failed with status {status}; see the end "
                        f"of {job.log}"
                    )


@contextlib.contextmanager
def _none_outlives(running: dict[str, tuple[subprocess.Popen[bytes], Job]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()


def _start(job: Job) -> "subprocess.Popen[bytes]":
    """A process in a session of its own, so that Ctrl-C reaches it only through this one, with one thread."""
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
