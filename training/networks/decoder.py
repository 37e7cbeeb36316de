"""The decoder: the up-going half of the U-Net discriminator (Lee et al. 2022, section 3).

From the encoder's 4×4 features, each step concatenates the previous decoder output with the encoder features
of the same resolution, applies one convolution (1×1 and linear in the paper) and upsamples by two. It ends
below the image's resolution, at a feature map, or at it, with one channel a class (section 2.1).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from training.networks.layers import DEFAULT_FILTER, Conv2dLayer


def decoder_name(resolution: int) -> str:
    """Name in D's state dict of the layer whose output has ``resolution``."""
    return f"b{resolution}_dec"


def is_decoder_key(key: str) -> bool:
    """Whether a name in D's state dict is that of something in the decoder."""
    return key.partition(".")[0].endswith("_dec")


def decoder_resolutions(target: int) -> list[int]:
    """Output resolutions of the decoder's layers: 8, 16, … ``target``."""
    return [2**i for i in range(3, target.bit_length())]


def build_decoder(
    channels: Mapping[int, int],
    target: int,
    *,
    kernel_size: int = 1,
    activation: str = "linear",
    num_classes: int | None = None,
    resample_filter: Sequence[float] = DEFAULT_FILTER,
) -> dict[str, Conv2dLayer]:
    """The decoder's layers by name, up to resolution ``target``.

    Args:
        channels: feature maps of the encoder at each resolution; the decoder's output at a resolution has as
            many.
        target: resolution of the last map; a power of two, at least 8. For feature maps it is below the
            image's resolution, for class scores it is the image's.
        kernel_size: of the convolutions, odd (table 4b: 1 or 3).
        activation: of the layers, a key of :data:`torch_utils.ops.bias_act.ACTIVATIONS` (table 4b: linear or
            leaky ReLU). Class scores have none.
        num_classes: channels of the last layer, which then gives class scores; None for feature maps.
        resample_filter: low-pass taps.

    Raises:
        ValueError: ``target`` is none of the possible resolutions, or the kernel is even.
    """
    size = max(channels)
    possible = [res for res in channels if 8 <= res < size] if num_classes is None else [size]
    if target not in possible:
        what = "decoder" if num_classes is None else "class score"
        raise ValueError(f"{what} resolution {target} is not possible; {size}×{size} images allow {possible}")
    if kernel_size % 2 == 0:
        raise ValueError(f"the decoder's kernel must be odd, not {kernel_size}")
    outputs = {res: (channels[res], activation) for res in decoder_resolutions(target)}
    if num_classes is not None:
        outputs[target] = (num_classes, "linear")
    layers = {}
    for res, (out, act) in outputs.items():
        width = channels[res // 2] * (1 if res == 8 else 2)
        layers[decoder_name(res)] = Conv2dLayer(
            width, out, kernel_size, activation=act, up=2, resample_filter=resample_filter
        )
    return layers


def decode(layers: nn.Module, target: int, features: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Run the decoder, in float32.

    Args:
        layers: the module that holds the layers of :func:`build_decoder` under their names.
        target: resolution of the last map.
        features: encoder features ``{resolution: [N, C, resolution, resolution]}`` from 4 to ``target / 2``.

    Returns:
        ``{resolution: float32 [N, channels[resolution], resolution, resolution]}`` from 8 to ``target``; of
        class scores, as many channels as classes.
    """
    maps: dict[int, torch.Tensor] = {}
    x = features[4].float()
    for res in decoder_resolutions(target):
        if res > 8:
            x = torch.cat([x, features[res // 2].float()], dim=1)
        x = maps[res] = layers.get_submodule(decoder_name(res))(x)
    return maps
