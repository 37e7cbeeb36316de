"""What was decided without being asked, in sentences for a person."""

from typing import Literal

from training.config.options import TrainOptions
from training.config.presets import find_recipe
from training.config.resolve import ADA_KIMG, DEFAULT_GGDR_RES
from training.config.schema import COLOR_AUGPIPES, TrainConfig


def explain(options: TrainOptions, config: TrainConfig) -> list[str]:
    """One sentence for everything that :func:`training.config.resolve.resolve` decided without being asked
    and that a user should know."""
    return [
        *_explain_ggdr(options, config),
        *_explain_seg(options, config),
        *_explain_data(options, config),
        *_explain_training(options, config),
    ]


def describe_batch(config: TrainConfig) -> str:
    """The batch, and the portions in which it is computed."""
    processes = config.runtime.gpus
    where = f" in each of {processes} processes" if processes > 1 else ""
    return f"{config.schedule.batch_size} images, {config.portion} at once{where}"


def _explain_ggdr(options: TrainOptions, config: TrainConfig) -> list[str]:
    if config.ggdr is not None:
        (chosen, *_), size = config.ggdr.resolutions, config.data.resolution
        if options.ggdr_res is not None or chosen == DEFAULT_GGDR_RES:
            return []
        reason = "a quarter of the image resolution" if chosen * 4 == size else "the smallest there is"
        return [
            f"--ggdr_res={chosen} was chosen, {reason}: the default {DEFAULT_GGDR_RES} cannot work on "
            f"{size}x{size} images."
        ]
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
    if config.data.num_images == (2 if config.data.xflip else 1):
        notes.append("There is one image; the networks can learn nothing but that one.")
    if config.data.num_channels == 1 and config.augment.pipe in COLOR_AUGPIPES:
        notes.append(
            f"The images are greyscale: of the colour operations of --augpipe={config.augment.pipe}, "
            "brightness, contrast and"
            " luma flip apply; hue and saturation do nothing to one channel."
        )
    tuned_for = find_recipe(config.cfg, config.data.resolution, config.runtime.gpus).tuned_for
    if tuned_for not in (None, config.data.resolution):
        size = config.data.resolution
        notes.append(
            f"--cfg={options.cfg} was tuned for {tuned_for}x{tuned_for} images; these are {size}x{size}."
        )
    return notes


def _explain_training(options: TrainOptions, config: TrainConfig) -> list[str]:
    notes = []
    schedule, gpus = config.schedule, config.runtime.gpus
    passes = schedule.batch_size // (config.portion * gpus)
    if passes > 1:
        notes.append(
            f"The batch of {schedule.batch_size} is accumulated over {passes} passes of {config.portion} "
            "images a GPU."
        )
    if config.discriminator.mbstd_group > config.portion:
        notes.append(
            f"Minibatch standard deviation is taken over {config.portion} images, all that a GPU has,"
            f" in place of {config.discriminator.mbstd_group}."
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
    """How many layers D's blocks have, from the image's resolution down to 8×8: those that Freeze-D can
    reach."""
    blocks = resolution.bit_length() - 3
    return {"orig": 2 * blocks + 1, "skip": 3 * blocks, "resnet": 3 * blocks + 1}[architecture]
