"""An image into W: the latent whose picture is perceptually nearest (Karras et al. 2020, StyleGAN2, appendix
D).

Adam moves one ``w [1, w_dim]``, copied to every layer, and the noise maps, so that

    distance(picture(w̃, noise), target) + α · Σ regularisation(noise)

gets small. ``w̃`` is w plus noise that fades out during the first three quarters, which lets the search leave
poor regions. The noise maps are kept from carrying the image by penalising correlation between neighbours at
every scale.
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

MAX_DISTANCE_SIZE = 256  # detectors see larger pictures averaged down to this, as in the paper
NOISE_FLOOR = 8  # the regularisation goes down to this resolution


@dataclass(frozen=True)
class ProjectionConfig:
    """The search; defaults are the paper's.

    Attributes:
        num_steps: of Adam.
        w_samples: latents whose w give mean and standard deviation.
        learning_rate: of Adam, at its highest.
        rampup, rampdown: fractions of the steps in which the learning rate rises linearly and falls along a
            cosine.
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
    """One step: w ``[1, 1, w_dim]`` before and after it, and the distance and the whole loss that it went
    down from."""

    start: torch.Tensor
    w: torch.Tensor
    distance: float
    loss: float


def w_statistics(G: Generator, c: torch.Tensor, samples: int, seed: int) -> tuple[torch.Tensor, float]:
    """Mean ``[1, 1, w_dim]`` and standard deviation (root of the mean squared distance from it) of w over
    random z.

    Args:
        c: the label, ``[1, c_dim]``.
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
    """The schedule of Adam's learning rate at ``t`` in [0, 1]: linear up, then 1, then a cosine down."""
    down = min(1.0, (1 - t) / rampdown)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / rampup)


def w_noise_factor(t: float, strength: float, length: float) -> float:
    """Standard deviation of the noise added to w at ``t`` in [0, 1], relative to that of w: falls to 0 at
    ``length``."""
    return strength * max(0.0, 1 - t / length) ** 2


def noise_regularization(noise: torch.Tensor) -> torch.Tensor:
    """Squared correlation of neighbours of one map ``[1, 1, R, R]`` (wrapping around), summed over scales
    from R down to 8.

    From scale to scale, 2×2 values are averaged and multiplied by 2, which keeps the variance of white noise
    at one.
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
    """Shift and scale a noise map in place to mean 0 and variance 1, so that it keeps its strength."""
    noise.sub_(noise.mean())
    noise.mul_(noise.square().mean().rsqrt())


def shrink(images: torch.Tensor) -> torch.Tensor:
    """``[N, C, H, W]`` averaged down to at most 256 pixels a side."""
    factor = max(images.shape[2:]) // MAX_DISTANCE_SIZE
    return F.avg_pool2d(images, kernel_size=factor) if factor > 1 else images


def perceptual_distance(
    perceptual: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, other: torch.Tensor
) -> float:
    """Distance of two uint8 images ``[C, H, W]``, on the CPU."""
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
    """Search for the w of an image, one yield a step.

    Args:
        G: on the device to work on; it is left as it is.
        target: uint8 ``[C, R, R]`` of the generator's size.
        c: label ``[1, c_dim]``, on the same device.
        perceptual: images float32 ``[N, C, H, W]``, 0 to 255, to ``[N, K]``, differentiable, whose squared
            distances between rows are perceptual distances.

    Raises:
        ValueError: the target does not have the generator's size.
    """
    config = config or ProjectionConfig()
    expected = (G.img_channels, G.img_resolution, G.img_resolution)
    if tuple(target.shape) != expected:
        raise ValueError(f"expected a target of shape {expected}, got {tuple(target.shape)}")
    G = copy.deepcopy(G).eval().requires_grad_(False)
    device = c.device
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "projection"))
    w, w_std = w_statistics(G, c, config.w_samples, config.seed)
    w = w.clone().requires_grad_(True)
    resolutions = [layer.resolution for layer in noise_layers(G.synthesis).values()]
    noise = [
        torch.randn([1, 1, res, res], generator=generator).to(device).requires_grad_(True)
        for res in resolutions
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
