"""The StyleGAN2 discriminator (Karras et al. 2020), optionally with a decoder head (Lee et al. 2022)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from torch_utils.ops.upfirdn2d import downsample2d, setup_filter
from torch_utils.pickles.registry import storable
from training.networks.arguments import DISCRIMINATOR
from training.networks.decoder import build_decoder, decode
from training.networks.layers import (
    DEFAULT_FILTER,
    Conv2dLayer,
    FullyConnectedLayer,
    HalfPrecision,
    MappingNetwork,
    channel_table,
    half_precision_resolution,
)

Architecture = Literal["orig", "skip", "resnet"]


class DiscriminatorBlock(nn.Module, HalfPrecision):
    """All layers of one resolution: halves the feature map.

    Args:
        in_channels: of the previous block; 0 for the first, which reads the image.
        tmp_channels, out_channels: feature maps before and after downsampling.
        resolution: of the input.
        img_channels: of the image.
        first_layer_idx: how many layers the blocks before have, for ``freeze_layers``.
        architecture: ``resnet`` adds a skip connection, ``skip`` reads the image at each resolution, ``orig``
            does neither.
        activation: of the convolutions.
        resample_filter: low-pass taps.
        conv_clamp: bound on activations; None for no bound.
        use_fp16: whether it may run in half precision, see :class:`~training.networks.layers.HalfPrecision`.
        fp16_channels_last: channels-last memory format with it.
        freeze_layers: layers of the network, counted from the image, that are not trained (Freeze-D, Mo et
            al. 2020).
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: int,
        img_channels: int,
        first_layer_idx: int,
        architecture: Architecture = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_layers = 0
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def layer(in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> Conv2dLayer:
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(
                in_channels,
                out_channels,
                kernel_size,
                trainable=trainable,
                channels_last=self.channels_last,
                **kwargs,
            )

        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, 1, activation=activation, conv_clamp=conv_clamp)
        resampling: dict[str, Any] = dict(down=2, resample_filter=resample_filter)
        self.conv0 = layer(tmp_channels, tmp_channels, 3, activation=activation, conv_clamp=conv_clamp)
        self.conv1 = layer(
            tmp_channels, out_channels, 3, **resampling, activation=activation, conv_clamp=conv_clamp
        )
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, 1, bias=False, **resampling)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Halve ``x [N, in_channels, resolution, resolution]`` and the image at ``resolution``.

        ``x`` is None in the first block; the returned image is None where no later block reads it.
        """
        source = x if x is not None else img
        assert source is not None
        dtype, memory_format = self.compute_as(source.device, force_fp32)
        if x is not None:
            x = x.to(dtype=dtype, memory_format=memory_format)
        if self.in_channels == 0 or self.architecture == "skip":
            assert img is not None
            y = self.fromrgb(img.to(dtype=dtype, memory_format=memory_format))
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=0.5**0.5)
            return y + self.conv1(self.conv0(x), gain=0.5**0.5), img
        return self.conv1(self.conv0(x)), img


class MinibatchStdLayer(nn.Module):
    """Appends the mean standard deviation over groups of samples (Karras et al. 2018, section 3).

    Args:
        group_size: samples a group; None groups the whole batch. A smaller batch is one group.
        num_channels: feature maps to append.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, C, H, W]`` to ``[N, C + num_channels, H, W]``.

        Raises :class:`ValueError` where groups do not divide N.
        """
        n, c, h, w = x.shape
        group = n if self.group_size is None else min(self.group_size, n)
        if n % group:
            raise ValueError(
                f"minibatch standard deviation: a batch of {n} does not divide into groups of {group}"
            )
        # Members of a group are n/group apart.
        y = x.reshape(group, n // group, self.num_channels, c // self.num_channels, h, w)
        std = (y.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [N / group, num_channels]
        return torch.cat([x, std[:, :, None, None].repeat(group, 1, h, w).to(x.dtype)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The last layers, from 4×4 features to the logit; always float32.

    Args:
        in_channels: feature maps.
        cmap_dim: width of the mapped label; 0 for an unconditional discriminator.
        resolution: of the input, 4.
        img_channels: of the image.
        architecture: see :class:`DiscriminatorBlock`.
        mbstd_group_size, mbstd_num_channels: see :class:`MinibatchStdLayer`; 0 channels leave it out.
        activation: of the layers.
        conv_clamp: bound on activations; None for no bound.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        img_channels: int,
        architecture: Architecture = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.architecture = architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)
        self.mbstd = (
            MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        )
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, 1 if cmap_dim == 0 else cmap_dim)

    def forward(self, x: torch.Tensor, img: torch.Tensor | None, cmap: torch.Tensor | None) -> torch.Tensor:
        """``x [N, in_channels, 4, 4]`` and the mapped label ``[N, cmap_dim]`` to logits ``[N, 1]``."""
        x = x.to(dtype=torch.float32, memory_format=torch.contiguous_format)
        if self.architecture == "skip":
            assert img is not None
            x = x + self.fromrgb(img.float())
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:  # projection (Miyato and Koyama 2018)
            x = (x * cmap).sum(dim=1, keepdim=True) * self.cmap_dim**-0.5
        return x


@storable("D", arguments=DISCRIMINATOR)
class Discriminator(nn.Module):
    """Images and labels to logits, and with a decoder to feature maps or class scores.

    Args:
        c_dim: width of the label; 0 for an unconditional discriminator.
        img_resolution: a power of two, at least 8.
        img_channels: of the image.
        architecture: see :class:`DiscriminatorBlock`.
        channel_base, channel_max: see :func:`~training.networks.layers.channel_table`.
        num_fp16_res: how many of the highest resolutions may run in half precision.
        conv_clamp: bound on activations; None for no bound.
        cmap_dim: width of the mapped label; None takes the width of the 4×4 features.
        block_kwargs, mapping_kwargs, epilogue_kwargs: further arguments of :class:`DiscriminatorBlock`,
            :class:`~training.networks.layers.MappingNetwork` and :class:`DiscriminatorEpilogue`.
        decoder_res: resolution of the decoder's last map; None builds no decoder. It is built last, so that
            everything else draws the same initial weights with and without it.
        decoder_kwargs: further arguments of :func:`~training.networks.decoder.build_decoder`.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: Architecture = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
        decoder_res: int | None = None,
        decoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(
                f"unknown discriminator architecture {architecture!r}; known: orig, skip, resnet"
            )
        block_kwargs, mapping_kwargs, epilogue_kwargs = (
            dict(d or {}) for d in (block_kwargs, mapping_kwargs, epilogue_kwargs)
        )
        common: dict[str, Any] = dict(
            img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp
        )
        self.init_kwargs: dict[str, Any] = dict(
            c_dim=c_dim,
            img_resolution=img_resolution,
            channel_base=channel_base,
            channel_max=channel_max,
            num_fp16_res=num_fp16_res,
            cmap_dim=cmap_dim,
            block_kwargs=block_kwargs,
            mapping_kwargs=mapping_kwargs,
            epilogue_kwargs=epilogue_kwargs,
            decoder_res=decoder_res,
            **common,
        )
        if decoder_kwargs:  # the reference's decoder has none
            self.init_kwargs["decoder_kwargs"] = dict(decoder_kwargs)
        self.c_dim, self.decoder_res = c_dim, decoder_res
        self.img_resolution, self.img_channels = img_resolution, img_channels
        channels = channel_table(img_resolution, channel_base, channel_max)
        self.block_resolutions = [res for res in reversed(channels) if res > 4]
        cmap_dim = (channels[4] if cmap_dim is None else cmap_dim) if c_dim > 0 else 0

        fp16_from = half_precision_resolution(img_resolution, num_fp16_res)
        self._add_blocks(channels, fp16_from, **common, **block_kwargs)
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, num_ws=None, w_avg_beta=None, **mapping_kwargs)
        self.b4 = DiscriminatorEpilogue(
            channels[4], cmap_dim=cmap_dim, resolution=4, **common, **epilogue_kwargs
        )
        if decoder_res is not None:
            for name, layer in build_decoder(channels, decoder_res, **(decoder_kwargs or {})).items():
                self.add_module(name, layer)

    def _add_blocks(self, channels: Mapping[int, int], fp16_from: int, **block_kwargs: Any) -> None:
        """Build the blocks, from the image's resolution down to 8."""
        num_layers = 0
        for res in self.block_resolutions:
            block = DiscriminatorBlock(
                channels[res] if res < self.img_resolution else 0,
                channels[res],
                channels[res // 2],
                resolution=res,
                first_layer_idx=num_layers,
                use_fp16=res >= fp16_from,
                **block_kwargs,
            )
            num_layers += block.num_layers
            self.add_module(f"b{res}", block)

    def forward(
        self,
        img: torch.Tensor,
        c: torch.Tensor | None,
        return_features: bool = False,
        force_fp32: bool = False,
        return_encoder: bool = False,
    ) -> Any:
        """Discriminate images ``[N, img_channels, img_resolution, img_resolution]``, labels ``[N, c_dim]``.

        Returns:
            logits ``[N, 1]``, or a tuple that begins with them: with ``return_features`` the decoder's maps
            ``{resolution: map}`` follow (the decoder runs only then), with ``return_encoder`` the features of
            :meth:`encode`.

        Raises:
            ValueError: images of the wrong shape, or features asked of a discriminator without decoder.
        """
        if return_features and self.decoder_res is None:
            raise ValueError("this discriminator has no decoder: build it with decoder_res")
        features, image = self.encode(img, force_fp32)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        results: list[Any] = [self.b4(features[4], image, cmap)]
        if return_features:
            assert self.decoder_res is not None
            results.append(decode(self, self.decoder_res, features))
        if return_encoder:
            results.append(features)
        return results[0] if len(results) == 1 else tuple(results)

    def encode(
        self, img: torch.Tensor, force_fp32: bool = False
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
        """What the blocks make of images ``[N, img_channels, img_resolution, img_resolution]``.

        Returns:
            ``{resolution: [N, C, resolution, resolution]}`` from half the images' resolution down to 4, and
            the image at 4×4 for the last layers, None where they read none.

        Raises:
            ValueError: images of the wrong shape.
        """
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if tuple(img.shape[1:]) != expected:
            raise ValueError(
                f"expected images of shape [N, {expected[0]}, {expected[1]}, {expected[2]}], got "
                f"{tuple(img.shape)}"
            )
        x: torch.Tensor | None = None
        image: torch.Tensor | None = img
        features: dict[int, torch.Tensor] = {}
        for res in self.block_resolutions:
            x, image = self.get_submodule(f"b{res}")(x, image, force_fp32=force_fp32)
            assert x is not None
            features[res // 2] = x
            if x.requires_grad:
                # A sum of gradients has the layout of one of them: with a decoder, what follows would round
                # differently.
                last = x.is_contiguous(memory_format=torch.channels_last)
                layout = torch.channels_last if last else torch.contiguous_format
                x.register_hook(partial(torch.Tensor.contiguous, memory_format=layout))
        return features, image
