"""Open a network for drawing, from a path or an address, in any format."""

from dnnlib.download import local_file
from dnnlib.errors import UserError
from torch_utils.device import announce_device
from training.inference.exported import open_export
from training.inference.files import load_networks, suffix_of
from training.inference.renderer import GeneratorRenderer, Renderer


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
