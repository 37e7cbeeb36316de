"""Filters, shapes, layouts and tolerances for tests of the compiled ops on any device."""

import numpy as np
import torch

from torch_utils.ops import bias_act, upfirdn2d

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = list(TOLERANCE)
FILTERS = {
    "none": None,
    "outer4": upfirdn2d.setup_filter([1, 3, 3, 1]),
    "row12": upfirdn2d.setup_filter([0.1, -0.2, 0.3, 1, 2, 3, 2.5, 2, 1, -0.4, 0.2, 0.1]),
    "row8": upfirdn2d.setup_filter(list(range(1, 9))),
    "row17": upfirdn2d.setup_filter(list(range(1, 18))),
    "plane": upfirdn2d.setup_filter([[1.0, 2, 3], [4, 5, -7]]),
    "plane4": upfirdn2d.setup_filter(np.arange(16).reshape(4, 4) % 5),
}
RESAMPLINGS: list[dict] = [
    {"up": 2, "padding": [9, 8, 9, 8], "gain": 4},
    {"down": 2, "padding": 8},
    {"padding": [8, 9, 10, 11], "flip_filter": True},
    {"up": [3, 2], "down": [2, 1], "padding": [9, 8, 7, 9]},
    {"up": 2, "down": 3, "padding": [16, -1, -1, 17], "flip_filter": True, "gain": -0.3},
    {"up": [2, 1], "padding": [17, 16, 8, 8]},
    {"down": [1, 2], "padding": [-2, 18, 17, -1]},
]
SHAPES = [(2, 5, 14, 17), (1, 20, 12, 13), (1, 2, 33, 70), (3, 17, 8, 8), (2, 1, 1, 9)]


def noise(
    *shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0
) -> torch.Tensor:
    """Normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        device, dtype
    )


def islands(x: torch.Tensor) -> torch.Tensor:
    """The same values as a strided view into memory that is NaN everywhere else."""
    memory = torch.full(
        [x.shape[0] + 2, x.shape[1] + 2, x.shape[2] * 2 + 3, x.shape[3] * 3 + 5],
        torch.nan,
        dtype=x.dtype,
        device=x.device,
    )
    view = memory[1:-1, 1:-1, 2 : 2 + 2 * x.shape[2] : 2, 3 : 3 + 3 * x.shape[3] : 3]
    view.copy_(x)
    return view


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """One tensor, laid out in every way that the ops tell apart."""
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "islands": islands(x),
        "transposed": x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "expanded": x[:1].expand(x.shape),
    }


def assert_close(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Largest difference over largest expected value."""
    assert got.dtype == dtype
    assert got.shape == expected.shape
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    assert error <= TOLERANCE[dtype], float(error)


def bias_act_all(
    impl: str, x: torch.Tensor, b: torch.Tensor | None, dy: torch.Tensor, ddx: torch.Tensor, **options: object
) -> dict[str, torch.Tensor]:
    """The result, its gradients and the gradients of the input's gradient."""
    x, dy = x.detach().requires_grad_(True), dy.detach().requires_grad_(True)
    b = None if b is None else b.detach().requires_grad_(True)
    y = bias_act.bias_act(x, b, impl=impl, **options)
    inputs = [x] if b is None else [x, b]
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    second = torch.autograd.grad(first[0], [dy, *inputs], ddx, allow_unused=True)
    second = [
        torch.zeros_like(to) if value is None else value
        for value, to in zip(second, [dy, *inputs], strict=True)
    ]
    names = ["y", "dx", "db", "ddy", "ddx", "ddb"] if b is not None else ["y", "dx", "ddy", "ddx"]
    return dict(zip(names, [y, *first, *second], strict=True))


def assert_near(got: torch.Tensor, expected: torch.Tensor, plain: torch.Tensor) -> None:
    """Equal to rounding; in half precision, not worse than plain PyTorch.

    Half-precision derivatives come from rounded results.
    """
    dtype = got.dtype
    if dtype in (torch.float32, torch.float64):
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
        return
    error, plain_error = ((t.double() - expected).abs().mean() for t in (got, plain))
    assert error <= 3 * plain_error + 4 * TOLERANCE[dtype] * (1 + expected.abs().mean()), (
        float(error),
        float(plain_error),
    )
