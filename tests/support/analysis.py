"""What tests of the tools share: paired images, network pickles and a detector, all small."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn

from tests.support.runs import small_state
from torch_utils.persistence import save_network_pkl


def make_pairs(root: Path, *, count: int = 8, resolution: int = 32) -> Path:
    """``images/`` of discs on coloured ground and ``annotations/`` with 1 where the disc is; reproducible."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:resolution, :resolution]
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        centre, radius = rng.uniform(0.3, 0.7, 2) * resolution, rng.uniform(0.2, 0.3) * resolution
        classes = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2).astype(np.uint8)
        colours = np.stack([rng.integers(0, 60, 3), rng.integers(200, 256, 3)]).astype(np.uint8)
        PIL.Image.fromarray(colours[classes]).save(root / "images" / f"{i:04d}.png")
        PIL.Image.fromarray(classes).save(root / "annotations" / f"{i:04d}.png")
    return root


def write_snapshot(
    path: Path, *, data: Path | None = None, kimg: float = 0, seed: int = 0, **options: Any
) -> Path:
    """A network pickle of untrained small networks."""
    state = small_state(seed=seed, **options)
    known = {} if data is None else {"path": str(data)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network_pkl(
        path, G=state.G, D=state.D, G_ema=state.G_ema, training_set_kwargs=known, info={"kimg": kimg}
    )
    return path


class PooledPixels(nn.Module):
    """12 features: the mean of each colour in each quarter of the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def write_detector(path: Path) -> Path:
    """:class:`PooledPixels` as a TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(PooledPixels()).save(str(path))
    return path
