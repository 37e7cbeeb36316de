"""The losses of the GAN objective: pure functions of tensors, with one value a sample, ``[N]``.

Non-saturating logistic loss: Goodfellow et al. 2014. R1: Mescheder et al. 2018. Path lengths: Karras et al.
2020, section 3.2.
"""

import torch
import torch.nn.functional as F


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """``−log σ(D(G(z)))``, from logits ``[N, 1]``."""
    return F.softplus(-fake_logits).flatten()


def discriminator_fake_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """``−log(1 − σ(D(G(z))))``, from logits ``[N, 1]``."""
    return F.softplus(fake_logits).flatten()


def discriminator_real_loss(real_logits: torch.Tensor) -> torch.Tensor:
    """``−log σ(D(x))``, from logits ``[N, 1]``."""
    return F.softplus(-real_logits).flatten()


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """``‖∂D(x)/∂x‖²``; the caller multiplies by γ/2.

    Args:
        logits: ``[N, 1]``, computed from ``images``.
        images: ``[N, C, H, W]`` that require gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3])


def path_lengths(images: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``‖Jᵀ_w y‖₂`` for image noise y, as root mean square over the layers' copies of w.

    Args:
        images: ``[N, C, H, W]``, computed from ``ws``.
        ws: ``[N, num_ws, w_dim]`` that require gradients.
        noise: ``[N, C, H, W]``, from :func:`path_noise`.
    """
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_noise(images: torch.Tensor) -> torch.Tensor:
    """Noise for :func:`path_lengths`, shaped as ``images``: standard normal over ``sqrt(H·W)``.

    So lengths do not grow with resolution.
    """
    return torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5


def path_length_penalty(lengths: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """``(length − mean)²``, for lengths ``[N]`` and their running mean."""
    return (lengths - mean).square()
