"""Move pixels: pad, upsample, warp, downsample (ADA, appendix B).

The paper's groups are "pixel blitting" and "general geometric transformations".
"""

import math

import torch
import torch.nn.functional as F

from training.augment.params import GeometricParams, compose
from training.augment.resample import SUPPORT, Margin, downsample, upsample
from training.augment.rows import apply_to_rows

# Symlet 6 low-pass taps (Daubechies, "Ten Lectures on Wavelets", 1992; as printed by PyWavelets 1.8.0,
# pywt.Wavelet("sym6").dec_lo).
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)


def inverse_matrix(params: GeometricParams, width: int, height: int) -> torch.Tensor:
    """``[N, 2, 3]``: from a position in the augmented image to the one in the original that it shows.

    Positions are in pixels, (x, y) from the image's centre, y downwards. Integer shifts are rounded to whole
    pixels of ``width`` × ``height``. The forward transform is ``y = linear⁻¹ (blit⁻¹ x + round(shift)) +
    offset``.
    """
    shift, offset = (
        torch.stack([v[:, 0] * width, v[:, 1] * height], dim=1)[:, :, None]
        for v in (params.shift, params.offset)
    )
    linear = compose(params.blit, params.linear)
    return torch.cat([linear, -compose(linear, offset) - compose(params.blit, shift.round())], dim=2)


def warp(
    x: torch.Tensor, params: GeometricParams, up_taps: torch.Tensor | None, down_taps: torch.Tensor
) -> torch.Tensor:
    """Move the pixels of ``x``; what comes from outside is a reflection.

    Args:
        x: images or feature maps, ``[N, C, H, W]``.
        params: for N images, on the same device.
        up_taps: wavelet filter ``[12]`` for the way up to twice the resolution; None is bilinear
            interpolation.
        down_taps: the same filter for the way back down.

    Returns:
        ``[N, C, H, W]``. With the wavelet, going up and down changes nothing, so a sample that does not move
        at this resolution is left out and comes out bit for bit. Bilinear interpolation softens every sample,
        moved or not.
    """
    height, width = x.shape[2:]
    matrices = inverse_matrix(params, width, height)

    def move(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        if params.reach is None:
            margin = required_margin(matrices, width, height)
        else:  # the host would have to wait for the matrices
            margin = sufficient_margin(params.reach, width, height)
        return _warp(rows, matrices, margin, up_taps, down_taps)

    if up_taps is None:
        return move(x, matrices)
    moved = (matrices != torch.eye(2, 3, device=matrices.device)).flatten(1).any(dim=1)
    return apply_to_rows(x, moved, move, matrices)


def sufficient_margin(reach: float, width: int, height: int) -> Margin:
    """At least :func:`required_margin`, from :attr:`GeometricParams.reach`.

    A pixel more allows for the rounding of shifts.
    """
    x, y = (min(max(math.ceil(reach * size + 1 + 2 * SUPPORT), 0), size - 1) for size in (width, height))
    return x, x, y, y


def warp_nearest(x: torch.Tensor, params: GeometricParams, outside: int) -> torch.Tensor:
    """Move the pixels of ``x`` as :func:`warp` does. Each value is that of the nearest pixel; none are mixed.

    Args:
        x: of any type, ``[N, H, W]``, on the parameters' device.
        params: for N images.
        outside: the value of what comes from beyond the border.

    Returns:
        ``[N, H, W]``.
    """
    height, width = x.shape[1:]
    half_x, half_y = (width - 1) / 2, (height - 1) / 2
    xs = torch.arange(width, device=x.device) - half_x
    ys = torch.arange(height, device=x.device)[:, None] - half_y
    a, b, c = inverse_matrix(params, width, height)[..., None, None].unbind(2)  # each [N, 2, 1, 1]
    columns, rows = (a * xs + b * ys + c).unbind(1)
    columns, rows = (columns + half_x).round().long(), (rows + half_y).round().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return torch.where(inside, x.flatten(1).gather(1, places.flatten(1)).view_as(x), outside)


def required_margin(matrices: torch.Tensor, width: int, height: int) -> Margin:
    """Pixels beyond the edges that any of ``matrices`` (``[n, 2, 3]``) shows, at most the size less one.

    To the corners' reach comes the support of the two filters.
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = torch.tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]])
    reach = (matrices @ corners.T).permute(1, 0, 2).flatten(1)  # [2, n * 4]
    half = torch.tensor([x, y])
    limit = torch.tensor([width - 1, height - 1])
    (left, top), (right, bottom) = (
        torch.minimum((excess + 2 * SUPPORT).clamp(min=0).ceil(), limit).int().tolist()
        for excess in (-reach.amin(dim=1) - half, reach.amax(dim=1) - half)
    )
    return left, right, top, bottom


def _warp(
    x: torch.Tensor,
    matrices: torch.Tensor,
    margin: Margin,
    up_taps: torch.Tensor | None,
    down_taps: torch.Tensor,
) -> torch.Tensor:
    """:func:`warp` of all samples with ``matrices`` ``[n, 2, 3]``, on the same device.

    The map is linear and the same for all channels. Where these are more than there are pixels, as in small
    feature maps, it is cheaper to warp unit pulses and to multiply by the result.
    """
    channels, height, width = x.shape[1:]
    grid = sampling_grid(matrices, width, height, margin).to(x.dtype)

    def sample(images: torch.Tensor) -> torch.Tensor:
        extended = upsample(images, up_taps, margin).expand(len(grid), -1, -1, -1)
        return downsample(
            F.grid_sample(extended, grid, mode="bilinear", padding_mode="zeros", align_corners=False),
            down_taps,
        )

    if channels <= height * width:
        return sample(x)
    pulses = torch.eye(height * width, dtype=x.dtype, device=x.device).reshape(1, -1, height, width)
    return (x.flatten(2) @ sample(pulses).flatten(2)).reshape(x.shape)


def sampling_grid(matrices: torch.Tensor, width: int, height: int, margin: Margin) -> torch.Tensor:
    """Where each pixel of the augmented image looks in the extended original, both at twice the resolution.

    Sample 2i of an upsampled image shows pixel i: the wavelet's energy is centred there, not half-way between
    two samples as that of a symmetric filter of even length would be. Hence the quarters of a pixel below.

    Args:
        matrices: from :func:`inverse_matrix`, ``[n, 2, 3]``.
        width: of the image, not extended, in pixels.
        height: of it, likewise.
        margin: pixels by which the original was extended.

    Returns:
        ``[n, 2 height + 4 SUPPORT, 2 width + 4 SUPPORT, 2]`` in the convention of ``grid_sample``, edges at
        ±1. The augmented image includes SUPPORT pixels on every side for the filter on the way down.
    """
    left, right, top, bottom = margin
    device = matrices.device
    xs, ys = (
        torch.arange(2 * size + 4 * SUPPORT, device=device) / 2 - SUPPORT - (size - 1) / 2
        for size in (width, height)
    )
    recentre = ((left - right) / 2 - 0.25, (top - bottom) / 2 - 0.25)
    half = ((left + width + right) / 2, (top + height + bottom) / 2)

    def coordinate(axis: int) -> torch.Tensor:
        a, b, c = matrices[:, axis].unbind(1)
        c = (c + recentre[axis]) / half[axis]
        return (a / half[axis])[:, None, None] * xs + (
            (b / half[axis])[:, None, None] * ys[:, None] + c[:, None, None]
        )

    return torch.stack([coordinate(0), coordinate(1)], dim=3)
