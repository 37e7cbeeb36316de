"""Convolution combined with up- or downsampling, in the cheapest order."""

import torch

from torch_utils.ops.convolution import conv2d, conv_transpose2d
from torch_utils.ops.upfirdn2d import (
    Pair,
    add_padding,
    downsample_padding,
    pad_or_crop,
    parse_padding,
    upfirdn2d,
    upsample_padding,
)


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Upsample by ``up`` with filter ``f``, convolve with ``w``, downsample by ``down`` with ``f``.

    Args:
        x: ``[N, in, H, W]``.
        w: ``[out, in / groups, kh, kw]``.
        f: low-pass filter from :func:`~torch_utils.ops.upfirdn2d.setup_filter`; None is the identity.
        up: upsampling factor.
        down: downsampling factor.
        padding: in pixels of the upsampled image: ``n``, ``[x, y]`` or ``[left, right, top, bottom]``. With
            ``kernel // 2`` the output has ``up / down`` times the input's size.
        groups: number of convolution groups.
        flip_weight: True correlates with ``w`` (as :func:`torch.nn.functional.conv2d`), False convolves.
        flip_filter: False convolves with ``f``, True correlates.

    Returns:
        ``[N, out, H', W']``.

    Raises:
        ValueError: a factor below one, a padding of another form, or nothing is left after cropping.
    """
    kernel = (w.shape[3], w.shape[2])
    pad = list(parse_padding(padding))
    if up > 1:
        pad = add_padding(pad, upsample_padding(f, up))
    if down > 1:
        pad = add_padding(pad, downsample_padding(f, down))
    if up > 1 and (down > 1 or kernel != (1, 1)):
        convolved = w.flip([2, 3]) if flip_weight else w
        x = _conv_then_upsample(x, convolved, f, up, pad, groups, flip_filter=flip_filter)
        return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)
    if not flip_weight and kernel != (1, 1):
        w = w.flip([2, 3])  # from here on, w is correlated
    if up == 1 and down == 1:
        return _conv(x, w, pad, groups)
    if up > 1:  # 1×1: convolve at the low resolution
        return upfirdn2d(
            _conv(x, w, [0] * 4, groups), f, up=up, padding=pad, flip_filter=flip_filter, gain=up**2
        )
    if kernel == (1, 1):
        return _conv(upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter), w, [0] * 4, groups)
    return conv2d(upfirdn2d(x, f, padding=pad, flip_filter=flip_filter), w, stride=down, groups=groups)


def _conv(x: torch.Tensor, w: torch.Tensor, pad: list[int], groups: int) -> torch.Tensor:
    left, right, top, bottom = pad
    if left == right >= 0 and top == bottom >= 0:
        return conv2d(x, w, padding=(top, left), groups=groups)
    return conv2d(pad_or_crop(x, (left, right, top, bottom)), w, groups=groups)


def _conv_then_upsample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    up: int,
    pad: list[int],
    groups: int,
    *,
    flip_filter: bool,
) -> torch.Tensor:
    """Convolve with ``w`` by a transposed convolution of stride ``up``, then filter.

    Both are linear, so their order does not matter. The transposed convolution starts ``kernel − 1`` pixels
    before the first pixel of the image with zeros inserted, and ends ``kernel − up`` pixels after its last
    one. The filter's padding takes these pixels back; those that it would crop on both sides are not
    computed.
    """
    out_channels, in_per_group, kh, kw = w.shape
    transposed = w.reshape(groups, out_channels // groups, in_per_group, kh, kw).transpose(1, 2)
    transposed = transposed.reshape(groups * in_per_group, out_channels // groups, kh, kw)
    pad = add_padding(pad, [-(kw - 1), -(kw - up), -(kh - 1), -(kh - up)])
    crop_x, crop_y = (max(min(-a, -b), 0) for a, b in (pad[:2], pad[2:]))
    x = conv_transpose2d(x, transposed, stride=up, padding=(crop_y, crop_x), groups=groups)
    pad = add_padding(pad, [crop_x, crop_x, crop_y, crop_y])
    return upfirdn2d(x, f, padding=pad, gain=up**2, flip_filter=flip_filter)
