"""What a command line says, before a recipe and a data set give it a meaning
(:mod:`training.config.resolve`), and back from that."""

from dataclasses import dataclass
from typing import Any, Literal

from training.config.schema import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What the command line said, one field an option; None where it said nothing. Units as in
    training.config.schema.

    ``--data --cond --subset --mirror`` are not here: they are in the :class:`DataConfig` of the opened data
    set.
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


def as_options(config: TrainConfig) -> dict[str, Any]:
    """What each option of :class:`TrainOptions`, and ``data cond subset mirror``, would say to mean a
    configuration.

    None for what has no meaning in it.
    """
    data, augment, ggdr, seg, optim, schedule = (
        config.data,
        config.augment,
        config.ggdr,
        config.seg,
        config.optim,
        config.schedule,
    )
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
