"""What happens between ticks: statistics, snapshots, states, metrics."""

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from dnnlib.errors import UserError
from dnnlib.interrupt import Interrupted, InterruptFlag
from metrics.in_training import measure_snapshot
from metrics.results import best_snapshot
from torch_utils import distributed
from torch_utils.parallel import on_rank0
from training.config.continuation import going_on_advice
from training.config.keep_policy import KeepPolicy
from training.data.dataset import ImageFolderDataset
from training.run.checkpoints import Checkpoints
from training.run.health import MemoryMeter, health_statistics
from training.run.records import unmeasured
from training.run.replicas import check_agreement
from training.run.reporting import RunLog, SampleGrid, loss_line, single_values, status_line
from training.run.state import RunState


@dataclass
class Ticks:
    """Reports, keeps and measures a run. Every rank calls the methods; rank 0 alone writes.

    Attributes:
        state: of the run.
        run_dir: where everything goes.
        reals: what metrics compare with.
        grid: the images that are shown.
        log: None on every rank but 0.
        checkpoints: of the run state.
        interrupt: whether to stop.
        memory: of this process.
        unavailable: what the run was already told of detectors that cannot be had.
        overdue: a snapshot was left out and is made up for at the next tick.
    """

    state: RunState
    run_dir: Path
    reals: ImageFolderDataset
    grid: SampleGrid
    log: RunLog | None
    checkpoints: Checkpoints
    interrupt: InterruptFlag
    memory: MemoryMeter
    unavailable: set[str] = field(default_factory=set)
    overdue: bool = False

    def end_tick(self, bar: tqdm) -> None:
        """Report the tick that just ended; take a snapshot and measure it where that is due.

        A run that was stopped right after a tick, and has no more to do, only makes up for its last snapshot.
        """
        state, schedule = self.state, self.state.config.schedule
        last = state.images_seen >= schedule.total_images
        due = last or self.overdue or state.tick % schedule.snapshot_ticks == 0
        if state.images_seen > state.tick_start:
            self._report(bar)
            state.begin_tick()
        reason = self.checkpoints.unsound() if due and not last else None
        self.overdue = reason is not None
        if reason is not None and distributed.is_rank0():
            print(
                f"Warning: no snapshot is taken here: {reason}; it is made up for at a later tick",
                file=sys.stderr,
                flush=True,
            )
        if due and not self.overdue:
            self._take_snapshot(required=last)
            self.measure()
            on_rank0(self._prune, "removing snapshots")
        state.timer.begin_tick()
        bar.reset()

    def measure(self) -> None:
        """Measure the snapshot that is pending, if there is one, and record the results.

        A metric that fails is reported and training goes on. A request to stop ends this at once, or with
        several ranks keeps it from starting; the snapshot stays pending, and the run measures it when it is
        continued.
        """
        state, config = self.state, self.state.config.metrics
        if state.pending is None:
            return
        names = on_rank0(
            lambda: unmeasured(self.run_dir, config.names, state.images_seen), "looking for earlier results"
        )
        if any(distributed.maxima([self.interrupt.raised], "whether to measure")):
            return
        # Several ranks have to get through this together; one that left in the middle would keep the others
        # waiting.
        stopping = contextlib.nullcontext() if distributed.world_size() > 1 else self.interrupt.at_once()
        try:
            with stopping:
                values = measure_snapshot(
                    names,
                    snapshot=self.run_dir / state.pending,
                    run_dir=self.run_dir,
                    generator=state.G_ema,
                    dataset=self.reals,
                    mirror=state.config.data.xflip,
                    detector=config.detector,
                    device=state.device,
                    images_seen=state.images_seen,
                    reported=self.unavailable,
                )
        except Interrupted:
            return
        self._write_scalars({f"Metrics/{name}": value for name, value in values.items()})
        state.pending = None

    def _report(self, bar: tqdm) -> None:
        state = self.state
        p = None
        if state.pipe is not None:
            p = state.pipe.p_bound = float(state.pipe.p)
        state.stats.gather()
        summaries = state.stats.flush()
        values = {
            "Progress/tick": float(state.tick),
            "Progress/kimg": state.images_seen / 1000,
            "Progress/augment": p or 0.0,
            **state.timer.summary(state.images_seen - state.tick_start),
            **self.memory.read(),
            **health_statistics(state.health.flush(), summaries, state.objective.losses),
        }
        if self.log is not None:
            self.log.write({**summaries, **single_values(values)}, state.images_seen)
        bar.clear()
        print(status_line(state.tick, state.images_seen, values, p), flush=True)
        bar.set_postfix_str(loss_line(summaries, state.objective.main_losses), refresh=False)

    def _write_scalars(self, values: dict[str, float]) -> None:
        if self.log is not None:
            self.log.write_scalars(values, self.state.images_seen)

    def _take_snapshot(self, *, required: bool) -> None:
        """The networks, the pictures, then the run state, which says that the snapshot has yet to be
        measured."""
        state = self.state
        check_agreement(state)
        failure = on_rank0(self._write_snapshot, "writing the snapshot")
        if failure is None:
            state.pending, state.snapshot_at = state.snapshot_name, state.images_seen
            if state.pending not in state.snapshots:
                state.snapshots = [*state.snapshots, state.pending]
        elif required:
            raise UserError(f"{failure}; make room, and {going_on_advice(self.run_dir)}")
        elif distributed.is_rank0():
            print(f"Warning: {failure}; training goes on without this one", file=sys.stderr, flush=True)
        self.checkpoints.save(required=required)

    def _write_snapshot(self) -> str | None:
        state = self.state
        try:
            state.save_snapshot(self.run_dir)
            picture = self.run_dir / f"fakes{state.images_seen // 1000:06d}.png"
            self.grid.save_fakes(picture, state.G_ema, state.device, state.config.microbatch)
        except OSError as error:
            return f"cannot write the snapshot {self.run_dir / state.snapshot_name} ({error.strerror})"
        return None

    def _prune(self) -> None:
        """Remove the snapshots that ``--keep-snapshots`` does not keep; only those that this run took."""
        state = self.state
        policy = KeepPolicy.parse(state.config.upkeep.keep_snapshots)
        if policy is None:
            return
        try:
            best = best_snapshot(self.run_dir, state.config.metrics.names[0]) if policy.best else None
        except UserError as error:
            print(
                f"Warning: no snapshot is removed, since nothing tells which is the best: {error}",
                file=sys.stderr,
                flush=True,
            )
            return
        for name in policy.superfluous(state.snapshots, None if best is None else best.name):
            with contextlib.suppress(OSError):  # one that can't be removed harms nothing
                (self.run_dir / name).unlink(missing_ok=True)
