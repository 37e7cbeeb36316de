"""The StyleGAN2 generator (Karras et al. 2020)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
from torch_utils.pickles.registry import storable
from training.networks.arguments import GENERATOR
from training.networks.layers import (
    DEFAULT_FILTER,
    Conv2dLayer,
    FullyConnectedLayer,
    HalfPrecision,
    MappingNetwork,
    channel_table,
    half_precision_resolution,
    initial_values,
)

NoiseMode = Literal["random", "const", "none"]
Architecture = Literal["orig", "skip", "resnet"]


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = False,
) -> torch.Tensor:
    """Convolution whose weights are scaled per sample and input channel (StyleGAN2, equations 1 and 3).

        w'_nij = s_ni · w_ij,    w''_nij = w'_nij / sqrt(Σ_i,k w'_nijk² + ε)

    The demodulation factors depend on the weights only through Σ_k w_ijk², so they are one matrix product
    ``styles² @ Σ_k weight²`` and no per-sample weight is formed.

    Args:
        x: ``[N, in, H, W]``.
        weight: ``[out, in, kh, kw]``.
        styles: ``[N, in]``.
        noise: added to the result; broadcasts to ``[N, out, H', W']``.
        up: as the next four, see :func:`torch_utils.ops.conv2d_resample.conv2d_resample`.
        down: integer factor.
        padding: of the input, in pixels.
        resample_filter: low-pass filter.
        demodulate: whether to normalise each output channel of each sample.
        flip_weight: False convolves, True correlates.
        fused_modconv: form the N modulated weights and run one grouped convolution. The default scales
            activations instead: the same result, and N weight tensors less memory.

    Returns:
        ``[N, out, H·up/down, W·up/down]``.
    """
    dcoefs = None
    if demodulate:
        weight, styles, dcoefs = _demodulation(weight, styles, x.dtype)
    resampling: dict[str, Any] = dict(
        f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight
    )
    if fused_modconv:
        w = weight[None] * styles[:, None, :, None, None]
        if dcoefs is not None:
            w = w * dcoefs[:, :, None, None, None]
        x = x.reshape(1, -1, *x.shape[2:])
        x = conv2d_resample(x, w.flatten(0, 1).to(x.dtype), groups=len(w), **resampling)
        x = x.reshape(len(w), -1, *x.shape[2:])
    else:
        x = x * styles.to(x.dtype)[:, :, None, None]
        x = conv2d_resample(x, weight.to(x.dtype), **resampling)
        if dcoefs is not None:
            if noise is not None:
                return torch.addcmul(noise.to(x.dtype), x, dcoefs.to(x.dtype)[:, :, None, None])
            x = x * dcoefs.to(x.dtype)[:, :, None, None]
    return x if noise is None else x + noise.to(x.dtype)


def _demodulation(
    weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, styles and demodulation factors ``[N, out]`` for a convolution in ``dtype``.

    For half precision, weights and styles are scaled away from overflow; demodulation cancels the scale.
    """
    if dtype in (torch.float16, torch.bfloat16):
        weight = weight * (weight[0].numel() ** -0.5 / weight.norm(float("inf"), dim=[1, 2, 3], keepdim=True))
        styles = styles / styles.norm(float("inf"), dim=1, keepdim=True)
    energy = weight.square().sum(dim=[2, 3])  # [out, in]
    return weight, styles, (styles.square() @ energy.t() + 1e-8).rsqrt()


class SynthesisLayer(nn.Module):
    """Modulated 3×3 convolution, noise, bias and activation.

    Args:
        in_channels, out_channels: feature maps.
        w_dim: width of w.
        resolution: of the output.
        kernel_size, up, resample_filter, activation, conv_clamp, channels_last: see :class:`Conv2dLayer`.
        use_noise: whether to add noise.
    """

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = ACTIVATIONS[activation].gain
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight = nn.Parameter(initial_values(*shape, channels_last=channels_last))
        if use_noise:
            self.register_buffer("noise_const", initial_values(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise_mode: NoiseMode = "random",
        fused_modconv: bool = False,
        gain: float = 1,
    ) -> torch.Tensor:
        """``x [N, in, H, W]`` and ``w [N, w_dim]`` to ``[N, out, H·up, W·up]``."""
        noise = None
        if self.use_noise and noise_mode == "random":
            noise = (
                torch.randn([x.shape[0], 1, self.resolution, self.resolution], device=x.device)
                * self.noise_strength
            )
        elif self.use_noise and noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=noise,
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused_modconv=fused_modconv,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias.to(x.dtype), act=self.activation, gain=self.act_gain * gain, clamp=clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1×1 convolution to image channels, without demodulation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight = nn.Parameter(initial_values(*shape, channels_last=channels_last))
        self.bias = nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = 1 / (in_channels * kernel_size**2) ** 0.5

    def forward(self, x: torch.Tensor, w: torch.Tensor, fused_modconv: bool = False) -> torch.Tensor:
        """``x [N, in, H, W]`` and ``w [N, w_dim]`` to ``[N, out, H, W]``."""
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused_modconv=fused_modconv)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(nn.Module, HalfPrecision):
    """All layers of one resolution: doubles the feature map and adds to the image.

    Args:
        in_channels: of the previous block; 0 for the first block, which starts from a learned constant.
        out_channels: feature maps.
        w_dim: width of w.
        resolution: of the output.
        img_channels: of the image.
        is_last: whether this is the last block.
        architecture: ``skip`` sums images, ``resnet`` sums features, ``orig`` does neither.
        resample_filter: low-pass taps.
        conv_clamp: bound on activations; None for no bound.
        use_fp16: whether it may run in half precision, see :class:`~training.networks.layers.HalfPrecision`.
        fp16_channels_last: channels-last memory format with it.
        layer_kwargs: further arguments of :class:`SynthesisLayer`.
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: Architecture = "skip",
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"unknown generator architecture {architecture!r}; known: orig, skip, resnet")
        self.in_channels = in_channels
        self.resolution = resolution
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 1 if is_last or architecture == "skip" else 0
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        common: dict[str, Any] = dict(conv_clamp=conv_clamp, channels_last=self.channels_last)
        layer: dict[str, Any] = dict(w_dim=w_dim, resolution=resolution, **common, **layer_kwargs)
        if in_channels == 0:
            self.const = nn.Parameter(initial_values(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, up=2, resample_filter=resample_filter, **layer
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, **common)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels,
                out_channels,
                1,
                bias=False,
                up=2,
                resample_filter=resample_filter,
                channels_last=self.channels_last,
            )

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        noise_mode: NoiseMode = "random",
        force_fp32: bool = False,
        fused_modconv: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One block.

        Args:
            x: ``[N, in_channels, resolution / 2, resolution / 2]``; None in the first block.
            img: ``[N, img_channels, resolution / 2, resolution / 2]`` float32, or None.
            ws: ``[N, num_conv + num_torgb, w_dim]``.
            noise_mode: see :meth:`SynthesisNetwork.forward`.
            force_fp32: no half precision.
            fused_modconv: see :func:`modulated_conv2d`.

        Returns:
            features ``[N, out_channels, resolution, resolution]`` and the image so far at ``resolution``, or
            None.
        """
        w = iter(ws.unbind(dim=1))
        dtype, memory_format = self.compute_as(ws.device, force_fp32)
        layer: dict[str, Any] = dict(noise_mode=noise_mode, fused_modconv=fused_modconv)
        if x is None:
            x = self.const.to(dtype=dtype, memory_format=torch.contiguous_format).expand(
                ws.shape[0], -1, -1, -1
            )
            x = self.conv1(x.to(memory_format=memory_format), next(w), **layer)
        else:
            x = x.to(dtype=dtype, memory_format=memory_format)
            y = self.skip(x, gain=0.5**0.5) if self.architecture == "resnet" else None
            x = self.conv0(x, next(w), **layer)
            x = self.conv1(x, next(w), gain=1 if y is None else 0.5**0.5, **layer)
            x = x if y is None else y + x
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, next(w), fused_modconv=fused_modconv).to(
                dtype=torch.float32, memory_format=torch.contiguous_format
            )
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(nn.Module):
    """Turns intermediate latents into images, block by block from 4×4.

    Args:
        w_dim: width of w.
        img_resolution: a power of two, at least 8.
        img_channels: of the image.
        channel_base, channel_max: see :func:`~training.networks.layers.channel_table`.
        num_fp16_res: how many of the highest resolutions may run in half precision.
        block_kwargs: further arguments of :class:`SynthesisBlock`.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.channels = channel_table(img_resolution, channel_base, channel_max)
        fp16_from = half_precision_resolution(img_resolution, num_fp16_res)
        self.num_ws = 0
        for res, out_channels in self.channels.items():
            is_last = res == img_resolution
            block = SynthesisBlock(
                self.channels.get(res // 2, 0),
                out_channels,
                w_dim=w_dim,
                resolution=res,
                img_channels=img_channels,
                is_last=is_last,
                use_fp16=res >= fp16_from,
                **block_kwargs,
            )
            self.num_ws += block.num_conv + (block.num_torgb if is_last else 0)
            self.add_module(f"b{res}", block)

    def forward(
        self,
        ws: torch.Tensor,
        capture: Collection[int] = (),
        noise_mode: NoiseMode = "random",
        force_fp32: bool = False,
        fused_modconv: bool = False,
    ) -> Any:
        """Intermediate latents to images.

        Args:
            ws: ``[N, num_ws, w_dim]``.
            capture: resolutions whose block outputs are wanted too.
            noise_mode: ``random`` draws fresh noise, ``const`` uses the stored noise, ``none`` adds none.
            force_fp32: no half precision.
            fused_modconv: see :func:`modulated_conv2d`.

        Returns:
            images ``[N, img_channels, img_resolution, img_resolution]``, about [-1, 1]; with ``capture``,
            ``(images, {resolution: float32 [N, C, resolution, resolution]})``.

        Raises:
            ValueError: ``ws`` of the wrong shape, an unknown noise mode, or a resolution that has no block.
        """
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ValueError(f"expected ws of shape [N, {self.num_ws}, {self.w_dim}], got {tuple(ws.shape)}")
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode must be 'random', 'const' or 'none', not {noise_mode!r}")
        unknown = sorted(set(capture) - set(self.channels))
        if unknown:
            raise ValueError(
                f"cannot capture features at {unknown}: the generator has blocks at {list(self.channels)}"
            )
        ws = ws.float()
        x, img = None, None
        features, first = {}, 0
        for res in self.channels:
            block = self.get_submodule(f"b{res}")
            assert isinstance(block, SynthesisBlock)
            # ToRGB shares its w with the next block.
            block_ws = ws[:, first : first + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, noise_mode, force_fp32, fused_modconv)
            first += block.num_conv
            if res in capture:
                features[res] = x.to(dtype=torch.float32, memory_format=torch.contiguous_format)
        return (img, features) if capture else img


@storable("G", "G_ema", arguments=GENERATOR)
class Generator(nn.Module):
    """Latents and labels to images.

    Args:
        z_dim: width of z.
        c_dim: width of the label; 0 for an unconditional generator.
        w_dim: width of w.
        img_resolution: a power of two, at least 8.
        img_channels: of the image.
        mapping_kwargs: further arguments of :class:`~training.networks.layers.MappingNetwork`.
        synthesis_kwargs: further arguments of :class:`SynthesisNetwork`.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        mapping_kwargs, synthesis_kwargs = dict(mapping_kwargs or {}), dict(synthesis_kwargs or {})
        self.init_kwargs: dict[str, Any] = dict(
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=w_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            mapping_kwargs=mapping_kwargs,
            synthesis_kwargs=synthesis_kwargs,
        )
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, num_ws=self.num_ws, **mapping_kwargs)

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        **synthesis_kwargs: Any,
    ) -> Any:
        """``z [N, z_dim]`` and ``c [N, c_dim]`` to what :meth:`SynthesisNetwork.forward` returns."""
        ws = self.mapping(
            z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, update_emas=update_emas
        )
        return self.synthesis(ws, **synthesis_kwargs)
