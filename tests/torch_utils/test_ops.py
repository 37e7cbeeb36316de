"""The ops beyond the golden values: second derivatives, odd shapes, refusals."""

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d
from training.networks import modulated_conv2d


def double(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(True)


def assert_twice_differentiable(function: Any, *inputs: Any) -> None:
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


UPFIRDN_CASES = [
    {"up": 2, "padding": [2, 1, 2, 1], "gain": 4},
    {"down": 2, "padding": 1},
    {"up": [3, 2], "down": [2, 1], "padding": [1, 2, 3, 4], "flip_filter": True},
    {"up": 2, "down": 3, "padding": [5, -1, -2, 7]},
]


@pytest.mark.parametrize("case", UPFIRDN_CASES)
@pytest.mark.parametrize(
    "taps",
    [None, [1, 3, 3, 1], list(range(1, 9)), [[1.0, 2, 3], [4, 5, 7]]],
    ids=["none", "outer", "row", "2d"],
)
def test_upfirdn2d_differentiates_twice(case: Any, taps: Any) -> None:
    f = None if taps is None else upfirdn2d.setup_filter(taps).double()
    assert_twice_differentiable(lambda x: upfirdn2d.upfirdn2d(x, f, **case), double(1, 2, 6, 7))


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("act", sorted(bias_act.ACTIVATIONS))
def test_bias_act_differentiates_twice(act: Any, clamp: Any) -> None:
    assert_twice_differentiable(
        lambda x, b: bias_act.bias_act(x, b, act=act, gain=0.7, clamp=clamp), double(2, 3, 2, 2), double(3)
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"up": 2, "flip_weight": False}, {"down": 2}, {"up": 2, "down": 2}, {"padding": [2, -1, 0, 1]}],
)
def test_conv2d_resample_differentiates_twice(kernel: Any, options: Any) -> None:
    f = upfirdn2d.setup_filter([1, 3, 3, 1]).double()
    options = {"padding": kernel // 2, **options}
    assert_twice_differentiable(
        lambda x, w: conv2d_resample.conv2d_resample(x, w, f=f, **options),
        double(1, 2, 4, 4),
        double(2, 2, kernel, kernel),
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_conv2d_differentiates_twice(demodulate: Any, fused: Any) -> None:
    def function(x: Any, w: Any, s: Any, noise: Any) -> Any:
        return modulated_conv2d(x, w, s, noise=noise, padding=1, demodulate=demodulate, fused_modconv=fused)

    assert_twice_differentiable(function, double(2, 2, 3, 3), double(3, 2, 3, 3), double(2, 2), double(3, 3))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("flip_weight", [False, True])
@pytest.mark.parametrize("taps", [None, [1, 3, 3, 1], [1, 2, 4]])
def test_every_shortcut_equals_the_plain_composition(
    taps: Any, flip_weight: Any, up: Any, down: Any, kernel: Any, groups: Any
) -> None:
    """conv2d_resample against its definition: upsample, convolve, downsample, without any reordering."""
    x, w = double(2, 4, 6, 7).detach(), double(6, 4 // groups, kernel, kernel).detach()
    f = None if taps is None else upfirdn2d.setup_filter(taps).double()
    padding = [kernel // 2] * 4
    if up > 1:
        padding = upfirdn2d.add_padding(padding, upfirdn2d.upsample_padding(f, up))
    if down > 1:
        padding = upfirdn2d.add_padding(padding, upfirdn2d.downsample_padding(f, down))
    expected = upfirdn2d.upfirdn2d(x, f if up > 1 else None, up=up, padding=padding, gain=up**2)
    expected = torch.nn.functional.conv2d(expected, w if flip_weight else w.flip([2, 3]), groups=groups)
    expected = upfirdn2d.upfirdn2d(expected, f if down > 1 else None, down=down)
    got = conv2d_resample.conv2d_resample(
        x, w, f=f, up=up, down=down, padding=kernel // 2, groups=groups, flip_weight=flip_weight
    )
    torch.testing.assert_close(got, expected)


def test_resampling_keeps_a_constant_image_inside() -> None:
    x = torch.ones([1, 1, 16, 16])
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    torch.testing.assert_close(upfirdn2d.upsample2d(x, f)[:, :, 4:-4, 4:-4], torch.ones([1, 1, 24, 24]))
    torch.testing.assert_close(upfirdn2d.downsample2d(x, f)[:, :, 2:-2, 2:-2], torch.ones([1, 1, 4, 4]))


@pytest.mark.parametrize("call", [upfirdn2d.upfirdn2d, upfirdn2d.filter2d])
def test_an_unknown_implementation_is_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="impl must be"):
        call(torch.zeros([1, 1, 4, 4]), None, impl="fast")


def test_a_negative_gain_turns_the_sign() -> None:
    for taps in ([1, 3, 3, 1], list(range(1, 9))):
        f, x = upfirdn2d.setup_filter(taps), double(1, 2, 8, 9).detach()
        torch.testing.assert_close(upfirdn2d.filter2d(x, f, gain=-0.3), -0.3 * upfirdn2d.filter2d(x, f))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias_act.bias_act(torch.zeros([1, 2]), act="gelu"), "unknown activation"),
        (lambda: bias_act.bias_act(torch.zeros([1, 2]), torch.zeros([3])), "does not fit"),
        (lambda: bias_act.bias_act(torch.zeros([1, 2]), clamp=-1), "negative"),
        (lambda: upfirdn2d.upfirdn2d(torch.zeros([4, 4]), None), r"\[N, C, H, W\]"),
        (lambda: upfirdn2d.upfirdn2d(torch.zeros([1, 1, 4, 4]), None, up=0), "at least 1"),
        (lambda: upfirdn2d.upfirdn2d(torch.zeros([1, 1, 4, 4]), None, padding=-2), "smaller than the filter"),
        (lambda: upfirdn2d.upfirdn2d(torch.zeros([1, 1, 4, 4]), None, padding=[1, 2, 3]), "1, 2 or 4"),
        (lambda: upfirdn2d.setup_filter([]), "expected"),
        (lambda: upfirdn2d.setup_filter([[1, 2]], separable=True), "separable"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()
