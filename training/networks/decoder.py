"""The GGDR decoder: the up-going half of the U-Net discriminator (Lee et al. 2022, section 3).

From the encoder's 4×4 features, each step concatenates the previous decoder output with the encoder features of the
same resolution, applies one linear 1×1 convolution and upsamples by two.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from training.networks.layers import DEFAULT_FILTER, Conv2dLayer


def decoder_name(resolution: int) -> str:
    """Name in D's state dict of the layer whose output has ``resolution``."""
    return f"b{resolution}_dec"


def decoder_resolutions(target: int) -> list[int]:
    """Output resolutions of the decoder's layers: 8, 16, … ``target``."""
    return [2**i for i in range(3, target.bit_length())]


def build_decoder(
    channels: Mapping[int, int], target: int, resample_filter: Sequence[float] = DEFAULT_FILTER
) -> dict[str, Conv2dLayer]:
    """The decoder's layers by name, up to resolution ``target``.

    Args:
        channels: feature maps of the encoder at each resolution; the decoder's output at a resolution has as many.
        target: resolution of the last map; a power of two, at least 8, below the image's resolution.
        resample_filter: low-pass taps.

    Raises:
        ValueError: ``target`` is none of the possible resolutions.
    """
    possible = [res for res in channels if 8 <= res < max(channels)]
    if target not in possible:
        raise ValueError(f"decoder resolution {target} is not possible; {max(channels)}×{max(channels)} images allow {possible}")
    layers = {}
    for res in decoder_resolutions(target):
        width = channels[res // 2] * (1 if res == 8 else 2)
        layers[decoder_name(res)] = Conv2dLayer(width, channels[res], kernel_size=1, up=2, resample_filter=resample_filter)
    return layers


def decode(layers: nn.Module, target: int, features: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Run the decoder, in float32.

    Args:
        layers: the module that holds the layers of :func:`build_decoder` under their names.
        target: resolution of the last map.
        features: encoder features ``{resolution: [N, C, resolution, resolution]}`` from 4 to ``target / 2``.

    Returns:
        ``{resolution: float32 [N, channels[resolution], resolution, resolution]}`` from 8 to ``target``.
    """
    maps: dict[int, torch.Tensor] = {}
    x = features[4].float()
    for res in decoder_resolutions(target):
        if res > 8:
            x = torch.cat([x, features[res // 2].float()], dim=1)
        x = maps[res] = layers.get_submodule(decoder_name(res))(x)
    return maps
