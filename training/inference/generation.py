"""Draw pictures from seeds and from intermediate latents."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dnnlib.arrays import read_arrays
from dnnlib.errors import UserError
from dnnlib.file_kinds import refuse_other_kinds
from dnnlib.untrusted import one_line
from metrics.sampling import finite
from torch_utils.pixels import to_uint8
from training.inference.renderer import GeneratorRenderer, Noise, Renderer, noise_from_seeds, one_hot_label
from training.networks.generator import Generator, NoiseMode

MAX_PROJECTED = 2**28  # bytes of a file of intermediate latents: 7,000 sets for 1024x1024 pixels
MAX_SEED = 2**32 - 1  # what numpy.random.RandomState takes


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise :class:`UserError` for a seed that is too large for :func:`latents_from_seeds`."""
    if max(seeds, default=0) > MAX_SEED:
        raise UserError(f"seed {max(seeds)} is too large; seeds must be below {MAX_SEED + 1}")


def latents_from_seeds(seeds: Sequence[int], z_dim: int) -> torch.Tensor:
    """Latents ``[N, z_dim]``, float32: ``numpy.random.RandomState(seed).randn(1, z_dim)`` for each seed."""
    return torch.from_numpy(np.stack([np.random.RandomState(seed).randn(z_dim) for seed in seeds])).float()


def draw_noise(noise_mode: NoiseMode, seeds: Sequence[int], resolutions: Sequence[int]) -> Noise:
    """The noise of a batch: maps drawn from each seed where the mode is ``random``, else the mode."""
    return noise_from_seeds(seeds, resolutions) if noise_mode == "random" else noise_mode


def images_from_seeds(
    renderer: Renderer,
    seeds: Sequence[int],
    *,
    class_idx: int | None = None,
    truncation_psi: float = 1,
    noise_mode: NoiseMode = "const",
    batch: int = 16,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Draw ``(seed, uint8 [C, H, W])`` for each seed.

    A picture depends on its seed alone, and not on ``batch`` or the other seeds.

    Raises:
        UserError: at once, as :func:`check_seeds`, :func:`~training.inference.renderer.one_hot_label` and
            :meth:`~training.inference.renderer.Renderer.check` do; later, where the network gives values
            that are not finite.
    """
    check_seeds(seeds)
    c = one_hot_label(renderer.c_dim, class_idx)
    renderer.check(truncation_psi, noise_mode)

    @torch.no_grad()
    def draw() -> Iterator[tuple[int, torch.Tensor]]:
        for part in batches(seeds, batch):
            z = latents_from_seeds(part, renderer.z_dim)
            noise = draw_noise(noise_mode, part, renderer.noise_resolutions)
            images = renderer.images(z, c.expand(len(part), -1), truncation_psi, noise)
            yield from zip(part, to_uint8(finite(images)).cpu(), strict=True)

    return draw()


@torch.no_grad()
def images_from_ws(
    renderer: GeneratorRenderer, ws: torch.Tensor, *, noise_mode: NoiseMode = "const", batch: int = 16
) -> Iterator[tuple[int, torch.Tensor]]:
    """Draw ``(index, uint8 [C, H, W])`` for each of ``ws [N, num_ws, w_dim]``.

    The index is the seed of random noise.
    """
    for part in batches(range(len(ws)), batch):
        noise = draw_noise(noise_mode, part, renderer.noise_resolutions)
        yield from zip(
            part,
            to_uint8(finite(renderer.images_from_ws(ws[part[0] : part[-1] + 1], noise))).cpu(),
            strict=True,
        )


@torch.no_grad()
def ws_from_seeds(
    renderer: GeneratorRenderer, seeds: Sequence[int], class_idx: int | None, truncation_psi: float
) -> torch.Tensor:
    """Intermediate latents ``[N, num_ws, w_dim]`` of seeds, on the renderer's device.

    Raises:
        UserError: as :func:`images_from_seeds`.
    """
    check_seeds(seeds)
    c = one_hot_label(renderer.c_dim, class_idx)
    renderer.check(truncation_psi, "const")
    return renderer.ws(latents_from_seeds(seeds, renderer.z_dim), c.expand(len(seeds), -1), truncation_psi)


def batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Slices of ``size`` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def load_projected_w(path: str | Path, G: Generator) -> torch.Tensor:
    """Read intermediate latents, float32 ``[N, num_ws, w_dim]``.

    The file is an ``.npz`` with an array ``w``, as ``tools/project.py`` writes it, or an ``.npy``. The first
    dimension may be missing.

    Raises:
        UserError: the file is missing, is damaged or of another kind, or doesn't fit ``G``.
    """
    name = f"--projected-w={path}"
    if not Path(path).exists():
        raise UserError(f"{name} does not exist")
    advice = "give the .npz with an array 'w' that tools/project.py writes, or an .npy of the same numbers"
    refuse_other_kinds(path, name, wanted=("npz", "npy"), advice=advice)
    arrays = read_arrays(path, name, limit=MAX_PROJECTED, advice=advice)
    if not arrays.keys() & {"", "w"}:
        raise UserError(f"{path} has no array named 'w' (it has: {one_line(', '.join(arrays)) or 'none'})")
    found = arrays[""] if "" in arrays else arrays["w"]
    with np.errstate(over="ignore"):  # to infinity, which is refused below
        ws = torch.from_numpy(found.astype(np.float32))
    ws = ws[None] if ws.ndim == 2 else ws
    if ws.ndim != 3 or tuple(ws.shape[1:]) != (G.num_ws, G.w_dim) or not len(ws):
        raise UserError(
            f"'w' in {path} has shape {found.shape}; this network needs [N, {G.num_ws}, {G.w_dim}]"
        )
    if not ws.isfinite().all():
        raise UserError(f"'w' in {path} has values that are not finite")
    return ws
