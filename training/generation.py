"""Images from a trained generator."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import UserError
from torch_utils.seeding import seed_everything
from training.images import to_uint8
from training.networks.generator import Generator, NoiseMode


def one_hot_label(G: Generator, class_idx: int | None) -> torch.Tensor:
    """The label ``[1, c_dim]`` of a class.

    Raises:
        UserError: a conditional generator without class, an unconditional one with, or a class out of range.
    """
    if G.c_dim == 0:
        if class_idx is not None:
            raise UserError("--class is given, but this network is unconditional; leave it out")
        return torch.zeros([1, 0])
    if class_idx is None:
        raise UserError(f"this network is conditional; choose a class with --class (0 to {G.c_dim - 1})")
    if not 0 <= class_idx < G.c_dim:
        raise UserError(f"--class={class_idx} does not exist; this network has classes 0 to {G.c_dim - 1}")
    return torch.nn.functional.one_hot(torch.tensor([class_idx]), G.c_dim).float()


@torch.no_grad()
def images_from_seeds(
    G: Generator,
    seeds: list[int],
    *,
    class_idx: int | None = None,
    truncation_psi: float = 1,
    noise_mode: NoiseMode = "const",
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """``(seed, uint8 [C, H, W])`` for each seed, one at a time, so that a picture depends on nothing but its seed.

    Seed N means the latent ``numpy.random.RandomState(N).randn(1, z_dim)``; random noise is drawn from the seed too.

    Raises:
        UserError: see :func:`one_hot_label`.
    """
    G = G.to(device).eval()
    c = one_hot_label(G, class_idx).to(device)
    for seed in seeds:
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)).float().to(device)
        seed_everything(seed, "noise")
        yield seed, to_uint8(G(z, c, truncation_psi=truncation_psi, noise_mode=noise_mode))[0]


@torch.no_grad()
def images_from_ws(
    G: Generator, ws: torch.Tensor, *, noise_mode: NoiseMode = "const", device: torch.device | str = "cpu"
) -> Iterator[tuple[int, torch.Tensor]]:
    """``(index, uint8 [C, H, W])`` for each of ``ws [N, num_ws, w_dim]``."""
    G = G.to(device).eval()
    for index, w in enumerate(ws):
        seed_everything(index, "noise")
        yield index, to_uint8(G.synthesis(w[None].to(device), noise_mode=noise_mode))[0]


def load_projected_w(path: str | Path, G: Generator) -> torch.Tensor:
    """``w`` of an ``.npz`` file, ``[N, num_ws, w_dim]``. Raises :class:`UserError` if it isn't there or doesn't fit ``G``."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "w" not in arrays:
                raise UserError(f"{path} has no array named 'w' (it has: {', '.join(arrays) or 'none'})")
            ws = torch.from_numpy(np.asarray(arrays["w"], dtype=np.float32))
    except FileNotFoundError as error:
        raise UserError(f"--projected-w={path} does not exist") from error
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UserError(f"--projected-w={path} is not an .npz file with an array 'w' ({error})") from error
    if ws.ndim != 3 or tuple(ws.shape[1:]) != (G.num_ws, G.w_dim):
        raise UserError(f"'w' in {path} has shape {tuple(ws.shape)}; this network needs [N, {G.num_ws}, {G.w_dim}]")
    return ws
