"""The ops against reference values: results and first gradients."""

from typing import Any

import pytest
import torch

from tests.support.golden import cases, load, relative_error
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d
from training.networks import modulated_conv2d

UPFIRDN, BIAS, CONV = load("upfirdn2d"), load("bias_act"), load("conv")
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])


@pytest.mark.parametrize("impl", ["ref", "auto"])
@pytest.mark.parametrize("index", range(len(cases(UPFIRDN))))
def test_upfirdn2d(index: Any, impl: Any) -> None:
    case = cases(UPFIRDN)[index]
    f = torch.from_numpy(UPFIRDN[f"{index}_f"]) if case["has_filter"] else None
    if f is not None:
        assert relative_error(upfirdn2d.setup_filter(case["taps"]), UPFIRDN[f"{index}_f"]) < 1e-6
    x = torch.from_numpy(UPFIRDN[f"{index}_x"]).requires_grad_(True)
    options = {key: case[key] for key in ("up", "down", "padding", "flip_filter", "gain") if key in case}
    y = upfirdn2d.upfirdn2d(x, f, impl=impl, **options)
    (dx,) = torch.autograd.grad((y * torch.from_numpy(UPFIRDN[f"{index}_dy"])).sum(), x)
    assert relative_error(y, UPFIRDN[f"{index}_y"]) < 2e-6
    assert relative_error(dx, UPFIRDN[f"{index}_dx"]) < 2e-6


@pytest.mark.parametrize(
    ("name", "options"),
    [("filter2d", {"padding": 1}), ("upsample2d", {"up": 2}), ("downsample2d", {"down": 2})],
)
def test_resampling_helpers(name: Any, options: Any) -> None:
    y = getattr(upfirdn2d, name)(torch.from_numpy(UPFIRDN[f"{name}_x"]), FILTER, **options)
    assert relative_error(y, UPFIRDN[f"{name}_y"]) < 2e-6


@pytest.mark.parametrize("impl", ["ref", "auto"])
@pytest.mark.parametrize("index", range(len(cases(BIAS))))
def test_bias_act(index: Any, impl: Any) -> None:
    x, b = (torch.from_numpy(BIAS[f"{index}_{name}"]).requires_grad_(True) for name in "xb")
    y = bias_act.bias_act(x, b, impl=impl, **cases(BIAS)[index])
    dx, db = torch.autograd.grad((y * torch.from_numpy(BIAS[f"{index}_dy"])).sum(), [x, b])
    for got, name in ((y, "y"), (dx, "dx"), (db, "db")):
        assert relative_error(got, BIAS[f"{index}_{name}"]) < 2e-6


CONVS = [case for case in cases(CONV) if case["op"] == "conv"]
MODULATED = [case for case in cases(CONV) if case["op"] == "mod"]


@pytest.mark.parametrize("index", range(len(CONVS)))
def test_conv2d_resample(index: Any) -> None:
    options = {key: value for key, value in CONVS[index].items() if key != "op"}
    x, w = (torch.from_numpy(CONV[f"conv{index}_{name}"]) for name in "xw")
    assert (
        relative_error(conv2d_resample.conv2d_resample(x, w, f=FILTER, **options), CONV[f"conv{index}_y"])
        < 2e-6
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("index", range(len(MODULATED)))
def test_modulated_conv2d(index: Any, fused: Any) -> None:
    options = {key: value for key, value in MODULATED[index].items() if key != "op"}
    x, w, s, noise = (torch.from_numpy(CONV[f"mod{index}_{name}"]) for name in ("x", "w", "s", "noise"))
    y = modulated_conv2d(
        x,
        w,
        s,
        noise=noise,
        padding=1,
        resample_filter=FILTER,
        flip_weight=options["up"] == 1,
        fused_modconv=fused,
        **options,
    )
    assert relative_error(y, CONV[f"mod{index}_y"]) < 2e-6
