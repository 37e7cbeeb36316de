"""How a command line becomes a configuration: a recipe, overridden by the options that the user gave. Pure
functions."""

from typing import Any, Literal, TypeVar

from dnnlib.addresses import conceal
from dnnlib.errors import UserError
from training.config.keep_policy import KEEP_ALL
from training.config.options import TrainOptions
from training.config.presets import Recipe, find_recipe
from training.config.run_name import describe
from training.config.schema import (
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

T = TypeVar("T")

#: ``--ggdr_res`` of the reference, and the image resolution up to which a quarter of it takes the place of
#: the default.
DEFAULT_GGDR_RES = 64

#: Kimg for p to go from 0 to 1: usually, and in transfer learning.
ADA_KIMG, ADA_KIMG_RESUME = 500, 100


def resolve(options: TrainOptions, data: DataConfig) -> TrainConfig:
    """The configuration that a command line means for a data set.

    Raises :class:`UserError` for contradictions and for values out of range. Touches no file.
    """
    runtime = _runtime(options)
    cfg = _given(options.cfg, "auto")
    recipe = find_recipe(cfg, data.resolution, runtime.gpus)
    fp16: dict[str, Any] = (
        {"num_fp16_res": 0, "conv_clamp": None} if runtime.fp32 else {"num_fp16_res": 4, "conv_clamp": 256}
    )
    channels = {
        "channel_base": _given(options.cbase, recipe.channel_base),
        "channel_max": _given(options.cmax, 512),
    }
    resume = _resume(options.resume)
    return TrainConfig(
        data=data,
        generator=GeneratorConfig(
            map_layers=_given(options.map_depth, recipe.map_layers), **channels, **fp16
        ),
        discriminator=DiscriminatorConfig(
            architecture=recipe.architecture,
            mbstd_group=_given(options.mbstd_group, recipe.mbstd_group),
            freeze_layers=_given(options.freezed, 0),
            **channels,
            **fp16,
        ),
        augment=_augment(options, transfer=resume is not None),
        loss=LossConfig(
            r1_gamma=_given(options.gamma, recipe.gamma),
            pl_weight=recipe.pl_weight,
            style_mixing_prob=recipe.style_mixing_prob,
        ),
        ggdr=_ggdr(options, data.resolution),
        optim=OptimConfig(lr_G=_given(options.glr, recipe.lr), lr_D=_given(options.dlr, recipe.lr)),
        schedule=_schedule(options, recipe, runtime.gpus, transfer=resume is not None),
        runtime=runtime,
        metrics=MetricsConfig(
            names=_given(options.metrics, ("fid50k_full",)),
            detector=conceal(_given(options.detector, "auto")),
        ),
        seed=_given(options.seed, 0),
        resume=resume,
        description=describe(options, data, recipe),
        cfg=cfg,
        upkeep=_upkeep(options),
        seg=SegConfig(weight=_given(options.seg_weight, 1)) if options.reg_type == "seg" else None,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _runtime(options: TrainOptions) -> RuntimeConfig:
    if None not in (options.fp32, options.precision) and options.fp32 != (options.precision == "fp32"):
        raise UserError(
            f"--fp32={int(bool(options.fp32))} contradicts --precision={options.precision}; leave one of "
            "them out"
        )
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
    """With ``--batch`` every GPU takes its share at once, a recipe's batch keeps the recipe's portions;
    ``--batch-gpu`` overrides both."""
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
        raise UserError(
            f"--target={options.target:g} needs --aug=ada; with --aug={mode} nothing steers to it"
        )
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
    default: int | tuple[int, ...] = (
        DEFAULT_GGDR_RES if resolution > DEFAULT_GGDR_RES else max(resolution // 4, 8)
    )
    return GGDRConfig(
        resolution=_given(options.ggdr_res, default),
        weight=_given(options.ggdr_weight, 10),
        start_kimg=_given(options.ggdr_start_kimg, 0),
        kernel_size=_given(options.ggdr_kernel, 1),
        activation=_given(options.ggdr_act, "linear"),
    )


def _resume(source: str | None) -> str | None:
    """What to start from, an address by its public form; None for ``noresume`` and for no ``--resume``."""
    if source is None or source == "noresume":
        return None
    if not source:
        raise UserError("--resume is empty; give a network pickle by path or address, or leave it out")
    return conceal(source)
