"""Convolution, its transpose, and their derivatives."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import convolution
from torch_utils.ops.convolution import conv2d, conv_transpose2d

CASES = [
    (1, (1, 1), 1, 5),
    (2, (0, 0), 1, 6),
    (2, (0, 1), 2, 5),
    (1, (0, 0), 2, 4),
]  # stride, padding, groups, height


def operands(transposed: Any, groups: Any, height: Any) -> Any:
    generator = torch.Generator().manual_seed(height)
    shape = (4, 6 // groups, 3, 2) if transposed else (6, 4 // groups, 3, 2)
    x, w = (
        torch.randn(size, dtype=torch.float64, generator=generator)
        for size in ((2, 4, height, height + 1), shape)
    )
    return x.requires_grad_(True), w.requires_grad_(True)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("stride", "padding", "groups", "height"), CASES)
def test_values_and_two_derivatives(
    transposed: Any, stride: Any, padding: Any, groups: Any, height: Any
) -> None:
    x, w = operands(transposed, groups, height)
    ours, theirs = (conv_transpose2d, F.conv_transpose2d) if transposed else (conv2d, F.conv2d)

    def run(x: Any, w: Any) -> Any:
        return ours(x, w, stride=stride, padding=padding, groups=groups)

    expected = theirs(x, w, stride=stride, padding=padding, groups=groups)
    torch.testing.assert_close(run(x, w), expected)
    with torch.no_grad():
        torch.testing.assert_close(run(x, w), expected)
    assert torch.autograd.gradcheck(run, (x, w))
    assert torch.autograd.gradgradcheck(run, (x, w))


def third_derivatives(function: Any, x: Any, w: Any) -> Any:
    (dx,) = torch.autograd.grad(function(x, w).square().sum(), x, create_graph=True)
    (dw,) = torch.autograd.grad(dx.square().sum(), w, create_graph=True)
    return torch.autograd.grad(dw.square().sum(), [x, w])


def test_a_third_derivative() -> None:
    x, w = operands(False, 1, 5)
    for ours, theirs in zip(third_derivatives(conv2d, x, w), third_derivatives(F.conv2d, x, w), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture
def weight_gradients(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The list of shapes of weights whose gradient was computed."""
    computed, apply = [], convolution._WeightGradient.apply

    def counting(x: Any, dy: Any, shape: Any, geometry: Any) -> Any:
        computed.append(shape)
        return apply(x, dy, shape, geometry)

    monkeypatch.setattr(convolution._WeightGradient, "apply", counting)
    return computed


@pytest.mark.parametrize("leaf", [False, True])
def test_gradients_by_the_input_alone_compute_none_by_the_weights(weight_gradients: Any, leaf: Any) -> None:
    x, w = operands(False, 1, 5)
    used = w if leaf else w * 2
    (dx,) = torch.autograd.grad(conv2d(x, used, padding=(1, 1)).sum(), x, create_graph=True)
    assert weight_gradients == []
    dx.square().sum().backward()
    assert weight_gradients == [(6, 4, 3, 2)]  # through dx; the forward pass's own does not depend on it
    assert w.grad is not None


def test_what_the_other_gradient_needs_is_kept_and_no_more() -> None:
    x, w = operands(False, 1, 5)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor
    ):
        conv2d(x, w.detach(), padding=(1, 1))
        assert kept == [w.data_ptr()]
        kept.clear()
        conv2d(x.detach(), w, padding=(1, 1))
        assert kept == [x.data_ptr()]


def test_channels_last_is_kept() -> None:
    x, w = (t.detach().float() for t in operands(False, 1, 5))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    w.requires_grad_(True)
    y = conv2d(x, w)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    up = conv_transpose2d(x, w.reshape(4, 6, 3, 2), stride=2)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, dx, up))
