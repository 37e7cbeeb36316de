"""Where images come from: a folder, a zip, an array, an LSUN database."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from dnnlib.errors import UserError
from dnnlib.untrusted import parsing
from training.dataset_import.archives import read_cifar10, read_mnist
from training.dataset_import.lmdb_file import LmdbFile
from training.file_tree import FileTree
from training.labels import LABEL_FILE, Label, labels_for, read_labels

LabelSource = Literal["dataset.json", "subfolders", "none"]


class Source(Protocol):
    """Numbered images with optional labels. Instances can be pickled into worker processes."""

    labels: Sequence[Label] | None

    def __len__(self) -> int: ...

    def image_name(self, index: int) -> str:
        """How messages call the image."""

    def load(self, index: int) -> bytes | np.ndarray:
        """An image file's content, or pixels: uint8 ``[H, W]`` or ``[H, W, 3]``. Raises :class:`UserError`."""


def open_source(path: str | os.PathLike[str], labels: LabelSource | None = None) -> Source:
    """Find out what ``path`` is and open it; ``labels`` says where labels come from (None: from where they are, if at all).

    Raises :class:`UserError` when the path is missing, holds no images or is of no known kind, or the labels aren't there.
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
    return TreeSource(FileTree(place), labels)


class TreeSource:
    """The images of a folder or zip, ordered by name."""

    def __init__(self, tree: FileTree, labels: LabelSource | None) -> None:
        self.tree = tree
        self.names = tree.image_names
        if not self.names:
            hint = next((f"; is the source '{tree.path / name}'?" for name in tree.names if name.endswith(("idx3-ubyte.gz", ".mdb"))), "")
            raise UserError(f"'{tree.path}' holds no images{hint or '; give a folder or zip that does'}")
        self.labels: Sequence[Label] | None = self._find_labels(labels)

    def __len__(self) -> int:
        return len(self.names)

    def image_name(self, index: int) -> str:
        return f"'{self.names[index]}' in '{self.tree.path}'"

    def load(self, index: int) -> bytes:
        return self.tree.read(self.names[index])

    def _find_labels(self, labels: LabelSource | None) -> list[Label] | None:
        if labels == "none":
            return None
        if labels == "subfolders":
            return subfolder_labels(self.names, str(self.tree.path))
        found = read_labels(self.tree)
        if found is not None:
            return labels_for(self.names, found, f"{LABEL_FILE} in '{self.tree.path}' (--labels=none ignores it)")
        if labels is not None:
            raise UserError(f"'{self.tree.path}' has no labels in a {LABEL_FILE}; leave --labels out or use --labels=subfolders")
        return None


def subfolder_labels(names: Sequence[str], where: str) -> list[Label]:
    """Class numbers by the first part of each name in which names differ, numbered in sorted order of the folders.

    Raises :class:`UserError` when an image lies in no folder of its own class.
    """
    parts = [name.split("/") for name in names]
    while all(len(p) > 2 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    for name, p in zip(names, parts, strict=True):
        if len(p) < 2:
            raise UserError(f"--labels=subfolders: '{name}' in '{where}' lies in no subfolder; put it into the folder of its class")
    classes = {folder: number for number, folder in enumerate(sorted({p[0] for p in parts}))}
    return [classes[p[0]] for p in parts]


class ArraySource:
    """Images in memory: ``images`` is uint8 ``[N, H, W]`` or ``[N, H, W, 3]``."""

    def __init__(self, path: Path, images: np.ndarray, labels: Sequence[int] | None) -> None:
        self.path = path
        self.images = images
        self.labels: Sequence[Label] | None = labels

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        return f"image {index} of '{self.path}'"

    def load(self, index: int) -> np.ndarray:
        return self.images[index]


class LmdbSource:
    """An LSUN database: image files by key, in the order of the keys."""

    labels: Sequence[Label] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with parsing(f"'{path}'", "is no lmdb database that can be read", "get it anew"):
            self._file = LmdbFile(path / "data.mdb")
        if not self._file.keys:
            raise UserError(f"the database '{path}' holds no images")

    def __len__(self) -> int:
        return len(self._file.keys)

    def image_name(self, index: int) -> str:
        return f"'{self._file.keys[index].decode('ascii', 'replace')}' in '{self.path}'"

    def load(self, index: int) -> bytes:
        with parsing(self.image_name(index)):
            return self._file.read(index)


def _without_folders(source: Source, path: Path, labels: LabelSource | None) -> Source:
    if labels in ("dataset.json", "subfolders"):
        raise UserError(f"--labels={labels} is for a folder or zip of images; '{path}' brings its own labels if it has any")
    if labels == "none":
        source.labels = None
    return source
