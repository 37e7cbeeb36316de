"""Which device to compute on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.host_memory import keep_freed_memory
from torch_utils.native_build import prepare_native_ops


def pick_device(name: str) -> torch.device:
    """``auto`` (the GPU where there is one), ``cuda`` or ``cpu`` to a device.

    Raises :class:`UserError` for ``cuda`` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device=cuda, but PyTorch finds no usable GPU here; use --device=cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def host_sees(x: torch.Tensor) -> bool:
    """Whether the host can look at the values of ``x`` at once, without waiting for a device to finish its work."""
    return x.device.type == "cpu"


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` on ``device``; from the host to a GPU without waiting for the GPU."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and x.device.type == "cpu" else x.to(device)


def prepare_device(name: str) -> tuple[torch.device, list[str]]:
    """What a command line does before it computes: pick the device, build or load the compiled ops, settle how memory is kept.

    All ranks take part. ``GGDR_OPS`` and ``GGDR_HOST_MEMORY``, which ``--ops`` and ``--host-memory`` set, decide.

    Returns:
        the device, and lines for the log that say which paths are active.

    Raises:
        UserError: see :func:`pick_device` and :func:`torch_utils.native_build.prepare_native_ops`.
    """
    device = pick_device(name)
    lines = [prepare_native_ops(device=device.type)]
    return device, lines if device.type == "cuda" else [*lines, keep_freed_memory()]


def announce_device(name: str) -> torch.device:
    """:func:`prepare_device`, with its lines on standard error."""
    device, lines = prepare_device(name)
    if distributed.is_main():
        print("\n".join(lines), file=sys.stderr)
    return device


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within it, a GPU's float32 matrix products and convolutions are float32's, whatever ``--allow-tf32`` says."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16, and not by emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_bfloat16(device: torch.device) -> None:
    """Raises :class:`UserError` unless :func:`has_bfloat16`."""
    if not has_bfloat16(device):
        gpu, processor = "a GPU from Ampere on (compute capability 8.0)", "a processor with AVX-512 (or Arm's bf16 instructions)"
        needed = gpu if device.type == "cuda" else processor
        raise UserError(f"--precision=bf16 needs {needed}, which this one is not; use --precision=auto")
