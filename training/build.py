"""Where configuration meets constructors, GGDR and segmentation among them."""

from typing import Any

import torch
from torch import nn

from torch_utils.training_stats import StatsCollector
from training.augment import AdaController, AugmentPipe, preset
from training.config.schema import DiscriminatorConfig, GeneratorConfig, OptimConfig, TrainConfig
from training.ggdr import GuidedRegularizer
from training.networks import Discriminator, Generator
from training.networks.layers import half_precision_resolution, use_bfloat16
from training.objective import Objective, Term
from training.segmentation import SegmentationRegularizer


def build_generator(config: TrainConfig) -> Generator:
    """G, with freshly drawn weights."""
    g: GeneratorConfig = config.generator
    G = Generator(
        z_dim=g.z_dim,
        c_dim=config.data.label_dim,
        w_dim=g.w_dim,
        img_resolution=config.data.resolution,
        img_channels=config.data.num_channels,
        mapping_kwargs=dict(num_layers=g.map_layers),
        synthesis_kwargs=dict(
            channel_base=g.channel_base,
            channel_max=g.channel_max,
            num_fp16_res=g.num_fp16_res,
            conv_clamp=g.conv_clamp,
            fp16_channels_last=config.runtime.nhwc,
        ),
    )
    if config.runtime.precision == "bf16":
        use_bfloat16(G)
    return G


def build_discriminator(config: TrainConfig) -> Discriminator:
    """D, with freshly drawn weights, and a decoder where a term needs one."""
    d: DiscriminatorConfig = config.discriminator
    decoder: dict[str, Any] = {}
    if config.ggdr is not None:
        chosen = {
            "kernel_size": (config.ggdr.kernel_size, 1),
            "activation": (config.ggdr.activation, "linear"),
        }
        variant = {name: value for name, (value, usual) in chosen.items() if value != usual}
        decoder = dict(decoder_res=max(config.ggdr.resolutions), decoder_kwargs=variant)
    if config.seg is not None:
        decoder = dict(
            decoder_res=config.data.resolution,
            decoder_kwargs=dict(num_classes=config.data.annotation_classes),
        )
    D = Discriminator(
        c_dim=config.data.label_dim,
        img_resolution=config.data.resolution,
        img_channels=config.data.num_channels,
        architecture=d.architecture,
        channel_base=d.channel_base,
        channel_max=d.channel_max,
        num_fp16_res=d.num_fp16_res,
        conv_clamp=d.conv_clamp,
        block_kwargs=dict(freeze_layers=d.freeze_layers, fp16_channels_last=config.runtime.nhwc),
        epilogue_kwargs=dict(mbstd_group_size=d.mbstd_group),
        **decoder,
    )
    if config.runtime.precision == "bf16":
        use_bfloat16(D)
    return D


def build_augment_pipe(config: TrainConfig) -> AugmentPipe | None:
    """The augmentation pipe at its initial probability; None without augmentation.

    A fixed probability of 0 is none, as in the reference: a pipe would displace GGDR's targets even then.
    """
    if config.augment.mode == "noaug" or (config.augment.mode == "fixed" and config.augment.initial_p == 0):
        return None
    pipe = AugmentPipe(**preset(config.augment.pipe))
    pipe.p.fill_(config.augment.initial_p)
    pipe.p_bound = config.augment.initial_p
    return pipe


def build_ada(config: TrainConfig, device: torch.device) -> AdaController | None:
    """The controller of the augmentation's probability; None unless the run has a target for it."""
    augment = config.augment
    if augment.target is None:
        return None
    return AdaController(augment.target, config.schedule.batch_size, augment.interval, augment.kimg, device)


def build_terms(config: TrainConfig) -> list[Term]:
    """The further loss terms that the options turn on."""
    terms: list[Term] = []
    if config.ggdr is not None:
        terms.append(GuidedRegularizer(config.ggdr.resolutions, config.ggdr.weight, config.ggdr.start_kimg))
    if config.seg is not None:
        terms.append(SegmentationRegularizer(config.data.resolution, config.seg.weight))
    return terms


def build_objective(
    config: TrainConfig,
    G: Generator,
    D: Discriminator,
    pipe: AugmentPipe | None,
    ada: AdaController | None,
    stats: StatsCollector,
) -> Objective:
    """The objective with the run's weights and terms."""
    return Objective(
        G,
        D,
        pipe,
        stats,
        config.loss,
        terms=build_terms(config),
        observe_real=None if ada is None else ada.observe,
    )


def build_optimizer(module: nn.Module, lr: float, reg_interval: int, optim: OptimConfig) -> torch.optim.Adam:
    """Adam for the main and the lazy regularisation phase of one network.

    The regularisation phase adds one step to every ``reg_interval`` steps. The learning rate is multiplied by
    ``reg_interval / (reg_interval + 1)``, and the decays take it as exponent, to keep the speed per image
    (Karras et al. 2020, appendix B). As in the reference, this is so where the phase is off too.
    """
    ratio = reg_interval / (reg_interval + 1)
    betas = (float(optim.beta1**ratio), float(optim.beta2**ratio))
    return torch.optim.Adam(module.parameters(), lr=lr * ratio, betas=betas, eps=optim.eps, fused=True)


def describe_precision(config: TrainConfig, device: torch.device) -> str:
    """One line: the precision of the layers on ``device``."""
    half = "bfloat16" if config.runtime.precision == "bf16" else "float16" if device.type == "cuda" else None
    if half is None or config.generator.num_fp16_res == 0:
        return "Precision: float32"
    lowest = half_precision_resolution(config.data.resolution, config.generator.num_fp16_res)
    return f"Precision: {half} from {lowest}x{lowest} up, float32 below"


def describe_parameters(**modules: nn.Module) -> str:
    """One line with the number of parameters of each module, in millions."""
    counts: dict[str, Any] = {
        name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in modules.items()
    }
    return "Parameters: " + ", ".join(f"{name} {count:.3f} M" for name, count in counts.items())
