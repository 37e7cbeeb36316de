"""Loads the compiled ops, and registers their shapes for tracing and their derivatives.

``csrc/binding_cpu.cpp`` declares ``ggdr::upfirdn2d``, ``ggdr::bias_act`` and ``ggdr::bias_act_grad``. With
the fake implementations registered here, ``torch.compile`` and ``torch.export`` trace through them.

``upfirdn2d`` is linear; its gradient is ``upfirdn2d`` with ``up`` and ``down`` exchanged. ``bias_act`` saves
its result, or its input for the activations in :data:`KEEPS_INPUT`. The saved tensor is part of the graph, so
the derivative of ``bias_act_grad`` by it is the second derivative.
"""

from pathlib import Path
from typing import Any

import torch

KEEPS_INPUT = frozenset({"softplus", "swish"})
PIECEWISE_LINEAR = frozenset({"linear", "relu", "lrelu"})  # the second derivative is zero


def load(path: Path) -> None:
    """Load the compiled library, once in a process. Raises :class:`OSError` where it cannot be loaded."""
    torch.ops.load_library(path)
    _register()


def _register() -> None:
    library = torch.library
    library.register_fake("ggdr::upfirdn2d", _fake_upfirdn2d)
    library.register_fake("ggdr::bias_act", lambda x, *args: torch.empty_like(x))
    library.register_fake("ggdr::bias_act_grad", lambda dy, kept, *args: torch.empty_like(kept))
    library.register_autograd("ggdr::upfirdn2d", _upfirdn2d_backward, setup_context=_upfirdn2d_setup)
    library.register_autograd("ggdr::bias_act", _bias_act_backward, setup_context=_bias_act_setup)
    library.register_autograd(
        "ggdr::bias_act_grad", _bias_act_grad_backward, setup_context=_bias_act_grad_setup
    )


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,  # noqa: FBT001 - the order of the compiled op
    gain: float,
) -> torch.Tensor:
    """The compiled :func:`torch_utils.ops.upfirdn2d.upfirdn2d`, without defaults."""
    return torch.ops.ggdr.upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """The compiled :func:`torch_utils.ops.bias_act.bias_act`, without defaults."""
    return torch.ops.ggdr.bias_act(
        x, b, dim % max(x.ndim, 1), act, alpha, gain, -1.0 if clamp is None else clamp
    )


def _is_channels_last(x: torch.Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _fake_upfirdn2d(
    x: torch.Tensor, f: torch.Tensor | None, up: Any, down: Any, padding: Any, *_: Any
) -> torch.Tensor:
    taps_x, taps_y = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    width = (x.shape[3] * up[0] + padding[0] + padding[1] - taps_x) // down[0] + 1
    height = (x.shape[2] * up[1] + padding[2] + padding[3] - taps_y) // down[1] + 1
    memory_format = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty(
        [x.shape[0], x.shape[1], height, width], dtype=x.dtype, device=x.device, memory_format=memory_format
    )


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip_filter, ctx.gain = inputs
    ctx.save_for_backward(f)
    ctx.in_size, ctx.out_size = x.shape[2:], output.shape[2:]


def _upfirdn2d_backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
    (f,) = ctx.saved_tensors
    taps_x, taps_y = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    left, _, top, _ = ctx.padding
    (in_h, in_w), (out_h, out_w) = ctx.in_size, ctx.out_size
    padding = [
        taps_x - left - 1,
        in_w * ctx.up[0] - out_w * ctx.down[0] + left - ctx.up[0] + 1,
        taps_y - top - 1,
        in_h * ctx.up[1] - out_h * ctx.down[1] + top - ctx.up[1] + 1,
    ]
    dx = torch.ops.ggdr.upfirdn2d(dy, f, ctx.down, ctx.up, padding, not ctx.flip_filter, ctx.gain)
    return dx, None, None, None, None, None, None


def _sum_to_bias(x: torch.Tensor, dim: int) -> torch.Tensor:
    others = [i for i in range(x.ndim) if i != dim]
    return x.sum(others) if others else x  # an empty list would mean all of them


def _bias_act_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, b, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp = inputs
    ctx.has_bias = b is not None
    if ctx.act in KEEPS_INPUT:
        ctx.save_for_backward(x, b)
    elif ctx.act != "linear" or ctx.clamp >= 0:
        ctx.save_for_backward(output, None)


def _bias_act_backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
    if ctx.act == "linear" and ctx.clamp < 0:
        dx = dy if ctx.gain == 1 else dy * ctx.gain
    else:
        kept, b = ctx.saved_tensors
        dx = torch.ops.ggdr.bias_act_grad(dy, kept, b, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp, 1)
    db = _sum_to_bias(dx, ctx.dim) if ctx.has_bias and ctx.needs_input_grad[1] else None
    return dx, db, None, None, None, None, None


def _bias_act_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    dy, kept, b, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp, ctx.order = inputs
    # ``dy`` multiplies the second derivative of the activation, which is zero for these.
    ctx.save_for_backward(None if ctx.act in PIECEWISE_LINEAR else dy, kept, b)


def _bias_act_grad_backward(ctx: Any, ddx: torch.Tensor) -> tuple[Any, ...]:
    dy, kept, b = ctx.saved_tensors
    constants = (ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp)
    d_dy = (
        torch.ops.ggdr.bias_act_grad(ddx, kept, b, *constants, ctx.order) if ctx.needs_input_grad[0] else None
    )
    d_kept = d_b = None
    if dy is not None and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        if ctx.order > 1:
            raise NotImplementedError(
                f"bias_act: {ctx.act!r} has no third derivative as a compiled op; use impl='ref'"
            )
        d_kept = torch.ops.ggdr.bias_act_grad(ddx * dy, kept, b, *constants, ctx.order + 1)
        if b is not None and ctx.needs_input_grad[2]:
            d_b = _sum_to_bias(d_kept, ctx.dim)
    return d_dy, d_kept, d_b, None, None, None, None, None, None
