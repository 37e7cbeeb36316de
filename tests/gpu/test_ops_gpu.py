"""What only a GPU has of the compiled ops; tests/torch_utils/test_ops_native.py has what both have."""

import pytest
import torch

from tests.support import op_checks as checks
from torch_utils.ops import bias_act, upfirdn2d

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda_ops")]


def test_more_than_two_to_the_31_numbers() -> None:
    if torch.cuda.mem_get_info()[0] < 14 << 30:
        pytest.skip("needs 14 GiB of GPU memory")
    x = torch.zeros([1, 33, 8192, 8192], dtype=torch.float16, device="cuda")
    x[0, -1, -4:, -4:] = 1
    for f in (checks.FILTERS["outer4"].cuda(), checks.FILTERS["plane"].cuda()):
        y = upfirdn2d.filter2d(x, f, impl="native")[:, -1:, -4:, -4:].float()
        expected = upfirdn2d.filter2d(x[:, -1:, -64:, -64:].float(), f, impl="ref")[:, :, -4:, -4:]
        torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
        del y
    y = bias_act.bias_act(
        x, torch.ones(33, dtype=x.dtype, device="cuda"), act="lrelu", gain=1.0, impl="native"
    )
    assert y[0, -1, -1, -1].item() == 2
    assert y[0, 0, 0, 0].item() == 1


def test_the_current_stream_is_used() -> None:
    stream = torch.cuda.Stream()
    x = checks.noise(2, 8, 64, 64, dtype=torch.float32, device="cuda")
    expected = upfirdn2d.upsample2d(x, checks.FILTERS["outer4"].cuda(), impl="ref")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        y = upfirdn2d.upsample2d(x.clone(), checks.FILTERS["outer4"].cuda(), impl="native")
    stream.synchronize()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_no_host_synchronisation() -> None:
    f, x = (
        checks.FILTERS["outer4"].cuda(),
        checks.noise(2, 8, 16, 16, dtype=torch.float32, device="cuda").requires_grad_(True),
    )
    b = torch.zeros(8, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        bias_act.bias_act(
            upfirdn2d.upsample2d(x, f, impl="native"), b, act="lrelu", clamp=256, impl="native"
        ).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
