"""Which device to compute on."""

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
    """``auto`` (the GPU where there is one), ``cuda`` or ``cpu`` to a device.

    Raises :class:`UserError` for ``cuda`` where there is none, and for ``auto`` where there is one that
    PyTorch cannot use.
    """
    if name == "cpu" or torch.cuda.is_available():
        return torch.device("cpu" if name == "cpu" else "cuda")
    if name == "cuda":
        raise UserError("--device=cuda, but PyTorch finds no usable GPU here; use --device=cpu or auto")
    if torch.version.cuda is not None and unused_gpus():
        raise UserError(
            f"there is an NVIDIA GPU here that PyTorch (built for CUDA {torch.version.cuda}) cannot use, "
            "perhaps because its driver is too"
            " old; install a newer driver or a PyTorch for an older CUDA, or give --device=cpu"
        )
    return torch.device("cpu")


def unused_gpus() -> list[Path]:
    """Device files of NVIDIA GPUs, unless ``CUDA_VISIBLE_DEVICES`` hides them all. (An installation without
    driver has none.)"""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    return [] if hidden else sorted(DEVICE_FILES.glob("nvidia[0-9]*"))


def check_architecture() -> None:
    """Raises :class:`UserError` where this PyTorch has no kernels for the current GPU."""
    major, minor = torch.cuda.get_device_capability()
    built = torch.cuda.get_arch_list()
    for architecture in built:
        kind, _, number = architecture.partition("_")
        digits = re.match(r"\d+", number)  # sm_90a: without the letter
        if digits is None:
            return
        theirs = divmod(int(digits[0]), 10)
        # Machine code (sm) runs on GPUs of its generation from its own on, intermediate code (compute) on all
        # later ones.
        if theirs <= (major, minor) and (kind == "compute" or theirs[0] == major):
            return
    name = torch.cuda.get_device_name()
    raise UserError(
        f"PyTorch {torch.__version__} has no kernels for {name} (compute capability {major}.{minor}), only "
        f"for {' '.join(built)};"
        " install a build that has, or give --device=cpu"
    )


def host_sees(x: torch.Tensor) -> bool:
    """Whether the host can look at the values of ``x`` at once, without waiting for a device to finish its
    work."""
    return x.device.type == "cpu"


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` on ``device``; from the host to a GPU without waiting for the GPU."""
    return (
        x.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda" and x.device.type == "cpu"
        else x.to(device)
    )


def prepare_device(name: str) -> tuple[torch.device, list[str]]:
    """What a command line does before it computes: pick the device, build or load the compiled ops, settle
    how memory is kept, and that float32 is float32.

    All ranks take part. ``GGDR_OPS`` and ``GGDR_HOST_MEMORY``, which ``--ops`` and ``--host-memory`` set,
    decide.

    Returns:
        the device, and lines for the log that say which paths are active.

    Raises:
        UserError: see :func:`pick_device`, :func:`check_architecture` and
            :func:`torch_utils.native_build.prepare_native_ops`.
    """
    device = pick_device(name)
    if device.type == "cuda":
        check_architecture()
    allow_tf32(False)
    lines = [prepare_native_ops(device=device.type)]
    return device, lines if device.type == "cuda" else [*lines, keep_freed_memory()]


def announce_device(name: str) -> torch.device:
    """:func:`prepare_device`, with its lines on standard error."""
    device, lines = prepare_device(name)
    if distributed.is_rank0():
        print("\n".join(lines), file=sys.stderr)
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may compute float32's matrix products and convolutions in TF32; PyTorch's own default is
    yes for the latter."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it, float32's matrix products and convolutions are float32's: neither TF32 nor bfloat16,
    whatever is allowed around it.

    PyTorch has two interfaces to that. The older one must agree with the newer, or it raises where it is
    read; where the process had it so before, it has it so afterwards.
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
    """A setting in PyTorch's older interface; None where it contradicts the newer one, upon which reading it
    raises."""
    try:
        return read()
    except RuntimeError:
        return None


#: The processor's instructions for arithmetic in bfloat16, as PyTorch names them (the last is Arm's). One of
#: these is needed.
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16, and not by emulating it.

    PyTorch emulates bfloat16 on every processor with AVX-512, which is slower than float32. So its list of
    the processor's instructions decides.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    there = any(capabilities.get(name, False) for name in BFLOAT16_INSTRUCTIONS)
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_bfloat16(device: torch.device) -> None:
    """Raises :class:`UserError` unless :func:`has_bfloat16`."""
    if has_bfloat16(device):
        return
    if device.type == "cuda":
        raise UserError(
            "--precision=bf16 needs a GPU from Ampere on (compute capability 8.0), which this one is not; "
            "use --precision=auto"
        )
    raise UserError(
        "--precision=bf16 needs a processor with instructions for bfloat16 (AVX512-BF16, AMX, or Arm's "
        "BF16), and this one has none:"
        " it would emulate them, slower than float32; use --precision=auto"
    )
