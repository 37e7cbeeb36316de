"""Which device to compute on."""

import torch

from dnnlib.errors import UserError


def pick_device(name: str) -> torch.device:
    """``auto`` (the GPU where there is one), ``cuda`` or ``cpu`` to a device.

    Raises :class:`UserError` for ``cuda`` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device=cuda, but PyTorch finds no usable GPU here; use --device=cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
