"""Layers of StyleGAN2 (Karras et al. 2020), with equalised learning rate (Karras et al. 2018).

:func:`initial_values` is the one place where weights are drawn. A *frozen* layer keeps its weights as buffers
under the same names, so no optimiser can reach them.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import setup_filter

DEFAULT_FILTER = (1, 3, 3, 1)

#: Resolution from which convolutions on a CPU are faster with channels-last memory.
CPU_CHANNELS_LAST_FROM = 16


def initial_values(*shape: int, channels_last: bool = False) -> torch.Tensor:
    """What all weights, learned constants and stored noise of both networks start as: drawn from N(0, 1).

    Layers scale their weights by ``1 / sqrt(fan_in)`` at run time (equalised learning rate), and those with a
    learning rate of their own also start at ``1 / lr_multiplier`` times these values. Biases start at 0, but
    at 1 where they are of styles; noise strengths and the average of w start at 0.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.randn(shape).to(memory_format=memory_format)


def normalize_2nd_moment(x: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    """Scale ``x`` so that its mean square along ``dim`` is one."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


class HalfPrecision:
    """The data type and memory format in which a block computes; a mix-in of :class:`torch.nn.Module`.

    Blocks that may run in half precision use float16 on a GPU and float32 elsewhere, unless
    :func:`use_bfloat16` was called. Weights and constructor arguments do not depend on it.

    Attributes:
        resolution: of the block.
        use_fp16: whether it may run in half precision.
        channels_last: whether it then takes channels-last memory on a GPU. On a CPU, blocks in half
            precision take it, and all from 16×16 up (oneDNN's transposed convolutions are faster,
            docs/performance.md).
        half_types: the data type by type of device.
    """

    resolution: int
    use_fp16: bool
    channels_last: bool
    half_types: Mapping[str, torch.dtype] = {"cuda": torch.float16}

    def compute_as(self, device: torch.device, force_fp32: bool) -> tuple[torch.dtype, torch.memory_format]:
        """Data type and memory format for a call on ``device``."""
        dtype = (
            self.half_types.get(device.type, torch.float32)
            if self.use_fp16 and not force_fp32
            else torch.float32
        )
        half = dtype != torch.float32
        if device.type == "cpu":
            last = half or self.resolution >= CPU_CHANNELS_LAST_FROM
        else:
            last = half and self.channels_last
        return dtype, torch.channels_last if last else torch.contiguous_format


def use_bfloat16(network: nn.Module) -> None:
    """Run the blocks of ``network`` that may run in half precision in bfloat16, on any device."""
    for module in network.modules():
        if isinstance(module, HalfPrecision):
            module.half_types = {"cuda": torch.bfloat16, "cpu": torch.bfloat16}


def half_precision_resolution(img_resolution: int, num_fp16_res: int) -> int:
    """The lowest resolution that runs in half precision; larger than the image when none does."""
    return (
        max(2 ** (img_resolution.bit_length() - num_fp16_res), 8) if num_fp16_res > 0 else 2 * img_resolution
    )


def channel_table(img_resolution: int, channel_base: int, channel_max: int) -> dict[int, int]:
    """Feature maps at each resolution from 4 up: ``min(channel_base / resolution, channel_max)``.

    Raises:
        ValueError: the resolution is no power of two from 8 up, or a resolution would have no feature map.
    """
    if img_resolution < 8 or img_resolution & (img_resolution - 1):
        raise ValueError(f"image resolution must be a power of two and at least 8, got {img_resolution}")
    resolutions = [2**i for i in range(2, img_resolution.bit_length())]
    if min(channel_base // img_resolution, channel_max) < 1:
        raise ValueError(
            f"channel_base {channel_base} and channel_max {channel_max} leave no feature map at resolution "
            f"{img_resolution}"
        )
    return {res: min(channel_base // res, channel_max) for res in resolutions}


class FullyConnectedLayer(nn.Module):
    """``activation(x @ weightᵀ + bias)`` on ``[N, in_features]``.

    Args:
        in_features, out_features: widths.
        bias: whether there is a bias.
        activation: a key of :data:`torch_utils.ops.bias_act.ACTIVATIONS`.
        lr_multiplier: learning rate of this layer relative to the others.
        bias_init: initial bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(initial_values(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / in_features**0.5
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in_features]`` to ``[N, out_features]``."""
        w = self.weight.to(x.dtype) * self.weight_gain
        b = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, w, b)
        return bias_act(F.linear(x, w), b, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution, resampling, bias and activation: ``[N, in, H, W]`` to ``[N, out, H·up/down, W·up/down]``.

    Args:
        in_channels, out_channels, kernel_size: of the convolution; its padding keeps the size.
        bias: whether there is a bias.
        activation: a key of :data:`torch_utils.ops.bias_act.ACTIVATIONS`.
        up, down: integer resampling factors.
        resample_filter: taps of the low-pass filter used with them.
        conv_clamp: bound on the absolute value of the output, for half precision; None for no bound.
        channels_last: memory format of the weights.
        trainable: False freezes the layer.
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        conv_clamp: float | None = None,
        channels_last: bool = False,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / (in_channels * kernel_size**2) ** 0.5
        self.act_gain = ACTIVATIONS[activation].gain
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        weight = initial_values(
            out_channels, in_channels, kernel_size, kernel_size, channels_last=channels_last
        )
        initial_bias = torch.zeros([out_channels]) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if initial_bias is None else nn.Parameter(initial_bias)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", initial_bias)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """``[N, in, H, W]`` to ``[N, out, H·up/down, W·up/down]``; ``gain`` scales the activation."""
        x = conv2d_resample(
            x,
            (self.weight * self.weight_gain).to(x.dtype),
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        b = None if self.bias is None else self.bias.to(x.dtype)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, b, act=self.activation, gain=self.act_gain * gain, clamp=clamp)


class MappingNetwork(nn.Module):
    """Maps latents and labels to intermediate latents, keeping their running average.

    Args:
        z_dim: width of z; 0 for none (then only the label is mapped, as in the discriminator).
        c_dim: width of the label; 0 for none.
        w_dim: width of w.
        num_ws: copies of w to return; None returns one without the broadcast dimension.
        num_layers: depth.
        embed_features: width of the embedded label; None takes ``w_dim``.
        layer_features: width of the hidden layers; None takes ``w_dim``.
        activation: of every layer.
        lr_multiplier: learning rate of these layers relative to the others.
        w_avg_beta: decay of the running average of w; None tracks none.
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__()
        if z_dim == 0 and c_dim == 0:
            raise ValueError("MappingNetwork: at least one of z_dim and c_dim must be positive")
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = (w_dim if embed_features is None else embed_features) if c_dim > 0 else 0
        hidden = w_dim if layer_features is None else layer_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        widths = [z_dim + embed_features] + [hidden] * (num_layers - 1) + [w_dim]
        for i in range(num_layers):
            layer = FullyConnectedLayer(
                widths[i], widths[i + 1], activation=activation, lr_multiplier=lr_multiplier
            )
            self.add_module(f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Latents ``[N, z_dim]`` and labels ``[N, c_dim]`` to ``[N, num_ws, w_dim]``, or ``[N, w_dim]``.

        Without ``num_ws`` there is no dimension of copies.

        The truncation trick (Karras et al. 2019, section 3.1) moves the first ``truncation_cutoff`` copies
        (all if None) towards the average: ``w_avg + psi · (w − w_avg)``. ``update_emas`` moves the average
        towards this batch's mean.

        Raises:
            ValueError: z or c is missing or of the wrong shape, or truncation without a tracked average.
        """
        parts = []
        if self.z_dim > 0:
            parts.append(normalize_2nd_moment(_checked(z, self.z_dim, "z").float()))
        if self.c_dim > 0:
            parts.append(normalize_2nd_moment(self.embed(_checked(c, self.c_dim, "c").float())))
        x = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        if update_emas and self.num_ws is not None and self.w_avg_beta is not None:
            self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is not None:
            x = x.unsqueeze(1).repeat([1, self.num_ws, 1])
        if truncation_psi != 1:
            if self.num_ws is None or self.w_avg_beta is None:
                raise ValueError("truncation needs a mapping network with num_ws and w_avg_beta")
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            x = torch.cat([self.w_avg.lerp(x[:, :cutoff], truncation_psi), x[:, cutoff:]], dim=1)
        return x


def _checked(x: torch.Tensor | None, width: int, name: str) -> torch.Tensor:
    if x is None or x.ndim != 2 or x.shape[1] != width:
        found = "nothing" if x is None else f"{tuple(x.shape)}"
        raise ValueError(f"expected {name} of shape [N, {width}], got {found}")
    return x
