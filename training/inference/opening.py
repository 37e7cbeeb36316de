"""How command lines open what draws pictures: a path or an address, in any format."""

from dnnlib.download import local_file
from dnnlib.errors import UserError
from torch_utils.device import announce_device
from training.inference.exported import open_export
from training.inference.files import EXPORTS, load_networks, suffix_of
from training.inference.renderer import GeneratorRenderer, Renderer


def open_renderer(source: str, *, device: str = "auto", offline: bool = False) -> Renderer:
    """What draws the pictures of a network, its generator's average, or of an export, which runs on the CPU.

    Args:
        source: a path or an address; the ending tells the format.
        device: see :func:`~torch_utils.device.pick_device`.
        offline: raise instead of downloading.

    Raises:
        UserError: the file can't be had or opened, or an export is to run on a GPU.
    """
    if suffix_of(source) not in EXPORTS:
        return open_generator(source, device=device, offline=offline)
    if device == "cuda":
        raise UserError(
            f"--device=cuda, but {source} is an export, and those run on the CPU here; use the network's "
            "pickle"
        )
    return open_export(local_file(source, offline=offline))


def open_generator(source: str, *, device: str = "auto", offline: bool = False) -> GeneratorRenderer:
    """The same for what needs mapping and synthesis apart, which an export does not have."""
    target = announce_device(device)
    return GeneratorRenderer(load_networks(source, need=["G_ema"], offline=offline)["G_ema"], target)
