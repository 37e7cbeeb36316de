"""Convolution and its transpose; all their derivatives are convolutions with small kernels again.

PyTorch differentiates a convolution's input gradient by the weights as a convolution whose kernel is as large
as the image, and no library is fast at that. Of the three bilinear maps below each is the adjoint of the
others, so every derivative of any order is one of them. R1 and path length need the second derivative.

    y = conv(x, w),    input_gradient(dy, w) = conv(·, w)ᵀ dy,    weight_gradient(x, dy) = conv(x, ·)ᵀ dy
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

Size = tuple[int, ...]


class Geometry(NamedTuple):
    """Stride and padding as ``(y, x)``, and the number of groups."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int


def conv2d(
    x: torch.Tensor, w: torch.Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> torch.Tensor:
    """:func:`torch.nn.functional.conv2d` without bias.

    Args:
        x: ``[N, in, H, W]``.
        w: ``[out, in / groups, kh, kw]``.
        stride: in both directions.
        padding: ``(y, x)`` on both sides.
        groups: number of convolution groups.

    Returns:
        ``[N, out, H', W']``.
    """
    if not _differentiable(x, w):
        return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)
    return _Convolution.apply(_no_leaf(x), _no_leaf(w), Geometry((stride, stride), padding, groups))


def conv_transpose2d(
    x: torch.Tensor, w: torch.Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> torch.Tensor:
    """:func:`torch.nn.functional.conv_transpose2d` without bias: the input gradient of a convolution.

    Args:
        x: ``[N, in, H, W]``.
        w: ``[in, out / groups, kh, kw]``.
        stride: in both directions.
        padding: ``(y, x)``, cropped from both sides.
        groups: number of convolution groups.

    Returns:
        ``[N, out, H', W']``.
    """
    if not _differentiable(x, w):
        return F.conv_transpose2d(x, w, stride=stride, padding=padding, groups=groups)
    height, width = ((x.shape[2 + i] - 1) * stride - 2 * padding[i] + w.shape[2 + i] for i in (0, 1))
    shape = (x.shape[0], w.shape[1] * groups, height, width)
    return _InputGradient.apply(_no_leaf(x), _no_leaf(w), shape, Geometry((stride, stride), padding, groups))


def _differentiable(x: torch.Tensor, w: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)


def _no_leaf(x: torch.Tensor) -> torch.Tensor:
    """``x`` as the result of an operator: :func:`_wanted` cannot ask the engine about a leaf."""
    return x.view_as(x) if x.is_leaf and x.requires_grad else x


def _wanted(ctx: Any, index: int) -> bool:
    """Whether this backward pass uses the gradient of an input.

    Within R1 and path length :func:`torch.autograd.grad` asks for the gradient of one input only.
    ``needs_input_grad`` is true of the weights all the same; computing their gradient, only to drop it, would
    take a third of the time.
    """
    if not ctx.needs_input_grad[index]:
        return False
    node = ctx.next_functions[index][0]
    if hasattr(node, "variable"):
        return True  # a leaf, about which the engine cannot be asked
    return torch._C._will_engine_execute_node(node)  # noqa: SLF001 - there is no public name


def _keep(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> None:
    """Save ``a`` only if ``b`` needs a gradient, and ``b`` only if ``a`` does.

    Activations are most of a step's memory.
    """
    ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        ctx.geometry, ctx.shapes = geometry, (tuple(x.shape), tuple(w.shape))
        _keep(ctx, x, w)
        stride, padding, groups = geometry
        return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        (x, w), (x_shape, w_shape) = ctx.saved_tensors, ctx.shapes
        dx = _InputGradient.apply(dy, w, x_shape, ctx.geometry) if _wanted(ctx, 0) else None
        dw = _WeightGradient.apply(x, dy, w_shape, ctx.geometry) if _wanted(ctx, 1) else None
        return dx, dw, None


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: torch.Tensor, w: torch.Tensor, shape: Size, geometry: Geometry) -> torch.Tensor:
        ctx.geometry, ctx.w_shape = geometry, tuple(w.shape)
        _keep(ctx, dy, w)
        stride, padding, groups = geometry
        # Pixels at the far ends that the convolution's stride skips.
        rest = [
            shape[2 + i] - ((dy.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + w.shape[2 + i])
            for i in (0, 1)
        ]
        return F.conv_transpose2d(dy, w, stride=stride, padding=padding, output_padding=rest, groups=groups)

    @staticmethod
    def backward(ctx: Any, ddx: torch.Tensor) -> tuple[Any, ...]:
        dy, w = ctx.saved_tensors
        d_dy = _Convolution.apply(ddx, w, ctx.geometry) if _wanted(ctx, 0) else None
        d_w = _WeightGradient.apply(ddx, dy, ctx.w_shape, ctx.geometry) if _wanted(ctx, 1) else None
        return d_dy, d_w, None, None


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dy: torch.Tensor, shape: Size, geometry: Geometry) -> torch.Tensor:
        ctx.geometry, ctx.x_shape = geometry, tuple(x.shape)
        _keep(ctx, x, dy)
        stride, padding, groups = geometry
        w = dy.new_empty([1]).expand(shape)  # only its shape is used
        transposed, output_padding, output_mask = False, (0, 0), (False, True, False)
        return torch.ops.aten.convolution_backward(
            dy, x, w, None, stride, padding, (1, 1), transposed, output_padding, groups, output_mask
        )[1]

    @staticmethod
    def backward(ctx: Any, ddw: torch.Tensor) -> tuple[Any, ...]:
        x, dy = ctx.saved_tensors
        d_x = _InputGradient.apply(dy, ddw, ctx.x_shape, ctx.geometry) if _wanted(ctx, 0) else None
        d_dy = _Convolution.apply(x, ddw, ctx.geometry) if _wanted(ctx, 1) else None
        return d_x, d_dy, None, None
