"""Names of the files in a run directory."""

import re
from pathlib import Path

OPTIONS_FILE = "training_options.json"

#: Names of snapshots and of checkpoints. A file of another name is not the run's.
SNAPSHOT_PATTERN = r"network-snapshot-([0-9]{6,15})\.pkl"
_SNAPSHOT = re.compile(SNAPSHOT_PATTERN)
_STATE = re.compile(r"training-state-([0-9]{10,18})\.pt")


def snapshot_name(images_seen: int) -> str:
    """``network-snapshot-NNNNNN.pkl``, where N is thousands of images seen."""
    return f"network-snapshot-{images_seen // 1000:06d}.pkl"


def snapshot_paths(run_dir: Path) -> list[Path]:
    """The snapshots of a run, the oldest first."""
    return sorted(path for path in run_dir.glob("network-snapshot-*.pkl") if _SNAPSHOT.fullmatch(path.name))


def state_path(run_dir: Path, images_seen: int) -> Path:
    """The path of the checkpoint after a number of images."""
    return run_dir / f"training-state-{images_seen:010d}.pt"


def state_paths(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, the newest first, whole or damaged. A folder is none, whatever its name."""
    named = (
        path
        for path in run_dir.glob("training-state-*.pt")
        if _STATE.fullmatch(path.name) and not path.is_dir()
    )
    return sorted(named, key=images_in_state, reverse=True)


def images_in_state(path: Path) -> int:
    """Images seen before a checkpoint, by its name. Raises :class:`ValueError` for another file's name."""
    found = _STATE.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not named like a checkpoint")
    return int(found[1])
