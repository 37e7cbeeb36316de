"""What happens beside the steps: statistics, checkpoints, snapshots, metrics."""

import contextlib
from dataclasses import dataclass
from typing import Self

from tqdm import tqdm

from dnnlib.errors import UserError
from dnnlib.files import writing
from dnnlib.interrupt import Interrupted
from metrics.in_training import measure_snapshot
from metrics.results import best_snapshot
from torch_utils import distributed
from torch_utils.parallel import on_rank0
from training.config.continuation import going_on_advice
from training.config.keep_policy import KeepPolicy
from training.run.checkpoints import Checkpoints
from training.run.health import CHECK_INTERVAL, MemoryMeter, health_statistics
from training.run.records import unmeasured
from training.run.replicas import check_agreement
from training.run.reporting import SampleGrid, loss_line, single_values, status_line, warn
from training.run.session import Session


@dataclass
class Ticks:
    """Reports, keeps and measures a run. Every rank calls the methods; rank 0 alone writes.

    Attributes:
        session: the run.
        grid: the images that are shown.
        checkpoints: of the state.
        memory: of this process.
        overdue: a snapshot was left out, and is taken at the next tick.
    """

    session: Session
    grid: SampleGrid
    checkpoints: Checkpoints
    memory: MemoryMeter
    overdue: bool = False

    @classmethod
    def begin(cls, session: Session) -> Self:
        """Save the first pictures of a new run; measure the last snapshot of one that was stopped before."""
        state, config, dataset = session.state, session.state.config, session.dataset
        grid = SampleGrid.draw(dataset, config.data.resolution, config.generator.z_dim, config.seed)
        if state.steps == 0 and distributed.is_rank0():
            with writing(session.run_dir):
                grid.save_reals(session.run_dir / "reals.png")
                grid.save_fakes(
                    session.run_dir / "fakes_init.png", state.G_ema, state.device, config.microbatch
                )
        checkpoints = Checkpoints(state, session.run_dir, on_rank0(dataset.identity, "reading the data"))
        ticks = cls(session, grid, checkpoints, MemoryMeter(state.device))
        ticks.measure()
        return ticks

    def stop_if_signalled(self) -> int:
        """The signal that came on any rank before the first step, after a checkpoint; 0 for none.

        It may come while a snapshot is measured. No step may then change the weights before that is done.
        """
        (received,) = distributed.maxima([self.session.interrupt.received or 0], "the first step")
        if received:
            self.checkpoints.save(required=True)
        return received

    def save_if_due(self) -> int:
        """Write a checkpoint where one is due on rank 0, or a signal came on any rank. Gives that, or 0."""
        received, due = distributed.maxima(
            [self.session.interrupt.received or 0, self.checkpoints.due], f"step {self.session.state.steps}"
        )
        if received or due:
            self.checkpoints.save(required=received > 0)
        return received

    def check_health(self) -> None:
        """Every few steps, stop a run whose gradients stay infinite. Raises :class:`UserError`."""
        state = self.session.state
        if state.config.upkeep.on_nonfinite == "stop" and state.steps % CHECK_INTERVAL == 0:
            state.health.check(state.images_seen)

    def end_tick(self, bar: tqdm) -> None:
        """Report the tick that just ended; take a snapshot and measure it where that is due.

        A run that was stopped right after its last tick only makes up for the snapshot.
        """
        state, schedule = self.session.state, self.session.state.config.schedule
        last = state.images_seen >= schedule.total_images
        due = last or self.overdue or state.tick % schedule.snapshot_ticks == 0
        if state.images_seen > state.tick_start:
            self._report(bar)
            state.begin_tick()
        reason = self.checkpoints.unsound() if due and not last else None
        self.overdue = reason is not None
        if reason is not None:
            warn(f"no snapshot is taken here: {reason}; it is made up for at a later tick")
        elif due:
            self._take_snapshot(required=last)
            self.measure()
            on_rank0(self._prune, "removing snapshots")
        state.timer.begin_tick()
        bar.reset()

    def measure(self) -> None:
        """Measure the pending snapshot, if there is one, and record the results.

        A metric that fails is reported, and training goes on. A signal ends the measurement at once; with
        several ranks it only keeps one from starting. The snapshot then stays pending, and the continued run
        measures it.
        """
        session, state = self.session, self.session.state
        if state.pending is None:
            return
        config = state.config.metrics
        names = on_rank0(
            lambda: unmeasured(session.run_dir, config.names, state.images_seen),
            "looking for earlier results",
        )
        if any(distributed.maxima([session.interrupt.raised], "whether to measure")):
            return
        # A rank that left in the middle would keep the others waiting.
        alone = distributed.world_size() == 1
        try:
            with session.interrupt.at_once() if alone else contextlib.nullcontext():
                values = measure_snapshot(
                    names,
                    snapshot=session.run_dir / state.pending,
                    run_dir=session.run_dir,
                    generator=state.G_ema,
                    dataset=session.reals,
                    mirror=state.config.data.xflip,
                    detector=config.detector,
                    device=state.device,
                    images_seen=state.images_seen,
                    reported=session.unavailable,
                )
        except Interrupted:
            return
        if session.log is not None:
            scalars = {f"Metrics/{name}": value for name, value in values.items()}
            session.log.write_scalars(scalars, state.images_seen)
        state.pending = None

    def _report(self, bar: tqdm) -> None:
        state, log = self.session.state, self.session.log
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
        if log is not None:
            log.write({**summaries, **single_values(values)}, state.images_seen)
        bar.clear()
        print(status_line(state.tick, state.images_seen, values, p), flush=True)
        bar.set_postfix_str(loss_line(summaries, state.objective.main_losses), refresh=False)

    def _take_snapshot(self, *, required: bool) -> None:
        """Write networks and pictures, then a checkpoint, in which the snapshot has yet to be measured."""
        session, state = self.session, self.session.state
        check_agreement(state)
        failure = on_rank0(self._write_snapshot, "writing the snapshot")
        if failure is None:
            state.pending, state.snapshot_at = state.snapshot_name, state.images_seen
            if state.pending not in state.snapshots:
                state.snapshots = [*state.snapshots, state.pending]
        elif required:
            raise UserError(f"{failure}; make room, and {going_on_advice(session.run_dir)}")
        else:
            warn(f"{failure}; training goes on without this one")
        self.checkpoints.save(required=required)

    def _write_snapshot(self) -> str | None:
        """Returns why it cannot be written, or None."""
        state, run_dir = self.session.state, self.session.run_dir
        try:
            state.save_snapshot(run_dir)
            picture = run_dir / f"fakes{state.images_seen // 1000:06d}.png"
            self.grid.save_fakes(picture, state.G_ema, state.device, state.config.microbatch)
        except OSError as error:
            return f"cannot write the snapshot {run_dir / state.snapshot_name} ({error.strerror})"
        return None

    def _prune(self) -> None:
        """Remove those of this run's snapshots that ``--keep-snapshots`` does not keep."""
        state, run_dir = self.session.state, self.session.run_dir
        policy = KeepPolicy.parse(state.config.upkeep.keep_snapshots)
        if policy is None:
            return
        try:
            best = best_snapshot(run_dir, state.config.metrics.names[0]) if policy.best else None
        except UserError as error:
            warn(f"no snapshot is removed, since nothing tells which is the best: {error}")
            return
        for name in policy.superfluous(state.snapshots, None if best is None else best.name):
            with contextlib.suppress(OSError):  # one that can't be removed harms nothing
                (run_dir / name).unlink(missing_ok=True)
