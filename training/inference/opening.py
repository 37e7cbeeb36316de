"""Open a network for drawing, from a path or an address, in any format."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dnnlib.download import local_file
from dnnlib.errors import UserError
from torch_utils.device import announce_device, has_bfloat16
from training.inference.exported import open_export
from training.inference.files import load_networks, suffix_of
from training.inference.renderer import GeneratorRenderer, Renderer
from training.networks.layers import use_bfloat16


def open_renderer(source: str, *, device: str = "auto") -> Renderer:
    """Open a network's averaged generator, or an ONNX export, which runs on the CPU.

    Args:
        source: a path or an address; the ending tells the format.
        device: see :func:`~torch_utils.device.pick_device`.

    Raises:
        UserError: the file can't be had or opened, or ``device`` is cuda for an export.
    """
    if suffix_of(source) != ".onnx":
        return open_generator(source, device=device)
    if device == "cuda":
        raise UserError(
            f"--device=cuda, but {source} is an export, and those run on the CPU here; use the network's "
            "pickle"
        )
    return open_export(local_file(source))


def open_generator(source: str, *, device: str = "auto") -> GeneratorRenderer:
    """As :func:`open_renderer`, with mapping and synthesis apart, which exports do not have."""
    target = announce_device(device)
    return GeneratorRenderer(load_networks(source, need=["G_ema"])["G_ema"], target)


def compute_as_trained(
    network: nn.Module, info: Mapping[str, Any] | None, device: torch.device
) -> str | None:
    """Let the network of a run with ``--precision=bf16`` compute in bfloat16, as it did in the run.

    Args:
        network: from a file. It computes in float32 or float16 until then.
        info: what the file says of the run.
        device: where the network computes.

    Returns:
        a note where ``device`` has no bfloat16, or None.
    """
    if ((info or {}).get("config") or {}).get("runtime", {}).get("precision") != "bf16":
        return None
    if not has_bfloat16(device):
        return (
            f"the run computed in bfloat16, which {device} has not; values may differ a little from those "
            "measured in training"
        )
    use_bfloat16(network)
    return None
