"""Corrupt pixels: filter bands, add noise, cut out (ADA, appendix B).

The paper's groups are "image-space filtering" and "additional corruptions".
"""

import numpy as np
import torch
import torch.nn.functional as F

from training.augment.params import WAVELET_BANDS
from training.augment.rows import apply_to_rows, reflect_pad

# Symlet 2 low-pass taps (Daubechies, 1992; as printed by PyWavelets 1.8.0, pywt.Wavelet("sym2").dec_lo).
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)


def band_filters() -> torch.Tensor:
    """Zero-phase filters ``[4, 43]`` for [0, π/8], [π/8, π/4], [π/4, π/2], [π/2, π]; they sum to a pulse.

    With the half-band pair L(z) = H(z) H(1/z) / 2 and its complement K(z) = 1 − L(z) of the symlet H, the
    highest band is K(z), the next L(z) K(z²), then L(z) L(z²) K(z⁴), and the lowest L(z) L(z²) L(z⁴).
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * np.where(np.arange(len(low)) % 2 == len(low) // 2 % 2, 1, -1)
    bands, below = [], np.ones(1)
    for octave in range(WAVELET_BANDS - 1):
        bands.append(np.convolve(below, _stretch(high, 2**octave)))
        below = np.convolve(below, _stretch(low, 2**octave))
    bands.append(below)
    widest = len(below)
    centred = [np.pad(band, (widest - len(band)) // 2) for band in reversed(bands)]
    return torch.from_numpy(np.stack(centred)).float()


def _stretch(taps: np.ndarray, factor: int) -> np.ndarray:
    """F(z) to F(z^factor)."""
    stretched = np.zeros((len(taps) - 1) * factor + 1)
    stretched[::factor] = taps
    return stretched


def filter_bands(images: torch.Tensor, gains: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Amplify frequency bands of ``[N, C, H, W]`` by ``[N, 4]`` with :func:`band_filters`, across and down.

    With so many taps a product with one matrix a sample and direction is the cheapest way, in every gradient
    too. Samples whose gains are all 1 come out bit for bit.
    """
    height, width = images.shape[2:]

    def amplify(rows: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        down, across = (
            (gains @ band_matrices(filters, size).flatten(1)).unflatten(1, (1, size, size))
            for size in (height, width)
        )
        return down.to(rows.dtype) @ rows @ across.transpose(2, 3).to(rows.dtype)

    return apply_to_rows(images, (gains != 1).any(dim=1), amplify, gains)


def band_matrices(filters: torch.Tensor, size: int) -> torch.Tensor:
    """Filters ``[bands, taps]`` as matrices ``[bands, size, size]`` on pixels reflected at both ends."""
    reach = filters.shape[1] // 2
    pulses = torch.eye(size, device=filters.device, dtype=filters.dtype)[:, None, None, :]
    padded = reflect_pad(pulses, (reach, reach, 0, 0))
    responses = F.conv2d(padded, filters[:, None, None, :])  # [pulse, band, 1, pixel]
    return responses[:, :, 0].permute(1, 2, 0)


def add_noise(images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``images + noise``, both ``[N, C, H, W]``. Raises :class:`ValueError` if the shapes differ."""
    if images.shape != noise.shape:
        raise ValueError(
            f"the noise was drawn for images of shape {tuple(noise.shape)}, not {tuple(images.shape)}"
        )
    return images + noise.to(images.dtype)


def cut_out(images: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """Set a square of ``[N, C, H, W]`` to 0.

    ``holes`` is ``[N, 3]``: centre x, centre y and side, as fractions of the size.
    """
    height, width = images.shape[2:]
    x, y = ((torch.arange(size, device=images.device) + 0.5) / size for size in (width, height))
    half = holes[:, 2:] / 2
    outside_x = (x[None, :] - holes[:, 0:1]).abs() >= half
    outside_y = (y[None, :] - holes[:, 1:2]).abs() >= half
    keep = outside_x[:, None, None, :] | outside_y[:, None, :, None]
    return images * keep.to(images.dtype)
