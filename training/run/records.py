"""The records of a run, ``stats.jsonl`` and ``metric-*.jsonl``: reading them, and rewinding them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from dnnlib.checked import Count, Real, accepted
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.json_lines import Line, read_lines, read_records
from metrics.results import ValueName, results_path, results_paths
from training.run.reporting import warn

STATISTICS = "stats.jsonl"


class Statistic(TypedDict):
    """What is read of a statistic."""

    mean: Real


#: A line of ``stats.jsonl``: statistics by name, and the time.
Tick = dict[ValueName, Statistic | Real]

#: The place of a tick in a run.
Placed = TypedDict("Placed", {"Progress/kimg": Statistic})
Numbered = TypedDict("Numbered", {"Progress/tick": Statistic})


class Measured(TypedDict):
    """The place in a run of a snapshot that training measured."""

    images_seen: Count


def tick_means(run_dir: Path) -> Iterator[dict[str, float]]:
    """The means of every tick's statistics by name, oldest first. ``Progress/kimg`` is always among them.

    A line that is not a tick, as after a kill, is left out with a warning. Raises :class:`UserError` when the
    file can't be read.
    """
    for tick in read_records(run_dir / STATISTICS, Tick, "statistics"):
        if accepted(tick, Placed):
            yield {name: float(value["mean"]) for name, value in tick.items() if isinstance(value, dict)}


def rewind(run_dir: Path, *, tick: int, images_seen: int) -> list[str]:
    """Drop the records that a killed run wrote after its checkpoint: the run will write them again.

    These are all ticks from ``tick`` on, all metrics of snapshots taken after ``images_seen`` images, and
    lines that were cut off. Files are replaced as a whole. A file of metrics that can't be read is left alone
    with a warning.

    Returns:
        one line for each file that was changed.

    Raises:
        UserError: the statistics can't be read; they are as they were.
        OSError: a file can't be written; it is as it was.
    """

    def earlier_tick(record: Any) -> bool:
        return not accepted(record, Numbered) or record["Progress/tick"]["mean"] < tick

    def earlier_metric(record: Any) -> bool:
        return not accepted(record, Measured) or record["images_seen"] <= images_seen

    changed = [_filter(run_dir / STATISTICS, earlier_tick)]
    for path in results_paths(run_dir):
        try:
            changed.append(_filter(path, earlier_metric))
        except UserError as error:
            warn(f"{error}; it is left as it is")
    return [line for line in changed if line is not None]


def unmeasured(run_dir: Path, metrics: Sequence[str], images_seen: int) -> list[str]:
    """The metrics that training has not recorded for the snapshot after ``images_seen`` images.

    A file that can't be read counts as empty, with a warning.
    """
    return [name for name in metrics if not _recorded(results_path(run_dir, name), images_seen)]


def _recorded(path: Path, images_seen: int) -> bool:
    try:
        return any(_whole(line) and line.value.get("images_seen") == images_seen for line in read_lines(path))
    except UserError as error:
        warn(f"{error}; the metric is measured again")
        return False


def _filter(path: Path, keep: Callable[[Any], bool]) -> str | None:
    lines = list(read_lines(path)) if path.is_file() else []
    kept = [line.content for line in lines if _whole(line) and keep(line.value)]
    if len(kept) == len(lines):
        return None
    with atomic_write(path) as stream:
        stream.writelines(kept)
    dropped = len(lines) - len(kept)
    return f"{path.name}: dropped {dropped} of {len(lines)} records, which the run will write again"


def _whole(line: Line) -> bool:
    return isinstance(line.value, dict) and line.content.endswith(b"\n")
