"""The compiled ops on a CPU and on a GPU: values, gradients, layouts, tracing, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.support import op_checks as checks
from tests.support.golden import cases, load, relative_error
from torch_utils.ops import bias_act, dispatch, upfirdn2d

pytestmark = pytest.mark.usefixtures("compiled_ops")


@pytest.mark.parametrize("options", checks.RESAMPLINGS, ids=str)
@pytest.mark.parametrize("filter_name", checks.FILTERS)
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_upfirdn2d_agrees_with_float64(
    device: str, dtype: torch.dtype, filter_name: str, options: dict[str, Any]
) -> None:
    """Every shape and layout against plain PyTorch in float64; the layout is kept."""
    f = checks.FILTERS[filter_name]
    f = None if f is None else f.to(device)
    wide = None if f is None else f.double()
    for shape in checks.SHAPES:
        for name, x in checks.layouts(checks.noise(*shape, dtype=dtype, device=device)).items():
            got = upfirdn2d.upfirdn2d(x, f, impl="native", **options)
            expected = upfirdn2d.upfirdn2d(x.double().contiguous(), wide, impl="ref", **options)
            checks.assert_close(got, expected, dtype)
            last = name == "channels_last" and not x.is_contiguous()
            assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("options", checks.RESAMPLINGS, ids=str)
@pytest.mark.parametrize("filter_name", ["none", "outer4", "row12", "row17", "plane"])
def test_upfirdn2d_derivatives(device: str, filter_name: str, options: dict[str, Any]) -> None:
    """First and second derivatives by differences, in float64."""
    f = checks.FILTERS[filter_name]
    f = None if f is None else f.double().to(device)
    x = checks.noise(1, 2, 6, 7, device=device).requires_grad_(True)

    def function(x: torch.Tensor) -> torch.Tensor:
        return upfirdn2d.upfirdn2d(x, f, impl="native", **options)

    assert gradcheck(function, x, fast_mode=True)
    assert gradgradcheck(function, x, fast_mode=True)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("act", sorted(bias_act.ACTIVATIONS))
def test_bias_act_agrees_with_float64(device: str, act: str, dtype: torch.dtype) -> None:
    """Values and two derivatives over shapes, layouts, clamps and the bias's dimension."""
    for shape, dim in [
        ((2, 5, 6, 7), 1),
        ((3, 16, 4, 4), 1),
        ((4, 33), 1),
        ((5, 3, 2, 2), -1),
        ((7,), 0),
        ((2, 3, 4, 5, 6), 2),
    ]:
        x, dy, ddx = (checks.noise(*shape, dtype=dtype, device=device, seed=seed) for seed in (1, 2, 3))
        tensors = checks.layouts(x) if len(shape) == 4 else {"contiguous": x}
        for laid in tensors.values():
            for b in (None, checks.noise(shape[dim], dtype=dtype, device=device, seed=4)):
                for options in ({}, {"gain": -0.7, "clamp": 0.4}, {"alpha": 0.1, "gain": 0.0}):
                    got = checks.bias_act_all("native", laid, b, dy, ddx, act=act, dim=dim, **options)
                    wide = [None if t is None else t.double().contiguous() for t in (laid, b, dy, ddx)]
                    expected = checks.bias_act_all("ref", *wide, act=act, dim=dim, **options)
                    plain = (
                        expected
                        if dtype.itemsize > 2
                        else checks.bias_act_all("ref", laid, b, dy, ddx, act=act, dim=dim, **options)
                    )
                    for name, value in expected.items():
                        checks.assert_near(got[name], value, plain[name])


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("act", sorted(bias_act.ACTIVATIONS))
def test_bias_act_derivatives(device: str, act: str, clamp: float | None) -> None:
    """First and second derivatives by differences, in float64."""
    x, b = (checks.noise(*shape, device=device).requires_grad_(True) for shape in ((2, 3, 2, 2), (3,)))

    def function(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act.bias_act(x, b, act=act, gain=0.7, clamp=clamp, impl="native")

    assert gradcheck(function, (x, b), fast_mode=True)
    assert gradgradcheck(function, (x, b), fast_mode=True)


def test_golden_values(device: str) -> None:
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_pytorchs_own_checks(device: str) -> None:
    """Schema, registration of gradients, fake implementation and tracing."""
    f = checks.FILTERS["outer4"].to(device)
    x = checks.noise(2, 3, 6, 7, device=device)
    for laid in (x.contiguous(memory_format=torch.channels_last), checks.islands(x)):
        grad = laid.detach().requires_grad_(True)
        torch.library.opcheck(
            torch.ops.ggdr.upfirdn2d.default, (grad, f, [2, 1], [1, 2], [2, 1, 3, -1], False, 2.0)
        )
        b = checks.noise(3, device=device).requires_grad_(True)
        torch.library.opcheck(torch.ops.ggdr.bias_act.default, (grad, b, 1, "swish", 0.0, 1.5, 0.5))
        dy = laid.detach().clone().requires_grad_(True)
        torch.library.opcheck(
            torch.ops.ggdr.bias_act_grad.default, (dy, grad, None, 1, "tanh", 0.0, 1.5, 0.5, 1)
        )


def test_both_activation_tables_agree() -> None:
    """The compiled ops know activations by their order in a table of their own."""
    text = (Path(bias_act.__file__).parent / "csrc" / "binding.h").read_text(encoding="utf-8")
    assert "{" + ", ".join(f'"{name}"' for name in bias_act.ACTIVATIONS) + "}" in text


def test_wide_images_are_taken_in_strips() -> None:
    """A row that exceeds a strip, in every phase of upsampling and both layouts; rows for many threads."""
    for shape in ((1, 2, 5, 9001), (1, 300, 6, 120)):
        x = checks.noise(*shape, dtype=torch.float32)
        for laid in (x, x.contiguous(memory_format=torch.channels_last)):
            for options in (
                {"up": 2, "padding": 3},
                {"down": 2, "padding": 2},
                {"up": 3, "down": 2, "padding": [4, 1, 2, 5]},
            ):
                for name in ("outer4", "row12"):
                    f = checks.FILTERS[name]
                    options = options if name == "outer4" else {**options, "padding": 11}
                    expected = upfirdn2d.upfirdn2d(x.double(), f.double(), impl="ref", **options)
                    checks.assert_close(
                        upfirdn2d.upfirdn2d(laid, f, impl="native", **options), expected, torch.float32
                    )


def test_threads_share_the_work() -> None:
    x = checks.noise(4, 40, 30, 30, dtype=torch.float32)
    f, small = checks.FILTERS["outer4"], checks.noise(7, 150, 8, 8, dtype=torch.float32)
    b = checks.noise(40, dtype=torch.float32)
    one = [
        upfirdn2d.upsample2d(x, f, impl="native"),
        upfirdn2d.upsample2d(small, f, impl="native"),
        bias_act.bias_act(x, b, act="lrelu", impl="native"),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        three = [
            upfirdn2d.upsample2d(x, f, impl="native"),
            upfirdn2d.upsample2d(small, f, impl="native"),
            bias_act.bias_act(x, b, act="lrelu", impl="native"),
        ]
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(one, three, strict=True):
        assert torch.equal(a, b)


def test_nan_and_infinity_stay_what_they_are() -> None:
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, -0.5, 2.0]])
    for act in ("linear", "relu", "lrelu", "elu", "selu"):
        for clamp in (None, 1.0):
            got = bias_act.bias_act(x, act=act, clamp=clamp, impl="native")
            torch.testing.assert_close(
                got, bias_act.bias_act(x, act=act, clamp=clamp, impl="ref"), equal_nan=True
            )


def test_a_pixel_reaches_only_its_filters_support() -> None:
    """One NaN spoils exactly the outputs that the filter takes it into."""
    for name in ("outer4", "row12", "row17", "plane"):
        for options in checks.RESAMPLINGS:
            x = torch.zeros([1, 20, 14, 15])
            x[0, 3, 6, 7] = torch.nan
            for laid in (x, x.contiguous(memory_format=torch.channels_last)):
                f = checks.FILTERS[name]
                got = upfirdn2d.upfirdn2d(laid, f, impl="native", **options).isnan()
                pulse = upfirdn2d.upfirdn2d(
                    x.isnan().double(), f.abs().double() + 1e-3, impl="ref", **options
                )
                assert torch.equal(got, pulse.abs() > 1e-9), (name, options)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_empty_batches(shape: Any) -> None:
    x = torch.zeros(shape, requires_grad=True)
    y = upfirdn2d.upsample2d(x, checks.FILTERS["outer4"], impl="native")
    y = bias_act.bias_act(y, torch.zeros(shape[1]), act="lrelu", impl="native")
    assert y.shape == (shape[0], shape[1], 16, 16)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape


def _network(x: torch.Tensor, b: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    x = upfirdn2d.upsample2d(x, f, impl="native")
    x = bias_act.bias_act(x, b, act="lrelu", clamp=1.0, impl="native")
    return upfirdn2d.downsample2d(x, f, impl="native")


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own making
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_traces_through(dynamic: Any) -> None:
    f, b = checks.FILTERS["outer4"], checks.noise(3, dtype=torch.float32).requires_grad_(True)
    compiled = torch.compile(_network, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (8, 10):
        x = checks.noise(2, 3, size, size + 2, dtype=torch.float32).requires_grad_(True)
        expected, got = _network(x, b, f), compiled(x, b, f)
        torch.testing.assert_close(got, expected)
        for a, c in zip(
            torch.autograd.grad(got.square().sum(), [x, b]),
            torch.autograd.grad(expected.square().sum(), [x, b]),
            strict=True,
        ):
            torch.testing.assert_close(a, c)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own making
def test_torch_export_traces_through() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor, b: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            return _network(x, b, f)

    inputs = (
        checks.noise(2, 3, 8, 8, dtype=torch.float32),
        checks.noise(3, dtype=torch.float32),
        checks.FILTERS["outer4"],
    )
    program = torch.export.export(Module(), inputs)
    assert "ggdr.upfirdn2d" in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), _network(*inputs))


def test_a_third_derivative_is_refused_where_there_is_none() -> None:
    x = checks.noise(4).requires_grad_(True)
    y = bias_act.bias_act(x, act="swish", impl="native")
    for _ in range(2):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        torch.autograd.grad(y.sum(), x)


def test_refusals_name_the_reason(ops_mode: Any) -> None:
    f, x = checks.FILTERS["outer4"].clone().requires_grad_(True), torch.zeros([1, 2, 4, 4])
    calls = {
        "filter's gradient": lambda **kw: upfirdn2d.filter2d(x, f, **kw),
        "torch.float32 on cpu, the input torch.float16": lambda **kw: bias_act.bias_act(
            x.half(), torch.zeros(2), **kw
        ),
        "alpha=-0.1": lambda **kw: bias_act.bias_act(x, act="lrelu", alpha=-0.1, **kw),
        "not for 'meta'": lambda **kw: bias_act.bias_act(x.to("meta"), **kw),
        "float8_e5m2 is not compiled": lambda **kw: bias_act.bias_act(x.to(torch.float8_e5m2), **kw),
    }
    for message, call in calls.items():
        with pytest.raises(dispatch.OpsUnavailable, match=message):
            call(impl="native")
    for mode in ("auto", "native"):
        dispatch.set_mode(mode)
        for message, call in list(calls.items())[:4]:
            if mode == "auto":
                call()
            else:
                with pytest.raises(dispatch.OpsUnavailable, match=message):
                    call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op.upfirdn2d(torch.zeros(4, 4), None, [1, 1], [1, 1], [0] * 4, False, 1.0), "expected"),
        (
            lambda op: op.upfirdn2d(torch.zeros(1, 1, 4, 4), None, [0, 1], [1, 1], [0] * 4, False, 1.0),
            "at least 1",
        ),
        (
            lambda op: op.upfirdn2d(
                torch.zeros(1, 1, 4, 4), torch.zeros(5), [1, 1], [1, 1], [0] * 4, False, 1.0
            ),
            "smaller than the filter",
        ),
        (
            lambda op: op.upfirdn2d(
                torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1), [1, 1], [1, 1], [0] * 4, False, 1.0
            ),
            "expected a filter",
        ),
        (
            lambda op: op.bias_act(torch.zeros(2, 3), torch.zeros(2), 1, "relu", 0.0, 1.0, -1.0),
            "does not fit",
        ),
        (
            lambda op: op.bias_act(torch.zeros(2, 3), torch.zeros(3).double(), 1, "relu", 0.0, 1.0, -1.0),
            "bias is",
        ),
        (lambda op: op.bias_act(torch.zeros(2, 3), None, 1, "gelu", 0.0, 1.0, -1.0), "unknown activation"),
        (
            lambda op: op.bias_act_grad(
                torch.zeros(2, 4), torch.zeros(2, 3), None, 1, "relu", 0.0, 1.0, -1.0, 1
            ),
            "a gradient of",
        ),
        (
            lambda op: op.bias_act_grad(
                torch.zeros(2, 3), torch.zeros(2, 3), None, 1, "relu", 0.0, 1.0, -1.0, 3
            ),
            "order 3",
        ),
    ],
)
def test_the_ops_themselves_refuse_wrong_arguments(call: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ops.ggdr)
