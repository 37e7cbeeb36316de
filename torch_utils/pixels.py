"""From the networks' float images to bytes."""

import torch


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Turn images ``[N, C, H, W]`` in [-1, 1] into uint8 on the same device.

    As in the reference: ``x · 127.5 + 128``, clamped to 0 … 255, fractions cut off.
    """
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
