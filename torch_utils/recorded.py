"""What files of networks and exports record beside the weights: training set, run, class and arguments."""

from collections.abc import Mapping
from typing import Any, TypedDict

from dnnlib.checked import PathText, Real, check


class RecordedData(TypedDict, total=False):
    """The parts of ``training_set_kwargs`` that are used."""

    path: PathText | None
    xflip: bool


class _Runtime(TypedDict, total=False):
    precision: str


class _Data(TypedDict, total=False):
    path: PathText
    annotation_classes: int | None


class _Config(TypedDict, total=False):
    runtime: _Runtime
    data: _Data


class RecordedInfo(TypedDict, total=False):
    """The parts of a run's ``info`` that are used."""

    kimg: Real
    config: _Config


#: A network without its tensors. A functional definition, because ``class`` is a keyword.
Described = TypedDict("Described", {"class": str, "init_kwargs": dict[str, object], "weights_sha256": str})


def check_recorded(values: Mapping[str, Any], name: str) -> None:
    """Check a file's record of its training set and its run.

    Raises :class:`dnnlib.errors.UserError`, which calls the file ``name``.
    """
    for part, hint in (("training_set_kwargs", RecordedData), ("info", RecordedInfo)):
        check(values.get(part) or {}, hint, f"{name}: {part}")
