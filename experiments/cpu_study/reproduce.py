"""Run a protocol of trainings with and without GGDR at CPU scale, and report the results.

Usage:

    python experiments/cpu_study/reproduce.py --outdir=claim-runs [--jobs=2] [--hours=8]
    python experiments/cpu_study/reproduce.py --outdir=claim-runs --status
    python experiments/cpu_study/reproduce.py --outdir=claim-runs --report=docs/results

The first command may be stopped at any time, in any way, and goes on when it is given again.
docs/results/protocol.md explains the protocols.
"""

import importlib.metadata
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from dnnlib.cli import PATH, Command, FiniteFloat, friendly_errors, output_folder
from dnnlib.errors import UserError
from dnnlib.files import AppendFile, FolderLock, atomic_write
from experiments.cpu_study.protocols import PROTOCOLS, Protocol, Run
from experiments.cpu_study.run_queue import ROOT, Job, work_off
from experiments.cpu_study.runs import (
    data_path,
    find_run,
    hours_so_far,
    images_seen,
    is_due,
    measured,
    measured_up_to,
    prepare_command,
    train_command,
)


@click.command(cls=Command)
@click.argument("name", default="claim", type=click.Choice(list(PROTOCOLS)), metavar="[PROTOCOL]")
@click.option(
    "--outdir",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Where data, runs and records of all protocols go",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Trainings at a time, one thread each",
)
@click.option(
    "--data", metavar="NAME", help="Go on with this data set alone, the others later  [default: all]"
)
@click.option("--hours", type=FiniteFloat(), metavar="H", help="Stop after this time")
@click.option("--commands", is_flag=True, help="Print the command lines and stop")
@click.option("--status", is_flag=True, help="Print the progress of each run, without results, and stop")
@click.option("--report", type=PATH, metavar="DIR", help="Write tables and plots of the results, and stop")
@friendly_errors
def main(
    name: str,
    outdir: str,
    jobs: int,
    data: str | None,
    hours: float | None,
    commands: bool,
    status: bool,
    report: str | None,
) -> None:
    """Run a protocol with and without GGDR, or go on with it (docs/results/protocol.md).

    PROTOCOL is claim; weight, target, start, length or ablations, which are exploratory; or trial, which
    tries this program.

    \b
    python experiments/cpu_study/reproduce.py --outdir=claim-runs --jobs=2 --hours=8
    python experiments/cpu_study/reproduce.py --outdir=claim-runs --report=docs/results
    python experiments/cpu_study/reproduce.py weight --outdir=claim-runs
    """
    if commands + status + (report is not None) > 1:
        raise UserError("--commands, --status and --report do different things; give one of them")
    if data is not None and (commands or status or report is not None):
        raise UserError("--data says which runs to go on with; --commands, --status and --report are of all")
    if hours is not None and hours <= 0:
        raise UserError(f"--hours={hours:g} is no time; leave it out to run to the end")
    protocol, root = PROTOCOLS[name], Path(outdir).resolve()
    if data is not None and data not in protocol.data:
        raise UserError(f"protocol {name} has no data set {data}; choose one of {' '.join(protocol.data)}")
    if commands:
        click.echo("\n".join(command_lines(protocol, outdir)))
    elif status:
        check_definition(name, protocol, root, start=False)
        click.echo(status_table(protocol, root))
    elif report is not None:
        from experiments.cpu_study.report import write_report  # imports torch, which running has no use for

        check_definition(name, protocol, root, start=False)
        for path in write_report(
            name, protocol, root, output_folder(report, "--report"), command_lines(protocol, outdir)
        ):
            click.echo(f"Written: {path}")
    else:
        output_folder(root)
        with FolderLock(root, patience=0):
            execute(name, protocol, root, jobs, float("inf") if hours is None else hours * 3600, data)


def command_lines(protocol: Protocol, outdir: str) -> list[str]:
    """All command lines of a protocol, to be typed in the repository's root."""
    prepare = [
        prepare_command(images, outdir) for images in protocol.data.values() if images.source is not None
    ]
    trainings = [train_command(protocol, run, outdir, protocol.kimg) for run in protocol.runs]
    return [shlex.join(["python", *arguments]) for arguments in [*prepare, *trainings]]


def execute(
    name: str, protocol: Protocol, root: Path, workers: int, seconds: float, data: str | None = None
) -> None:
    """Make the data, then train round by round, on all data sets or on one.

    Raises:
        UserError: data can't be made, or runs failed.
        SystemExit: with status 130 after Ctrl-C.
    """
    deadline = time.monotonic() + seconds
    history = AppendFile(root / "history.jsonl")
    check_definition(name, protocol, root, start=True)
    prepare_data(protocol, str(root))
    rounds = [(run, kimg) for run, kimg in protocol.rounds if data in (None, run.data)]
    due = [(run, kimg) for run, kimg in rounds if is_due(find_run(root, run), protocol, kimg)]
    jobs = [training_job(protocol, run, kimg, root, history) for run, kimg in due]
    outcome = work_off(jobs, workers, deadline - time.monotonic(), say=lambda line: click.echo(line))
    history.close()
    click.echo(status_table(protocol, root))
    if outcome.failed:
        raise UserError(
            f"runs failed ({', '.join(outcome.failed)}); {root / 'logs'} says why, and the same command "
            "tries again"
        )
    if outcome.received is not None or outcome.out_of_time:
        click.echo("Stopped; the same command goes on")
    if outcome.received is not None and outcome.received.name == "SIGINT":
        sys.exit(130)


def training_job(protocol: Protocol, run: Run, kimg: int, root: Path, history: AppendFile) -> Job:
    """A job that trains a run up to ``kimg`` from its newest checkpoint."""

    def command() -> list[str]:
        run_dir = find_run(root, run)
        start = {
            "run": run.name,
            "from_images": images_seen(run_dir),
            "to_kimg": kimg,
            "time": time.time(),
            **program(),
        }
        history.write(json.dumps(start) + "\n")
        return train_command(protocol, run, str(root), kimg, run_dir)

    return Job(
        run.name,
        command,
        root / "logs" / f"{run.name.replace('/', '-')}.log",
        f"to {kimg} of {protocol.kimg} kimg",
    )


def prepare_data(protocol: Protocol, root: str) -> None:
    """Make the missing data sets. Raises :class:`UserError` where one can't be made."""
    for images in protocol.data.values():
        path = ROOT / data_path(images, root)
        if path.exists():
            continue
        if images.source is None or not Path(images.source).exists():
            raise UserError(
                f"there is no {images.source or path} "
                f"({images.title}){': ' * bool(images.advice)}{images.advice}"
            )
        command = prepare_command(images, root)
        click.echo(f"$ {shlex.join(['python', *command])}")
        if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
            raise UserError(f"dataset_tool.py could not make {path}")


def check_definition(name: str, protocol: Protocol, root: Path, *, start: bool) -> None:
    """Compare the protocol with its definition when its first training began; ``start`` writes the first.

    Raises:
        UserError: the definitions differ, the folder has runs of another protocol with the same names and
            other options, or the protocol was not begun and ``start`` is false.
    """
    path, now = root / f"protocol-{name}.json", protocol.as_dict()
    if path.exists():
        begun = read_definition(path)
        changed = [key for key in {**begun, **now} if begun.get(key) != now.get(key)]
        if changed:
            shown = ", ".join(f"{key}: {begun.get(key)} → {now.get(key)}" for key in changed)
            raise UserError(
                f"protocol {name} was begun in {root} with another definition ({shown}); use the program of "
                "then or a new --outdir"
            )
        return
    if not start:
        raise UserError(
            f"protocol {name} has not been begun in {root}; give the --outdir that its runs are in"
        )
    for other in sorted(root.glob("protocol-*.json")):
        theirs = read_definition(other)
        clash = [
            key
            for key in ("options", "batch", "round_kimg", "metrics", "detector")
            if theirs.get(key) != now[key]
        ]
        clash += [
            key
            for part in ("arms", "data")
            for key, value in now[part].items()
            if theirs.get(part, {}).get(key, value) != value
        ]
        if clash:
            raise UserError(
                f"{root} has runs of another protocol, {other.stem}, with other {', '.join(clash)}; give "
                "another --outdir"
            )
    with atomic_write(path, "w", encoding="utf-8") as stream:
        json.dump({"protocol": now, "time": time.time(), **program()}, stream, indent=1)


def read_definition(path: Path) -> dict[str, Any]:
    """Read the definition that :func:`check_definition` wrote. Raises :class:`UserError`."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["protocol"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); it defines the runs of this folder") from error


def program() -> dict[str, Any]:
    """The version of this program: commit, whether files differ from it, and PyTorch's version."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, or no repository
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed": bool(changes),
        "torch": importlib.metadata.version("torch"),
    }


def status_table(protocol: Protocol, root: Path) -> str:
    """A table of the progress and hours of each run, without results."""
    lines = [f"{'run':24s}{'kimg':>8s}{'of':>6s}{'snapshots measured':>20s}{'hours':>8s}"]
    done, total = 0.0, 0.0
    for run in protocol.runs:
        run_dir = find_run(root, run)
        kimg, hours = images_seen(run_dir) / 1000, hours_so_far(run_dir, protocol.kimg)
        count = f"{len(measured_up_to(measured(run_dir, protocol), protocol))} of {len(protocol.snapshots)}"
        lines.append(f"{run.name:24s}{kimg:8.1f}{protocol.kimg:6d}{count:>20s}{hours:8.2f}")
        done, total = done + min(kimg, protocol.kimg), total + hours
    whole = protocol.kimg * len(protocol.runs)
    left = (
        f", about {total / done * (whole - done):.1f} hours of one process are left"
        if 0 < done < whole
        else ""
    )
    return "\n".join([*lines, f"{done:.0f} of {whole} kimg in {total:.1f} hours{left}"])


if __name__ == "__main__":
    main()
