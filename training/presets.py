"""The named recipes (``--cfg``), and how a command line becomes a configuration.

Everything here is a pure function. A recipe is what a preset decides; :func:`resolve` lets the options that the
user gave override it, and :func:`explain` says what was decided without being asked.
The numbers of the recipes are those of the GGDR reference (tests/parity/test_options_golden.py). Scores in the
docstrings are from Lee et al. 2022 (GGDR): FID of 50,000 images against all training images.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from dnnlib.errors import UserError
from training.config import (
    COLOR_AUGPIPES,
    NO_PIPE,
    AugmentConfig,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    GGDRConfig,
    LossConfig,
    MetricsConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
    SegConfig,
    TrainConfig,
    UpkeepConfig,
)
from training.snapshots import KEEP_ALL
from training.transfer import SOURCES

T = TypeVar("T")

#: ``--ggdr_res`` of the reference, and the image resolution up to which a quarter of it takes the place of the default.
DEFAULT_GGDR_RES = 64

#: Kimg for p to go from 0 to 1: usually, and in transfer learning.
ADA_KIMG, ADA_KIMG_RESUME = 500, 100


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What the command line said, one field an option; None where it said nothing. Units as in training.config.

    ``--data --cond --subset --mirror`` are not here: they are in the :class:`DataConfig` of the opened data set.
    """

    cfg: str | None = None
    gpus: int | None = None
    seed: int | None = None
    snap: int | None = None
    tick: float | None = None
    metrics: tuple[str, ...] | None = None
    detector: str | None = None
    gamma: float | None = None
    kimg: float | None = None
    batch: int | None = None
    batch_gpu: int | None = None
    aug: Literal["noaug", "ada", "fixed"] | None = None
    p: float | None = None
    target: float | None = None
    augpipe: str | None = None
    resume: str | None = None
    freezed: int | None = None
    reg_type: Literal["none", "ggdr", "seg"] | None = None
    ggdr_res: int | tuple[int, ...] | None = None
    ggdr_weight: float | None = None
    ggdr_start_kimg: float | None = None
    ggdr_kernel: int | None = None
    ggdr_act: Literal["linear", "lrelu"] | None = None
    seg_weight: float | None = None
    cbase: int | None = None
    cmax: int | None = None
    map_depth: int | None = None
    glr: float | None = None
    dlr: float | None = None
    mbstd_group: int | None = None
    device: Literal["auto", "cuda", "cpu"] | None = None
    workers: int | None = None
    fp32: bool | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    nhwc: bool | None = None
    nobench: bool | None = None
    allow_tf32: bool | None = None
    checkpoint_minutes: float | None = None
    keep_snapshots: str | None = None
    on_nonfinite: Literal["stop", "ignore"] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a preset decides. ``batch_gpu`` is what one GPU takes at once; the rest accumulates."""

    label: str
    batch: int
    batch_gpu: int
    mbstd_group: int
    channel_base: int
    lr: float
    gamma: float
    ema_kimg: float
    ema_rampup: float | None
    map_layers: int
    tuned_for: int | None
    kimg: int = 25000
    pl_weight: float = 2
    style_mixing_prob: float = 0.9
    architecture: Literal["orig", "skip", "resnet"] = "resnet"


def auto(resolution: int, gpus: int) -> Recipe:
    """For a new data set: a start that works, chosen from resolution and number of GPUs; ``--gamma`` is worth tuning.

    Each GPU takes 4096 / resolution images, at most 32, and all together at most 64; γ grows with the pixels and
    falls with the batch. No published score: the papers use the fixed recipes.
    """
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return Recipe(
        label=f"auto{gpus}",
        batch=batch,
        batch_gpu=batch // gpus,
        mbstd_group=min(batch // gpus, 4),
        channel_base=32768 if resolution >= 512 else 16384,
        lr=0.002 if resolution >= 1024 else 0.0025,
        gamma=0.0002 * resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
        ema_rampup=0.05,
        map_layers=2,
        tuned_for=None,
    )


def stylegan2(resolution: int, gpus: int) -> Recipe:
    """StyleGAN2 "config F" at 1024×1024 (Karras et al. 2020, StyleGAN2): for comparisons with that paper.

    Full capacity at every resolution, so costlier than the paper recipes at 256. 8 GPUs with 4 images each.
    """
    return Recipe(
        label="stylegan2",
        batch=32,
        batch_gpu=4,
        mbstd_group=4,
        channel_base=32768,
        lr=0.002,
        gamma=10,
        ema_kimg=10,
        ema_rampup=None,
        map_layers=8,
        tuned_for=1024,
    )


def paper256(resolution: int, gpus: int) -> Recipe:
    """FFHQ, LSUN and Landscape at 256×256 in the ADA and GGDR papers. G 24.8 M parameters, D 24.0 M (25.6 M with GGDR at 64).

    Cost: 8 V100; 5.60 s without and 6.05 s with GGDR (table 4c). FID without → with GGDR: FFHQ (``--aug=noaug --mirror=1``)
    3.71 → 3.14, LSUN cat 7.98 → 5.28, horse 3.62 → 2.50, church 3.97 → 3.15; with ADA, Landscape 13.87 → 10.38 (tables 2, 3).
    """
    return Recipe(
        label="paper256",
        batch=64,
        batch_gpu=8,
        mbstd_group=8,
        channel_base=16384,
        lr=0.0025,
        gamma=1,
        ema_kimg=20,
        ema_rampup=None,
        map_layers=8,
        tuned_for=256,
    )


def paper512(resolution: int, gpus: int) -> Recipe:
    """AFHQ at 512×512 in the ADA and GGDR papers, on 8 GPUs with 8 images each.

    FID with ADA, without → with GGDR (``--mirror=1``): cat 3.55 → 2.76, dog 7.40 → 4.59, wild 3.05 → 2.06 (table 3).
    """
    return Recipe(
        label="paper512",
        batch=64,
        batch_gpu=8,
        mbstd_group=8,
        channel_base=32768,
        lr=0.0025,
        gamma=0.5,
        ema_kimg=20,
        ema_rampup=None,
        map_layers=8,
        tuned_for=512,
    )


def paper1024(resolution: int, gpus: int) -> Recipe:
    """MetFaces at 1024×1024 in the ADA paper, by transfer learning; 8 GPUs with 4 images each. Not used in the GGDR paper."""
    return Recipe(
        label="paper1024",
        batch=32,
        batch_gpu=4,
        mbstd_group=4,
        channel_base=32768,
        lr=0.002,
        gamma=2,
        ema_kimg=10,
        ema_rampup=None,
        map_layers=8,
        tuned_for=1024,
    )


def cifar(resolution: int, gpus: int) -> Recipe:
    """CIFAR-10 at 32×32: no path length, no style mixing, no residual discriminator; 2 GPUs with 32 images each.

    FID with ADA, without → with GGDR at 8×8: 2.92 ± 0.05 → 2.15 ± 0.02; inception score 9.83 → 10.02 (table 1).
    """
    return Recipe(
        label="cifar",
        batch=64,
        batch_gpu=32,
        mbstd_group=32,
        channel_base=16384,
        lr=0.0025,
        gamma=0.01,
        ema_kimg=500,
        ema_rampup=0.05,
        map_layers=2,
        tuned_for=32,
        kimg=100000,
        pl_weight=0,
        style_mixing_prob=0,
        architecture="orig",
    )


#: ``--cfg`` by name: functions of image resolution and number of GPUs.
RECIPES: dict[str, Callable[[int, int], Recipe]] = {
    "auto": auto,
    "stylegan2": stylegan2,
    "paper256": paper256,
    "paper512": paper512,
    "paper1024": paper1024,
    "cifar": cifar,
}


def resolve(options: TrainOptions, data: DataConfig) -> TrainConfig:
    """The configuration that a command line means for a data set.

    Raises :class:`UserError` for contradictions and for values out of range. Touches no file.
    """
    runtime = _runtime(options)
    recipe = _recipe(options, data.resolution, runtime.gpus)
    fp16: dict[str, Any] = {"num_fp16_res": 0, "conv_clamp": None} if runtime.fp32 else {"num_fp16_res": 4, "conv_clamp": 256}
    channels = {"channel_base": _given(options.cbase, recipe.channel_base), "channel_max": _given(options.cmax, 512)}
    resume = _resume(options.resume)
    return TrainConfig(
        data=data,
        generator=GeneratorConfig(map_layers=_given(options.map_depth, recipe.map_layers), **channels, **fp16),
        discriminator=DiscriminatorConfig(
            architecture=recipe.architecture,
            mbstd_group=_given(options.mbstd_group, recipe.mbstd_group),
            freeze_layers=_given(options.freezed, 0),
            **channels,
            **fp16,
        ),
        augment=_augment(options, transfer=resume is not None),
        loss=LossConfig(
            r1_gamma=_given(options.gamma, recipe.gamma), pl_weight=recipe.pl_weight, style_mixing_prob=recipe.style_mixing_prob
        ),
        ggdr=_ggdr(options, data.resolution),
        optim=OptimConfig(lr_G=_given(options.glr, recipe.lr), lr_D=_given(options.dlr, recipe.lr)),
        schedule=_schedule(options, recipe, runtime.gpus, transfer=resume is not None),
        runtime=runtime,
        metrics=MetricsConfig(names=_given(options.metrics, ("fid50k_full",)), detector=_given(options.detector, "auto")),
        seed=_given(options.seed, 0),
        resume=resume,
        description=describe(options, data, recipe),
        cfg=_given(options.cfg, "auto"),
        upkeep=_upkeep(options),
        seg=SegConfig(weight=_given(options.seg_weight, 1)) if options.reg_type == "seg" else None,
    )


def as_options(config: TrainConfig) -> dict[str, Any]:
    """What each option of :class:`TrainOptions`, and ``data cond subset mirror``, would say to mean a configuration.

    None for what has no meaning in it.
    """
    data, augment, ggdr, seg, optim, schedule = config.data, config.augment, config.ggdr, config.seg, config.optim, config.schedule
    runtime, upkeep = config.runtime, config.upkeep
    return dict(
        cfg=config.cfg,
        gpus=runtime.gpus,
        seed=config.seed,
        snap=schedule.snapshot_ticks,
        tick=schedule.kimg_per_tick,
        metrics=config.metrics.names,
        detector=config.metrics.detector,
        gamma=config.loss.r1_gamma,
        kimg=schedule.total_kimg,
        batch=schedule.batch_size,
        batch_gpu=schedule.batch_gpu,
        aug=augment.mode,
        p=augment.initial_p if augment.mode == "fixed" else None,
        target=augment.target,
        augpipe=None if augment.mode == "noaug" else augment.pipe,
        resume=config.resume or "noresume",
        freezed=config.discriminator.freeze_layers,
        reg_type="ggdr" if ggdr is not None else "seg" if seg is not None else "none",
        ggdr_res=None if ggdr is None else ggdr.resolution,
        ggdr_weight=None if ggdr is None else ggdr.weight,
        ggdr_start_kimg=None if ggdr is None else ggdr.start_kimg,
        ggdr_kernel=None if ggdr is None else ggdr.kernel_size,
        ggdr_act=None if ggdr is None else ggdr.activation,
        seg_weight=None if seg is None else seg.weight,
        cbase=config.generator.channel_base,
        cmax=config.generator.channel_max,
        map_depth=config.generator.map_layers,
        glr=optim.lr_G,
        dlr=optim.lr_D,
        mbstd_group=config.discriminator.mbstd_group,
        device=runtime.device,
        workers=runtime.workers,
        fp32=runtime.fp32,
        precision="fp32" if runtime.fp32 else runtime.precision,
        nhwc=runtime.nhwc,
        nobench=runtime.nobench,
        allow_tf32=runtime.allow_tf32,
        checkpoint_minutes=upkeep.checkpoint_minutes,
        keep_snapshots=upkeep.keep_snapshots,
        on_nonfinite=upkeep.on_nonfinite,
        data=data.path,
        cond=data.use_labels,
        subset=data.max_size or data.num_images // (2 if data.xflip else 1),
        mirror=data.xflip,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _recipe(options: TrainOptions, resolution: int, gpus: int) -> Recipe:
    name = _given(options.cfg, "auto")
    if name not in RECIPES:
        raise UserError(f"there is no --cfg={name}; choose one of {' '.join(RECIPES)}")
    return RECIPES[name](resolution, gpus)


def _runtime(options: TrainOptions) -> RuntimeConfig:
    if None not in (options.fp32, options.precision) and options.fp32 != (options.precision == "fp32"):
        raise UserError(f"--fp32={int(bool(options.fp32))} contradicts --precision={options.precision}; leave one of them out")
    return RuntimeConfig(
        device=_given(options.device, "auto"),
        gpus=_given(options.gpus, 1),
        workers=_given(options.workers, 3),
        fp32=_given(options.fp32, options.precision == "fp32"),
        precision="bf16" if options.precision == "bf16" else "auto",
        nhwc=_given(options.nhwc, False),
        nobench=_given(options.nobench, False),
        allow_tf32=_given(options.allow_tf32, False),
    )


def _upkeep(options: TrainOptions) -> UpkeepConfig:
    return UpkeepConfig(
        checkpoint_minutes=_given(options.checkpoint_minutes, 10),
        keep_snapshots=_given(options.keep_snapshots, KEEP_ALL),
        on_nonfinite=_given(options.on_nonfinite, "stop"),
    )


def _schedule(options: TrainOptions, recipe: Recipe, gpus: int, transfer: bool) -> ScheduleConfig:
    """With ``--batch`` every GPU takes its share at once, a recipe's batch keeps the recipe's portions; ``--batch-gpu`` overrides both."""
    batch = _given(options.batch, recipe.batch)
    portion = batch // gpus if options.batch is not None else recipe.batch_gpu
    return ScheduleConfig(
        total_kimg=_given(options.kimg, recipe.kimg),
        batch_size=batch,
        batch_gpu=_given(options.batch_gpu, max(portion, 1)),
        ema_kimg=recipe.ema_kimg,
        ema_rampup=None if transfer else recipe.ema_rampup,
        kimg_per_tick=_given(options.tick, 4),
        snapshot_ticks=_given(options.snap, 50),
    )


def _augment(options: TrainOptions, transfer: bool) -> AugmentConfig:
    mode: Literal["noaug", "ada", "fixed"] = options.aug or "ada"
    if options.p is not None and mode != "fixed":
        raise UserError(f"--p={options.p:g} needs --aug=fixed; with --aug={mode} there is no p to set")
    if options.p is None and mode == "fixed":
        raise UserError("--aug=fixed needs the probability: --p=FLOAT, between 0 and 1")
    if options.target is not None and mode != "ada":
        raise UserError(f"--target={options.target:g} needs --aug=ada; with --aug={mode} nothing steers to it")
    if options.augpipe is not None and mode == "noaug":
        raise UserError(f"--augpipe={options.augpipe} contradicts --aug=noaug; leave one of them out")
    return AugmentConfig(
        mode=mode,
        pipe=NO_PIPE if mode == "noaug" else _given(options.augpipe, "bgc"),
        initial_p=_given(options.p, 0),
        target=_given(options.target, 0.6) if mode == "ada" else None,
        kimg=ADA_KIMG_RESUME if transfer else ADA_KIMG,
    )


def _ggdr(options: TrainOptions, resolution: int) -> GGDRConfig | None:
    if options.reg_type != "ggdr":
        return None
    default: int | tuple[int, ...] = DEFAULT_GGDR_RES if resolution > DEFAULT_GGDR_RES else max(resolution // 4, 8)
    return GGDRConfig(
        resolution=_given(options.ggdr_res, default),
        weight=_given(options.ggdr_weight, 10),
        start_kimg=_given(options.ggdr_start_kimg, 0),
        kernel_size=_given(options.ggdr_kernel, 1),
        activation=_given(options.ggdr_act, "linear"),
    )


def _resume(source: str | None) -> str | None:
    """What to start from; None for ``noresume`` and for no ``--resume``."""
    if source is None or source == "noresume":
        return None
    if not source:
        raise UserError("--resume is empty; give a network pickle by path or address, or leave it out")
    return source


def data_name(path: str) -> str:
    """What a data set is called in names of runs: the last part of its path, without a suffix such as ``.zip``."""
    return os.path.splitext(os.path.basename(os.path.abspath(path)))[0] or "data"


def describe(options: TrainOptions, data: DataConfig, recipe: Recipe) -> str:
    """The name of a run after its number: data set, recipe, and each option that was given and changes results.

    The parts that the reference has come first, as it spells and orders them; GGDR and a single target are not among them.
    """
    ggdr, seg = options.reg_type == "ggdr", options.reg_type == "seg"
    targets = options.ggdr_res if ggdr and isinstance(options.ggdr_res, tuple) else ()
    resume = None if options.resume is None else "noresume" if options.resume == "noresume" else f"resume{_source(options.resume)}"
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


def explain(options: TrainOptions, config: TrainConfig) -> list[str]:
    """One sentence for everything that :func:`resolve` decided without being asked and that a user should know."""
    return [
        *_explain_ggdr(options, config),
        *_explain_seg(options, config),
        *_explain_data(options, config),
        *_explain_training(options, config),
    ]


def _explain_ggdr(options: TrainOptions, config: TrainConfig) -> list[str]:
    if config.ggdr is not None:
        (chosen, *_), size = config.ggdr.resolutions, config.data.resolution
        if options.ggdr_res is not None or chosen == DEFAULT_GGDR_RES:
            return []
        reason = "a quarter of the image resolution" if chosen * 4 == size else "the smallest there is"
        return [f"--ggdr_res={chosen} was chosen, {reason}: the default {DEFAULT_GGDR_RES} cannot work on {size}x{size} images."]
    said = [
        name
        for name, value in (
            ("--ggdr_res", options.ggdr_res),
            ("--ggdr-weight", options.ggdr_weight),
            ("--ggdr-start-kimg", options.ggdr_start_kimg),
            ("--ggdr-kernel", options.ggdr_kernel),
            ("--ggdr-act", options.ggdr_act),
        )
        if value is not None
    ]
    return [f"{' '.join(said)} without --reg_type=ggdr: no effect, GGDR is off."] if said else []


def _explain_seg(options: TrainOptions, config: TrainConfig) -> list[str]:
    if config.seg is None and options.seg_weight is not None:
        return ["--seg-weight without --reg_type=seg: no effect, segmentation is off."]
    return []


def _explain_data(options: TrainOptions, config: TrainConfig) -> list[str]:
    notes = []
    if config.data.num_channels == 1 and config.augment.pipe in COLOR_AUGPIPES:
        notes.append(
            f"The images are greyscale: of the colour operations of --augpipe={config.augment.pipe}, brightness, contrast and"
            " luma flip apply; hue and saturation do nothing to one channel."
        )
    tuned_for = _recipe(options, config.data.resolution, config.runtime.gpus).tuned_for
    if tuned_for not in (None, config.data.resolution):
        size = config.data.resolution
        notes.append(f"--cfg={options.cfg} was tuned for {tuned_for}x{tuned_for} images; these are {size}x{size}.")
    return notes


def _explain_training(options: TrainOptions, config: TrainConfig) -> list[str]:
    notes = []
    schedule, gpus = config.schedule, config.runtime.gpus
    passes = schedule.batch_size // (config.portion * gpus)
    if passes > 1:
        notes.append(f"The batch of {schedule.batch_size} is accumulated over {passes} passes of {config.portion} images a GPU.")
    if config.discriminator.mbstd_group > config.portion:
        notes.append(
            f"Minibatch standard deviation is taken over {config.portion} images, all that a GPU has,"
            f" in place of {config.discriminator.mbstd_group}."
        )
    if config.resume is not None:
        speed = f"p adapts over {config.augment.kimg} kimg in place of {ADA_KIMG}" if config.augment.mode == "ada" else "p is not adapted"
        notes.append(f"Transfer learning: {speed}, and the generator average has no ramp-up.")
    elif config.discriminator.freeze_layers > 0:
        frozen = config.discriminator.freeze_layers
        notes.append(f"--freezed={frozen} without --resume: the frozen layers keep their random initial values.")
    there = layers_to_freeze(config.discriminator.architecture, config.data.resolution)
    if config.discriminator.freeze_layers > there:
        notes.append(f"--freezed={config.discriminator.freeze_layers}: D has {there} layers above 4x4, and all of them are frozen.")
    return notes


def layers_to_freeze(architecture: Literal["orig", "skip", "resnet"], resolution: int) -> int:
    """How many layers D's blocks have, from the image's resolution down to 8×8: those that Freeze-D can reach."""
    blocks = resolution.bit_length() - 3
    return {"orig": 2 * blocks + 1, "skip": 3 * blocks, "resnet": 3 * blocks + 1}[architecture]
