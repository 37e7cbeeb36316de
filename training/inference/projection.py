"""Projection of an image into W: the w of the perceptually nearest picture.

The method is that of Karras et al. 2020 (StyleGAN2), appendix D.

Adam minimises, over one ``w [1, w_dim]`` for all layers and the noise maps,

    distance(picture(w̃, noise), target) + α · Σ regularisation(noise)

``w̃`` is w plus noise that fades out during the first three quarters, which lets the search leave poor
regions. The regularisation penalises correlation between neighbours at every scale, so that the noise maps
do not carry the image.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils.seeding import derive_seed
from training.inference.renderer import noise_layers, synthesize
from training.networks.generator import Generator

MAX_DISTANCE_SIZE = 256  # pixels a side; the detector gets larger pictures averaged down, as in the paper
NOISE_FLOOR = 8  # the regularisation goes down to this resolution


@dataclass(frozen=True)
class ProjectionConfig:
    """Settings of the search; defaults are the paper's.

    Attributes:
        num_steps: steps of Adam.
        w_samples: number of latents for mean and standard deviation of w.
        learning_rate: the highest learning rate of Adam.
        rampup: fraction of the steps in which the learning rate rises linearly.
        rampdown: fraction of the steps in which it falls along a cosine.
        w_noise: standard deviation of the noise added to w at first, relative to that of w.
        w_noise_length: fraction of the steps until it has faded out.
        noise_weight: α of the regularisation.
        seed: of the samples, the noise maps and the noise added to w.
    """

    num_steps: int = 1000
    w_samples: int = 10_000
    learning_rate: float = 0.1
    rampup: float = 0.05
    rampdown: float = 0.25
    w_noise: float = 0.05
    w_noise_length: float = 0.75
    noise_weight: float = 1e5
    seed: int = 0


@dataclass(frozen=True)
class ProjectionStep:
    """One step of Adam.

    Attributes:
        start: w ``[1, 1, w_dim]`` before the step.
        w: w ``[1, 1, w_dim]`` after it.
        distance: perceptual distance before the step.
        loss: whole loss before the step.
    """

    start: torch.Tensor
    w: torch.Tensor
    distance: float
    loss: float


def w_statistics(G: Generator, c: torch.Tensor, samples: int, seed: int) -> tuple[torch.Tensor, float]:
    """Mean ``[1, 1, w_dim]`` and standard deviation of w over random z.

    The standard deviation is the root of the mean squared distance from the mean.

    Args:
        G: the generator.
        c: label ``[1, c_dim]``.
        samples: number of z.
        seed: of the z.
    """
    z = torch.from_numpy(
        np.random.RandomState(derive_seed(seed, "w statistics") % 2**32).randn(samples, G.z_dim)
    ).float()
    with torch.no_grad():
        w = torch.cat(
            [G.mapping(part.to(c.device), c.expand(len(part), -1))[:, :1] for part in z.split(1024)]
        )
    mean = w.mean(dim=0, keepdim=True)
    return mean, float((w - mean).square().sum().div(samples).sqrt())


def learning_rate_factor(t: float, rampup: float, rampdown: float) -> float:
    """Factor of the learning rate at ``t`` in [0, 1]: a linear rise, then 1, then a cosine down."""
    down = min(1.0, (1 - t) / rampdown)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / rampup)


def w_noise_factor(t: float, strength: float, length: float) -> float:
    """Standard deviation of the noise on w, relative to that of w, at ``t`` in [0, 1]; 0 from ``length``."""
    return strength * max(0.0, 1 - t / length) ** 2


def noise_regularization(noise: torch.Tensor) -> torch.Tensor:
    """Squared correlation of neighbours in a noise map ``[1, 1, R, R]``, summed over scales from R down to 8.

    Neighbours wrap around. The next scale is the mean of 2×2 values times 2, which keeps the variance of
    white noise at one.
    """
    total = noise.new_zeros([])
    while True:
        for dim in (2, 3):
            total = total + (noise * noise.roll(1, dims=dim)).mean().square()
        if noise.shape[2] <= NOISE_FLOOR:
            return total
        noise = F.avg_pool2d(noise, kernel_size=2) * 2


@torch.no_grad()
def standardize_(noise: torch.Tensor) -> None:
    """Shift and scale a noise map in place to mean 0 and variance 1."""
    noise.sub_(noise.mean())
    noise.mul_(noise.square().mean().rsqrt())


def shrink(images: torch.Tensor) -> torch.Tensor:
    """``[N, C, H, W]`` averaged down to at most 256 pixels a side."""
    factor = max(images.shape[2:]) // MAX_DISTANCE_SIZE
    return F.avg_pool2d(images, kernel_size=factor) if factor > 1 else images


def perceptual_distance(
    perceptual: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, other: torch.Tensor
) -> float:
    """Perceptual distance of two uint8 images ``[C, H, W]``."""
    with torch.no_grad():
        first, second = perceptual(shrink(torch.stack([image, other]).float()))
    return float((first - second).square().sum())


def project(
    G: Generator,
    target: torch.Tensor,
    c: torch.Tensor,
    perceptual: Callable[[torch.Tensor], torch.Tensor],
    config: ProjectionConfig | None = None,
) -> Iterator[ProjectionStep]:
    """Search for the w of an image; yields after each step.

    Args:
        G: the generator, which is not changed.
        target: uint8 ``[C, R, R]`` of the generator's size.
        c: label ``[1, c_dim]``, on the generator's device.
        perceptual: differentiable features ``[N, K]`` of images, float32 ``[N, C, H, W]``, 0 to 255. The
            perceptual distance of two images is the squared distance of their features.
        config: settings of the search; None takes the defaults.

    Raises:
        ValueError: the target does not have the generator's size.
    """
    config = config or ProjectionConfig()
    expected = (G.img_channels, G.img_resolution, G.img_resolution)
    if tuple(target.shape) != expected:
        raise ValueError(f"expected a target of shape {expected}, got {tuple(target.shape)}")
    G = copy.deepcopy(G).eval().requires_grad_(requires_grad=False)
    device = c.device
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "projection"))
    w, w_std = w_statistics(G, c, config.w_samples, config.seed)
    w = w.clone().requires_grad_()
    resolutions = [layer.resolution for layer in noise_layers(G.synthesis).values()]
    noise = [
        torch.randn([1, 1, res, res], generator=generator).to(device).requires_grad_() for res in resolutions
    ]
    with torch.no_grad():
        wanted = perceptual(shrink(target[None].to(device).float()))
    optimizer = torch.optim.Adam([w, *noise], betas=(0.9, 0.999), lr=config.learning_rate)

    for step in range(config.num_steps):
        t = step / config.num_steps
        optimizer.param_groups[0]["lr"] = config.learning_rate * learning_rate_factor(
            t, config.rampup, config.rampdown
        )
        spread = w_std * w_noise_factor(t, config.w_noise, config.w_noise_length)
        moved = w + torch.randn(w.shape, generator=generator).to(device) * spread
        images = synthesize(G.synthesis, moved.expand(-1, G.num_ws, -1), noise, force_fp32=True)
        distance = (perceptual(shrink((images + 1) * (255 / 2))) - wanted).square().sum()
        loss = distance + config.noise_weight * sum(
            map(noise_regularization, noise), torch.zeros([], device=device)
        )
        start = w.detach().clone()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for values in noise:
            standardize_(values)
        yield ProjectionStep(start, w.detach().clone(), distance.item(), loss.item())
