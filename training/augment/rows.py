"""What the groups share: work on some rows of a batch only, and reflection of any width."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from torch_utils import device as devices


def apply_to_rows(
    x: torch.Tensor,
    chosen: torch.Tensor,
    transform: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: torch.Tensor,
) -> torch.Tensor:
    """Apply ``transform(rows, settings)`` to the rows of ``x`` where ``chosen`` (``[N]``, bool) is true.

    The other rows come out bit for bit. On a CPU only the chosen rows are transformed. Elsewhere all are,
    since the host would have to wait for the device to pick some.

    Args:
        x: ``[N, ...]``.
        chosen: on the device of ``x``.
        transform: from rows and their settings to rows. It is not called without rows.
        settings: ``[N, ...]``, what ``transform`` needs to know about each row.
    """
    if not devices.host_sees(x):
        return torch.where(chosen.reshape([-1] + [1] * (x.ndim - 1)), transform(x, settings), x)
    index = chosen.nonzero().flatten()
    if len(index) == 0:
        return x
    if len(index) == len(x):
        return transform(x, settings)
    return x.index_copy(0, index, transform(x.index_select(0, index), settings[index]))


def reflect_pad(x: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """Pad ``[N, C, H, W]`` by ``(left, right, top, bottom)``, reflected about the outermost pixels' centres.

    Wider padding than the size less one, which PyTorch refuses, reflects again and again.
    """
    left, right, top, bottom = padding
    height, width = x.shape[2:]
    if max(left, right) < width and max(top, bottom) < height:
        return F.pad(x, padding, mode="reflect") if any(padding) else x
    columns = _reflected_indices(width, left, right, x.device)
    rows = _reflected_indices(height, top, bottom, x.device)
    return x.index_select(2, rows).index_select(3, columns)


def _reflected_indices(size: int, before: int, after: int, device: torch.device) -> torch.Tensor:
    position = torch.arange(-before, size + after, device=device)
    period = max(2 * (size - 1), 1)
    position = position.remainder(period)
    return torch.minimum(position, period - position) if size > 1 else torch.zeros_like(position)
