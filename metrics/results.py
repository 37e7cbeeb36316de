"""Results of metrics, and the files that keep them: ``metric-<name>.jsonl`` in a run directory."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from dnnlib.checked import Count, FileName, PathText, Real, accepted, form
from dnnlib.durations import format_duration
from dnnlib.errors import UserError
from dnnlib.files import open_inside
from dnnlib.json_lines import read_records

# Whether less is better, by the letters that a metric's name begins with.
LESS_IS_BETTER = {"fid": True, "kid": True, "ppl": True, "is": False, "pr": False, "dc": False}

# Values are compared only where these parts of their records are the same.
CONDITIONS = ("detector", "dataset", "num_real", "mirror", "resolution")

Record = dict[str, Any]

#: The name of a value or of a statistic, such as ``pr50k3_full_recall`` and ``Loss/D/loss``.
ValueName = Annotated[str, form(r"[A-Za-z0-9_./+-]{1,100}", "the name of a value")]


class Recorded(TypedDict):
    """What this program needs of a line of ``metric-<name>.jsonl``; :meth:`MetricResult.record` has more."""

    results: dict[ValueName, Real]
    snapshot_pkl: NotRequired[PathText | None]
    images_seen: NotRequired[Count]


@dataclass(frozen=True)
class MetricResult:
    """One evaluated metric.

    ``values`` has the reference's keys (``fid50k_full``; ``pr50k3_full_precision``, ``pr50k3_full_recall``);
    ``count`` and ``num_real`` are numbers of images; ``mirror`` says whether the reals include mirrored
    copies; ``total_time`` is in seconds from the start of the evaluation that the metric was part of.
    """

    metric: str
    values: dict[str, float]
    detector: str
    count: int
    num_real: int
    seed: int
    dataset: str
    mirror: bool
    resolution: int
    total_time: float
    num_gpus: int
    timestamp: float

    def record(self, snapshot_pkl: str | None = None) -> Record:
        """A line of ``metric-<name>.jsonl``: the reference's keys, then how the value came about."""
        return {
            "results": self.values,
            "metric": self.metric,
            "total_time": self.total_time,
            "total_time_str": format_duration(self.total_time),
            "num_gpus": self.num_gpus,
            "snapshot_pkl": snapshot_pkl,
            "timestamp": self.timestamp,
            "detector": self.detector,
            "count": self.count,
            "num_real": self.num_real,
            "seed": self.seed,
            "dataset": self.dataset,
            "mirror": self.mirror,
            "resolution": self.resolution,
        }

    def json_line(self, snapshot_pkl: str | None = None) -> str:
        """:meth:`record` as JSON, without the end of the line."""
        return json.dumps(self.record(snapshot_pkl))


def results_path(run_dir: str | os.PathLike[str], metric: str) -> Path:
    """The file of one metric in a run directory."""
    return Path(run_dir) / f"metric-{metric}.jsonl"


def append_result(
    result: MetricResult,
    run_dir: str | os.PathLike[str],
    snapshot: str | os.PathLike[str],
    images_seen: int | None = None,
) -> str:
    """Append a result to ``metric-<name>.jsonl`` in a run directory. Gives the line, without its end.

    The snapshot's path is recorded relative to the run directory, as in the reference. Training records
    ``images_seen`` too, which tells a record of its own from any other, and where in the run it belongs.
    Beside the record, the line has ``best``: for each value in which more or less is better, whether none
    recorded before was as good under the same CONDITIONS. The last line that is the best so far is thus the
    best of all. A line that an earlier process left unfinished is ended first. Raises :class:`UserError` when
    the file can't be written.
    """
    path = results_path(run_dir, result.metric)
    record = result.record(os.path.relpath(snapshot, run_dir))
    if images_seen is not None:
        record["images_seen"] = images_seen
    earlier = _comparable(read_results(run_dir, result.metric), record)
    best = {
        key: all(_better(key, value, other["results"].get(key)) for other in earlier)
        for key, value in ranked(record).items()
    }
    line = json.dumps({**record, "best": best})
    try:
        with open(open_inside(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end - 1, 0))
            stream.write((b"" if stream.read(1) in (b"", b"\n") else b"\n") + line.encode() + b"\n")
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error
    return line


def read_results(run_dir: str | os.PathLike[str], metric: str) -> list[Record]:
    """The records of a metric in a run directory, oldest first; none if it was never measured.

    What is no :class:`Recorded` (a line that was cut off when a process was killed) is left out, with a
    warning on standard error. Raises :class:`UserError` when the file can't be read.
    """
    return read_records(results_path(run_dir, metric), Recorded, "result")


def results_paths(run_dir: str | os.PathLike[str]) -> list[Path]:
    """The files of all metrics in a run directory, by name."""
    return sorted(
        path
        for path in Path(run_dir).glob("metric-*.jsonl")
        if re.fullmatch(r"metric-[A-Za-z0-9_]+\.jsonl", path.name)
    )


def snapshot_kimg(record: Record) -> int | None:
    """Thousands of images that the network of a record had seen; None where it was no snapshot of a run."""
    found = re.search(r"network-snapshot-([0-9]{1,12})(?![0-9])", str(record.get("snapshot_pkl")))
    return None if found is None else int(found[1])


def snapshot_values(run_dir: str | os.PathLike[str]) -> Iterator[tuple[float, dict[str, float]]]:
    """Kimg and values of each record of a snapshot in a run directory, file by file, oldest first.

    What is no record is left out with a warning, and other networks' records silently.
    Raises :class:`UserError` as :func:`read_results` does.
    """
    for path in results_paths(run_dir):
        for record in read_results(run_dir, path.stem.removeprefix("metric-")):
            kimg = snapshot_kimg(record)
            if kimg is not None:
                yield float(kimg), {name: float(value) for name, value in record["results"].items()}


def best_snapshot(run_dir: str | os.PathLike[str], metric: str) -> Path | None:
    """The path of the snapshot with the best value of a metric in a run directory; None without such a value.

    Compared are the records of the same CONDITIONS as the last one's; of equal values the first counts. Where
    a metric has several values, the first that can be ranked decides (precision of ``pr50k3_full``). Only
    files of the run directory itself count, whatever a record names.
    Raises :class:`UserError` as :func:`read_results` does.
    """
    records = read_results(run_dir, metric)
    best: tuple[float, str] | None = None
    for record in _comparable(records, records[-1]) if records else []:
        key, value = next(iter(ranked(record).items()), ("", math.nan))
        if accepted(record.get("snapshot_pkl"), FileName) and _better(key, value, best and best[0]):
            best = value, record["snapshot_pkl"]
    return None if best is None else Path(run_dir) / best[1]


def ranked(record: Record) -> dict[str, float]:
    """The values of a record in which more or less is better.

    The standard deviation of an inception score is none.
    """
    return {
        key: value
        for key, value in record["results"].items()
        if _letters(key) in LESS_IS_BETTER and not key.endswith("_std")
    }


def _comparable(records: Sequence[Record], record: Record) -> list[Record]:
    return [other for other in records if all(other.get(name) == record.get(name) for name in CONDITIONS)]


def _better(key: str, value: float, other: float | None) -> bool:
    """Whether a value is a number and better than another one, if there is that."""
    if not math.isfinite(value):
        return False
    if other is None or not math.isfinite(other):
        return True
    return value < other if LESS_IS_BETTER[_letters(key)] else value > other


def _letters(name: str) -> str:
    found = re.match(r"[a-z]*", name)
    return found[0] if found else ""
