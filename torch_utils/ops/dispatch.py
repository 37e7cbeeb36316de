"""Chooses the implementation of an op: compiled, or plain PyTorch.

The *mode* holds for every call with ``impl='auto'``. Until a mode is set, nothing is built, and ops run as
plain PyTorch. :func:`prepare`, :func:`set_mode`, the environment variable ``GGDR_OPS`` or a call with
``impl='native'`` make compiled ops load. The command lines do so when they start.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

import torch_utils.ops.build as build
import torch_utils.ops.native as native
from torch_utils.ops.build import BuildOptions

Impl = Literal["auto", "ref", "native"]
VARIABLE = "GGDR_OPS"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OpsUnavailable(RuntimeError):
    """Compiled ops are required and not available. One line: why, and what to do."""


@dataclass
class _State:
    mode: Impl | None = None  # None: not set yet
    tried: bool = False
    loaded: set[str] = field(default_factory=set)  # device types
    reasons: dict[str, str] = field(default_factory=dict)  # why not, by device type
    note: str = ""  # where the library came from
    lock: threading.Lock = field(default_factory=threading.Lock)


_state = _State()


def check_impl(name: str, impl: str) -> Impl:
    """``impl`` if it is valid. Raises :class:`ValueError`, which calls it ``name``."""
    for known in get_args(Impl):
        if impl == known:
            return known
    raise ValueError(f"{name} must be 'auto', 'ref' or 'native', not {impl!r}")


def mode() -> Impl | None:
    """The mode that was set, else that of ``GGDR_OPS``, else None. Raises :class:`ValueError`."""
    if _state.mode is None and os.environ.get(VARIABLE):
        _state.mode = check_impl(VARIABLE, os.environ[VARIABLE])
    return _state.mode


def set_mode(impl: Impl) -> None:
    """Set what calls with ``impl='auto'`` do from now on. The first call that needs compiled ops loads them.

    Raises :class:`ValueError` for an unknown mode.
    """
    _state.mode = check_impl("the mode of the ops", impl)


@contextlib.contextmanager
def fresh_state() -> Iterator[None]:
    """Inside, no mode is set and nothing is loaded, as in a new process. Afterwards all is as before."""
    global _state
    previous, _state = _state, _State()
    try:
        yield
    finally:
        _state = previous


@contextlib.contextmanager
def using_mode(impl: Impl | None) -> Iterator[None]:
    """Inside, ``impl`` is the mode; None stands for "not set". The block may change it."""
    previous, _state.mode = _state.mode, impl
    try:
        yield
    finally:
        _state.mode = previous


def plain_ops() -> contextlib.AbstractContextManager[None]:
    """Inside, ``impl='auto'`` means plain PyTorch. Traces need this: they consist of PyTorch's operators."""
    return using_mode("ref")


def prepare(impl: Impl, device: str | None = None, options: BuildOptions | None = None) -> str:
    """Set the mode, and build or load the compiled ops now unless it is ``ref``.

    Args:
        impl: ``auto`` falls back to plain PyTorch if there are no compiled ops; ``native`` requires them.
        device: device type that ``native`` must serve; None takes CUDA if there is a GPU, else the CPU.
        options: where to look for a build, and how to make one.

    Returns:
        one line for the log: which path runs, and why.

    Raises:
        OpsUnavailable: ``native``, and there are no compiled ops for ``device``.
        ValueError: an unknown ``impl``.
    """
    set_mode(impl)
    if impl == "ref":
        return status_line()
    _load(options or BuildOptions())
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if impl == "native" and device not in _state.loaded:
        raise OpsUnavailable(
            f"compiled ops were asked for, but on {device} there are none: {_why_not(device)}"
        )
    return status_line()


def status_line() -> str:
    """One line: which path runs on which device, and why."""
    chosen = mode()
    if chosen is None and not _state.loaded:
        return f"Ops: plain PyTorch (compiled ops were not asked for; see --ops and {VARIABLE})"
    if chosen == "ref":
        return "Ops: plain PyTorch (as asked for)"
    if not _state.tried:
        return f"Ops: compiled ops are loaded at the first call ({chosen})"
    if not _state.loaded:
        return f"Ops: plain PyTorch ({_why_not('cpu')})"
    parts = [f"compiled for {' and '.join(sorted(_state.loaded))}"]
    if torch.cuda.is_available() and "cuda" not in _state.loaded:
        parts.append(f"plain PyTorch on the GPU ({_why_not('cuda')})")
    return f"Ops: {', '.join(parts)} ({_state.note})"


def loaded_devices() -> frozenset[str]:
    """Device types whose compiled ops are loaded."""
    return frozenset(_state.loaded)


def use_native(
    op: str, impl: Impl, x: torch.Tensor, reason: str | None = None, *, slower: bool = False
) -> bool:
    """Whether this call of ``op`` runs as a compiled op.

    Args:
        op: its name.
        impl: ``auto`` takes the best implementation that the mode allows, ``ref`` is plain PyTorch,
            ``native`` requires the compiled op.
        x: the input.
        reason: why the compiled op cannot serve this call; None if it can.
        slower: plain PyTorch is faster for this call, so ``auto`` takes it.

    Raises:
        ValueError: ``impl`` is none of the three.
        OpsUnavailable: ``impl`` or the mode requires the compiled op, and it cannot serve this call.
    """
    chosen = check_impl(f"{op}: impl", impl)
    required = chosen == "native"
    if chosen == "auto":
        current = mode()
        if current == "ref" or (current is None and not _state.loaded):
            return False
        required = current == "native"
    if chosen == "ref":
        return False
    if not _state.tried:
        _load(BuildOptions(retry_failed=required))
    device = x.device.type
    if device not in _state.loaded:
        reason = _why_not(device)
    elif x.dtype not in DTYPES:
        reason = f"{x.dtype} is not compiled"
    if reason is not None and required:
        raise OpsUnavailable(
            f"{op}: no compiled op for this call on {device}: {reason}; use impl='ref', or --ops=auto"
        )
    return reason is None and (required or not slower)


def _why_not(device: str) -> str:
    if device not in ("cpu", "cuda"):
        return f"compiled ops are for CPUs and NVIDIA GPUs, not for '{device}'"
    return _state.reasons.get(device, "they are not loaded")


def _load(options: BuildOptions) -> None:
    """Load what can be loaded, and record why the rest cannot. Does so once in a process."""
    with _state.lock:
        if _state.tried:
            return
        reason = build.reason_against_cuda() or _try({"cpu", "cuda"}, options)
        if reason is not None:
            _state.reasons["cuda"] = reason
            if (reason := _try({"cpu"}, options)) is not None:
                _state.reasons["cpu"] = reason
        _state.tried = True


def _try(devices: set[str], options: BuildOptions) -> str | None:
    """Build or load the ops for some devices. Returns what went wrong, or None."""
    path = None
    try:
        path, seconds = build.library(build.find_toolchain(with_cuda="cuda" in devices), options)
        native.load(path)
    except build.BuildError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - loading runs the library; whatever it raises, the reason is kept
        text = " ".join(str(error).split())[:300]
        if path is not None and isinstance(error, OSError):
            return f"the library cannot be loaded ({text}); remove the folder {path.parent} and start again"
        return f"the library cannot be built or loaded ({type(error).__name__}: {text})"
    _state.loaded |= devices
    _state.note = f"built in {seconds:.0f} s, kept in {path.parent}" if seconds else f"from {path.parent}"
    return None
