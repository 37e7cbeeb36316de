"""The generator's exponential moving average, which generates the images after training."""

import torch
from torch import nn


def average_decay(batch_size: int, ema_kimg: float, rampup: float | None, images_seen: int) -> float:
    """Decay per batch for a half-life of ``ema_kimg`` thousand images; a decay of 0 copies.

    With ``rampup``, the half-life is at most that fraction of ``images_seen``, so that the average follows
    the fast changes of early training (Karras et al. 2020, ADA, appendix C).
    """
    half_life = ema_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move every parameter of ``average`` to ``decay · average + (1 − decay) · module``; copy the buffers."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    torch._foreach_copy_(list(average.buffers()), list(module.buffers()))
