"""From the networks' float images to bytes."""

import torch


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """``[N, C, H, W]`` in [-1, 1] to uint8 in 0 … 255, on the same device: ``x · 127.5 + 128``, clamped, cut
    off, as in the reference."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
