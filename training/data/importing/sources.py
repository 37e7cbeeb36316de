"""Sources of images: a folder, a zip, an array, an LSUN database."""

import os
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from dnnlib.errors import UserError
from dnnlib.untrusted import parsing
from training.data.file_listing import LABEL_FILE
from training.data.file_tree import FileTree
from training.data.importing.archives import read_cifar10, read_mnist
from training.data.importing.lmdb_file import LmdbFile
from training.data.labels import Label, class_counts, read_labels

LabelSource = Literal["dataset.json", "subfolders", "none"]


class Source(Protocol):
    """Numbered images with optional labels. Instances can be pickled into worker processes.

    Attributes:
        labels: of all images, or None.
        class_names: of the classes in order, or None.
        notes: sentences about what is left out.
    """

    labels: list[Label] | None
    class_names: list[str] | None
    notes: list[str]

    def __len__(self) -> int: ...

    def image_name(self, index: int) -> str:
        """The image's name in messages."""

    def load(self, index: int) -> bytes | np.ndarray:
        """An image file's content, or uint8 pixels ``[H, W]`` or ``[H, W, 3]``. Raises UserError."""


def open_source(
    path: str | os.PathLike[str], labels: LabelSource | None = None, max_images: int | None = None
) -> Source:
    """Open a source of any known kind.

    Args:
        path: folder or zip of images, ``cifar-10-python.tar.gz``, MNIST ``.gz`` file, or LSUN folder.
        labels: their source; None takes what is there.
        max_images: subfolder classes keep their shares of this many images. Other sources ignore it.

    Raises:
        UserError: the path is missing, of no known kind or without images, or the labels are missing.
    """
    place = Path(path)
    if place.is_dir() and (place / "data.mdb").is_file():
        return _without_folders(LmdbSource(place), place, labels)
    if place.is_file() and place.name.lower().endswith((".tar.gz", ".tgz")):
        return _without_folders(ArraySource(*read_cifar10(place)), place, labels)
    if place.is_file() and place.suffix.lower() == ".gz":
        return _without_folders(ArraySource(*read_mnist(place, with_labels=labels != "none")), place, labels)
    if place.is_file() and place.suffix.lower() != ".zip" and not zipfile.is_zipfile(place):
        raise UserError(
            f"'{path}' is no source that is known: give a folder or zip of images, cifar-10-python.tar.gz, "
            "an MNIST *-images-idx3-ubyte.gz or an LSUN lmdb folder"
        )
    return TreeSource(FileTree(place), labels, max_images)


class TreeSource:
    """The images of a folder or zip, ordered by name."""

    def __init__(self, tree: FileTree, labels: LabelSource | None, max_images: int | None = None) -> None:
        self.tree = tree
        inner = (tree.path / name for name in tree.names if name.endswith(("idx3-ubyte.gz", ".mdb")))
        self.names = tree.require_images(
            next((f"is the source '{path}'?" for path in inner), "give a folder or zip that does")
        )
        self.class_names: list[str] | None = None
        self.notes = tree.note()
        self.labels: list[Label] | None = self._find_labels(labels)
        if labels == "subfolders" and max_images is not None and self.labels is not None:
            kept = share_of_each_class(self.labels, max_images)
            self.names, self.labels = [self.names[i] for i in kept], [self.labels[i] for i in kept]

    def __len__(self) -> int:
        return len(self.names)

    def image_name(self, index: int) -> str:
        """As for any source."""
        return f"'{self.names[index]}' in '{self.tree.path}'"

    def load(self, index: int) -> bytes:
        """The content of an image file."""
        return self.tree.read(self.names[index])

    def _find_labels(self, labels: LabelSource | None) -> list[Label] | None:
        if labels == "none":
            return None
        if labels == "subfolders":
            numbers, self.class_names = subfolder_labels(self.names, str(self.tree.path))
            return numbers
        found = read_labels(self.tree)
        if found is not None:
            self.class_names = found.class_names
            self.notes += found.notes(self.names)
            return found.labels_of(self.names)
        if labels is not None:
            raise UserError(
                f"'{self.tree.path}' has no labels in a {LABEL_FILE}; leave --labels out or use "
                "--labels=subfolders"
            )
        return None


#: Folders of these names, in any case, hold parts of a data set and not classes.
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def subfolder_labels(names: Sequence[str], where: str) -> tuple[list[Label], list[str]]:
    """Class numbers by the first part of each name in which names differ, and the names of the classes.

    Classes have the order of their folders' names, or of the numbers if all names are whole numbers.

    Raises:
        UserError: an image lies in no folder of its own class, or the folders are parts of a data set
            (:data:`SPLITS`).
    """
    parts = [name.split("/") for name in names]
    while all(len(p) > 2 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    for name, p in zip(names, parts, strict=True):
        if len(p) < 2:
            raise UserError(
                f"--labels=subfolders: '{name}' in '{where}' lies in no subfolder; put it into the folder of "
                "its class"
            )
    folders = {p[0] for p in parts}
    if {folder.lower() for folder in folders} <= SPLITS:
        found = " and ".join(f"'{folder}'" for folder in sorted(folders))
        raise UserError(
            f"--labels=subfolders: {found} in '{where}' would be the only classes, but by their names they "
            "are parts of a data set; give the folder of one part as --source, with the folders of the "
            "classes in it"
        )
    numbers = all(re.fullmatch("[0-9]+", folder) for folder in folders)
    order = sorted(folders, key=_by_number if numbers else None)
    classes = {folder: number for number, folder in enumerate(order)}
    return [classes[p[0]] for p in parts], order


def _by_number(digits: str) -> tuple[int, str, str]:
    """A sorting key for digits as numbers of any length; ``7`` and ``07`` sort by their spelling."""
    plain = digits.lstrip("0")
    return len(plain), plain, digits


def share_of_each_class(labels: Sequence[Label], count: int) -> list[int]:
    """Places of ``count`` images, the first ones of each class, in which classes have the same shares.

    Each class has at least one image if ``count`` suffices.
    """
    totals, seen = class_counts(labels), Counter[int]()
    rank = []
    for place, label in enumerate(labels):
        assert isinstance(label, int)
        rank.append((seen[label] / totals[label], place))
        seen[label] += 1
    return sorted(place for _, place in sorted(rank)[:count])


class ArraySource:
    """Images in memory, uint8 ``[N, H, W]`` or ``[N, H, W, 3]``."""

    def __init__(self, path: Path, images: np.ndarray, labels: Sequence[int] | None) -> None:
        self.path = path
        self.images = images
        self.labels: list[Label] | None = None if labels is None else list(labels)
        self.class_names: list[str] | None = None
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        """As for any source."""
        return f"image {index} of '{self.path}'"

    def load(self, index: int) -> np.ndarray:
        """The pixels of an image."""
        return self.images[index]


class LmdbSource:
    """An LSUN database: image files by key, in the order of the keys."""

    labels: list[Label] | None = None
    class_names: list[str] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        with parsing(f"'{path}'", "is no lmdb database that can be read", "get it anew"):
            self._file = LmdbFile(path / "data.mdb")
        if not self._file.keys:
            raise UserError(f"the database '{path}' holds no images")

    def __len__(self) -> int:
        return len(self._file.keys)

    def image_name(self, index: int) -> str:
        """As for any source."""
        return f"'{self._file.keys[index].decode('ascii', 'replace')}' in '{self.path}'"

    def load(self, index: int) -> bytes:
        """The content of an image file."""
        with parsing(self.image_name(index)):
            return self._file.read(index)


def _without_folders(source: Source, path: Path, labels: LabelSource | None) -> Source:
    if labels in ("dataset.json", "subfolders"):
        raise UserError(
            f"--labels={labels} is for a folder or zip of images; '{path}' brings its own labels if it has "
            "any"
        )
    if labels == "none":
        source.labels = None
    return source
