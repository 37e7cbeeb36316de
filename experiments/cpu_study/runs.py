"""The runs of a protocol on disk: command lines, progress and measured values. It imports no torch."""

from pathlib import Path

from dnnlib.errors import UserError
from experiments.cpu_study.protocols import Images, Protocol, Run
from metrics.results import read_results, snapshot_kimg
from training.config.run_directory import images_in_state, state_paths
from training.run.records import tick_means

#: Values over kimg.
Curve = dict[int, float]
TICKS_A_ROUND = 5


def data_path(images: Images, outdir: str) -> str:
    """Where a data set is, relative to the repository's root unless ``outdir`` is absolute."""
    return images.path.replace("{data}", f"{outdir}/data")


def prepare_command(images: Images, outdir: str) -> list[str]:
    """The arguments after ``python`` that make a data set that has a source."""
    return [
        "dataset_tool.py",
        f"--source={images.source}",
        f"--dest={data_path(images, outdir)}",
        *images.convert,
    ]


def train_command(
    protocol: Protocol, run: Run, outdir: str, kimg: int, going_on: Path | None = None
) -> list[str]:
    """The arguments after ``python`` that train a run up to ``kimg``.

    They continue the run directory ``going_on`` where it is given.
    """
    return [
        "train.py",
        f"--outdir={outdir}/{run.name}",
        f"--data={data_path(protocol.data[run.data], outdir)}",
        *protocol.arms[run.arm],
        f"--seed={run.seed}",
        *protocol.options,
        f"--batch={protocol.batch}",
        f"--tick={protocol.round_kimg / TICKS_A_ROUND:g}",
        f"--snap={TICKS_A_ROUND}",
        f"--metrics={','.join(protocol.metrics)}",
        f"--detector={protocol.detector}",
        "--keep-snapshots=last:2,best",
        f"--kimg={kimg}",
        *([] if going_on is None else [f"--continue={going_on}"]),
    ]


def find_run(outdir: Path, run: Run) -> Path | None:
    """The directory of a run that has a checkpoint, or None.

    Raises:
        UserError: several directories have one.
    """
    found = sorted(path for path in (outdir / run.name).glob("[0-9]*-*") if state_paths(path))
    if len(found) > 1:
        raise UserError(
            f"{outdir / run.name} has several runs ({', '.join(path.name for path in found)}); keep one of "
            "them there"
        )
    return found[0] if found else None


def images_seen(run_dir: Path | None) -> int:
    """Images seen at the newest checkpoint; 0 without one."""
    states = [] if run_dir is None else state_paths(run_dir)
    return images_in_state(states[0]) if states else 0


def measured(run_dir: Path | None, protocol: Protocol) -> dict[str, Curve]:
    """The protocol's metrics as the training recorded them, by value and kimg.

    Records of ``calc_metrics.py`` and of other detectors are left out.
    """
    curves: dict[str, Curve] = {}
    for record in [
        record
        for metric in protocol.metrics
        if run_dir is not None
        for record in read_results(run_dir, metric)
    ]:
        kimg = snapshot_kimg(record)
        trained = "images_seen" in record and record.get("detector") == protocol.detector
        if trained and kimg is not None:
            for name, value in record["results"].items():
                curves.setdefault(name, {})[kimg] = float(value)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def measured_up_to(curves: dict[str, Curve], protocol: Protocol) -> list[int]:
    """The protocol's snapshots at which every metric has a value."""
    return [
        kimg
        for kimg in protocol.snapshots
        if all(any(n.startswith(m) and kimg in curves[n] for n in curves) for m in protocol.metrics)
    ]


def is_due(run_dir: Path | None, protocol: Protocol, kimg: int) -> bool:
    """Whether a run has to be trained to ``kimg``, or to measure its snapshot there."""
    seen, goal = images_seen(run_dir), protocol.images_at(kimg)
    return seen < goal or (seen == goal and kimg not in measured_up_to(measured(run_dir, protocol), protocol))


def hours_so_far(run_dir: Path | None, kimg: float = float("inf")) -> float:
    """Hours of training and measuring up to a run's last tick at or before ``kimg``; 0 before the first."""
    ticks = [] if run_dir is None else [tick for tick in tick_means(run_dir) if tick["Progress/kimg"] <= kimg]
    return next((tick["Timing/total_hours"] for tick in reversed(ticks) if "Timing/total_hours" in tick), 0.0)
