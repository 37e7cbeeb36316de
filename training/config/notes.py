"""Sentences for a person about what the program decided by itself."""

import os
from collections.abc import Mapping
from typing import Any, Literal

from training.config.options import OPTIONS
from training.config.presets import find_preset
from training.config.resolve import ADA_KIMG, DEFAULT_GGDR_RES
from training.config.schema import COLOR_AUGPIPES, GGDRConfig, TrainConfig


def explain(options: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """One sentence for each decision of :func:`training.config.resolve.resolve` that a user should know."""
    return [
        *_explain_idle(options),
        *_explain_ggdr(options, config),
        *_explain_data(options, config),
        *_explain_training(options, config),
    ]


def describe_batch(config: TrainConfig) -> str:
    """The batch, and the microbatches in which it is computed."""
    processes = config.runtime.gpus
    where = f" in each of {processes} processes" if processes > 1 else ""
    return f"{config.schedule.batch_size} images, {config.microbatch} at once{where}"


def _explain_idle(options: Mapping[str, Any]) -> list[str]:
    """Options of a ``--reg_type`` that was not chosen."""
    idle: dict[str, list[str]] = {}
    for option in OPTIONS:
        if option.needs is not None and option.parameter in options and not option.applies(options):
            idle.setdefault(option.needs, []).append(option.flag)
    return [f"{' '.join(flags)} without --{needs}: no effect." for needs, flags in idle.items()]


def _explain_ggdr(options: Mapping[str, Any], config: TrainConfig) -> list[str]:
    if config.ggdr is None or "ggdr_res" in options:
        return []
    (chosen, *_), size = config.ggdr.resolutions, config.data.resolution
    if chosen == DEFAULT_GGDR_RES:
        return []
    reason = "a quarter of the image resolution" if chosen * 4 == size else "the smallest there is"
    return [
        f"--ggdr_res={chosen} was chosen, {reason}: the default {DEFAULT_GGDR_RES} cannot work on "
        f"{size}x{size} images."
    ]


def _explain_data(options: Mapping[str, Any], config: TrainConfig) -> list[str]:
    notes = []
    if config.data.num_images == (2 if config.data.xflip else 1):
        notes.append("There is one image; the networks can learn nothing but that one.")
    if config.data.num_channels == 1 and config.augment.pipe in COLOR_AUGPIPES:
        notes.append(
            f"The images are greyscale: of the colour operations of --augpipe={config.augment.pipe}, "
            "brightness, contrast and luma flip apply; hue and saturation do nothing to one channel."
        )
    tuned_for = find_preset(config.cfg, config.data.resolution, config.runtime.gpus).tuned_for
    if tuned_for not in (None, config.data.resolution):
        size = config.data.resolution
        notes.append(
            f"--cfg={config.cfg} was tuned for {tuned_for}x{tuned_for} images; these are {size}x{size}."
        )
    return notes


def _explain_training(options: Mapping[str, Any], config: TrainConfig) -> list[str]:
    notes = []
    schedule, gpus = config.schedule, config.runtime.gpus
    passes = schedule.batch_size // (config.microbatch * gpus)
    if passes > 1:
        notes.append(
            f"The batch of {schedule.batch_size} is accumulated over {passes} passes of {config.microbatch} "
            "images a GPU."
        )
    if config.discriminator.mbstd_group > config.microbatch:
        notes.append(
            f"Minibatch standard deviation is taken over {config.microbatch} images, all that a GPU has, in "
            f"place of {config.discriminator.mbstd_group}."
        )
    if config.resume is not None:
        speed = (
            f"p adapts over {config.augment.kimg} kimg in place of {ADA_KIMG}"
            if config.augment.mode == "ada"
            else "p is not adapted"
        )
        notes.append(f"Transfer learning: {speed}, and the generator average has no ramp-up.")
    elif config.discriminator.freeze_layers > 0:
        frozen = config.discriminator.freeze_layers
        notes.append(
            f"--freezed={frozen} without --resume: the frozen layers keep their random initial values."
        )
    there = layers_to_freeze(config.discriminator.architecture, config.data.resolution)
    if config.discriminator.freeze_layers > there:
        notes.append(
            f"--freezed={config.discriminator.freeze_layers}: D has {there} layers above 4x4, and all of "
            "them are frozen."
        )
    return notes


def layers_to_freeze(architecture: Literal["orig", "skip", "resnet"], resolution: int) -> int:
    """How many layers Freeze-D can freeze: those of D's blocks, from the image's resolution down to 8×8."""
    blocks = resolution.bit_length() - 3
    return {"orig": 2 * blocks + 1, "skip": 3 * blocks, "resnet": 3 * blocks + 1}[architecture]


def summarise(config: TrainConfig, run_dir: str | os.PathLike[str]) -> str:
    """What will be trained, in a few lines for a person."""
    data, schedule = config.data, config.schedule
    mirrored = f" ({data.num_images // 2} and their mirror images)" if data.xflip else ""
    seg = "off" if config.seg is None else f"{data.annotation_classes} classes, weight {config.seg.weight:g}"
    lines = {
        "Output directory": os.fspath(run_dir),
        "Training data": data.path,
        "Training length": f"{schedule.total_kimg:g} kimg",
        "Batch": describe_batch(config),
        "Number of images": f"{data.num_images}{mirrored}",
        "Image resolution": f"{data.resolution}x{data.resolution}, {data.num_channels} channels",
        "Conditional model": f"yes, {data.label_dim} labels" if data.use_labels else "no",
        "Mirroring": "yes" if data.xflip else "no",
        "GGDR": _describe_ggdr(config.ggdr),
        "Segmentation": seg,
    }
    return "\n".join(f"{name + ':':<19}{value}" for name, value in lines.items())


def _describe_ggdr(ggdr: GGDRConfig | None) -> str:
    if ggdr is None:
        return "off"
    maps = " and ".join(f"{res}x{res}" for res in ggdr.resolutions)
    usual = (ggdr.kernel_size, ggdr.activation) == (1, "linear")
    decoder = (
        "" if usual else f", decoder of {ggdr.kernel_size}x{ggdr.kernel_size} convolutions, {ggdr.activation}"
    )
    return f"feature maps at {maps}, weight {ggdr.weight:g}{decoder}"
