"""What lies where in a run directory, by name. Nothing here imports torch."""

import re
from pathlib import Path

OPTIONS_FILE = "training_options.json"

#: Names of network pickles and of run states; what is named otherwise is not the run's.
SNAPSHOT_PATTERN = r"network-snapshot-([0-9]{6,15})\.pkl"
_SNAPSHOT = re.compile(SNAPSHOT_PATTERN)
_STATE = re.compile(r"training-state-([0-9]{10,18})\.pt")


def snapshot_name(images_seen: int) -> str:
    """``network-snapshot-NNNNNN.pkl``, N being thousands of images seen."""
    return f"network-snapshot-{images_seen // 1000:06d}.pkl"


def snapshot_paths(run_dir: Path) -> list[Path]:
    """The network pickles of a run, the oldest first."""
    return sorted(path for path in run_dir.glob("network-snapshot-*.pkl") if _SNAPSHOT.fullmatch(path.name))


def state_path(run_dir: Path, images_seen: int) -> Path:
    """Where the run state after so many images is kept."""
    return run_dir / f"training-state-{images_seen:010d}.pt"


def state_paths(run_dir: Path) -> list[Path]:
    """The run states of a run, the newest first, whole or not. A folder is none, whatever its name."""
    named = (
        path
        for path in run_dir.glob("training-state-*.pt")
        if _STATE.fullmatch(path.name) and not path.is_dir()
    )
    return sorted(named, key=images_in_state, reverse=True)


def images_in_state(path: Path) -> int:
    """After how many images a run state was written, by its name. Raises :class:`ValueError` for another
    file's."""
    found = _STATE.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not named like a run state")
    return int(found[1])
