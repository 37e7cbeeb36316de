"""Between data on a disk and their description in a configuration.

torch is imported inside the functions, so that command lines need not wait for it.
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
