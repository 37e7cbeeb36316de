"""The presets (``--cfg``): pure functions of image resolution and number of GPUs.

The numbers are those of the GGDR reference (tests/parity/test_options_golden.py). Scores in the docstrings
are from Lee et al. 2022 (GGDR): FID of 50,000 images against all training images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dnnlib.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The values of a preset. ``batch_gpu`` is the microbatch of one GPU; gradients accumulate."""

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

    def fields(self) -> dict[str, Any]:
        """Its fields of the configuration by path, such as ``{"loss.r1_gamma": 1}``."""
        return {
            "generator.map_layers": self.map_layers,
            "generator.channel_base": self.channel_base,
            "discriminator.channel_base": self.channel_base,
            "discriminator.architecture": self.architecture,
            "discriminator.mbstd_group": self.mbstd_group,
            "loss.r1_gamma": self.gamma,
            "loss.pl_weight": self.pl_weight,
            "loss.style_mixing_prob": self.style_mixing_prob,
            "optim.lr_G": self.lr,
            "optim.lr_D": self.lr,
            "schedule.total_kimg": self.kimg,
            "schedule.batch_size": self.batch,
            "schedule.ema_kimg": self.ema_kimg,
        }


def auto(resolution: int, gpus: int) -> Preset:
    """For a new data set: values from resolution and number of GPUs. ``--gamma`` is worth tuning.

    Each GPU takes 4096 / resolution images, at most 32; all GPUs take at most 64. γ grows with the pixels and
    falls with the batch. No published score: the papers use the fixed presets.
    """
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return Preset(
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


def stylegan2(resolution: int, gpus: int) -> Preset:
    """StyleGAN2 "config F" at 1024×1024 (Karras et al. 2020, StyleGAN2): for comparisons with that paper.

    Full capacity at every resolution, so it costs more than paper256 at 256×256. 8 GPUs with 4 images each.
    """
    return Preset(
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


def paper256(resolution: int, gpus: int) -> Preset:
    """FFHQ, LSUN and Landscape at 256×256 in the ADA and GGDR papers.

    G has 24.8 M parameters, D 24.0 M (25.6 M with GGDR at 64).
    Cost: 8 V100; 5.60 s without and 6.05 s with GGDR (table 4c). FID without → with GGDR: FFHQ (``--aug=noaug
    --mirror=1``) 3.71 → 3.14, LSUN cat 7.98 → 5.28, horse 3.62 → 2.50, church 3.97 → 3.15; with ADA,
    Landscape 13.87 → 10.38 (tables 2, 3).
    """
    return Preset(
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


def paper512(resolution: int, gpus: int) -> Preset:
    """AFHQ at 512×512 in the ADA and GGDR papers, on 8 GPUs with 8 images each.

    FID with ADA, without → with GGDR (``--mirror=1``): cat 3.55 → 2.76, dog 7.40 → 4.59, wild 3.05 → 2.06
    (table 3).
    """
    return Preset(
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


def paper1024(resolution: int, gpus: int) -> Preset:
    """MetFaces at 1024×1024 in the ADA paper, by transfer learning; 8 GPUs with 4 images each.

    The GGDR paper does not use it.
    """
    return Preset(
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


def cifar(resolution: int, gpus: int) -> Preset:
    """CIFAR-10 at 32×32: no path length, no style mixing, no residual discriminator.

    2 GPUs with 32 images each. FID with ADA, without → with GGDR at 8×8: 2.92 ± 0.05 → 2.15 ± 0.02; inception
    score 9.83 → 10.02 (table 1).
    """
    return Preset(
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
PRESETS: dict[str, Callable[[int, int], Preset]] = {
    "auto": auto,
    "stylegan2": stylegan2,
    "paper256": paper256,
    "paper512": paper512,
    "paper1024": paper1024,
    "cifar": cifar,
}


def find_preset(name: str, resolution: int, gpus: int) -> Preset:
    """The preset of a name. Raises :class:`UserError` where there is none."""
    if name not in PRESETS:
        raise UserError(f"there is no --cfg={name}; choose one of {' '.join(PRESETS)}")
    return PRESETS[name](resolution, gpus)
