"""Feature maps of trained networks: of the generator, and of the discriminator's encoder and decoder."""

from collections.abc import Collection, Mapping, Sequence

import torch

from metrics.sampling import finite
from torch_utils.pixels import to_uint8
from training.networks import Discriminator, Generator
from training.networks.decoder import decode

Maps = dict[int, torch.Tensor]


@torch.no_grad()
def generator_maps(
    G: Generator, z: torch.Tensor, c: torch.Tensor, resolutions: Collection[int], batch: int = 16
) -> tuple[torch.Tensor, Maps]:
    """Images and block outputs of ``G`` for ``z [N, z_dim]`` and ``c [N, c_dim]``.

    It runs in float32 with its constant noise.

    Returns:
        Images, uint8 ``[N, C, H, W]``, and block outputs, ``{resolution: [N, C, resolution, resolution]}``;
        on the CPU.

    Raises:
        UserError: ``G`` gives values that are not finite.
        ValueError: ``G`` has no block of a resolution.
    """
    images, parts = [], []
    for some_z, some_c in zip(z.split(batch), c.split(batch), strict=True):
        rendered, maps = G(some_z, some_c, capture=resolutions, noise_mode="const", force_fp32=True)
        images.append(to_uint8(finite(rendered)).cpu())
        parts.append(_on_host(maps))
    return torch.cat(images), _joined(parts)


@torch.no_grad()
def discriminator_maps(D: Discriminator, images: torch.Tensor, batch: int = 16) -> tuple[Maps, Maps]:
    """Encoder and decoder maps of images float32 ``[N, C, H, W]`` in [-1, 1], in float32.

    Returns:
        ``{resolution: [N, C, resolution, resolution]}`` of the encoder, from half the images' resolution down
        to 4, and of the decoder, from 8 to its target (empty without a decoder); on the CPU.
    """
    encoder, decoder = [], []
    for some in images.split(batch):
        features, _ = D.encode(some, force_fp32=True)
        encoder.append(_on_host(features))
        decoder.append({} if D.decoder_res is None else _on_host(decode(D, D.decoder_res, features)))
    return _joined(encoder), _joined(decoder)


def _on_host(maps: Mapping[int, torch.Tensor]) -> Maps:
    return {res: values.float().cpu() for res, values in maps.items()}


def _joined(parts: Sequence[Maps]) -> Maps:
    return {res: torch.cat([part[res] for part in parts]) for res in parts[0]}
