"""The training loop, top to bottom.

What a phase computes is in ``objective.py``, how its gradients come about in ``phases.py``, what it changes
in ``run/state.py``. ``run/session.py`` opens a run, ``run/ticks.py`` reports and measures it.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from dnnlib.errors import UserError
from dnnlib.interrupt import Interrupted, InterruptFlag
from torch_utils import distributed
from training.config.schema import TrainConfig
from training.data.batches import ImageBatch
from training.data.dataset import ImageFolderDataset
from training.phases import Phase, Reals, accumulate, build_phases, clean, optimize, reduce
from training.run.session import Session, open_session
from training.run.state import RunState
from training.run.ticks import Ticks

#: Seconds that a rank which others wait for gives its next batch after a signal.
PATIENCE = 20.0


def run(
    config: TrainConfig, run_dir: Path, dataset: ImageFolderDataset, *, metrics_required: bool = True
) -> None:
    """Train, or go on from the newest checkpoint in ``run_dir``.

    Returns when the schedule has ended. After a signal other than Ctrl-C it returns when the current step is
    finished and a checkpoint is written.

    Args:
        config: of the run.
        run_dir: an existing folder, where everything goes.
        dataset: the training images.
        metrics_required: whether a detector that cannot be downloaded is an error, or a warning.

    Raises:
        UserError: something that the user can mend, before the first step wherever possible.
        StoppedInOrder: the run was stopped by Ctrl-C, and a checkpoint is written.
    """
    with open_session(config, run_dir, dataset, metrics_required=metrics_required) as session:
        if session is not None:
            train(session)


def train(session: Session) -> None:
    """Step until the schedule ends or a signal comes. Every rank takes part."""
    state, dataset = session.state, session.dataset
    ticks = Ticks.begin(session)
    phases = build_phases(state)
    batches = session.batches()
    session.announce()
    received = ticks.stop_if_signalled()
    state.timer.begin_tick()
    with session.progress_bar() as bar, contextlib.closing(batches):
        while not (state.finished or received):
            if state.images_seen < state.config.schedule.total_images:
                batch = take(batches, session.interrupt, dataset)
                if batch is None:
                    received = ticks.save_if_due()
                    break
                step(state, phases, Reals.of(batch, dataset, state.device))
                bar.update(state.config.schedule.batch_size)
            ticks.check_health()
            if state.tick_is_over:
                ticks.end_tick(bar)
            received = ticks.save_if_due()
    session.conclude(received)


def step(state: RunState, phases: list[Phase], reals: Reals) -> None:
    """One training step on this rank's part of the global batch."""
    for phase in phases:
        if phase.is_due(state.steps):
            run_phase(state, phase, reals)
    state.update_average()
    state.count_step()
    state.adapt_augmentation()


def run_phase(state: RunState, phase: Phase, reals: Reals) -> None:
    """Train one network by one of its phases."""
    accumulated = accumulate(state, phase, reals)
    reduce(state, phase, accumulated)
    clean(state, phase, accumulated.gradients)
    optimize(phase)


def take(
    batches: Iterator[ImageBatch], interrupt: InterruptFlag, dataset: ImageFolderDataset
) -> ImageBatch | None:
    """The next batch; None where a signal comes first and no other rank waits for this one.

    Raises :class:`UserError` where others wait, and the batch does not come within :data:`PATIENCE` seconds
    after the signal.
    """
    alone = distributed.world_size() == 1
    try:
        with interrupt.within(0 if alone else PATIENCE):
            return next(batches)
    except Interrupted as error:
        if alone:
            return None
        name = signal.Signals(interrupt.received or 0).name
        raise UserError(
            f"no images came from '{dataset.path}' within {PATIENCE:g} seconds after {name}; go on from the "
            "last checkpoint with --continue"
        ) from error
