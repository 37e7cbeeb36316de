"""The configuration of a training run: frozen dataclasses, checked at construction, to and from JSON.

A configuration that exists is consistent: every contradiction raises :class:`dnnlib.errors.UserError` here.
Sizes are in images, thousands of images (kimg), channels or pixels, as named.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from dnnlib.addresses import public_values
from dnnlib.checked import Checked, shown
from dnnlib.errors import UserError
from dnnlib.untrusted import one_line
from training.config.keep_policy import KEEP_ALL, KeepPolicy
from training.config.options import AUGPIPES, FLAGS
from training.config.resolutions import MIN_RESOLUTION, is_power_of_two, is_resolution

#: Augmentation pipelines that have colour operations.
COLOR_AUGPIPES = ("color", "bgc", "bgcf", "bgcfn", "bgcfnc")

#: Value of ``AugmentConfig.pipe`` when there is no augmentation.
NO_PIPE = "none"

#: The folders of a data set with annotations.
IMAGES, ANNOTATIONS = "images", "annotations"


class Config(Checked):
    """Base of all parts: checked at construction, to and from plain dictionaries."""

    _options: ClassVar[Mapping[str, str]] = FLAGS


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """The training images, as the opened data set describes them.

    Attributes:
        path: folder or zip; with annotations, of the folders ``images`` and ``annotations``.
        resolution: width and height in pixels, a power of two, at least 8.
        num_channels: 1 (greyscale) or 3 (RGB).
        label_dim: classes that the networks are conditioned on; 0 unless ``use_labels``.
        num_images: length of the data set in training, after ``max_size`` and with mirrored copies.
        use_labels: condition on the labels (``--cond``).
        max_size: keep this many images, drawn by ``random_seed`` (``--subset``); None keeps all.
        xflip: add a mirrored copy of every image (``--mirror``).
        random_seed: draws the subset.
        annotation_classes: classes in the annotations (:mod:`training.data.paired`); 0 without annotations.
    """

    path: str
    resolution: int
    num_channels: int
    label_dim: int
    num_images: int
    use_labels: bool
    max_size: int | None
    xflip: bool
    random_seed: int
    annotation_classes: int = 0
    _part: ClassVar[str] = "data"

    @property
    def image_path(self) -> str:
        """Folder or zip of the images alone."""
        return os.path.join(self.path, IMAGES) if self.annotation_classes else self.path

    def _validate(self) -> None:
        self._at_least(1, "num_images", "max_size")
        self._at_least(0, "label_dim", "random_seed", "annotation_classes")
        self._at_most(2**40, "num_images", "max_size")
        self._at_most(2**24, "label_dim", "annotation_classes")
        self._at_most(2**16, "resolution")
        if not is_resolution(self.resolution):
            raise UserError(
                f"the images in {self.path} are {self.resolution} pixels wide; a power of two from "
                f"{MIN_RESOLUTION} up is needed (dataset_tool.py --width --height resizes them)"
            )
        if self.num_channels not in (1, 3):
            raise UserError(
                f"the images in {self.path} have {self.num_channels} channels, not 1 or 3; convert them with "
                "dataset_tool.py"
            )
        if self.use_labels and self.label_dim == 0:
            raise UserError(
                f"--cond=1 needs labels, and {self.path} has none (dataset.json with 'labels'); leave out "
                "--cond"
            )
        if not self.use_labels and self.label_dim != 0:
            raise UserError(f"data.label_dim must be 0 where labels are not used, not {self.label_dim}")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(Config):
    """Size and precision of G. Channels at resolution r: ``min(channel_base // r, channel_max)``.

    Attributes:
        z_dim, w_dim: length of the input and of the intermediate latent vectors.
        map_layers: fully connected layers of the mapping network.
        num_fp16_res: how many of the highest resolutions run in half precision on a GPU.
        conv_clamp: clamp activations to ± this; None leaves them.
    """

    z_dim: int = 512
    w_dim: int = 512
    map_layers: int
    channel_base: int
    channel_max: int
    num_fp16_res: int
    conv_clamp: float | None
    _part: ClassVar[str] = "generator"

    def _validate(self) -> None:
        self._at_least(1, "z_dim", "w_dim", "map_layers", "channel_base", "channel_max")
        self._at_least(0, "num_fp16_res")
        self._at_most(2**16, "z_dim", "w_dim", "channel_max")
        self._at_most(1000, "map_layers")
        self._above_zero("conv_clamp")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Config):
    """Size and precision of D; channels and precision as in :class:`GeneratorConfig`.

    Attributes:
        architecture: how blocks are joined (Karras et al. 2020, StyleGAN2, figure 7).
        mbstd_group: samples in a group of the minibatch standard deviation, at most a microbatch.
        freeze_layers: how many highest-resolution layers do not train (Freeze-D, Mo et al. 2020).
    """

    architecture: Literal["orig", "skip", "resnet"]
    channel_base: int
    channel_max: int
    num_fp16_res: int
    conv_clamp: float | None
    mbstd_group: int
    freeze_layers: int = 0
    _part: ClassVar[str] = "discriminator"

    def _validate(self) -> None:
        self._at_least(1, "channel_base", "channel_max", "mbstd_group")
        self._at_least(0, "num_fp16_res", "freeze_layers")
        self._at_most(2**16, "channel_max")
        self._above_zero("conv_clamp")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """Augmentation of D's input (Karras et al. 2020, ADA).

    Attributes:
        mode: ``noaug``, ``ada`` (p follows ``target``) or ``fixed`` (p stays at ``initial_p``).
        pipe: one of :data:`AUGPIPES`; :data:`NO_PIPE` with ``noaug``.
        initial_p: probability of every operation at the start, 0 to 1.
        target: E[sign D(real)] that ADA steers to; None unless mode is ``ada``.
        kimg: thousands of images in which p could go from 0 to 1.
        interval: batches between two adjustments of p.
    """

    mode: Literal["noaug", "ada", "fixed"]
    pipe: str
    initial_p: float
    target: float | None
    kimg: int
    interval: int = 4
    _part: ClassVar[str] = "augment"

    def _validate(self) -> None:
        self._at_least(1, "kimg", "interval")
        self._fraction("initial_p", "target")
        if self.mode == "noaug" and (self.pipe != NO_PIPE or self.initial_p != 0):
            raise UserError(
                f"augment.mode noaug goes with pipe '{NO_PIPE}' and initial_p 0, not '{self.pipe}' and "
                f"{self.initial_p:g}"
            )
        if self.mode != "noaug" and self.pipe not in AUGPIPES:
            raise UserError(
                f"there is no augmentation pipeline '{self.pipe}'; choose one of {' '.join(AUGPIPES)}"
            )
        if (self.mode == "ada") != (self.target is not None):
            raise UserError("augment.target goes with augment.mode ada and with no other")


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """Weights of the regularisers.

    Attributes:
        r1_gamma: weight of the R1 penalty on D (γ/2 · |∇D|²).
        pl_weight: weight of path length regularisation on G; 0 turns it off.
        style_mixing_prob: probability that an image takes its styles from two latents.
        pl_batch_shrink: path length is measured on the batch divided by this.
        pl_decay: speed of the running mean of path lengths.
    """

    r1_gamma: float
    pl_weight: float
    style_mixing_prob: float
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    _part: ClassVar[str] = "loss"

    def _validate(self) -> None:
        self._at_least(0, "r1_gamma", "pl_weight")
        self._at_least(1, "pl_batch_shrink")
        self._fraction("style_mixing_prob", "pl_decay")


@dataclass(frozen=True, kw_only=True)
class GGDRConfig(Config):
    """Generator-guided discriminator regularisation (Lee et al. 2022).

    Attributes:
        resolution: of the generator's feature map that D's decoder reconstructs, at least 8 and below the
            images'; or several, ascending.
        weight: λ of the cosine distance.
        start_kimg: thousands of images shown before the term is on.
        kernel_size, activation: of the decoder's convolutions (table 4b); the method has 1 and ``linear``.
    """

    resolution: int | tuple[int, ...]
    weight: float = 10
    start_kimg: float = 0
    kernel_size: int = 1
    activation: Literal["linear", "lrelu"] = "linear"
    _part: ClassVar[str] = "ggdr"

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All target resolutions."""
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution,)

    def _validate(self) -> None:
        for resolution in self.resolutions:
            if not is_resolution(resolution):
                raise UserError(f"--ggdr_res={resolution} must be a power of two, 8 or larger")
        if not self.resolutions or list(self.resolutions) != sorted(set(self.resolutions)):
            raise UserError(
                f"--ggdr_res={','.join(map(str, self.resolutions))} must name each target once, the smallest "
                "first"
            )
        self._at_least(0, "weight", "start_kimg")
        if self.kernel_size not in (1, 3):
            raise UserError(f"{self._where('kernel_size')} must be 1 or 3, not {self.kernel_size}")


@dataclass(frozen=True, kw_only=True)
class SegConfig(Config):
    """Segmentation of real images by D's decoder, with annotations as targets (Lee et al. 2022, section 2.1).

    Attributes:
        weight: of the cross-entropy.
    """

    weight: float = 1
    _part: ClassVar[str] = "seg"

    def _validate(self) -> None:
        self._at_least(0, "weight")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """Adam for both networks. R1 and path length run once an interval of batches (lazy regularisation)."""

    lr_G: float
    lr_D: float
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8
    G_reg_interval: int = 4
    D_reg_interval: int = 16
    _part: ClassVar[str] = "optim"

    def _validate(self) -> None:
        self._above_zero("lr_G", "lr_D", "eps")
        self._at_least(1, "G_reg_interval", "D_reg_interval")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optim.{name} must be at least 0 and below 1, not {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config):
    """The length of training, and its batches.

    Attributes:
        total_kimg: thousands of real images to show.
        batch_size: images of one optimiser step over all GPUs.
        batch_gpu: images in one pass on one GPU, at most (see :attr:`TrainConfig.microbatch`).
        ema_kimg: half-life of the generator average.
        ema_rampup: the half-life is at most this fraction of the images shown; None turns the ramp-up off.
        kimg_per_tick: between two status lines.
        snapshot_ticks: between two snapshots.
    """

    total_kimg: float
    batch_size: int
    batch_gpu: int
    ema_kimg: float
    ema_rampup: float | None
    kimg_per_tick: float = 4
    snapshot_ticks: int = 50
    _part: ClassVar[str] = "schedule"

    @property
    def total_images(self) -> int:
        """Real images to show, at least 1."""
        return max(round(self.total_kimg * 1000), 1)

    def _validate(self) -> None:
        self._above_zero("total_kimg", "kimg_per_tick", "ema_rampup")
        self._at_least(1, "batch_size", "batch_gpu", "snapshot_ticks")
        self._at_least(0, "ema_kimg")
        self._at_most(1e9, "total_kimg", "kimg_per_tick", "ema_kimg")
        self._at_most(2**24, "batch_size", "batch_gpu")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Config):
    """The machine.

    ``gpus`` may change the microbatches, and so the random draws; ``device`` changes the draws. The other
    fields change nothing but rounding.

    Attributes:
        device: ``auto`` is a GPU where there is one.
        gpus: processes, each with one device.
        workers: processes that load images; 0 loads in the training process.
        fp32: no half precision anywhere.
        precision: what half precision is: ``auto`` is float16 on a GPU and none on a CPU, ``bf16`` bfloat16
            on both.
        nhwc: channels-last memory format for half precision.
        nobench: leave cuDNN's benchmarking off.
        allow_tf32: let matrix products and convolutions round to TF32.
    """

    device: Literal["auto", "cuda", "cpu"]
    gpus: int
    workers: int
    fp32: bool
    nhwc: bool
    nobench: bool
    allow_tf32: bool
    precision: Literal["auto", "bf16"] = "auto"
    _part: ClassVar[str] = "runtime"

    def _validate(self) -> None:
        self._at_least(0, "workers")
        self._at_most(1000, "workers")
        if not is_power_of_two(self.gpus):
            raise UserError(f"--gpus={self.gpus} must be a power of two: 1, 2, 4, 8, …")
        if self.fp32 and self.precision != "auto":
            raise UserError(
                f"runtime.fp32 contradicts runtime.precision={self.precision}; one of them has to go"
            )


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(Config):
    """Measurements at every snapshot.

    Attributes:
        names: metrics such as ``fid50k_full``; empty for none.
        detector: feature extractor, by name or path; ``auto`` takes the one that defines each metric.
    """

    names: tuple[str, ...]
    detector: str
    _part: ClassVar[str] = "metrics"

    def _validate(self) -> None:
        if any(not name for name in self.names) or len(set(self.names)) != len(self.names):
            raise UserError(
                f"--metrics={','.join(self.names)} has an empty or a repeated name; list each metric once, "
                "or give none"
            )
        if not self.detector:
            raise UserError("--detector is empty; give a name or the path of a TorchScript file")


@dataclass(frozen=True, kw_only=True)
class UpkeepConfig(Config):
    """What keeps a long run safe. Nothing here changes results.

    Attributes:
        checkpoint_minutes: between two checkpoints, besides those at snapshots; 0 for no others.
        keep_snapshots: which snapshots stay (:meth:`training.config.keep_policy.KeepPolicy.parse`).
        on_nonfinite: whether gradients that are not finite many times in a row end the run.
    """

    checkpoint_minutes: float = 10
    keep_snapshots: str = KEEP_ALL
    on_nonfinite: Literal["stop", "ignore"] = "stop"
    _part: ClassVar[str] = "upkeep"

    def _validate(self) -> None:
        self._at_least(0, "checkpoint_minutes")
        self._at_most(1e9, "checkpoint_minutes")
        KeepPolicy.parse(self.keep_snapshots)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """A whole training run. Constructing it checks the parts against each other.

    Attributes:
        cfg: name of the preset.
        ggdr: None unless ``--reg_type=ggdr``.
        seg: None unless ``--reg_type=seg``.
        seed: all random draws derive from it, the step, the phase and the microbatch; none from the rank.
        resume: network pickle to start from (:mod:`training.config.pretrained`), or None. Addresses here and
            in ``metrics.detector`` have their public form (:mod:`dnnlib.addresses`).
        description: what follows the number in the name of the run directory.
        terms: weights of further loss terms, by name, each at least 0. A term that is not named is off.
    """

    data: DataConfig
    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    augment: AugmentConfig
    loss: LossConfig
    ggdr: GGDRConfig | None
    optim: OptimConfig
    schedule: ScheduleConfig
    runtime: RuntimeConfig
    metrics: MetricsConfig
    seed: int
    resume: str | None
    description: str
    cfg: str = "auto"
    upkeep: UpkeepConfig = UpkeepConfig()
    seg: SegConfig | None = None
    terms: dict[str, float] = field(default_factory=dict)
    _part: ClassVar[str] = "config"

    @property
    def reg_type(self) -> str:
        """D's regulariser beside R1, as ``--reg_type`` names it."""
        return "ggdr" if self.ggdr is not None else "none" if self.seg is None else "seg"

    @property
    def num_microbatches(self) -> int:
        """How many microbatches make up the batch of all GPUs."""
        return self.schedule.batch_size // self.microbatch

    @property
    def microbatch(self) -> int:
        """Images in one pass on one GPU. Gradients accumulate over the passes of its share of the batch."""
        return min(self.schedule.batch_gpu, self.schedule.batch_size // self.runtime.gpus)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As of every part. Addresses that an earlier version recorded whole get their public form."""
        return super().from_dict(public_values(values))

    def to_dict(self) -> dict[str, Any]:
        """As of every part. ``terms`` is left out where no term is on."""
        values = super().to_dict()
        return values if self.terms else {name: value for name, value in values.items() if name != "terms"}

    def _validate(self) -> None:
        self._at_least(0, "seed")
        self._validate_terms()
        if not self.description or set("/\0") & set(self.description):
            raise UserError(
                f"config.description must be the name of a folder, not {shown(self.description)}; it names "
                "the run's"
            )
        if self.runtime.fp32 and (self.generator.num_fp16_res or self.discriminator.num_fp16_res):
            raise UserError("runtime.fp32 contradicts num_fp16_res > 0; set both num_fp16_res to 0")
        if not self.metrics.names and "best" in self.upkeep.keep_snapshots:
            raise UserError(
                f"--keep-snapshots={self.upkeep.keep_snapshots} needs a metric to tell which is best, and "
                "--metrics=none"
            )
        if (
            "best" in self.upkeep.keep_snapshots
            and self.schedule.kimg_per_tick * self.schedule.snapshot_ticks < 1
        ):
            raise UserError(
                "--keep-snapshots=best needs snapshots at least 1 kimg apart (--tick times --snap): closer "
                "ones share a name"
            )
        self._validate_channels()
        self._validate_ggdr()
        self._validate_seg()
        self._validate_batch()

    def _validate_terms(self) -> None:
        for name, weight in self.terms.items():
            path = f"terms.{name}"
            if path not in self._options:
                raise UserError(f"config.terms has '{one_line(name)}', which is not a loss term; remove it")
            if weight < 0:
                raise UserError(f"{self._options[path]} ({path}) must be at least 0, not {weight:g}")

    def _validate_channels(self) -> None:
        least = min(self.generator.channel_base, self.discriminator.channel_base)
        if least < self.data.resolution:
            raise UserError(
                f"--cbase={least} leaves no channel at {self.data.resolution}x{self.data.resolution}: cbase "
                f"/ resolution is how many there are; give {8 * self.data.resolution} or more"
            )

    def _validate_ggdr(self) -> None:
        """A target t is at most half the image resolution: the decoder takes features that enter block t."""
        if self.ggdr is not None and max(self.ggdr.resolutions) >= self.data.resolution:
            images = self.data.resolution
            advice = (
                f"choose {images // 2} or less, such as {max(images // 4, 8)}"
                if images > 8
                else "images this small cannot have it"
            )
            raise UserError(
                f"--ggdr_res={max(self.ggdr.resolutions)} must be smaller than the images, which are "
                f"{images}x{images} pixels; {advice}"
            )

    def _validate_seg(self) -> None:
        """D has one decoder, and it segments if and only if the data set has annotations."""
        if self.seg is not None and self.ggdr is not None:
            raise UserError("a run has GGDR or segmentation, not both: D has one decoder")
        if (self.seg is not None) != (self.data.annotation_classes > 0):
            raise UserError(
                "annotations (data.annotation_classes) go with --reg_type=seg, and segmentation needs them"
            )

    def _validate_batch(self) -> None:
        schedule, gpus = self.schedule, self.runtime.gpus
        if schedule.batch_size % gpus:
            raise UserError(f"--batch={schedule.batch_size} must be divisible by --gpus={gpus}")
        microbatch = self.microbatch
        if schedule.batch_size % (microbatch * gpus):
            raise UserError(
                f"the batch of {schedule.batch_size} cannot be split into microbatches of {microbatch} on "
                f"{gpus} GPUs; change --batch or --batch-gpu"
            )
        group = min(self.discriminator.mbstd_group, microbatch)
        if microbatch % group:
            raise UserError(
                f"the {microbatch} images of one GPU cannot be split into groups of {group} for the "
                f"minibatch standard deviation; change --batch (a multiple of {group * gpus}) or "
                f"--mbstd-group (a divisor of {microbatch})"
            )
        if self.loss.pl_weight > 0 and microbatch < self.loss.pl_batch_shrink:
            raise UserError(
                f"{microbatch} image a GPU is too little: path length regularisation works on "
                f"1/{self.loss.pl_batch_shrink} of the batch; use --batch={self.loss.pl_batch_shrink * gpus} "
                "or more"
            )
