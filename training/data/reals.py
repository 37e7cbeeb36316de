"""The real images that a network's images are compared with."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

from dnnlib.cli import print_notes
from dnnlib.errors import UserError
from dnnlib.untrusted import one_line
from training.config.schema import IMAGES
from training.data.dataset import ImageFolderDataset
from training.data.file_tree import split_zip
from training.data.paired import is_paired


class ImageNetwork(Protocol):
    """A generator or a discriminator: the size of its images in pixels, their channels, and its labels'."""

    img_resolution: int
    img_channels: int
    c_dim: int


def open_images(path: str, **options: Any) -> ImageFolderDataset:
    """A folder or zip of images alone, with the options of :class:`ImageFolderDataset`.

    Notes on standard error say which files are left out.

    Raises:
        UserError: as from the data set, and for a paired one, whose annotations are no images.
    """
    if is_paired(path):
        raise UserError(f"'{path}' has images and annotations; give {os.path.join(path, IMAGES)}")
    dataset = ImageFolderDataset(path, **options)
    print_notes(dataset.notes())
    return dataset


def open_reals(
    training_set_kwargs: Mapping[str, Any] | None,
    data: str | None,
    network: ImageNetwork,
    *,
    labels: bool = True,
) -> ImageFolderDataset:
    """All images of ``data``, or of the network's training set, as the reference's metrics take them.

    There is no subset and there are no mirrored copies, whatever the training used.

    Args:
        training_set_kwargs: what the network pickle says of its training set.
        data: a folder or zip in its place.
        network: the images must have its size.
        labels: read the labels if the network takes any.

    Raises:
        UserError: no data set is known, it isn't there, or its images are of another size.
    """
    path = (training_set_kwargs or {}).get("path") if data is None else data
    if not path:
        raise UserError("this network pickle does not say what it was trained on; give --data")
    if data is None and not split_zip(path)[0].exists():
        raise UserError(
            f"'{one_line(path)}', which the network was trained on, is not there; say where it is with --data"
        )
    dataset = open_images(path, resolution=network.img_resolution, use_labels=labels and network.c_dim > 0)
    if dataset.num_channels != network.img_channels:
        channels = "1 channel" if dataset.num_channels == 1 else f"{dataset.num_channels} channels"
        raise UserError(f"the images in '{path}' have {channels}, the network's {network.img_channels}")
    return dataset
