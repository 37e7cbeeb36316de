"""From options to a running training: look at the data, check what can be checked, make the run directory,
go.

torch is imported inside the functions, so that ``train.py --help`` need not wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib import torchrun
from dnnlib.errors import UserError
from training.config.continuation import check_has_state, flat, has_state, spelled
from training.config.options import as_options
from training.config.pretrained import fetch_source
from training.config.schema import IMAGES, DataConfig, TrainConfig

#: Under this name a run directory is remembered across restarts.
RUN_DIR = "run directory"

#: Processes for each core of a machine without GPU, at most.
CPU_PROCESSES = 4

#: Fields of the configuration, and options, in which the ranks may differ: where the data lie, and how many
#: processes read them.
OF_EACH_RANK = ("data.path", "data", "runtime.workers", "workers", "description")

if TYPE_CHECKING:
    from training.data.dataset import ImageFolderDataset


@contextlib.contextmanager
def among_workers(
    device: str | None, timeout: float | None = None, prepare_timeout: float | None = None
) -> Iterator[None]:
    """Where torchrun started this process, join the others for the block; elsewhere do nothing.

    Args:
        device: as in the configuration, None for ``auto``.
        timeout, prepare_timeout: seconds, None for the defaults; see :func:`torch_utils.distributed.joined`.
    """
    if not torchrun.is_worker():
        yield
        return
    import torch

    from torch_utils import distributed, elastic

    with elastic.worker(
        cuda=device != "cpu" and torch.cuda.is_available(),
        timeout=timeout or distributed.TIMEOUT,
        prepare_timeout=prepare_timeout or distributed.PREPARE_TIMEOUT,
        one_line=(UserError, click.ClickException),
    ):
        yield


def process_count(gpus: int | None) -> int | None:
    """``--gpus``, or how many processes torchrun started. Raises :class:`UserError` where they differ."""
    if not torchrun.is_worker():
        return gpus
    if gpus not in (None, torchrun.world_size()):
        raise UserError(
            f"--gpus={gpus}, but {torchrun.world_size()} processes were started; leave out --gpus under "
            "torchrun"
        )
    return torchrun.world_size()


def needs_launcher(config: TrainConfig, max_restarts: int) -> bool:
    """Whether the processes of this run have yet to be started."""
    return not torchrun.is_worker() and (config.runtime.gpus > 1 or max_restarts > 0)


def in_processes(count: int, device: str, max_restarts: int = 0, timeout: float | None = None) -> int:
    """Run this command line in so many processes, and return their exit status. Raises :class:`UserError`."""
    check_machine(count, device)

    from torch_utils import distributed, elastic

    return elastic.launch(sys.argv, count, max_restarts=max_restarts, patience=timeout or distributed.TIMEOUT)


def interrupted_run(outdir: str | None) -> Path | None:
    """The run directory of the processes before, where these were started again after a failure; None if it
    has no state yet.

    Raises :class:`UserError` for one that is not in ``outdir``: it is none that :func:`start` made.
    """
    if not torchrun.is_worker():
        return None
    from torch_utils import elastic

    recalled = elastic.recall(RUN_DIR)
    if recalled is None:
        return None
    run_dir = Path(recalled)
    if outdir is None or run_dir.is_symlink() or run_dir.parent.resolve() != Path(outdir).resolve():
        raise UserError(
            f"the processes were told to go on in {run_dir}, which is not in --outdir={outdir}; start the "
            "command again"
        )
    return run_dir if has_state(run_dir) else None


def compare_ranks(config: TrainConfig, run_dir: Path | None, *, dry_run: bool) -> None:
    """Where torchrun started this process, see that all ranks have the same program and options.

    Raises :class:`UserError`, which names the rank and the option, before anything is written.
    """
    if not torchrun.is_worker():
        return
    from training.run.replicas import check_same_options

    options = {spelled(name): value for name, value in as_options(config).items() if name not in OF_EACH_RANK}
    fields = {name: value for name, value in flat(config.to_dict()).items() if name not in OF_EACH_RANK}
    run = "a new run" if run_dir is None else f"to go on with {run_dir.resolve().name}"
    check_same_options(
        "train.py", {"the task": run, "--dry-run": dry_run, **options, **fields}, config.runtime.device
    )


def inspect_data(
    path: str,
    *,
    cond: bool,
    subset: int | None,
    mirror: bool,
    seed: int,
    annotated: bool = False,
    outdir: str | None = None,
) -> tuple[DataConfig, list[str]]:
    """Look at a data set without decoding it: its configuration, and notes about what is left out or not
    used.

    ``subset`` is how many images to keep, None for all. With ``annotated``, it is a paired data set, and its
    annotations are decoded to count their classes. Raises :class:`UserError` for data that cannot be trained
    on, and where ``outdir`` lies in it.
    """
    from training.data.dataset import ImageFolderDataset
    from training.data.paired import PairedDataset, is_paired

    if not annotated and is_paired(path):
        raise UserError(
            f"'{path}' has images and annotations; give --data={os.path.join(path, IMAGES)}, or "
            "--reg_type=seg to use both"
        )
    source = (PairedDataset if annotated else ImageFolderDataset)(path, use_labels=cond, memory_budget_mb=0)
    if outdir is not None:
        source.check_apart(outdir, "--outdir")
    available = source.num_images
    if subset is not None and not 1 <= subset <= available:
        raise UserError(
            f"--subset={subset} must lie between 1 and {available}, the number of images in '{path}'"
        )
    data = DataConfig(
        path=os.path.abspath(path),
        resolution=source.resolution,
        num_channels=source.num_channels,
        label_dim=source.label_dim if cond else 0,
        num_images=(subset or available) * (2 if mirror else 1),
        use_labels=cond,
        max_size=subset,
        xflip=mirror,
        random_seed=seed,
        annotation_classes=source.num_classes if isinstance(source, PairedDataset) else 0,
    )
    return data, [*source.notes(), *source.notes_on_unused_labels()]


def open_dataset(data: DataConfig) -> ImageFolderDataset:
    """The data set that a configuration describes. Raises :class:`UserError` where it no longer looks like
    that."""
    from training.data.dataset import ImageFolderDataset
    from training.data.paired import PairedDataset

    kind = (
        functools.partial(PairedDataset, num_classes=data.annotation_classes)
        if data.annotation_classes
        else ImageFolderDataset
    )
    dataset: ImageFolderDataset = kind(
        path=data.path,
        resolution=data.resolution,
        use_labels=data.use_labels,
        max_size=data.max_size,
        xflip=data.xflip,
        random_seed=data.random_seed,
    )
    for name, found in {
        "num_channels": dataset.num_channels,
        "label_dim": dataset.label_dim,
        "num_images": len(dataset),
    }.items():
        if found != getattr(data, name):
            raise UserError(
                f"'{data.path}' has changed: {name} is {found}, but the configuration says "
                f"{getattr(data, name)}"
            )
    return dataset


def check_same_data(dataset: ImageFolderDataset) -> None:
    """Raises :class:`UserError` unless all ranks have the same images and labels."""
    from torch_utils import distributed
    from training.run.replicas import check_same_content

    if distributed.world_size() > 1:
        check_same_content({"training data (--data) by SHA-256": dataset.identity()})


def start(config: TrainConfig, outdir: str, *, insist_on_metrics: bool = True) -> Path:
    """Train, in a new run directory under ``outdir``; returns that directory when the training is over.

    ``insist_on_metrics`` as in :func:`training.training_loop.run`. Raises :class:`UserError` for whatever is
    wrong with the configuration on this machine. A run directory that nothing was written to by then, because
    a detector or a network pickle proved unusable, is removed again.
    """
    check_machine(config.runtime.gpus, config.runtime.device)
    if config.resume is not None:
        fetch_source(config.resume)  # before anything is made; the training finds it in the cache
    dataset = open_dataset(config.data)
    check_same_data(dataset)

    from torch_utils import elastic
    from torch_utils.parallel import on_main
    from training.training_loop import run

    def place() -> str:
        run_dir = make_run_dir(outdir, config.description)
        elastic.remember(RUN_DIR, str(run_dir))
        return str(run_dir)

    run_dir = Path(on_main(place, "the run directory"))
    try:
        run(config, run_dir, dataset, insist_on_metrics=insist_on_metrics)
    except BaseException:
        with contextlib.suppress(OSError):  # only an empty directory goes
            run_dir.rmdir()
        raise
    return run_dir


def go_on(config: TrainConfig, run_dir: Path) -> Path:
    """Train on in a run directory, from its newest run state; returns it when the training is over. Raises
    :class:`UserError`."""
    check_has_state(run_dir)
    check_machine(config.runtime.gpus, config.runtime.device)
    from training.data.file_tree import check_apart

    check_apart(run_dir, config.data.image_path, "--continue")
    dataset = open_dataset(config.data)
    check_same_data(dataset)

    from training.training_loop import run

    run(config, run_dir, dataset, insist_on_metrics=False)
    return run_dir


def check_machine(gpus: int, device: str) -> None:
    """Raises :class:`UserError` where this machine has not the device, or cannot run its part of so many
    processes."""
    import torch

    from torch_utils.device import pick_device

    here = torchrun.local_world_size() or gpus
    if pick_device(device).type == "cuda":
        limit, what = torch.cuda.device_count(), "at most, one a GPU"
    else:
        limit, what = max(CPU_PROCESSES * (os.cpu_count() or 1), 8), f"at most, {CPU_PROCESSES} a core"
    if here > limit:
        asked = f"--gpus={gpus}" if here == gpus else f"{here} processes on this machine"
        raise UserError(
            f"{asked}, but this machine takes {limit} {what}; use fewer, or several machines "
            "(docs/distributed.md)"
        )


def make_run_dir(outdir: str, description: str) -> Path:
    """Make ``outdir/NNNNN-description`` with the next free number, and ``outdir`` if need be. Raises
    :class:`UserError`."""
    root = Path(outdir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [
            int(match[0]) for name in os.listdir(root) if (match := re.match(r"\d+(?=-|$)", name)) is not None
        ]
        number = max(taken, default=-1) + 1
        while True:
            run_dir = root / f"{number:05d}-{description}"
            try:
                run_dir.mkdir()
            except FileExistsError:  # another run took it just now
                number += 1
                continue
            return run_dir
    except OSError as error:
        raise UserError(
            f"cannot make a run directory in --outdir={outdir}: {error.strerror}; give a folder that can be "
            "written"
        ) from error
