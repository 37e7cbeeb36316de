"""Closed walks through latent space."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import scipy.interpolate
import torch

from dnnlib.errors import UserError
from torch_utils.pixels import to_uint8
from training.inference.generation import batches, latents_from_seeds, ws_from_seeds
from training.inference.renderer import GeneratorRenderer, one_hot_label


def looping_path(keys: torch.Tensor, frames: int) -> torch.Tensor:
    """A closed curve through points: ``keys [K, …]`` to ``[K · frames, …]``.

    It passes ``keys[i]`` at ``i · frames``. The curve is the periodic cubic spline: speed and curvature are
    continuous, also where it closes.

    Raises:
        UserError: fewer than two points.
    """
    if len(keys) < 2:
        raise UserError(f"a walk needs at least two seeds, got {len(keys)}")
    closed = torch.cat([keys, keys[:1]]).double().numpy()
    spline = scipy.interpolate.CubicSpline(np.arange(len(closed)), closed, axis=0, bc_type="periodic")
    return torch.from_numpy(spline(np.arange(len(keys) * frames) / frames)).to(keys.dtype)


def walk_images(
    renderer: GeneratorRenderer,
    walks: Sequence[Sequence[int]],
    frames: int,
    *,
    space: Literal["z", "w"] = "z",
    class_idx: int | None = None,
    truncation_psi: float = 1,
    noise_mode: Literal["const", "none"] = "const",
    batch: int = 16,
) -> Iterator[torch.Tensor]:
    """Draw pictures along several walks at once: uint8 ``[len(walks), C, H, W]`` for each frame.

    Args:
        renderer: the network.
        walks: the seeds that each walk passes, equally many for each.
        frames: from one seed to the next.
        space: where the curve lies. Mapping normalises z, so in ``z`` the walk stays among likely latents;
            in ``w`` the pictures change more evenly.
        class_idx: class of a conditional network.
        truncation_psi: truncation of the seeds' w.
        noise_mode: the network's stored noise, or none.
        batch: pictures at a time; changes no picture.

    Raises:
        UserError: at once, as :func:`looping_path` and :func:`~training.inference.generation.ws_from_seeds`
            do.
    """
    keys = [ws_from_seeds(renderer, seeds, class_idx, truncation_psi)[:, 0].cpu() for seeds in walks]
    if space == "z":
        keys = [latents_from_seeds(seeds, renderer.z_dim) for seeds in walks]
    paths = torch.stack([looping_path(key, frames) for key in keys], dim=1)  # [frames, walks, z_dim or w_dim]
    c = one_hot_label(renderer.c_dim, class_idx)

    @torch.no_grad()
    def draw() -> Iterator[torch.Tensor]:
        for part in batches(range(len(paths)), max(1, batch // len(walks))):
            points = paths[part[0] : part[-1] + 1].flatten(0, 1)
            if space == "z":
                ws = renderer.ws(points, c.expand(len(points), -1), truncation_psi)
            else:
                ws = points[:, None].expand(-1, renderer.G.num_ws, -1)
            yield from (
                to_uint8(renderer.images_from_ws(ws, noise_mode)).cpu().unflatten(0, (len(part), len(walks)))
            )

    return draw()
