"""From a command line to a configuration: a preset, overridden by the given options. Pure functions."""

from collections.abc import Mapping
from typing import Any

from dnnlib.addresses import conceal
from dnnlib.errors import UserError
from training.config.options import DEFAULT_REG_TYPE, OPTIONS
from training.config.presets import Preset, find_preset
from training.config.run_name import describe
from training.config.schema import NO_PIPE, DataConfig, TrainConfig

#: ``--ggdr_res`` of the reference. Images of at most this size take a quarter of their resolution instead.
DEFAULT_GGDR_RES = 64

#: Kimg in which p can go from 0 to 1: usually, and in transfer learning.
ADA_KIMG, ADA_KIMG_RESUME = 500, 100

#: Fields that neither a preset nor another option decides.
DEFAULTS: Mapping[str, Any] = {
    "cfg": "auto",
    "seed": 0,
    "resume": None,
    "generator.channel_max": 512,
    "discriminator.channel_max": 512,
    "metrics.names": ("fid50k_full",),
    "metrics.detector": "auto",
    "runtime.device": "auto",
    "runtime.gpus": 1,
    "runtime.workers": 3,
    "runtime.nhwc": False,
    "runtime.nobench": False,
    "runtime.allow_tf32": False,
}


def resolve(options: Mapping[str, Any], data: DataConfig) -> TrainConfig:
    """The configuration that a command line means for a data set. Touches no file.

    Args:
        options: the given options by name (:func:`training.config.options.overrides`).
        data: the data set.

    Raises:
        UserError: contradictions, and values out of range.
    """
    gpus = options.get("gpus", 1)
    preset = find_preset(options.get("cfg", "auto"), data.resolution, max(gpus, 1))
    transfer = options.get("resume", "noresume") != "noresume"
    values = {
        **DEFAULTS,
        **preset.fields(),
        **_precision(options),
        **_schedule(options, preset, gpus, transfer=transfer),
        **_augment(options, transfer=transfer),
        **_regularizer(options, data.resolution),
    }
    for option in OPTIONS:
        if option.parameter in options and option.applies(options):
            values.update(dict.fromkeys(option.fields, options[option.parameter]))
    values["resume"] = _resume(options.get("resume"))
    values["metrics.detector"] = conceal(values["metrics.detector"])
    values["description"] = describe(options, data, preset)
    return TrainConfig.from_dict({**_sections(values), "data": data.to_dict()})


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"loss.r1_gamma": 1}`` to ``{"loss": {"r1_gamma": 1}}``, without the fields of the data."""
    nested: dict[str, Any] = {"ggdr": None}
    for path, value in values.items():
        section, _, field = path.partition(".")
        if not field:
            nested[section] = value
        elif section != "data":
            nested[section] = {**(nested.get(section) or {}), field: value}
    return nested


def _precision(options: Mapping[str, Any]) -> dict[str, Any]:
    fp32, precision = options.get("fp32"), options.get("precision")
    if None not in (fp32, precision) and fp32 != (precision == "fp32"):
        raise UserError(
            f"--fp32={int(bool(fp32))} contradicts --precision={precision}; leave one of them out"
        )
    full = precision == "fp32" if fp32 is None else fp32
    networks = {"num_fp16_res": 0, "conv_clamp": None} if full else {"num_fp16_res": 4, "conv_clamp": 256}
    return {
        **{
            f"{network}.{name}": value
            for network in ("generator", "discriminator")
            for name, value in networks.items()
        },
        "runtime.fp32": full,
        "runtime.precision": "bf16" if precision == "bf16" else "auto",
    }


def _schedule(options: Mapping[str, Any], preset: Preset, gpus: int, *, transfer: bool) -> dict[str, Any]:
    """With ``--batch`` each GPU takes its share at once; without it, the preset's microbatch stays."""
    microbatch = options["batch"] // max(gpus, 1) if "batch" in options else preset.batch_gpu
    return {
        "schedule.batch_gpu": max(microbatch, 1),
        "schedule.ema_rampup": None if transfer else preset.ema_rampup,
    }


def _augment(options: Mapping[str, Any], *, transfer: bool) -> dict[str, Any]:
    mode, p, target = options.get("aug", "ada"), options.get("p"), options.get("target")
    if p is not None and mode != "fixed":
        raise UserError(f"--p={p:g} needs --aug=fixed; with --aug={mode} there is no p to set")
    if p is None and mode == "fixed":
        raise UserError("--aug=fixed needs the probability: --p=FLOAT, between 0 and 1")
    if target is not None and mode != "ada":
        raise UserError(f"--target={target:g} needs --aug=ada; with --aug={mode} nothing steers to it")
    if "augpipe" in options and mode == "noaug":
        raise UserError(f"--augpipe={options['augpipe']} contradicts --aug=noaug; leave one of them out")
    return {
        "augment.mode": mode,
        "augment.pipe": NO_PIPE if mode == "noaug" else "bgc",
        "augment.initial_p": 0,
        "augment.target": 0.6 if mode == "ada" else None,
        "augment.kimg": ADA_KIMG_RESUME if transfer else ADA_KIMG,
    }


def _regularizer(options: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """The section of D's regulariser beside R1, with its defaults."""
    kind = options.get("reg_type", DEFAULT_REG_TYPE)
    if kind == "ggdr":
        return {
            "ggdr.resolution": DEFAULT_GGDR_RES if resolution > DEFAULT_GGDR_RES else max(resolution // 4, 8)
        }
    return {} if kind == DEFAULT_REG_TYPE else {kind: {}}


def _resume(source: str | None) -> str | None:
    """The source of ``--resume``, an address in its public form; None for ``noresume`` and no option."""
    if source is None or source == "noresume":
        return None
    if not source:
        raise UserError("--resume is empty; give a network pickle by path or address, or leave it out")
    return conceal(source)
