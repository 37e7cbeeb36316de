"""Writes checkpoints when they are due."""

import time
from collections.abc import Callable
from pathlib import Path

from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.parallel import on_rank0
from training.config.continuation import going_on_advice
from training.config.run_directory import state_path
from training.run.reporting import warn
from training.run.state import RunState
from training.run.state_file import prune_states, write_state

#: Seconds until the next attempt after a checkpoint that could not be written.
RETRY = 60.0


class Checkpoints:
    """Keeps the last two checkpoints of a run on disk.

    None is written while the gradients are not finite (:meth:`training.run.health.GradientHealth.failing`),
    unless the run ignores that: the last one on disk is then from before.

    Args:
        state: of the run.
        run_dir: where the files go.
        identity: of the data set, recorded in the file.
        clock: seconds.
    """

    def __init__(
        self, state: RunState, run_dir: Path, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = state
        self._run_dir = run_dir
        self._identity = identity
        self._clock = clock
        self._interval = state.config.upkeep.checkpoint_minutes * 60
        self._next = clock() + self._interval
        self._saved: tuple[int, str | None] | None = None

    @property
    def due(self) -> bool:
        """Whether the interval since the last checkpoint is over; rank 0's clock decides."""
        return distributed.is_rank0() and self._interval > 0 and self._clock() >= self._next

    def unsound(self) -> str | None:
        """Reason not to keep the networks as they are, or None. This waits for the device."""
        return self._state.health.failing() if self._state.config.upkeep.on_nonfinite == "stop" else None

    def save(self, *, required: bool = False) -> None:
        """Write a checkpoint now, unless the state is unsound or already saved. Every rank has to call this.

        Where it cannot be written, a warning is printed, the run can go on, the checkpoints before stay, and
        the next attempt is made soon.

        Raises:
            UserError: it cannot be written and is ``required``, because the run ends here.
        """
        here = (self._state.images_seen, self._state.pending)
        if here == self._saved:
            return
        reason = self.unsound()
        if reason is not None:
            self._next = self._clock() + min(self._interval, RETRY)
            warn(f"no checkpoint is kept here: {reason}; the one before stays")
            return
        content = {**self._state.state_dict(), "data": self._identity}
        failure = on_rank0(lambda: self._write(content), "writing the checkpoint")
        self._next = self._clock() + (self._interval if failure is None else min(self._interval, RETRY))
        if failure is None:
            self._saved = here
        elif required:
            raise UserError(f"{failure}; make room, and {going_on_advice(self._run_dir)}")
        else:
            warn(f"{failure}; training goes on, the checkpoint before stays, and it is tried again")

    def _write(self, content: dict[str, object]) -> str | None:
        """Returns why it cannot be written, or None."""
        path = state_path(self._run_dir, self._state.images_seen)
        try:
            write_state(path, content)
            prune_states(self._run_dir, path)
        except OSError as error:
            return f"cannot write the checkpoint {path} ({error.strerror})"
        return None
