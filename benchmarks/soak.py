"""A training that is killed at random and started again, compared with one that is left alone.

Usage:

    python benchmarks/soak.py --outdir=soak --minutes=60 --processes=1,2

Trains on the bundled images with faults of every kind in between, up to wherever it gets in the given time;
then trains undisturbed to the same place and compares the weights. Where the number of processes was mixed,
the undisturbed run changes it at the same steps, because sums of gradients differ by roundings otherwise.
Writes ``soak.json`` and ``soak.md`` (the table of faults) to --outdir and prints the latter. The undisturbed
run takes as long again, without the restarts.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import psutil
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dnnlib.cli import PATH, Command, FiniteFloat, friendly_errors, parse_int_list  # noqa: E402
from dnnlib.durations import format_duration  # noqa: E402
from dnnlib.errors import UserError  # noqa: E402
from training.config.run_directory import state_paths  # noqa: E402
from training.run.records import tick_means  # noqa: E402
from training.run.state_file import newest_state  # noqa: E402

BATCH = 16
TRAIN = (
    "train.py",
    "--reg_type=ggdr",
    "--cfg=cifar",
    "--cbase=512",
    "--cmax=32",
    f"--batch={BATCH}",
    "--mbstd-group=8",
    "--tick=0.5",
    "--snap=8",
    "--keep-snapshots=last:2",
    "--metrics=none",
    "--workers=1",
    "--device=cpu",
    "--checkpoint-minutes=0.25",
)
#: What the networks and their optimisers consist of; compared at the end.
COMPARED = ("G", "D", "G_ema", "G_opt", "D_opt", "pipe", "ada")
PATIENCE = 120.0  # seconds for a process to start, or to end in good order


@dataclass
class Fault:
    """One end of a process that was not its own."""

    kind: str
    processes: int
    minute: float
    exit_status: int
    seconds_lost: float
    steps_lost: int
    went_on_at_step: int


@dataclass
class Soak:
    """What happened: faults, and resident memory ``(minute, GiB)`` of all processes of the training."""

    faults: list[Fault] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def minute(self) -> float:
        """Since the beginning."""
        return (time.monotonic() - self.started) / 60


class Training:
    """A running ``train.py`` with all its processes; none of them outlives the block."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdout=stream,
                stderr=stream,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._known: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.process.wait()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def resident(self) -> float:
        """GiB of resident memory of all its processes."""
        total = 0
        for process in self._family():
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # ended just now
                continue
        return total / 2**30

    def kill(self) -> None:
        """Kill all of its processes at once, as when a machine goes down.

        The ranks of a launcher have sessions of their own.
        """
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_one(self) -> None:
        """The youngest of several ranks, or the only process there is."""
        ranks = [process for process in self._family()[1:] if "train.py" in " ".join(process.cmdline())]
        (ranks[-1] if ranks else self.process).kill()

    def wait(self) -> int:
        """Until it has ended with all its processes, none of which may still write a state; its exit status.

        What does not end is killed.
        """
        family = self._family()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self.process.wait()
        for process in psutil.wait_procs(family, PATIENCE)[1]:
            process.kill()
        return status

    def _family(self) -> list[psutil.Process]:
        """Processes that were there at the last look and those that came since; orphans stay in it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            self._known |= {parent, *parent.children(recursive=True)}
        self._known = {process for process in self._known if process.is_running()}
        return sorted(self._known, key=lambda process: process.create_time())


def while_writing(training: Training, run_dir: Path) -> None:
    """Kill it while a run state is being written."""
    deadline = time.monotonic() + PATIENCE
    while training.running and time.monotonic() < deadline and not any(run_dir.glob(".training-state-*.tmp")):
        time.sleep(0.001)
    training.kill()


def with_damage(training: Training, run_dir: Path) -> None:
    """Kill it and cut off the end of the newest state, as a disk may that lost its power."""
    training.kill()
    training.wait()
    newest = state_paths(run_dir)[0]
    os.truncate(newest, newest.stat().st_size * 2 // 3)


TRUNCATED = "SIGKILL, newest state truncated"

#: How a training is ended, by the name in the table.
FAULTS: dict[str, Callable[[Training, Path], None]] = {
    "SIGKILL": lambda training, run_dir: training.kill(),
    "SIGKILL of one rank": lambda training, run_dir: training.kill_one(),
    "SIGKILL while the state is written": while_writing,
    TRUNCATED: with_damage,
    "SIGTERM": lambda training, run_dir: training.process.send_signal(signal.SIGTERM),
    "SIGINT": lambda training, run_dir: training.process.send_signal(signal.SIGINT),
    "SIGUSR1": lambda training, run_dir: training.process.send_signal(signal.SIGUSR1),
}


@click.command(cls=Command)
@click.option(
    "--outdir", type=PATH, metavar="DIR", required=True, help="where everything goes; must not exist yet"
)
@click.option(
    "--minutes",
    type=FiniteFloat(min=0.5),
    default=60.0,
    show_default=True,
    help="length of the disturbed training",
)
@click.option(
    "--every",
    type=FiniteFloat(min=1),
    default=60.0,
    show_default=True,
    help="mean seconds of training between faults",
)
@click.option(
    "--processes",
    metavar="LIST",
    default="1",
    show_default=True,
    help="numbers of processes to mix, such as 1,2",
)
@click.option(
    "--data",
    type=PATH,
    metavar="PATH",
    default=str(ROOT / "data" / "emoji32.zip"),
    help="training images  [default: the bundled ones]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="which faults, and when")
@friendly_errors
def main(outdir: str, minutes: float, every: float, processes: str, data: str, seed: int) -> None:
    """Train with random faults for a while, then undisturbed to the same place, and compare."""
    counts = parse_int_list(processes)
    if not all(1 <= count <= BATCH and BATCH % count == 0 for count in counts):
        raise UserError(
            f"--processes={processes}: the batch of {BATCH} images has to be shared out evenly among each "
            "number of processes"
        )
    root = Path(outdir).resolve()
    if root.exists():
        raise UserError(f"--outdir={outdir} exists; name a new folder")
    root.mkdir(parents=True)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job ignores Ctrl-C, and so would what it starts
    rng = random.Random(seed)
    train = [*TRAIN, f"--batch-gpu={BATCH // max(counts)}", f"--data={os.path.abspath(data)}"]
    soak = Soak()
    run_dir = disturbed(train, root, soak, minutes, every, counts, rng)
    other = undisturbed(train, root, soak.faults)
    result = {
        "minutes": minutes,
        "steps": soak.faults[-1].went_on_at_step,
        "faults": [asdict(fault) for fault in soak.faults],
        "differences": differences(run_dir, other),
        "memory_growth_of_last_half": memory_growth(other, soak.faults),
        "memory": soak.memory,
    }
    (root / "soak.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report(result)
    (root / "soak.md").write_text(text, encoding="utf-8")
    click.echo(text)


def disturbed(
    train: list[str],
    root: Path,
    soak: Soak,
    minutes: float,
    every: float,
    counts: list[int],
    rng: random.Random,
) -> Path:
    """Train with faults until the time is over; gives the run directory."""
    log, folder = root / "disturbed.log", root / "disturbed"
    arguments, run_dir = [*train, f"--outdir={folder}", "--kimg=1000000", f"--gpus={counts[0]}"], None
    while soak.minute < minutes:
        processes = counts[0] if run_dir is None else rng.choice(counts)
        if run_dir is not None:
            arguments = ["train.py", f"--continue={run_dir}", f"--gpus={processes}"]
        with Training(arguments, log) as training:
            run_dir = wait_for_progress(training, folder, 0 if run_dir is None else position(run_dir), log)
            watch(
                training,
                soak,
                time.monotonic() + min(rng.expovariate(1 / every), (minutes - soak.minute) * 60),
            )
            possible = [kind for kind in FAULTS if processes > 1 or kind != "SIGKILL of one rank"]
            if len(state_paths(run_dir)) < 2:  # one more would be left to go on from
                possible.remove(TRUNCATED)
            kind = rng.choice(possible)
            soak.faults.append(inflict(kind, training, run_dir, processes, soak.minute))
        click.echo(
            f"{soak.minute:6.1f} min  {kind}, {processes} process(es), step "
            f"{soak.faults[-1].went_on_at_step}",
            err=True,
        )
    assert run_dir is not None
    return run_dir


def inflict(kind: str, training: Training, run_dir: Path, processes: int, minute: float) -> Fault:
    """End the training in one of the ways, and see what was lost by it."""
    FAULTS[kind](training, run_dir)
    killed = time.time()
    status = training.wait()
    usable, _ = newest_state(run_dir)
    lost = max(killed - usable.stat().st_mtime, 0)
    return Fault(kind, processes, minute, status, lost, round(lost * speed(run_dir)), step_of(usable))


def undisturbed(train: list[str], root: Path, faults: list[Fault]) -> Path:
    """Train undisturbed to the last kept step, in as many processes at each; return the run directory."""
    folder = root / "undisturbed"
    begin = [*train, f"--outdir={folder}"]
    for step, processes in stretches_of(faults):
        finish([*begin, f"--gpus={processes}", f"--kimg={step * BATCH / 1000}"], root / "undisturbed.log")
        begin = ["train.py", f"--continue={next(folder.iterdir())}"]
    return next(folder.iterdir())


def stretches_of(faults: list[Fault]) -> list[tuple[int, int]]:
    """The last step and the number of processes of each stretch between two changes of that number."""
    following = [*(fault.processes for fault in faults[1:]), None]
    return [
        (f.went_on_at_step, f.processes)
        for f, after in zip(faults, following, strict=True)
        if f.processes != after
    ]


def wait_for_progress(training: Training, folder: Path, began_at: int, log: Path) -> Path:
    """Train until a state beyond the first one is written, and return the run directory.

    Raises :class:`UserError`.
    """
    deadline = time.monotonic() + PATIENCE
    while training.running and time.monotonic() < deadline:
        for run_dir in folder.glob("0*"):
            if state_paths(run_dir) and position(run_dir) > began_at:
                return run_dir
        time.sleep(0.05)
    training.kill()
    raise UserError(f"the training made no progress in {PATIENCE:g} seconds; see the end of {log}")


def watch(training: Training, soak: Soak, until: float) -> None:
    """Note the memory every two seconds."""
    while training.running and time.monotonic() < until:
        soak.memory.append((round(soak.minute, 2), round(training.resident(), 4)))
        time.sleep(min(2.0, max(until - time.monotonic(), 0)))


def position(run_dir: Path) -> int:
    """Step of the newest state."""
    return step_of(state_paths(run_dir)[0])


def step_of(path: Path) -> int:
    """By the name of a state."""
    return int(path.stem.split("-")[-1]) // BATCH


def speed(run_dir: Path) -> float:
    """Steps a second in the last tick."""
    return 1000 / BATCH / list(tick_means(run_dir))[-1]["Timing/sec_per_kimg"]


def finish(arguments: list[str], log: Path) -> None:
    """Run to the end. Raises :class:`UserError`."""
    with Training(arguments, log) as training:
        if training.process.wait() != 0:
            raise UserError(f"python {' '.join(arguments)} failed; see the end of {log}")


def differences(run_dir: Path, other: Path) -> dict[str, float]:
    """For each part of the two last states the norm of their difference, relative to the norm.

    0 where all bits are the same.
    """
    ours, theirs = (newest_state(path)[1]["parts"] for path in (run_dir, other))
    found = {}
    for name in COMPARED:
        a, b = (torch.cat(tensors(parts[name])) for parts in (ours, theirs))
        found[name] = 0.0 if torch.equal(a, b) else float((a - b).norm() / b.norm())
    return found


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested dictionaries and lists, in their order, flat and as float64."""
    if isinstance(value, torch.Tensor):
        return [value.double().flatten()]
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for part in nested for tensor in tensors(part)]


def memory_growth(run_dir: Path, faults: list[Fault]) -> float:
    """Growth of resident memory over the last half of the longest stretch in one process.

    The largest value above the smallest, as a fraction.
    """
    stretches: dict[int, list[float]] = {}
    for tick in tick_means(run_dir):
        ended = sum(step * BATCH / 1000 < tick["Progress/kimg"] for step, _ in stretches_of(faults))
        stretches.setdefault(ended, []).append(tick["Resources/cpu_mem_gb"])
    longest = max(stretches.values(), key=len)
    values = longest[len(longest) // 2 :]
    return max(values) / min(values) - 1


def report(result: dict[str, Any]) -> str:
    """The outcome as markdown."""
    faults = result["faults"]
    lines = [
        f"{format_duration(result['minutes'] * 60)} with {len(faults)} faults, {result['steps']} steps of "
        f"{BATCH} images.",
        "",
        "| minute | fault | processes | exit status | lost (s) | lost (steps, about) | went on at step |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {f['minute']:.1f} | {f['kind']} | {f['processes']} | {f['exit_status']} | "
        f"{f['seconds_lost']:.1f} | {f['steps_lost']} "
        f"| {f['went_on_at_step']} |"
        for f in faults
    ]
    different = {name: value for name, value in result["differences"].items() if value != 0}
    lines += [
        "",
        f"- Largest loss: {max((f['seconds_lost'] for f in faults), default=0):.1f} s.",
        "- Weights, averages, optimisers and p against the undisturbed run: "
        + (
            ", ".join(f"{name} differs by {value:.2g} of its norm" for name, value in different.items())
            or "bit-identical"
        )
        + ".",
        "- Resident memory over the last half of the undisturbed run's longest stretch in one process: "
        f"within {result['memory_growth_of_last_half'] * 100:.2f} %.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
