"""The training loop: sequence only. What a step computes is in ``objective.py``, what it changes in
``checkpoint.py``."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from dnnlib.durations import format_duration
from dnnlib.errors import Unavailable, UserError, printable
from dnnlib.files import atomic_write, remove_temporaries, writing
from dnnlib.interrupt import Interrupted, InterruptFlag, StoppedInOrder
from dnnlib.log import LogTee
from metrics.runner import preflight
from torch_utils import distributed
from torch_utils.device import allow_tf32, check_bfloat16, prepare_device
from torch_utils.parallel import on_rank0
from training.build import describe_parameters, describe_precision
from training.config.notes import describe_batch
from training.config.run_directory import OPTIONS_FILE, state_paths
from training.config.schema import TrainConfig
from training.data.batches import ImageBatch, image_batches
from training.data.dataset import ImageFolderDataset
from training.phases import Phase, Reals, accumulate, build_phases, clean, optimize, reduce
from training.run.checkpoints import Checkpoints
from training.run.health import CHECK_INTERVAL, MemoryMeter
from training.run.records import rewind, unmeasured
from training.run.replicas import check_same_start
from training.run.reporting import RunLog, SampleGrid
from training.run.state import RunState
from training.run.ticks import Ticks

#: Seconds that a rank which others wait for gives its next batch after a signal.
PATIENCE = 20.0


def run(
    config: TrainConfig, run_dir: Path, dataset: ImageFolderDataset, *, metrics_required: bool = True
) -> None:
    """Train as ``config`` says and leave everything in ``run_dir``, or go on from the newest run state that
    is there.

    Returns when the schedule has ended, and after a signal other than Ctrl-C, when the current step is
    finished and the run state is saved.

    Args:
        metrics_required: whether a detector that cannot be downloaded is an error, or a warning.

    Raises:
        UserError: something that the user can mend, before the first step wherever possible.
        StoppedInOrder: the same after Ctrl-C.
    """
    device, paths = prepare_device(config.runtime.device)
    if config.runtime.precision == "bf16":
        check_bfloat16(device)
    if device.type == "cuda":
        set_up_gpu(config)
    with contextlib.ExitStack() as stack:
        log_file = LogTee(run_dir / "log.txt") if distributed.is_rank0() else contextlib.nullcontext()
        going_on = on_rank0(lambda: bool(state_paths(run_dir)), "looking for run states")
        if going_on:  # this locks the run, so that no other process writes a newer state while this one reads
            with writing(run_dir):
                stack.enter_context(log_file)
        state = (
            RunState.restore(config, device, run_dir, dataset.is_known_as)
            if going_on
            else RunState.fresh(config, device)
        )
        if state.finished and not on_rank0(
            lambda: is_owed(state, run_dir), "looking for what has yet to be measured"
        ):
            print(
                f"This run is finished: {state.images_seen / 1000:g} kimg in {run_dir}; a larger --kimg goes "
                "on"
            )
            return
        check_same_start(state)
        reals = measured_images(config, dataset)
        warnings, unavailable = [], set()
        try:
            preflight(
                config.metrics.names, config.metrics.detector, reals, mirror=config.data.xflip, device=device
            )
        except Unavailable as error:
            if metrics_required:
                raise
            warnings.append(
                f"Warning: nothing can be measured: {error}. Training goes on without; each snapshot tries "
                "again."
            )
            unavailable.add(str(error))
        interrupt = stack.enter_context(InterruptFlag(announce=distributed.is_rank0()))
        with writing(run_dir):
            if not going_on:
                stack.enter_context(log_file)
            if distributed.is_rank0():
                prepare_folder(state, run_dir)
            log = stack.enter_context(RunLog(run_dir, state.images_seen)) if distributed.is_rank0() else None
        print(
            "\n".join(
                [
                    *warnings,
                    *paths,
                    describe_precision(config, device),
                    describe_parameters(G=state.G, D=state.D),
                ]
            )
        )
        train(state, run_dir, dataset, reals, log, interrupt, unavailable)


def is_owed(state: RunState, run_dir: Path) -> bool:
    """Whether the last snapshot has yet to be measured."""
    return bool(state.pending) and bool(unmeasured(run_dir, state.config.metrics.names, state.images_seen))


def prepare_folder(state: RunState, run_dir: Path) -> None:
    """Write the options; clear away what a killed process wrote after the state from which this one goes
    on."""
    with atomic_write(run_dir / OPTIONS_FILE, "w", encoding="utf-8") as stream:
        json.dump(state.config.to_dict(), stream, indent=2)
    stale = [f"{printable(name)}: removed, it was left half-written" for name in remove_temporaries(run_dir)]
    dropped = rewind(run_dir, tick=state.tick, images_seen=state.images_seen)
    place = (
        [f"Going on at {state.images_seen / 1000:g} kimg, tick {state.tick}, step {state.steps}"]
        if state.steps
        else []
    )
    for line in [*place, *stale, *dropped]:
        print(line)


def measured_images(config: TrainConfig, dataset: ImageFolderDataset) -> ImageFolderDataset:
    """What metrics compare with: all images as they are, neither subset nor mirrored, as in the reference."""
    if not config.metrics.names or (config.data.max_size is None and not config.data.xflip):
        return dataset
    # Decoded when read: statistics of the reals are cached, so that happens once or never.
    return ImageFolderDataset(
        config.data.image_path,
        resolution=config.data.resolution,
        use_labels=config.data.use_labels,
        memory_budget_mb=0,
    )


def train(
    state: RunState,
    run_dir: Path,
    dataset: ImageFolderDataset,
    reals: ImageFolderDataset,
    log: RunLog | None,
    interrupt: InterruptFlag,
    unavailable: set[str],
) -> None:
    """Step until the schedule ends or a signal comes; every rank takes part, and rank 0 alone has a ``log``.

    ``unavailable`` is what was already said of detectors that cannot be had.
    """
    config, schedule, device = state.config, state.config.schedule, state.device
    grid = SampleGrid.draw(dataset, config.data.resolution, config.generator.z_dim, config.seed)
    if state.steps == 0 and distributed.is_rank0():
        with writing(run_dir):
            grid.save_reals(run_dir / "reals.png")
            grid.save_fakes(run_dir / "fakes_init.png", state.G_ema, device, config.microbatch)
    checkpoints = Checkpoints(state, run_dir, on_rank0(dataset.identity, "reading the data"))
    ticks = Ticks(state, run_dir, reals, grid, log, checkpoints, interrupt, MemoryMeter(device), unavailable)
    ticks.measure()
    phases = build_phases(state)
    ranks = distributed.world_size()
    batches = image_batches(
        dataset,
        batch_size=schedule.batch_size // ranks,
        seed=config.seed,
        start=state.images_seen,
        workers=config.runtime.workers,
        pin_memory=device.type == "cuda",
        rank=distributed.rank(),
        world_size=ranks,
    )
    print(_loading(dataset, config.runtime.workers))
    print(f"Batch: {describe_batch(config)}")
    together = (
        f" in {ranks} processes, connected by {'nccl' if device.type == 'cuda' else 'gloo'}"
        if ranks > 1
        else ""
    )
    print(f"Training for {schedule.total_kimg:g} kimg on {device}{together} ...", flush=True)
    # A signal may have come while an owed snapshot was measured: stop before a step changes the weights that
    # it is still owed for.
    (number,) = distributed.maxima([interrupt.received or 0], "the first step")
    stopped = number > 0
    if stopped:
        checkpoints.save(required=True)
    state.timer.begin_tick()
    with _progress(state) as bar, contextlib.closing(batches):
        while not state.finished and not stopped:
            if state.images_seen < schedule.total_images:
                batch = take(batches, interrupt, dataset)
                if batch is None:
                    number, stopped = interrupt.received or 0, True
                    checkpoints.save(required=True)
                    break
                step(state, phases, Reals.of(batch, dataset, device))
                bar.update(schedule.batch_size)
            if config.upkeep.on_nonfinite == "stop" and state.steps % CHECK_INTERVAL == 0:
                state.health.check(state.images_seen)
            if state.tick_is_over:
                ticks.end_tick(bar)
            number, due = distributed.maxima(
                [interrupt.received or 0, checkpoints.due], f"step {state.steps}"
            )
            stopped = number > 0
            if stopped or due:
                checkpoints.save(required=stopped)
    _say_goodbye(state, run_dir, signal.Signals(number) if stopped else None)


def take(
    batches: Iterator[ImageBatch], interrupt: InterruptFlag, dataset: ImageFolderDataset
) -> ImageBatch | None:
    """The next batch; None where a signal came first, and no other rank waits for this one.

    Raises :class:`UserError` where others do, and the batch has not come :data:`PATIENCE` seconds after the
    signal.
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
            "last run state with --continue"
        ) from error


def step(state: RunState, phases: list[Phase], reals: Reals) -> None:
    """One training step on this rank's part of the global batch."""
    for phase in phases:
        if phase.is_due(state.steps):
            run_phase(state, phase, reals)
    state.update_average()
    state.count_step()
    state.adapt_augmentation()


def run_phase(state: RunState, phase: Phase, reals: Reals) -> None:
    """Move one network by one of its phases."""
    accumulated = accumulate(state, phase, reals)
    reduce(state, phase, accumulated)
    clean(state, phase, accumulated.gradients)
    optimize(phase)


def _say_goodbye(state: RunState, run_dir: Path, received: signal.Signals | None) -> None:
    """The last line. Raises :class:`StoppedInOrder` after Ctrl-C."""
    if received is None:
        print(
            f"Finished after {format_duration(state.timer.clock() - state.timer.start)}; everything is in "
            f"{run_dir}",
            flush=True,
        )
        return
    saved = state_paths(run_dir)
    advice = (
        f"the run state is {saved[0].name}, go on with --continue={run_dir}"
        if saved
        else "there was no sound state to keep"
    )
    line = f"Stopped at {state.images_seen / 1000:g} kimg by {received.name}; {advice}"
    print(line, flush=True)
    if received == signal.SIGINT:
        raise StoppedInOrder(line)


def set_up_gpu(config: TrainConfig) -> None:
    """cuDNN's search for the fastest algorithms, and TF32, as the options say."""
    torch.backends.cudnn.benchmark = not config.runtime.nobench
    allow_tf32(allowed=config.runtime.allow_tf32)


def _loading(dataset: ImageFolderDataset, workers: int) -> str:
    if dataset.in_memory:
        shown = "the one image is" if dataset.num_images == 1 else f"all {dataset.num_images} images are"
        return f"Data: {shown} decoded in memory"
    return f"Data: images are read as they are needed, {f'by {workers} processes' if workers else 'in this process'}"


def _progress(state: RunState) -> tqdm:
    """A bar on standard error for the current tick; none where that is not a terminal."""
    total, initial = round(state.config.schedule.kimg_per_tick * 1000), state.images_seen - state.tick_start
    hidden = None if distributed.is_rank0() else True  # None: where it is not a terminal
    return tqdm(
        total=total, initial=initial, unit="img", desc="tick", leave=False, disable=hidden, dynamic_ncols=True
    )
