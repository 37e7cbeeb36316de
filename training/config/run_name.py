"""The name of a run."""

import os
from collections.abc import Mapping
from typing import Any

from training.config.options import OPTIONS
from training.config.presets import Preset
from training.config.schema import DataConfig


def data_name(path: str) -> str:
    """A data set's part in names of runs: the last part of its path, without a suffix such as ``.zip``."""
    return os.path.splitext(os.path.basename(os.path.abspath(path)))[0] or "data"


def describe(options: Mapping[str, Any], data: DataConfig, preset: Preset) -> str:
    """The name of a run after its number: data set, preset, and each given option that has a name part.

    Parts that the reference has come first, in its spelling and order.
    """
    parts = [
        data_name(data.path),
        "cond" if data.use_labels else None,
        None if data.max_size is None else f"subset{data.max_size}",
        "mirror" if data.xflip else None,
        preset.label,
        *(option.name_part(options.get(option.parameter)) for option in OPTIONS if option.applies(options)),
    ]
    return "-".join(part for part in parts if part is not None)
