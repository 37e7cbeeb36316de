"""Images with their segmentation maps: two data sets of equally named files side by side."""

import hashlib
import os
from typing import Any

import numpy as np

from dnnlib.errors import UserError
from training.config.schema import ANNOTATIONS, IMAGES
from training.data.dataset import ImageFolderDataset
from training.data.file_tree import FileTree, check_apart, folder_exists

#: In an annotation, a pixel of no class, which is ignored.
UNLABELLED = 255

#: Class numbers are below this. Larger ones come from antialiased masks or photographs.
MAX_CLASSES = 200

FOLDERS = (IMAGES, ANNOTATIONS)


class PairedDataset(ImageFolderDataset):
    """``ROOT/images`` and ``ROOT/annotations``, with the same file names in both.

    ``ROOT`` is a folder or a zip. Annotations are 8-bit greyscale PNG files of the images' size. Their values
    are class numbers from 0 to :data:`MAX_CLASSES` − 1; :data:`UNLABELLED` marks pixels of no class.

    It is the data set ``ROOT/images``, with its arguments, attributes and items. :meth:`classes` gives the
    annotations, and :meth:`sample` both. The memory budget is for images and for annotations each.

    Args:
        path: ``ROOT``.
        num_classes: of all annotations. None reads them all and takes the largest class number plus one.
        **options: of :class:`ImageFolderDataset`.

    Attributes:
        root: ``ROOT``.
        num_classes: of all annotations.

    Raises:
        UserError: a folder is missing, names or sizes differ, or an annotation is no class map.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int | None = None,
        *,
        use_labels: bool = False,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        self.root = os.fspath(path)
        folders = [os.path.join(path, name) for name in FOLDERS]
        for folder in folders:
            if not folder_exists(folder):
                raise UserError(
                    f"'{folder}' is not there; a paired data set has the folders {' and '.join(FOLDERS)}"
                )
        names, annotated = (set(FileTree(folder).image_names) for folder in folders)
        if names != annotated:
            odd = min(names ^ annotated)
            raise UserError(
                f"'{odd}' is in only one of {' and '.join(FOLDERS)} of '{path}'; each image needs one "
                "annotation of its name"
            )
        options["only_upright"] = True
        super().__init__(folders[0], resolution=resolution, use_labels=use_labels, **options)
        try:
            self._annotations = ImageFolderDataset(folders[1], **options)
        except UserError as error:  # dataset_tool.py would turn class numbers into colours
            raise UserError(
                f"{error} (of annotations, tools/make_paired_dataset.py keeps the class numbers)"
            ) from error
        if self._annotations.image_shape != [1, self.resolution, self.resolution]:
            found, size = self._annotations.image_shape, self.resolution
            raise UserError(
                f"the annotations in '{path}' are {found[1]}x{found[2]} with {found[0]} channels; they must "
                f"be {size}x{size} like the images, with one"
            )
        self.num_classes = MAX_CLASSES if num_classes is None else num_classes
        if num_classes is None:
            self.num_classes = 1 + max(self._largest_class(i) for i in range(self.num_images))
            if self.num_classes < 2:
                raise UserError(f"the annotations in '{path}' tell no two classes apart")

    def classes(self, index: int) -> np.ndarray:
        """The annotation of one item, uint8 ``[H, W]``, mirrored with it. Raises :class:`UserError`."""
        classes = self._annotations[index][0][0]
        if ((classes >= self.num_classes) & (classes != UNLABELLED)).any():
            name, number = self._names[index % self.num_images], classes[classes != UNLABELLED].max()
            raise UserError(
                f"'{name}' in '{self._annotations.path}' has class {number}; classes are 0 to "
                f"{self.num_classes - 1} here, and {UNLABELLED} is unlabelled"
            )
        return classes

    def sample(self, index: int) -> tuple[np.ndarray, ...]:
        """``(image, label, classes)``."""
        return *self[index], self.classes(index)

    @property
    def in_memory(self) -> bool:
        """Whether all images and annotations are decoded in memory."""
        return super().in_memory and self._annotations.in_memory

    def notes(self) -> list[str]:
        """As of any data set, of the annotations too."""
        return [*super().notes(), *self._annotations.notes()]

    def check_apart(self, output: str | os.PathLike[str], option: str) -> None:
        """Raise :class:`UserError` where an output lies in ``ROOT``, or in what is read of it."""
        check_apart(output, self.root, option)
        super().check_apart(output, option)
        self._annotations.check_apart(output, option)

    def identity(self) -> str:
        """As of any data set; the annotations count."""
        return _both(super().identity(), self._annotations.identity())

    def quick_identity(self) -> str:
        """As of any data set; the annotations count."""
        return _both(super().quick_identity(), self._annotations.quick_identity())

    def earlier_identity(self) -> str:
        """As of any data set; the annotations count."""
        return _both(super().earlier_identity(), self._annotations.earlier_identity())

    def _largest_class(self, index: int) -> int:
        classes = self.classes(index)
        return int(classes[classes != UNLABELLED].max(initial=0))


def _both(images: str, annotations: str) -> str:
    return hashlib.sha256(f"{images} {annotations}".encode()).hexdigest()


def is_paired(path: str) -> bool:
    """Whether a folder or zip has both folders of a paired data set."""
    return all(folder_exists(os.path.join(path, name)) for name in FOLDERS)
