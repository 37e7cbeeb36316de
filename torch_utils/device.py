"""Picks and prepares the device."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.host_memory import keep_freed_memory
from torch_utils.native_build import prepare_native_ops

T = TypeVar("T")

#: Where the driver puts a file for each GPU.
DEVICE_FILES = Path("/dev")


def pick_device(name: str) -> torch.device:
    """The device for ``auto`` (the GPU if there is one), ``cuda`` or ``cpu``.

    Raises :class:`UserError` for ``cuda`` without a GPU, and for ``auto`` with a GPU that PyTorch cannot use.
    """
    if name == "cpu" or torch.cuda.is_available():
        return torch.device("cpu" if name == "cpu" else "cuda")
    if name == "cuda":
        raise UserError("--device=cuda, but PyTorch finds no usable GPU here; use --device=cpu or auto")
    if torch.version.cuda is not None and unused_gpus():
        raise UserError(
            f"there is an NVIDIA GPU here that PyTorch (built for CUDA {torch.version.cuda}) cannot use, "
            "perhaps because its driver is too old; install a newer driver or a PyTorch for an older CUDA, "
            "or give --device=cpu"
        )
    return torch.device("cpu")


def unused_gpus() -> list[Path]:
    """Device files of NVIDIA GPUs, unless ``CUDA_VISIBLE_DEVICES`` hides all GPUs.

    There are none without a driver.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    return [] if hidden else sorted(DEVICE_FILES.glob("nvidia[0-9]*"))


def check_architecture() -> None:
    """Raise :class:`UserError` if this PyTorch has no kernels for the current GPU."""
    major, minor = torch.cuda.get_device_capability()
    built = torch.cuda.get_arch_list()
    for architecture in built:
        kind, _, number = architecture.partition("_")
        digits = re.match(r"\d+", number)  # sm_90a: without the letter
        if digits is None:
            return
        theirs = divmod(int(digits[0]), 10)
        # Machine code (sm) runs on later GPUs of its generation, intermediate code (compute) on all later.
        if theirs <= (major, minor) and (kind == "compute" or theirs[0] == major):
            return
    name = torch.cuda.get_device_name()
    raise UserError(
        f"PyTorch {torch.__version__} has no kernels for {name} (compute capability {major}.{minor}), only "
        f"for {' '.join(built)}; install a build that has, or give --device=cpu"
    )


def host_sees(x: torch.Tensor) -> bool:
    """Whether the host can read the values of ``x`` without waiting for a device."""
    return x.device.type == "cpu"


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` on ``device``; from the host to a GPU without waiting for the GPU."""
    return (
        x.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda" and x.device.type == "cpu"
        else x.to(device)
    )


def prepare_device(name: str) -> tuple[torch.device, list[str]]:
    """Pick the device, prepare the compiled ops and the allocator, and turn TF32 off.

    All command lines call this before they compute.

    All ranks call it. ``GGDR_OPS`` and ``GGDR_HOST_MEMORY``, which ``--ops`` and ``--host-memory`` set,
    apply.

    Returns:
        the device, and lines for the log that say which ops and which allocator are in use.

    Raises:
        UserError: see :func:`pick_device`, :func:`check_architecture` and
            :func:`torch_utils.native_build.prepare_native_ops`.
    """
    device = pick_device(name)
    if device.type == "cuda":
        check_architecture()
    allow_tf32(allowed=False)
    lines = [prepare_native_ops(device=device.type)]
    return device, lines if device.type == "cuda" else [*lines, keep_freed_memory()]


def announce_device(name: str) -> torch.device:
    """Call :func:`prepare_device` and print its lines to standard error; returns the device."""
    device, lines = prepare_device(name)
    if distributed.is_rank0():
        print("\n".join(lines), file=sys.stderr)
    return device


def allow_tf32(*, allowed: bool) -> None:
    """Set whether a GPU may compute float32 matrix products and convolutions in TF32.

    PyTorch's own default allows it for convolutions.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 matrix products and convolutions use neither TF32 nor bfloat16.

    PyTorch has two interfaces to these settings. The older one raises on reading if it contradicts the newer
    one. Afterwards both are as before.
    """
    backends: Any = torch.backends  # whose newer part has no types yet
    newer = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    before = [part.fp32_precision for part in newer]
    matmul, convolution = (
        _or_none(torch.get_float32_matmul_precision),
        _or_none(lambda: backends.cudnn.allow_tf32),
    )
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    for part in newer:
        part.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            backends.cudnn.allow_tf32 = convolution
        for part, value in zip(newer, before, strict=True):
            part.fp32_precision = value


def _or_none(read: Callable[[], T]) -> T | None:
    """A setting of PyTorch's older interface; None if it contradicts the newer one, which makes it raise."""
    try:
        return read()
    except RuntimeError:
        return None


#: PyTorch's names for instructions of processors that compute in bfloat16 (the last is Arm's).
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 without emulation.

    PyTorch emulates bfloat16 on every processor with AVX-512, more slowly than it computes float32. So the
    processor's instructions decide.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name, False) for name in BFLOAT16_INSTRUCTIONS):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - there is no public name


def check_bfloat16(device: torch.device) -> None:
    """Raise :class:`UserError` unless :func:`has_bfloat16`."""
    if has_bfloat16(device):
        return
    if device.type == "cuda":
        raise UserError(
            "--precision=bf16 needs a GPU from Ampere on (compute capability 8.0), which this one is not; "
            "use --precision=auto"
        )
    raise UserError(
        "--precision=bf16 needs a processor with instructions for bfloat16 (AVX512-BF16, AMX, or Arm's "
        "BF16), and this one has none: it would emulate them, slower than float32; use --precision=auto"
    )
