"""What must hold for a compiled op on any device: the tests of the CPU's ops and of the GPU's call these."""

import numpy as np
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.support.golden import cases, load, relative_error
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


def check_upfirdn2d_values(device: str, dtype: torch.dtype, filter_name: str, options: dict) -> None:
    """Every shape and layout against plain PyTorch in float64; the layout is kept."""
    f = FILTERS[filter_name]
    f = None if f is None else f.to(device)
    wide = None if f is None else f.double()
    for shape in SHAPES:
        for name, x in layouts(noise(*shape, dtype=dtype, device=device)).items():
            got = upfirdn2d.upfirdn2d(x, f, impl="native", **options)
            expected = upfirdn2d.upfirdn2d(x.double().contiguous(), wide, impl="ref", **options)
            assert_close(got, expected, dtype)
            last = name == "channels_last" and not x.is_contiguous()
            assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def check_upfirdn2d_derivatives(device: str, filter_name: str, options: dict) -> None:
    """First and second derivatives by differences, in float64."""
    f = FILTERS[filter_name]
    f = None if f is None else f.double().to(device)
    x = noise(1, 2, 6, 7, device=device).requires_grad_(True)
    assert gradcheck(lambda x: upfirdn2d.upfirdn2d(x, f, impl="native", **options), x, fast_mode=True)
    assert gradgradcheck(lambda x: upfirdn2d.upfirdn2d(x, f, impl="native", **options), x, fast_mode=True)


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


def check_bias_act(device: str, dtype: torch.dtype, act: str) -> None:
    """Values and two derivatives against plain PyTorch, over shapes, layouts, clamps and the bias's
    dimension.
    """
    for shape, dim in [
        ((2, 5, 6, 7), 1),
        ((3, 16, 4, 4), 1),
        ((4, 33), 1),
        ((5, 3, 2, 2), -1),
        ((7,), 0),
        ((2, 3, 4, 5, 6), 2),
    ]:
        x, dy, ddx = (noise(*shape, dtype=dtype, device=device, seed=seed) for seed in (1, 2, 3))
        tensors = layouts(x) if len(shape) == 4 else {"contiguous": x}
        for laid in tensors.values():
            for b in (None, noise(shape[dim], dtype=dtype, device=device, seed=4)):
                for options in ({}, {"gain": -0.7, "clamp": 0.4}, {"alpha": 0.1, "gain": 0.0}):
                    got = bias_act_all("native", laid, b, dy, ddx, act=act, dim=dim, **options)
                    wide = [None if t is None else t.double().contiguous() for t in (laid, b, dy, ddx)]
                    expected = bias_act_all("ref", *wide, act=act, dim=dim, **options)
                    plain = (
                        expected
                        if dtype.itemsize > 2
                        else bias_act_all("ref", laid, b, dy, ddx, act=act, dim=dim, **options)
                    )
                    for name, value in expected.items():
                        _assert_near(got[name], value, plain[name])


def _assert_near(got: torch.Tensor, expected: torch.Tensor, plain: torch.Tensor) -> None:
    """Equal to rounding; in half precision, where derivatives come from rounded results, not worse than plain
    PyTorch is.
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


def check_bias_act_derivatives(device: str, act: str, clamp: float | None) -> None:
    """First and second derivatives by differences, in float64."""
    x, b = (noise(*shape, device=device).requires_grad_(True) for shape in ((2, 3, 2, 2), (3,)))

    def function(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act.bias_act(x, b, act=act, gain=0.7, clamp=clamp, impl="native")

    assert gradcheck(function, (x, b), fast_mode=True)
    assert gradgradcheck(function, (x, b), fast_mode=True)


def check_golden(device: str) -> None:
    """The recorded reference values: results and gradients."""
    data = load("upfirdn2d")
    for i, case in enumerate(cases(data)):
        f = torch.from_numpy(data[f"{i}_f"]).to(device) if case["has_filter"] else None
        x = torch.from_numpy(data[f"{i}_x"]).to(device).requires_grad_(True)
        options = {key: case[key] for key in ("up", "down", "padding", "flip_filter", "gain") if key in case}
        y = upfirdn2d.upfirdn2d(x, f, impl="native", **options)
        (dx,) = torch.autograd.grad((y * torch.from_numpy(data[f"{i}_dy"]).to(device)).sum(), x)
        assert relative_error(y.cpu(), data[f"{i}_y"]) < 2e-6
        assert relative_error(dx.cpu(), data[f"{i}_dx"]) < 2e-6
    data = load("bias_act")
    for i, case in enumerate(cases(data)):
        x, b = (torch.from_numpy(data[f"{i}_{name}"]).to(device).requires_grad_(True) for name in "xb")
        y = bias_act.bias_act(x, b, impl="native", **case)
        grads = torch.autograd.grad((y * torch.from_numpy(data[f"{i}_dy"]).to(device)).sum(), [x, b])
        for got, name in zip([y, *grads], ["y", "dx", "db"], strict=True):
            assert relative_error(got.cpu(), data[f"{i}_{name}"]) < 2e-6


def check_opcheck(device: str) -> None:
    """PyTorch's own checks of schema, gradients' registration, fake implementation and tracing."""
    f = FILTERS["outer4"].to(device)
    x = noise(2, 3, 6, 7, device=device)
    for laid in (x.contiguous(memory_format=torch.channels_last), islands(x)):
        grad = laid.detach().requires_grad_(True)
        torch.library.opcheck(
            torch.ops.ggdr.upfirdn2d.default, (grad, f, [2, 1], [1, 2], [2, 1, 3, -1], False, 2.0)
        )
        b = noise(3, device=device).requires_grad_(True)
        torch.library.opcheck(torch.ops.ggdr.bias_act.default, (grad, b, 1, "swish", 0.0, 1.5, 0.5))
        dy = laid.detach().clone().requires_grad_(True)
        torch.library.opcheck(
            torch.ops.ggdr.bias_act_grad.default, (dy, grad, None, 1, "tanh", 0.0, 1.5, 0.5, 1)
        )
