"""What this machine's convolutions can reach, and how many operations of them something needs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

#: Large 3×3 convolutions: channels and size of a batch's feature maps.
LARGE = ((128, 64), (256, 32), (512, 16))


def convolutions(batch: int) -> dict[str, Callable[[], object]]:
    """Calls that compute :data:`LARGE` once each, forward, by name."""
    calls: dict[str, Callable[[], object]] = {}
    for channels, size in LARGE:
        x, w = torch.randn([batch, channels, size, size]), torch.randn([channels, channels, 3, 3])
        calls[f"{channels}x{size}x{size}"] = lambda x=x, w=w: F.conv2d(x, w, padding=1)  # type: ignore[misc]
    return calls


def rate(batch: int, seconds: float) -> float:
    """Operations a second, where one pass over :data:`LARGE` took ``seconds``."""
    return sum(2 * batch * channels**2 * size**2 * 9 for channels, size in LARGE) / seconds


class ConvolutionWork(TorchDispatchMode):
    """Counts the operations of full convolutions, forward and backward.

    Depthwise convolutions are filters and do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default and args[8] == 1:
            x, w, transposed = args[0], args[1], args[6]
            pixels = x if transposed else result
            self.operations += 2 * w.numel() * pixels.shape[0] * pixels.shape[2] * pixels.shape[3]
        if function is torch.ops.aten.convolution_backward.default and args[9] == 1:
            dy, w, wanted = args[0], args[2], args[10]
            self.operations += sum(wanted[:2]) * 2 * w.numel() * dy.shape[0] * dy.shape[2] * dy.shape[3]
        return result
