"""The records of a run, ``stats.jsonl`` and ``metric-*.jsonl``: what they say of a place in it, and back to that place."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dnnlib.files import atomic_write
from metrics.results import results_path

Record = dict[str, Any]


def rewind(run_dir: Path, *, tick: int, images_seen: int) -> list[str]:
    """Drop the records that a killed run wrote after the state from which it goes on; it will write them again.

    That is every tick from ``tick`` on, and every metric of a snapshot taken after ``images_seen`` images. A line that was
    cut off goes too. Files are replaced as a whole.

    Returns:
        one line for each file that was changed.

    Raises:
        OSError: a file can't be read or written; it is as it was.
    """
    changed = [_filter(run_dir / "stats.jsonl", lambda record: record["Progress/tick"]["mean"] < tick)]
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        changed.append(_filter(path, lambda record: record.get("images_seen", 0) <= images_seen))
    return [line for line in changed if line is not None]


def unmeasured(run_dir: Path, metrics: Sequence[str], images_seen: int) -> list[str]:
    """Those of the metrics which training has not recorded for the snapshot after ``images_seen`` images."""
    return [name for name in metrics if not _recorded(results_path(run_dir, name), images_seen)]


def _recorded(path: Path, images_seen: int) -> bool:
    return path.is_file() and any(record.get("images_seen") == images_seen for _, record in _records(path) if record is not None)


def _filter(path: Path, keep: Callable[[Record], bool]) -> str | None:
    if not path.is_file():
        return None
    records = _records(path)
    kept = [line for line, record in records if record is not None and _holds(keep, record)]
    if len(kept) == len(records):
        return None
    with atomic_write(path) as stream:
        stream.writelines(kept)
    return f"{path.name}: dropped {len(records) - len(kept)} of {len(records)} records, which the run will write again"


def _holds(keep: Callable[[Record], bool], record: Record) -> bool:
    try:
        return keep(record)
    except (KeyError, TypeError):  # not a record of this program
        return True


def _records(path: Path) -> list[tuple[bytes, Record | None]]:
    """Every line, with what it holds; None for one that was cut off."""
    return [(line, _parse(line)) for line in path.read_bytes().splitlines(keepends=True)]


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and line.endswith(b"\n") else None
