"""Opens a run: all that happens between the command and the first step."""

import contextlib
import json
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from dnnlib.durations import format_duration
from dnnlib.errors import Unavailable, printable
from dnnlib.files import atomic_write, remove_temporaries, writing
from dnnlib.interrupt import InterruptFlag, StoppedInOrder
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
from training.run.records import rewind, unmeasured
from training.run.replicas import check_same_start
from training.run.reporting import RunLog
from training.run.state import RunState


@dataclass
class Session:
    """A run, ready to train. Every rank has one, and rank 0 alone writes.

    Attributes:
        state: everything that a step changes.
        run_dir: where everything goes.
        dataset: the training images.
        reals: the images that metrics compare with.
        interrupt: notes signals.
        log: statistics; None on every rank but 0.
        unavailable: messages of detectors that cannot be downloaded. Each is printed once.
    """

    state: RunState
    run_dir: Path
    dataset: ImageFolderDataset
    reals: ImageFolderDataset
    interrupt: InterruptFlag
    log: RunLog | None
    unavailable: set[str]

    def batches(self) -> Generator[ImageBatch, None, None]:
        """This rank's part of every global batch, from where the run is."""
        state, config, ranks = self.state, self.state.config, distributed.world_size()
        return image_batches(
            self.dataset,
            batch_size=config.schedule.batch_size // ranks,
            seed=config.seed,
            start=state.images_seen,
            workers=config.runtime.workers,
            pin_memory=state.device.type == "cuda",
            rank=distributed.rank(),
            world_size=ranks,
        )

    def announce(self) -> None:
        """Print what is about to train."""
        config, device, ranks = self.state.config, self.state.device, distributed.world_size()
        backend = "nccl" if device.type == "cuda" else "gloo"
        processes = f" in {ranks} processes, connected by {backend}" if ranks > 1 else ""
        print(_describe_loading(self.dataset, config.runtime.workers))
        print(f"Batch: {describe_batch(config)}")
        print(
            f"Training for {config.schedule.total_kimg:g} kimg on {device}{processes} ...",
            flush=True,
        )

    def progress_bar(self) -> tqdm:
        """A bar on standard error for the current tick; none where that is not a terminal."""
        state = self.state
        return tqdm(
            total=round(state.config.schedule.kimg_per_tick * 1000),
            initial=state.images_seen - state.tick_start,
            unit="img",
            desc="tick",
            leave=False,
            disable=None if distributed.is_rank0() else True,  # None: where it is not a terminal
            dynamic_ncols=True,
        )

    def conclude(self, received: int) -> None:
        """Print the last line.

        Args:
            received: the signal that stopped the run; 0 where it is finished.

        Raises:
            StoppedInOrder: after Ctrl-C.
        """
        state, run_dir = self.state, self.run_dir
        if not received:
            duration = format_duration(state.timer.clock() - state.timer.start)
            print(f"Finished after {duration}; everything is in {run_dir}", flush=True)
            return
        saved = state_paths(run_dir)
        advice = (
            f"the checkpoint is {saved[0].name}, go on with --continue={run_dir}"
            if saved
            else "there was no sound state to keep"
        )
        name = signal.Signals(received).name
        line = f"Stopped at {state.images_seen / 1000:g} kimg by {name}; {advice}"
        print(line, flush=True)
        if received == signal.SIGINT:
            raise StoppedInOrder(line)


@contextlib.contextmanager
def open_session(
    config: TrainConfig, run_dir: Path, dataset: ImageFolderDataset, *, metrics_required: bool
) -> Iterator[Session | None]:
    """Make the state, or restore it from the newest checkpoint in ``run_dir``, and prepare the folder.

    Gives None where the run is finished. Arguments and errors are those of
    :func:`training.training_loop.run`.
    """
    device, ops = prepare_device(config.runtime.device)
    if config.runtime.precision == "bf16":
        check_bfloat16(device)
    if device.type == "cuda":
        set_up_gpu(config)
    with contextlib.ExitStack() as stack:
        log_file = LogTee(run_dir / "log.txt") if distributed.is_rank0() else contextlib.nullcontext()
        continues = on_rank0(lambda: bool(state_paths(run_dir)), "looking for checkpoints")
        if continues:
            with writing(run_dir):  # locks the run: no other process writes a newer checkpoint meanwhile
                stack.enter_context(log_file)
            state = RunState.restore(config, device, run_dir, dataset.is_known_as)
        else:
            state = RunState.fresh(config, device)
        if state.finished and not on_rank0(lambda: _is_owed(state, run_dir), "looking for earlier results"):
            kimg = state.images_seen / 1000
            print(f"This run is finished: {kimg:g} kimg in {run_dir}; a larger --kimg goes on")
            yield None
            return
        check_same_start(state)
        reals = measured_images(config, dataset)
        unavailable = _find_unavailable(config, reals, device, required=metrics_required)
        interrupt = stack.enter_context(InterruptFlag(announce=distributed.is_rank0()))
        log = None
        with writing(run_dir):
            if not continues:
                stack.enter_context(log_file)
            if distributed.is_rank0():
                _prepare_folder(state, run_dir)
                log = stack.enter_context(RunLog(run_dir, state.images_seen))
        for message in unavailable:
            print(
                f"Warning: nothing can be measured: {message}. Training goes on without; each snapshot tries "
                "again."
            )
        print(*ops, describe_precision(config, device), describe_parameters(G=state.G, D=state.D), sep="\n")
        yield Session(state, run_dir, dataset, reals, interrupt, log, unavailable)


def set_up_gpu(config: TrainConfig) -> None:
    """Switch the search for cuDNN's fastest algorithms, and TF32, as the options say."""
    torch.backends.cudnn.benchmark = not config.runtime.nobench
    allow_tf32(allowed=config.runtime.allow_tf32)


def measured_images(config: TrainConfig, dataset: ImageFolderDataset) -> ImageFolderDataset:
    """The images that metrics compare with: all, neither subset nor mirrored, as in the reference."""
    if not config.metrics.names or (config.data.max_size is None and not config.data.xflip):
        return dataset
    # Decoded when read: statistics of the reals are cached, so that happens once or never.
    return ImageFolderDataset(
        config.data.image_path,
        resolution=config.data.resolution,
        use_labels=config.data.use_labels,
        memory_budget_mb=0,
    )


def _is_owed(state: RunState, run_dir: Path) -> bool:
    """Whether the last snapshot has yet to be measured."""
    return bool(state.pending) and bool(unmeasured(run_dir, state.config.metrics.names, state.images_seen))


def _find_unavailable(
    config: TrainConfig, reals: ImageFolderDataset, device: torch.device, *, required: bool
) -> set[str]:
    """Check that the run's metrics can be measured; the messages of detectors that cannot be downloaded.

    Raises :class:`Unavailable` in their place where metrics are ``required``, and :class:`UserError` for
    everything else that is wrong.
    """
    try:
        preflight(
            config.metrics.names, config.metrics.detector, reals, mirror=config.data.xflip, device=device
        )
    except Unavailable as error:
        if required:
            raise
        return {str(error)}
    return set()


def _prepare_folder(state: RunState, run_dir: Path) -> None:
    """Write the options; remove what a killed process wrote after the checkpoint."""
    with atomic_write(run_dir / OPTIONS_FILE, "w", encoding="utf-8") as stream:
        json.dump(state.config.to_dict(), stream, indent=2)
    stale = [f"{printable(name)}: removed, it was left half-written" for name in remove_temporaries(run_dir)]
    dropped = rewind(run_dir, tick=state.tick, images_seen=state.images_seen)
    if state.steps:
        print(f"Going on at {state.images_seen / 1000:g} kimg, tick {state.tick}, step {state.steps}")
    for line in [*stale, *dropped]:
        print(line)


def _describe_loading(dataset: ImageFolderDataset, workers: int) -> str:
    if dataset.in_memory:
        images = "the one image is" if dataset.num_images == 1 else f"all {dataset.num_images} images are"
        return f"Data: {images} decoded in memory"
    readers = f"by {workers} processes" if workers else "in this process"
    return f"Data: images are read as they are needed, {readers}"
