"""``dataset.json``: one class number or one vector of numbers for each image."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnlib.cli import plural
from dnnlib.errors import UserError
from dnnlib.untrusted import one_line, parse_json
from training.data.file_listing import LABEL_FILE, plain_name
from training.data.file_tree import FileTree

Label = int | list[float]

MAX_CLASSES = 1_000_000  #: Above, a class is most likely an id or a date.

#: Bytes of a ``dataset.json``, at most, and further bytes for each image beside it.
MAX_BYTES, MAX_BYTES_AN_IMAGE = 2**24, 2**15

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LabelFile:
    """The content of a ``dataset.json``.

    Attributes:
        labels: by :func:`matching_name` of the images.
        first: the first image's name in the file.
        where: names the file in messages.
        class_names: of the classes in order, or None. The reference ignores that key.
    """

    labels: dict[str, Label]
    first: str
    where: str
    class_names: list[str] | None

    def labels_of(self, names: Sequence[str]) -> list[Label]:
        """The labels of images in their order.

        Raises:
            UserError: one is missing, kinds are mixed, or two images' names differ only in Unicode's normal
                form.
        """
        keys = [matching_name(name) for name in names]
        twice = _first_repeated(keys)
        if twice is not None:
            raise UserError(
                f"{self.where}: two images are called '{one_line(names[twice])}', in two forms of Unicode; "
                "rename one"
            )
        missing = [name for name, key in zip(names, keys, strict=True) if key not in self.labels]
        if missing:
            raise UserError(
                f"{self.where} has no label for {len(missing)} of {len(names)} images, "
                f"'{one_line(missing[0])}' first; its own first name is '{one_line(self.first)}'. Names "
                "start at the folder that the file lies in: mend them, or do without labels (dataset_tool.py "
                "--labels=none)"
            )
        chosen = [self.labels[key] for key in keys]
        for name, label in zip(names, chosen, strict=True):
            if _kind(label) != _kind(chosen[0]):
                raise UserError(
                    f"{self.where}: the label of '{one_line(name)}' is {_kind(label)}, but that of "
                    f"'{one_line(names[0])}' is {_kind(chosen[0])}; make them alike"
                )
        return chosen

    def notes(self, names: Sequence[str]) -> list[str]:
        """A sentence about labels without an image, if there are any."""
        others = self.labels.keys() - {matching_name(name) for name in names}
        if not others:
            return []
        return [
            f"{self.where}: {plural(len(others), 'label')} for images that are not there, "
            f"'{one_line(min(others))}' first."
        ]


def read_labels(tree: FileTree) -> LabelFile | None:
    """The labels in a tree's ``dataset.json``; None without the file or without labels in it.

    The file lies at the top, or in the one folder that holds everything, as in a zip of a folder. The names
    in it are relative to its folder. Raises :class:`UserError` where its content is not of the form
    ``{"labels": [[name, class or list of numbers], ...]}``.
    """
    place = tree.listing.label_file()
    if place is None:
        return None
    folder = place[: -len(LABEL_FILE)]
    limit = MAX_BYTES + MAX_BYTES_AN_IMAGE * len(tree.image_names)
    return parse_labels(
        tree.read(place), f"'{place}' in '{one_line(str(tree.path))}'", tree.path / folder, folder, limit
    )


def parse_labels(
    content: bytes, where: str, beside: str | os.PathLike[str] = "", prefix: str = "", limit: int = MAX_BYTES
) -> LabelFile | None:
    """Parse a ``dataset.json``; None where it has no labels.

    Args:
        content: of the file.
        where: names the file in messages.
        beside: the folder of the file. Absolute names may begin with it.
        prefix: goes before the names in the file.
        limit: bytes of the file, at most.

    Raises:
        UserError: the content is too long or of another form, or a name is there twice.
    """
    document = parse_json(content, where, limit=limit, finite=False, advice="mend or remove it")
    if not isinstance(document, dict) or "labels" not in document:
        raise UserError(
            f'{where} must be of the form {{"labels": [[name, label], ...]}} or {{"labels": null}}'
        )
    entries = document["labels"]
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list):
        raise UserError(f"{where}: 'labels' must be a list of [name, label] or null")
    places = [str(place(beside)) for place in (os.path.abspath, os.path.realpath)]
    names, labels = [], []
    for number, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{where}: entry {number} of 'labels' must be [name, label], not {_shown(entry)}")
        names.append(matching_name(prefix + _relative(entry[0], places)))
        labels.append(_label(entry[1], f"{where}: the label of '{one_line(entry[0])}'"))
    twice = _first_repeated(names)
    if twice is not None:
        first, second = one_line(entries[names.index(names[twice])][0]), one_line(entries[twice][0])
        spelled = "" if first == second else f" and, as '{second}', again"
        raise UserError(
            f"{where} has '{first}'{spelled or ' twice'}; give each image one label (several classes at once "
            "are a list of numbers)"
        )
    return LabelFile(
        dict(zip(names, labels, strict=True)), entries[0][0], where, _class_names(document.get("class_names"))
    )


def matching_name(name: str) -> str:
    """The form in which names are compared: :func:`plain_name` in Unicode's normal form NFC."""
    return unicodedata.normalize("NFC", plain_name(name))


def notes_on_classes(labels: Sequence[Label | None]) -> list[str]:
    """A sentence about classes without images, if there are any; none for vectors."""
    used = class_counts(labels)
    label_dim = max(used, default=-1) + 1
    empty = label_dim - len(used)
    if not empty:
        return []
    first = next(number for number in range(label_dim) if number not in used)
    return [
        f"Class numbers go from {min(used)} to {label_dim - 1}, and {empty} of the {label_dim} classes from "
        f"0 up {'has' if empty == 1 else 'have'} no image ({first} first). Each class takes memory in G and "
        "D: number them 0, 1, 2 and so on without gaps."
    ]


def class_counts(labels: Sequence[Label | None]) -> dict[int, int]:
    """The number of images of each class, in the order of the classes; empty for vectors."""
    counts = Counter(label for label in labels if isinstance(label, int))
    return dict(sorted(counts.items()))


def label_array(labels: Sequence[Label]) -> np.ndarray:
    """Labels of one kind as int64 ``[N]`` (classes) or float32 ``[N, D]`` (vectors)."""
    return np.asarray(labels, dtype=np.int64 if isinstance(labels[0], int) else np.float32)


def _label(value: Any, what: str) -> Label:
    """Check one label. A float without a fraction is a class, as in the reference."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < MAX_CLASSES:
            raise UserError(f"{what} is {_shown(value)}; classes are numbered from 0 to below {MAX_CLASSES}")
        return value
    if isinstance(value, list) and 0 < len(value) <= MAX_CLASSES and all(_is_number(x) for x in value):
        return [float(x) for x in value]
    raise UserError(f"{what} is {_shown(value)}; it must be a whole number from 0 up or a list of numbers")


def _is_number(value: Any) -> bool:
    """Whether a value is a number that fits into float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _shown(value: Any) -> str:
    return one_line(json.dumps(value), 60)


def _class_names(value: Any) -> list[str] | None:
    """A list of text, else None: other programs may put anything under that key."""
    return value if isinstance(value, list) and all(isinstance(name, str) for name in value) else None


def _relative(name: str, places: Sequence[str]) -> str:
    """A name relative to that of ``places`` in which it lies, if any."""
    inside = (name[len(place) :] for place in places if name.startswith(place.rstrip("/") + "/"))
    return next(inside, name)


def _first_repeated(names: Sequence[str]) -> int | None:
    """The place of the first name that is there before, or None."""
    seen: set[str] = set()
    for place, name in enumerate(names):
        if name in seen:
            return place
        seen.add(name)
    return None


def _kind(label: Label) -> str:
    return "a class number" if isinstance(label, int) else f"a list of {len(label)} numbers"
