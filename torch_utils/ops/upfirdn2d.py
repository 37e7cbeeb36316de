"""Pad, upsample, filter and downsample two-dimensional signals (upfirdn = up, FIR filter, down).

With ``up`` for the insertion of zeros and ``*`` for convolution without padding, one call computes, for every
channel by itself,

    y = ((pad(up(x)) * f) · gain) at every ``down``-th position.

All functions take ``[N, C, H, W]`` and are differentiable in ``x`` any number of times.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

import torch_utils.ops.native as native
from torch_utils.ops.dispatch import Impl, use_native

Pair = int | Sequence[int]


def setup_filter(
    f: object,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepare a FIR filter for :func:`upfirdn2d`.

    Args:
        f: taps as a tensor, array or nested list; ``[taps]`` (separable) or ``[height, width]``; None is the
            identity.
        device: where the result lives; None takes torch's default.
        normalize: scale the taps to sum to one.
        flip_filter: reverse the taps.
        gain: gain of the two-dimensional filter.
        separable: keep ``[taps]`` as one row, which is used in both directions. None does so from 8 taps on:
            two one-dimensional passes are then cheaper than one two-dimensional pass.

    Returns:
        float32, ``[taps]`` or ``[height, width]``.

    Raises:
        ValueError: the taps are empty, have more than two dimensions, or have two and ``separable`` is True.
    """
    given = 1 if f is None else f.detach().cpu() if isinstance(f, torch.Tensor) else f
    taps = torch.as_tensor(np.asarray(given, dtype=np.float32), device=device).clone()
    if taps.ndim == 0:
        taps = taps[None]
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"setup_filter: expected [taps] or [height, width], got shape {tuple(taps.shape)}")
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if separable and taps.ndim != 1:
        raise ValueError("setup_filter: two-dimensional taps cannot be kept separable")
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return taps * gain ** (taps.ndim / 2)


def filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """Width and height of a filter made by :func:`setup_filter`; ``(1, 1)`` for None."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def parse_scale(scale: Pair) -> tuple[int, int]:
    """Turn ``n`` or ``[x, y]`` into ``(x, y)``. Raises :class:`ValueError` for factors below one."""
    x, y = (scale, scale) if isinstance(scale, int) else (int(s) for s in scale)
    if x < 1 or y < 1:
        raise ValueError(f"upfirdn2d: resampling factors must be at least 1, got {scale}")
    return x, y


def parse_padding(padding: Pair) -> tuple[int, int, int, int]:
    """Turn ``n``, ``[x, y]`` or ``[left, right, top, bottom]`` into the last. Negative values crop.

    Raises :class:`ValueError` for another number of values.
    """
    if isinstance(padding, int):
        return (padding,) * 4
    values = [int(p) for p in padding]
    if len(values) == 2:
        return values[0], values[0], values[1], values[1]
    if len(values) != 4:
        raise ValueError(f"upfirdn2d: padding must have 1, 2 or 4 values, got {padding}")
    return values[0], values[1], values[2], values[3]


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: Impl = "auto",
) -> torch.Tensor:
    """Upsample, pad, filter and downsample, as in the equation at the top of this module.

    Args:
        x: ``[N, C, H, W]``, float.
        f: from :func:`setup_filter`; None is the identity.
        up: factor of upsampling by zeros, ``n`` or ``[x, y]``.
        down: factor of downsampling, ``n`` or ``[x, y]``.
        padding: in pixels of the upsampled image: ``n``, ``[x, y]`` or ``[left, right, top, bottom]``;
            negative values crop.
        flip_filter: False convolves, True correlates.
        gain: scale of the result.
        impl: see :func:`torch_utils.ops.dispatch.use_native`.

    Returns:
        ``[N, C, H', W']`` with ``W' = (W·up + left + right − taps) // down + 1``, likewise ``H'``.

    Raises:
        ValueError: ``x`` is not four-dimensional or not float, or nothing is left after cropping.
        OpsUnavailable: see :func:`torch_utils.ops.dispatch.use_native`.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"upfirdn2d: expected a float tensor [N, C, H, W], got {x.dtype} {tuple(x.shape)}")
    up_x, up_y = parse_scale(up)
    down_x, down_y = parse_scale(down)
    left, right, top, bottom = parse_padding(padding)
    taps_x, taps_y = filter_size(f)
    if x.shape[3] * up_x + left + right < taps_x or x.shape[2] * up_y + top + bottom < taps_y:
        raise ValueError(
            f"upfirdn2d: {tuple(x.shape)} upsampled by {(up_y, up_x)} and padded by "
            f"{(left, right, top, bottom)} is smaller than the filter {(taps_y, taps_x)}"
        )
    reason = "the filter's gradient is asked for" if f is not None and f.requires_grad else None
    if use_native("upfirdn2d", impl, x, reason):
        return native.upfirdn2d(
            x, f, (up_x, up_y), (down_x, down_y), (left, right, top, bottom), flip_filter, float(gain)
        )
    x = _insert_zeros(x, up_x, up_y)
    x = pad_or_crop(x, (left, right, top, bottom))
    if f is None:
        x = x if gain == 1 else x * gain
        return x[:, :, ::down_y, ::down_x]
    f = f.to(x.dtype) if flip_filter else f.to(x.dtype).flip(list(range(f.ndim)))
    channels = x.shape[1]
    if f.ndim == 2:
        return F.conv2d(x, (f * gain).expand(channels, 1, -1, -1), stride=(down_y, down_x), groups=channels)
    x = F.conv2d(x, (f * gain)[None, :].expand(channels, 1, -1, -1), stride=(1, down_x), groups=channels)
    return F.conv2d(x, f[:, None].expand(channels, 1, -1, -1), stride=(down_y, 1), groups=channels)


def _insert_zeros(x: torch.Tensor, up_x: int, up_y: int) -> torch.Tensor:
    """Turn ``[N, C, H, W]`` into ``[N, C, H·up_y, W·up_x]``: zeros follow each pixel."""
    if up_x == up_y == 1:
        return x
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1])
    return x.reshape(n, c, h * up_y, w * up_x)


def pad_or_crop(x: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """Pad ``[N, C, H, W]`` with zeros by ``(left, right, top, bottom)``; negative values crop."""
    return F.pad(x, padding) if any(padding) else x


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: Impl = "auto",
) -> torch.Tensor:
    """Filter ``[N, C, H, W]``. With ``padding=0`` the size stays; padding makes it larger."""
    left, right, top, bottom = parse_padding(padding)
    taps_x, taps_y = filter_size(f)
    full = [left + taps_x // 2, right + (taps_x - 1) // 2, top + taps_y // 2, bottom + (taps_y - 1) // 2]
    return upfirdn2d(x, f, padding=full, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample_padding(f: torch.Tensor | None, up: Pair) -> tuple[int, int, int, int]:
    """Padding with which upsampling by ``up`` with ``f`` gives ``up`` times the size, centres aligned."""
    (taps_x, taps_y), (up_x, up_y) = filter_size(f), parse_scale(up)
    return (taps_x + up_x - 1) // 2, (taps_x - up_x) // 2, (taps_y + up_y - 1) // 2, (taps_y - up_y) // 2


def downsample_padding(f: torch.Tensor | None, down: Pair) -> tuple[int, int, int, int]:
    """Padding with which downsampling by ``down`` with ``f`` gives ``1/down`` of the size."""
    (taps_x, taps_y), (down_x, down_y) = filter_size(f), parse_scale(down)
    return (
        (taps_x - down_x + 1) // 2,
        (taps_x - down_x) // 2,
        (taps_y - down_y + 1) // 2,
        (taps_y - down_y) // 2,
    )


def add_padding(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Element-wise sum of two ``[left, right, top, bottom]``."""
    return [i + j for i, j in zip(a, b, strict=True)]


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: Impl = "auto",
) -> torch.Tensor:
    """Upsample to ``[N, C, H·up, W·up]``, keeping the mean. ``padding`` is in pixels of the output."""
    up_x, up_y = parse_scale(up)
    full = add_padding(parse_padding(padding), upsample_padding(f, up))
    return upfirdn2d(x, f, up=up, padding=full, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: Impl = "auto",
) -> torch.Tensor:
    """Downsample to ``[N, C, H/down, W/down]``. ``padding`` is in pixels of the input."""
    full = add_padding(parse_padding(padding), downsample_padding(f, down))
    return upfirdn2d(x, f, down=down, padding=full, flip_filter=flip_filter, gain=gain, impl=impl)
