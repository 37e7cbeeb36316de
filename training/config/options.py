"""The options of ``train.py``, one row each.

Everything about an option comes from its row: the command line and its help, the conversion to a
configuration and back, messages that name a flag, what a continued run may change, and the name of the run.
One row here adds a plain option (docs/extending.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from dnnlib.cli import PATH, PATH_OR_URL, IntOrList, Seconds
from training.config.presets import PRESETS
from training.config.pretrained import SOURCES

#: Names of the augmentation pipelines; their contents are in ``training.augment.presets``.
AUGPIPES = ("blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc")


@dataclass(frozen=True)
class Option:
    """One option of ``train.py``.

    Attributes:
        flag: its name on the command line, such as ``--ggdr-weight``. Users may type ``-`` and ``_`` for each
            other.
        type: of its value: a Python type or one of click's. None for a flag without a value. Options of type
            ``bool`` take a value (``--mirror=1``).
        help: what it means.
        default: its default in words, for the help.
        field: where its value lies in the configuration, such as ``ggdr.weight``; a space separates several.
            Empty where :func:`training.config.resolve.resolve` computes the field, or there is none.
        read: gives its value in a configuration; None reads the first ``field``.
        needs: the option and value without which this one has no effect, such as ``reg_type=ggdr``.
        changeable: whether a continued run may have another value.
        name: its part in the name of a run, with ``{}`` for the value, or a function of the value; None
            leaves it out.
        metavar: stands for its value in the help; None takes the type's.
        short: a second spelling, such as ``-n``.
        key: its name in Python where that is not the flag's.
    """

    flag: str
    type: Any
    help: str
    default: str | None = None
    field: str = ""
    read: Callable[[Any], Any] | None = None
    needs: str | None = None
    changeable: bool = False
    name: str | Callable[[Any], str | None] | None = None
    metavar: str | None = None
    short: str | None = None
    key: str | None = None

    @property
    def parameter(self) -> str:
        """Its name in Python, such as ``ggdr_weight``."""
        return self.key or self.flag.removeprefix("--").replace("-", "_")

    @property
    def fields(self) -> tuple[str, ...]:
        """Paths of its value in the configuration."""
        return tuple(self.field.split())

    def applies(self, overrides: Mapping[str, Any]) -> bool:
        """Whether it has an effect together with the other options."""
        if self.needs is None:
            return True
        parameter, value = self.needs.split("=")
        return overrides.get(parameter, _USUAL.get(parameter)) == value

    def value_in(self, config: Any) -> Any:
        """Its value in a ``TrainConfig``; None where it has no meaning there."""
        if self.read is not None:
            return self.read(config)
        found = config
        for part in self.fields[0].split("."):
            found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
        return found

    def name_part(self, value: Any) -> str | None:
        """What it adds to the name of a run."""
        if self.name is None or value is None:
            return None
        return self.name(value) if callable(self.name) else self.name.format(value)


def _fixed_p(config: Any) -> float | None:
    return config.augment.initial_p if config.augment.mode == "fixed" else None


def _pipe(config: Any) -> str | None:
    return None if config.augment.mode == "noaug" else config.augment.pipe


def _source(config: Any) -> str:
    return config.resume or "noresume"


def _precision(config: Any) -> str:
    return "fp32" if config.runtime.fp32 else config.runtime.precision


def _reg_type(config: Any) -> str:
    return config.reg_type


def _reg_type_name(value: str) -> str | None:
    """GGDR is not in the name, as in the reference."""
    return value if value == "seg" else None


def _kimg(value: float) -> str:
    return f"kimg{value:g}" if value % 1 else f"kimg{int(value)}"


def _resume(value: str) -> str:
    return value if value == "noresume" else f"resume{value if value in SOURCES else 'custom'}"


def _targets(value: int | tuple[int, ...]) -> str | None:
    """A single target is not in the name, as in the reference."""
    return f"ggdrres{'+'.join(map(str, value))}" if isinstance(value, tuple) else None


def _subset(config: Any) -> int:
    """The number of images where there is no ``--subset``, since that means the same."""
    return config.data.max_size or config.data.num_images // (2 if config.data.xflip else 1)


#: ``--reg_type`` where it is not given.
DEFAULT_REG_TYPE = "none"
_USUAL = {"reg_type": DEFAULT_REG_TYPE}

_BY_CFG = "by --cfg"
_GGDR, _SEG = "reg_type=ggdr", "reg_type=seg"

#: All options, in the order of the help. Their parts in the name of a run come in the same order, which is
#: the reference's as far as it has them.
# fmt: off
OPTIONS: tuple[Option, ...] = (
    # General.
    Option("--outdir", PATH, "Where the run directory goes", "required, but for --dry-run and --continue",
           metavar="DIR"),
    Option("--gpus", int, "Number of GPUs, a power of two", "1", "runtime.gpus", changeable=True),
    Option("--snap", int, "Ticks between snapshots", "50", "schedule.snapshot_ticks", changeable=True,
           metavar="TICKS"),
    Option("--tick", float, "Thousands of images between status lines", "4", "schedule.kimg_per_tick",
           metavar="KIMG"),
    Option("--metrics", str, "Metrics at every snapshot, by comma, or none", "fid50k_full", "metrics.names",
           changeable=True, metavar="LIST"),
    Option("--detector", PATH_OR_URL, "Feature extractor of the metrics", "the one that each is defined with",
           "metrics.detector", changeable=True, metavar="NAME|PATH|URL"),
    Option("--seed", int, "Random seed", "0", "seed data.random_seed"),
    Option("--dry-run", None, "Print the resolved configuration as JSON and stop", short="-n"),
    # Data. These fields describe the data set that was opened.
    Option("--data", PATH, "Training images: folder or zip", "required, but for --continue", "data.path",
           changeable=True, metavar="PATH"),
    Option("--cond", bool, "Condition on the labels of the data set", "0", "data.use_labels"),
    Option("--subset", int, "Number of images to train on", "all", "data.max_size", read=_subset),
    Option("--mirror", bool, "Add a mirrored copy of every image", "0", "data.xflip"),
    # Preset and schedule.
    Option("--cfg", click.Choice(list(PRESETS)), "Preset", "auto", "cfg"),
    Option("--gamma", float, "Weight of R1", _BY_CFG, "loss.r1_gamma", name="gamma{:g}"),
    Option("--kimg", float, "Training length in thousands of images", _BY_CFG, "schedule.total_kimg",
           changeable=True, name=_kimg, metavar="KIMG"),
    Option("--batch", int, "Batch size over all GPUs", _BY_CFG, "schedule.batch_size", name="batch{}"),
    Option("--batch-gpu", int, "Images at once on a GPU, at most; the rest of its share follows",
           "by --cfg; with --batch, its whole share", "schedule.batch_gpu", name="batchgpu{}"),
    # Augmentation.
    Option("--aug", click.Choice(["noaug", "ada", "fixed"]), "Augmentation", "ada", "augment.mode",
           name="{}"),
    Option("--p", float, "Probability of augmentation, for --aug=fixed", field="augment.initial_p",
           read=_fixed_p, name="p{:g}"),
    Option("--target", float, "Target of ADA", "0.6", "augment.target", name="target{:g}"),
    Option("--augpipe", click.Choice(AUGPIPES), "Augmentation pipeline", "bgc", "augment.pipe", read=_pipe,
           name="{}"),
    # Transfer learning.
    Option("--resume", PATH_OR_URL, "Start from a network pickle: path, address, or ffhq256 and the like",
           "noresume", "resume", read=_source, name=_resume, metavar="PKL"),
    Option("--freezed", int, "Number of D's layers to freeze", "0", "discriminator.freeze_layers",
           name="freezed{}"),
    # Capacity and learning rates.
    Option("--cbase", int, "Channels times resolution", _BY_CFG,
           "generator.channel_base discriminator.channel_base", name="cbase{}"),
    Option("--cmax", int, "Largest number of channels", "512",
           "generator.channel_max discriminator.channel_max", name="cmax{}"),
    Option("--map-depth", int, "Layers of the mapping network", _BY_CFG, "generator.map_layers",
           name="map{}"),
    Option("--glr", float, "Learning rate of G", _BY_CFG, "optim.lr_G", name="glr{:g}"),
    Option("--dlr", float, "Learning rate of D", _BY_CFG, "optim.lr_D", name="dlr{:g}"),
    Option("--mbstd-group", int, "Group of the minibatch standard deviation", _BY_CFG,
           "discriminator.mbstd_group", name="mbstd{}"),
    # GGDR, or segmentation.
    Option("--reg_type", click.Choice([DEFAULT_REG_TYPE, "ggdr", "seg"]), "Regulariser of D",
           DEFAULT_REG_TYPE, read=_reg_type, name=_reg_type_name),
    Option("--ggdr-weight", float, "Weight of GGDR", "10", "ggdr.weight", needs=_GGDR, name="ggdrweight{:g}"),
    Option("--ggdr-start-kimg", float, "Turn GGDR on after so much training", "0", "ggdr.start_kimg",
           needs=_GGDR, name="ggdrstart{:g}", metavar="KIMG"),
    Option("--ggdr_res", IntOrList(), "Resolution of the target feature map, or several",
           "64; small images: a quarter, 8 at least", "ggdr.resolution", needs=_GGDR, name=_targets,
           metavar="INT,…"),
    Option("--ggdr-kernel", int, "Kernel of D's decoder, 1 or 3", "1", "ggdr.kernel_size", needs=_GGDR,
           name="ggdrkernel{}"),
    Option("--ggdr-act", click.Choice(["linear", "lrelu"]), "Activation of D's decoder", "linear",
           "ggdr.activation", needs=_GGDR, name="ggdract{}"),
    Option("--seg-weight", float, "Weight of segmentation", "1", "seg.weight", needs=_SEG,
           name="segweight{:g}"),
    # Long runs.
    Option("--continue", PATH, "Go on where a run stopped; auto: if --outdir has it, else start",
           metavar="RUN_DIR|auto", key="continue_"),
    Option("--trust", None,
           "Go on with a run that another user owns; it can start any program (SECURITY.md)"),
    Option("--checkpoint-minutes", float, "Minutes between checkpoints, besides those at snapshots; 0: none",
           "10", "upkeep.checkpoint_minutes", changeable=True, metavar="MINUTES"),
    Option("--keep-snapshots", str, "Snapshots that stay: last:N, every:N, best, by comma", "all",
           "upkeep.keep_snapshots", changeable=True, metavar="RULES"),
    Option("--on-nonfinite", click.Choice(["stop", "ignore"]), "When gradients stay infinite or undefined",
           "stop", "upkeep.on_nonfinite", changeable=True),
    # Machine.
    Option("--device", click.Choice(["auto", "cuda", "cpu"]), "Where to compute", "auto", "runtime.device",
           changeable=True),
    Option("--fp32", bool, "No half precision", "0", "runtime.fp32"),
    Option("--precision", click.Choice(["auto", "fp32", "bf16"]),
           "auto: float16 on a GPU; bf16 also on a CPU", "auto", read=_precision),
    Option("--nhwc", bool, "Channels-last memory with half precision", "0", "runtime.nhwc"),
    Option("--nobench", bool, "No cuDNN benchmarking", "0", "runtime.nobench"),
    Option("--allow-tf32", bool, "Allow TF32 in PyTorch", "0", "runtime.allow_tf32"),
    Option("--workers", int, "Processes that load images", "3", "runtime.workers", changeable=True),
    Option("--offline", None, "Never download; say what is missing and where to put it"),
    # Several processes.
    Option("--max-restarts", click.IntRange(min=0), "Failures after which training goes on by itself", "0",
           metavar="INT"),
    Option("--dist-timeout", Seconds(), "Patience with a process that does not answer", "600",
           metavar="SECONDS"),
    Option("--prepare-timeout", Seconds(), "Patience with downloads and metrics", "3600", metavar="SECONDS"),
)
# fmt: on

#: The flag that sets a field of the configuration, for messages.
FLAGS = {
    field if "." in field else f"config.{field}": option.flag for option in OPTIONS for field in option.fields
}

#: Fields in which a continued run may have other values than before. Of these only ``schedule.batch_gpu`` and
#: ``runtime.device`` can change what a step draws; ``--gpus`` may change the former. ``description`` is only
#: a name.
CHANGEABLE = frozenset(
    [
        "schedule.batch_gpu",
        "description",
        *(field for option in OPTIONS if option.changeable for field in option.fields),
    ]
)


def overrides(**values: Any) -> dict[str, Any]:
    """The given options by name. A value of None means not given, and is left out.

    Raises:
        TypeError: there is no such option.
    """
    unknown = values.keys() - {option.parameter for option in OPTIONS}
    if unknown:
        raise TypeError(f"no such options: {', '.join(sorted(unknown))}")
    return {name: value for name, value in values.items() if value is not None}


def as_options(config: Any) -> dict[str, Any]:
    """The options that mean a given ``TrainConfig``, by name.

    None for an option without meaning in it, such as ``--ggdr-weight`` without GGDR.
    """
    return {option.parameter: option.value_in(config) for option in OPTIONS if option.field or option.read}
