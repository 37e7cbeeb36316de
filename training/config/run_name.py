"""The name of a run."""

import os

from training.config.options import TrainOptions
from training.config.presets import Recipe
from training.config.pretrained import SOURCES
from training.config.schema import DataConfig


def data_name(path: str) -> str:
    """What a data set is called in names of runs: the last part of its path, without a suffix such as
    ``.zip``."""
    return os.path.splitext(os.path.basename(os.path.abspath(path)))[0] or "data"


def describe(options: TrainOptions, data: DataConfig, recipe: Recipe) -> str:
    """The name of a run after its number: data set, recipe, and each option that was given and changes
    results.

    The parts that the reference has come first, as it spells and orders them; GGDR and a single target are
    not among them.
    """
    ggdr, seg = options.reg_type == "ggdr", options.reg_type == "seg"
    targets = options.ggdr_res if ggdr and isinstance(options.ggdr_res, tuple) else ()
    resume = (
        None
        if options.resume is None
        else "noresume"
        if options.resume == "noresume"
        else f"resume{_source(options.resume)}"
    )
    parts = [
        data_name(data.path),
        "cond" if data.use_labels else None,
        _part("subset", data.max_size),
        "mirror" if data.xflip else None,
        recipe.label,
        _part("gamma", options.gamma),
        _part("kimg", options.kimg if options.kimg is None or options.kimg % 1 else int(options.kimg)),
        _part("batch", options.batch),
        _part("batchgpu", options.batch_gpu),
        options.aug,
        _part("p", options.p),
        _part("target", options.target),
        options.augpipe,
        resume,
        _part("freezed", options.freezed),
        _part("cbase", options.cbase),
        _part("cmax", options.cmax),
        _part("map", options.map_depth),
        _part("glr", options.glr),
        _part("dlr", options.dlr),
        _part("mbstd", options.mbstd_group),
        _part("ggdrweight", options.ggdr_weight if ggdr else None),
        _part("ggdrstart", options.ggdr_start_kimg if ggdr else None),
        f"ggdrres{'+'.join(map(str, targets))}" if targets else None,
        _part("ggdrkernel", options.ggdr_kernel if ggdr else None),
        f"ggdract{options.ggdr_act}" if ggdr and options.ggdr_act else None,
        "seg" if seg else None,
        _part("segweight", options.seg_weight if seg else None),
    ]
    return "-".join(part for part in parts if part is not None)


def _source(resume: str) -> str:
    return resume if resume in SOURCES else "custom"


def _part(name: str, value: float | None) -> str | None:
    if value is None:
        return None
    return f"{name}{value}" if isinstance(value, int) else f"{name}{value:g}"
