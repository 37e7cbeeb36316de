"""From options to a running training: look at the data, check what can be checked, make the run directory, go.

torch is imported inside the functions, so that ``train.py --help`` need not wait for it.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dnnlib.errors import UserError
from training.config import DataConfig, TrainConfig

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset


def inspect_data(path: str, *, cond: bool, subset: int | None, mirror: bool, seed: int) -> tuple[DataConfig, bool]:
    """Look at a data set without decoding it: its configuration, and whether it has labels (used or not).

    ``subset`` is how many images to keep, None for all. Raises :class:`UserError` for data that cannot be trained on.
    """
    from training.dataset import ImageFolderDataset

    source = ImageFolderDataset(path, use_labels=cond, memory_budget_mb=0)
    available = source.num_images
    if subset is not None and not 1 <= subset <= available:
        raise UserError(f"--subset={subset} must lie between 1 and {available}, the number of images in '{path}'")
    max_size = subset if subset is not None and subset < available else None
    data = DataConfig(
        path=os.path.abspath(path),
        resolution=source.resolution,
        num_channels=source.num_channels,
        label_dim=source.label_dim if cond else 0,
        num_images=(max_size or available) * (2 if mirror else 1),
        use_labels=cond,
        max_size=max_size,
        xflip=mirror,
        random_seed=seed,
    )
    return data, source.has_labels


def open_dataset(data: DataConfig) -> ImageFolderDataset:
    """The data set that a configuration describes. Raises :class:`UserError` where it no longer looks like that."""
    from training.dataset import ImageFolderDataset

    dataset = ImageFolderDataset(
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
            raise UserError(f"'{data.path}' has changed: {name} is {found}, but the configuration says {getattr(data, name)}")
    return dataset


def start(config: TrainConfig, outdir: str) -> Path:
    """Train, in a new run directory under ``outdir``; returns that directory when the training is over.

    Raises :class:`UserError` for whatever is wrong with the configuration on this machine. A run directory that nothing
    was written to by then, because a detector or a network pickle proved unusable, is removed again.
    """
    check_machine(config)
    if config.resume is not None:
        check_file("--resume", config.resume)
    dataset = open_dataset(config.data)

    from training.training_loop import run

    run_dir = make_run_dir(outdir, config.description)
    try:
        run(config, run_dir, dataset)
    except BaseException:
        with contextlib.suppress(OSError):  # only an empty directory goes
            run_dir.rmdir()
        raise
    return run_dir


def check_machine(config: TrainConfig) -> None:
    """Raises :class:`UserError` where this machine, or this version, cannot run the configuration."""
    if config.runtime.gpus > 1:
        raise UserError(f"--gpus={config.runtime.gpus}: training in several processes is not supported yet; use --gpus=1")
    from torch_utils.device import pick_device

    pick_device(config.runtime.device)


def check_file(option: str, path: str) -> None:
    """Raises :class:`UserError` unless ``path``, given by ``option``, is a file."""
    if not os.path.isfile(path):
        state = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{option}={path} {state}; give the path of a network pickle")


def make_run_dir(outdir: str, description: str) -> Path:
    """Make ``outdir/NNNNN-description`` with the next free number, and ``outdir`` if need be. Raises :class:`UserError`."""
    root = Path(outdir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(match[0]) for name in os.listdir(root) if (match := re.match(r"\d+(?=-|$)", name)) is not None]
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
        raise UserError(f"cannot make a run directory in --outdir={outdir}: {error.strerror}; give a folder that can be written") from error
