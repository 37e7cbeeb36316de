"""``dataset.json``: one class number or one vector of numbers for each image."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnlib.errors import UserError
from training.file_tree import FileTree

Label = int | list[float]

LABEL_FILE = "dataset.json"
MAX_CLASSES = 1_000_000  # a one-hot vector beyond this is a mistake (an id or a date taken for a class)


def read_labels(tree: FileTree) -> dict[str, Label] | None:
    """The labels in a tree's ``dataset.json`` by image name; None when there is no such file or it holds none.

    The file lies at the top, or in the one folder that holds everything (a zip made of a whole folder); the names in it
    are relative to where it lies. Raises :class:`UserError` when its content is not of the form
    ``{"labels": [[name, class or list of numbers], ...]}``.
    """
    tops = {name.split("/")[0] for name in tree.names}
    for prefix in ["", *(f"{top}/" for top in tops if len(tops) == 1)]:
        if prefix + LABEL_FILE in tree.names:
            labels = parse_labels(tree.read(prefix + LABEL_FILE), f"'{prefix}{LABEL_FILE}' in '{tree.path}'")
            return labels and {prefix + name: label for name, label in labels.items()}
    return None


def parse_labels(content: bytes, where: str) -> dict[str, Label] | None:
    """Parse the bytes of a ``dataset.json``; ``where`` names it in messages. Raises :class:`UserError`."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where} is no valid JSON: {error}; mend or remove it") from error
    if not isinstance(document, dict) or "labels" not in document:
        raise UserError(f'{where} must be of the form {{"labels": [[name, label], ...]}} or {{"labels": null}}')
    entries = document["labels"]
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list):
        raise UserError(f"{where}: 'labels' must be a list of [name, label] or null")
    labels: dict[str, Label] = {}
    for number, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{where}: entry {number} of 'labels' must be [name, label], not {json.dumps(entry)[:60]}")
        labels[entry[0].replace("\\", "/")] = _label(entry[1], f"{where}: the label of '{entry[0]}'")
    return labels


def labels_for(names: Sequence[str], labels: Mapping[str, Label], where: str) -> list[Label]:
    """The labels of ``names`` in their order. Raises :class:`UserError` when one is missing or kinds are mixed."""
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(
            f"{where} has no label for {len(missing)} of {len(names)} images, '{missing[0]}' first; add them or do without labels"
        )
    chosen = [labels[name] for name in names]
    for name, label in zip(names, chosen, strict=True):
        if _kind(label) != _kind(chosen[0]):
            raise UserError(
                f"{where}: the label of '{name}' is {_kind(label)}, but that of '{names[0]}' is {_kind(chosen[0])}; make them alike"
            )
    return chosen


def label_array(labels: Sequence[Label]) -> np.ndarray:
    """Labels of one kind as int64 ``[N]`` (classes) or float32 ``[N, D]`` (vectors)."""
    return np.asarray(labels, dtype=np.int64 if isinstance(labels[0], int) else np.float32)


def _label(value: Any, what: str) -> Label:
    """Check one label. A whole number written as a float counts as a class, as it does in the reference."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < MAX_CLASSES:
            raise UserError(f"{what} is {value}; classes are numbered from 0 to below {MAX_CLASSES}")
        return value
    if isinstance(value, list) and value and all(_is_number(x) for x in value):
        return [float(x) for x in value]
    raise UserError(f"{what} is {json.dumps(value)[:60]}; it must be a whole number from 0 up or a list of numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(label: Label) -> str:
    return "a class number" if isinstance(label, int) else f"a list of {len(label)} numbers"
