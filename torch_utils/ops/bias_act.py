"""Bias, activation, gain and clamp as one op."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

import torch_utils.ops.native as native
from torch_utils.ops.dispatch import Impl, use_native


class Activation(NamedTuple):
    """An activation: ``function(x, alpha)``, the default ``alpha``, and the default ``gain``.

    The gain keeps the variance of a unit normal input roughly one (He et al. 2015).
    """

    function: Callable[[torch.Tensor, float], torch.Tensor]
    alpha: float
    gain: float


ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, math.sqrt(2)),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), 0.2, math.sqrt(2)),
    "tanh": Activation(lambda x, _: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, _: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, _: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, _: x * torch.sigmoid(x), 0.0, math.sqrt(2)),
}

# PyTorch has vector code for these; the compiled loops call the C library (benchmarks/ops.py).
FASTER_PLAIN_ON_CPU = frozenset({"tanh", "sigmoid", "softplus", "swish"})


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: Impl = "auto",
) -> torch.Tensor:
    """``clamp(act(x + b) * gain, -clamp, clamp)``, differentiable any number of times.

    Args:
        x: float tensor of any shape.
        b: ``[x.shape[dim]]``, added along ``dim``; None adds nothing.
        dim: the dimension of ``x`` that ``b`` is added along.
        act: a key of :data:`ACTIVATIONS`.
        alpha: the activation's shape parameter (``lrelu`` only); None takes the default, 0.2.
        gain: scale after the activation; None takes the activation's default gain.
        clamp: bound on the absolute value of the output; None does not clamp.
        impl: see :func:`torch_utils.ops.dispatch.use_native`.

    Returns:
        a tensor like ``x``.

    Raises:
        ValueError: unknown activation, a negative clamp, or a bias that does not fit.
        OpsUnavailable: see :func:`torch_utils.ops.dispatch.use_native`.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"bias_act: unknown activation {act!r}; known: {', '.join(ACTIVATIONS)}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"bias_act: clamp must not be negative, got {clamp}")
    if b is not None and (b.ndim != 1 or b.shape[0] != x.shape[dim]):
        raise ValueError(
            f"bias_act: bias of shape {tuple(b.shape)} does not fit dimension {dim} of {tuple(x.shape)}"
        )
    spec = ACTIVATIONS[act]
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    slower = x.device.type == "cpu" and act in FASTER_PLAIN_ON_CPU
    if use_native("bias_act", impl, x, _reason_against_native(x, b, alpha), slower=slower):
        return native.bias_act(
            x, b, dim, act, float(alpha), float(gain), None if clamp is None else float(clamp)
        )
    if b is not None:
        x = x + b.reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
    x = spec.function(x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def _reason_against_native(x: torch.Tensor, b: torch.Tensor | None, alpha: float) -> str | None:
    """Why the compiled op cannot serve a call; None if it can."""
    if b is not None and (b.dtype != x.dtype or b.device != x.device):
        return f"the bias is {b.dtype} on {b.device}, the input {x.dtype} on {x.device}"
    if alpha < 0:
        return f"with alpha={alpha} the sign of the result is not the sign of the input"
    return None
