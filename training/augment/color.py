"""Change colours: one affine map of RGB a sample (ADA, appendix B, "color transformations")."""

import torch


def check_channels(images: torch.Tensor) -> None:
    """Raise :class:`ValueError` unless ``images`` are ``[N, C, H, W]`` with C 1 (greyscale) or 3 (RGB)."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "augmentation takes images [N, C, H, W] with C 1 (greyscale) or 3 (RGB), got shape "
            f"{list(images.shape)}"
        )


def transform(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Apply ``[N, 3, 4]`` affine maps to the colours of ``[N, C, H, W]``.

    Greyscale images (C = 1) are taken as RGB with three equal channels, and the mean of the result is kept.
    Thus brightness, contrast and luma flip act as on RGB, and hue and saturation, which turn and scale about
    the grey axis, have no effect.

    Raises:
        ValueError: see :func:`check_channels`.
    """
    check_channels(images)
    n, channels, height, width = images.shape
    matrices = matrices.to(images.dtype)
    if channels == 1:
        scale = matrices[:, :, :3].sum(dim=(1, 2)) / 3
        offset = matrices[:, :, 3].mean(dim=1)
        return images * scale[:, None, None, None] + offset[:, None, None, None]
    flat = torch.baddbmm(matrices[:, :, 3:], matrices[:, :, :3], images.reshape(n, 3, height * width))
    return flat.reshape(n, 3, height, width)
