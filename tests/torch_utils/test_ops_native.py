"""The compiled ops on the CPU: values, gradients, layouts, tracing, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import op_checks as checks
from torch_utils.ops import bias_act, dispatch, upfirdn2d

pytestmark = pytest.mark.usefixtures("compiled_ops")


@pytest.mark.parametrize("options", checks.RESAMPLINGS, ids=str)
@pytest.mark.parametrize("filter_name", checks.FILTERS)
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_upfirdn2d_values(dtype: Any, filter_name: Any, options: Any) -> None:
    checks.check_upfirdn2d_values("cpu", dtype, filter_name, options)


@pytest.mark.parametrize("options", checks.RESAMPLINGS, ids=str)
@pytest.mark.parametrize("filter_name", ["none", "outer4", "row12", "plane"])
def test_upfirdn2d_derivatives(filter_name: Any, options: Any) -> None:
    checks.check_upfirdn2d_derivatives("cpu", filter_name, options)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("act", sorted(bias_act.ACTIVATIONS))
def test_bias_act(act: Any, dtype: Any) -> None:
    checks.check_bias_act("cpu", dtype, act)


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("act", sorted(bias_act.ACTIVATIONS))
def test_bias_act_derivatives(act: Any, clamp: Any) -> None:
    checks.check_bias_act_derivatives("cpu", act, clamp)


def test_golden_values() -> None:
    checks.check_golden("cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's own making
def test_pytorchs_own_checks() -> None:
    checks.check_opcheck("cpu")


def test_both_activation_tables_agree() -> None:
    """The compiled ops know activations by their order in a table of their own."""
    text = (Path(bias_act.__file__).parent / "csrc" / "binding.h").read_text(encoding="utf-8")
    assert "{" + ", ".join(f'"{name}"' for name in bias_act.ACTIVATIONS) + "}" in text


def test_wide_images_are_taken_in_strips() -> None:
    """A row that exceeds a strip, with each phase of upsampling, in both layouts; and many threads' worth of
    rows."""
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
