"""Images with their segmentation maps: two data sets of equally named files side by side."""

import os
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import UserError
from training.dataset import ImageFolderDataset
from training.file_tree import FileTree

#: In an annotation, a pixel that belongs to no class and is looked at by nothing.
UNLABELLED = 255

FOLDERS = ("images", "annotations")


class PairedDataset(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray]]):
    """``ROOT/images`` and ``ROOT/annotations``, each as ``dataset_tool.py`` writes one, with the same file names.

    Annotations are 8-bit greyscale PNG files of the images' size whose values are class numbers from 0;
    :data:`UNLABELLED` marks pixels of none. ``ROOT/images`` is a data set for training as it stands.

    Item ``i`` is ``(image, classes)``: uint8 ``[C, H, W]`` and uint8 ``[H, W]``.

    Attributes: ``path``, ``images`` (the :class:`ImageFolderDataset`), ``resolution``, ``num_channels``, and ``num_classes``,
    the largest class number of all annotations plus one. Every annotation is read at construction.
    Raises :class:`UserError` when a folder is missing, names or sizes differ, or an annotation is no class map.
    """

    def __init__(self, path: str | os.PathLike[str], resolution: int | None = None) -> None:
        self.path = os.fspath(path)
        folders = [Path(path, name) for name in FOLDERS]
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"'{folder}' is not there; a paired data set has the folders {' and '.join(FOLDERS)}")
        names, annotated = (set(FileTree(folder).image_names) for folder in folders)
        if names != annotated:
            odd = min(names ^ annotated)
            raise UserError(f"'{odd}' is in only one of {' and '.join(FOLDERS)} of '{path}'; each image needs one annotation of its name")
        self.images = ImageFolderDataset(folders[0], resolution=resolution)
        self._annotations = ImageFolderDataset(folders[1])
        if self._annotations.image_shape != [1, self.images.resolution, self.images.resolution]:
            found, size = self._annotations.image_shape, self.images.resolution
            raise UserError(
                f"the annotations in '{path}' are {found[1]}x{found[2]} with {found[0]} channels;"
                f" they must be {size}x{size} like the images, with one"
            )
        self.resolution = self.images.resolution
        self.num_channels = self.images.num_channels
        self.num_classes = 1 + max(int(classes[classes != UNLABELLED].max(initial=0)) for classes in map(self.classes, range(len(self))))
        if self.num_classes < 2:
            raise UserError(f"the annotations in '{path}' tell no two classes apart")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index][0], self.classes(index)

    def classes(self, index: int) -> np.ndarray:
        """The annotation of one item, uint8 ``[H, W]``."""
        return self._annotations[index][0][0]
