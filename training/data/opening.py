"""From data on a disk to their description in a configuration, and back.

The functions import torch themselves, so that command lines need not wait for it.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from dnnlib.errors import UserError
from training.config.schema import IMAGES, DataConfig

if TYPE_CHECKING:
    from training.data.dataset import ImageFolderDataset


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
    """Describe a data set without decoding it: its configuration, and notes on what is left out or not used.

    Args:
        path: folder or zip.
        cond: use the labels.
        subset: how many images to keep; None keeps all.
        mirror: add mirrored copies.
        seed: draws the subset.
        annotated: it is a paired data set. Its annotations are decoded to count their classes.
        outdir: must not lie in the data set; None checks nothing.

    Raises:
        UserError: the data cannot be trained on, or ``outdir`` lies in it.
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
    """The data set that a configuration describes. Raises :class:`UserError` where it has changed."""
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
