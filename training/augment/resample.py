"""Up to twice the resolution and back down, around the warp; each in two ways that give the same result.

The reference is :mod:`torch_utils.ops.upfirdn2d`. On a CPU, filtering one axis as a dense matrix product is
several times as fast (measured from 32 to 512 pixels, forward and backward), so there it is used.
"""

import functools

import torch
import torch.nn.functional as F

from torch_utils.ops import upfirdn2d
from training.augment.rows import reflect_pad

SUPPORT = 3  # pixels that a filter of 12 taps at twice the resolution reaches to either side

Margin = tuple[int, int, int, int]  # left, right, top, bottom in pixels


def upsample(
    x: torch.Tensor, taps: torch.Tensor | None, margin: Margin, *, dense: bool | None = None
) -> torch.Tensor:
    """Extend ``x`` by reflection and double its resolution.

    Args:
        x: ``[N, C, H, W]``.
        taps: separable low-pass filter ``[12]``; None is bilinear interpolation.
        margin: less than H or W. What the filter sees beyond is the reflection too, up to the size less one,
            then 0.
        dense: whether to multiply by matrices; None does so on a CPU.

    Returns:
        ``[N, C, 2 (top + H + bottom), 2 (left + W + right)]``.
    """
    height, width = x.shape[2:]
    left, right, top, bottom = margin
    if _use_dense(x, dense=dense):
        key = None if taps is None else tuple(taps.tolist())
        columns = _up_matrix(key, width, x.dtype)[2 * (width - 1 - left) : 2 * (2 * width - 1 + right)]
        rows = _up_matrix(key, height, x.dtype)[2 * (height - 1 - top) : 2 * (2 * height - 1 + bottom)]
        return rows @ (x @ columns.T)
    limits = (width - 1, width - 1, height - 1, height - 1)
    padding = tuple(min(m + SUPPORT, limit) for m, limit in zip(margin, limits, strict=True))
    crop = [2 * (m - p) for m, p in zip(margin, padding, strict=True)]
    x = reflect_pad(x, padding)  # type: ignore[arg-type]
    if taps is not None:
        return upfirdn2d.upsample2d(x, taps.to(x.dtype), padding=crop)
    return F.pad(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), crop)


def downsample(x: torch.Tensor, taps: torch.Tensor, *, dense: bool | None = None) -> torch.Tensor:
    """``[N, C, 2 H + 4 SUPPORT, 2 W + 4 SUPPORT]``, filtered by reversed ``taps``, to ``[N, C, H, W]``."""
    if _use_dense(x, dense=dense):
        key = tuple(taps.tolist())
        return _down_matrix(key, x.shape[2], x.dtype) @ (x @ _down_matrix(key, x.shape[3], x.dtype).T)
    return upfirdn2d.downsample2d(x, taps.to(x.dtype), padding=-2 * SUPPORT, flip_filter=True)


def _use_dense(x: torch.Tensor, *, dense: bool | None) -> bool:
    return x.device.type == "cpu" if dense is None else dense


@functools.lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # a matrix made in inference mode could not serve training later
def _up_matrix(taps: tuple[float, ...] | None, size: int, dtype: torch.dtype) -> torch.Tensor:
    """:func:`upsample` of one axis with the largest margin, as a matrix ``[2 (3 size - 2), size]``."""
    pulses = reflect_pad(torch.eye(size, dtype=dtype)[:, None, None, :], (size - 1, size - 1, 0, 0))
    if taps is None:
        up = F.interpolate(pulses[:, :, 0], scale_factor=2, mode="linear", align_corners=False)[:, 0]
    else:
        up = upfirdn2d.upsample2d(pulses, torch.tensor([taps], dtype=dtype), up=[2, 1])[:, 0, 0]
    return up.T.contiguous()


@functools.lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # a matrix made in inference mode could not serve training later
def _down_matrix(taps: tuple[float, ...], size: int, dtype: torch.dtype) -> torch.Tensor:
    """``[size / 2 - 2 SUPPORT, size]``: :func:`downsample` of one axis, as its response to unit pulses."""
    pulses = torch.eye(size, dtype=dtype)[:, None, None, :]
    f, crop = torch.tensor([taps], dtype=dtype), [-2 * SUPPORT, -2 * SUPPORT, 0, 0]
    down = upfirdn2d.downsample2d(pulses, f, down=[2, 1], padding=crop, flip_filter=True)
    return down[:, 0, 0].T.contiguous()
