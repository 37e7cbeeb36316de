"""Network pickles with random weights, small enough to draw in milliseconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from click.testing import CliRunner

from tools import convert
from torch_utils.persistence import save_network_pkl
from training.networks import Discriminator, Generator


def small_generator(resolution: int = 16, c_dim: int = 0, channels: int = 3, **synthesis: Any) -> Generator:
    """A generator whose noise, average and biases all count."""
    torch.manual_seed(0)
    kwargs = {"channel_base": 8 * resolution, "channel_max": 8, **synthesis}
    G = Generator(8, c_dim, 8, resolution, channels, {"num_layers": 2}, kwargs)
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.5)
        elif name.endswith("bias"):
            p.data.add_(torch.randn_like(p) * 0.1)
    G.mapping.w_avg.normal_()
    return G.eval().requires_grad_(False)


def write_network(
    path: Path, resolution: int = 16, c_dim: int = 0, channels: int = 3, **synthesis: Any
) -> Path:
    """A network pickle with :func:`small_generator` as average; the other networks differ from it."""
    G_ema = small_generator(resolution, c_dim, channels, **synthesis)
    G = small_generator(resolution, c_dim, channels, **synthesis)
    G.mapping.w_avg.zero_()
    D = Discriminator(c_dim, resolution, channels, channel_base=128, channel_max=8)
    info = {"kimg": 12.5, "config": {"name": "test", "metrics": ["fid"]}}
    save_network_pkl(
        path, G=G, D=D, G_ema=G_ema, training_set_kwargs={"path": "images.zip", "xflip": False}, info=info
    )
    return path


@dataclass(frozen=True)
class Exports:
    """One network in several formats.

    Attributes:
        pkl: the network, greyscale 8×8 with three classes.
        files: its export for each ending, with psi and noise as inputs.
        printed: what ``tools/convert.py`` said when it wrote each.
    """

    pkl: Path
    files: dict[str, Path]
    printed: dict[str, str]


def write_exports(folder: Path) -> Exports:
    """Convert a small network to each kind of export, as a user would."""
    pkl = write_network(folder / "net.pkl", resolution=8, c_dim=3, channels=1)
    files = {suffix: folder / suffix[1:] / f"net{suffix}" for suffix in (".onnx", ".pt2")}
    printed = {}
    for suffix, path in files.items():
        result = CliRunner().invoke(
            convert.main, ["--network", str(pkl), "--noise=external", "--out", str(path)]
        )
        assert result.exit_code == 0, result.output
        printed[suffix] = result.output
    return Exports(pkl, files, printed)


def pixels(path: Path) -> np.ndarray:
    """A picture file's values."""
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)
