"""Which implementation of an op runs, and the one place where that is decided.

The *mode* holds for every call with ``impl='auto'``. Without it nothing is built: importing this package and
calling an op runs plain PyTorch until compiled ops are loaded because :func:`prepare`, :func:`set_mode`, the
environment variable ``GGDR_OPS`` or a call with ``impl='native'`` asked for them. The command lines do so
when they start.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

import torch_utils.ops.build as build
import torch_utils.ops.native as native

Impl = Literal["auto", "ref", "native"]
VARIABLE = "GGDR_OPS"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OpsUnavailable(RuntimeError):
    """Compiled ops were insisted on and are not available. One line: why, and what to do."""


@dataclass
class _State:
    mode: Impl | None = None  # None: not asked for anything yet
    tried: bool = False
    loaded: set[str] = field(default_factory=set)  # device types
    obstacles: dict[str, str] = field(default_factory=dict)  # why not, by device type
    note: str = ""  # where the library came from
    lock: threading.Lock = field(default_factory=threading.Lock)


_state = _State()


def check_impl(name: str, impl: str) -> Impl:
    """``impl``, if it is one. Raises :class:`ValueError`."""
    for known in get_args(Impl):
        if impl == known:
            return known
    raise ValueError(f"{name} must be 'auto', 'ref' or 'native', not {impl!r}")


def mode() -> Impl | None:
    """What calls with ``impl='auto'`` do: what was set, else what ``GGDR_OPS`` says, else None. Raises
    :class:`ValueError`."""
    if _state.mode is None and os.environ.get(VARIABLE):
        _state.mode = check_impl(VARIABLE, os.environ[VARIABLE])
    return _state.mode


def set_mode(impl: Impl) -> None:
    """Set what calls with ``impl='auto'`` do from now on; compiled ops are built or loaded at the first call
    that needs them.

    Raises :class:`ValueError` for an unknown mode.
    """
    _state.mode = check_impl("the mode of the ops", impl)


@contextlib.contextmanager
def plain_ops() -> Iterator[None]:
    """Inside, calls with ``impl='auto'`` are plain PyTorch whatever the mode: for traces, which must consist
    of its operators."""
    previous, _state.mode = mode(), "ref"
    try:
        yield
    finally:
        _state.mode = previous


def prepare(
    impl: Impl,
    cache: Path | None = None,
    timeout: float = build.TIMEOUT,
    device: str | None = None,
    announce: Callable[[], None] = lambda: None,
    again: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> str:
    """Set the mode, and build or load the compiled ops now unless it is ``ref``.

    Args:
        impl: ``auto`` falls back to plain PyTorch where they cannot be had, ``native`` insists on them.
        cache: folder of builds; None takes :func:`torch_utils.ops.build.builds_folder`.
        timeout: seconds for a build, or for waiting for another process's build.
        device: device type that ``native`` must serve; None takes CUDA where there is a GPU, else the CPU.
        announce: called before a build, which takes its time.
        again: try also what the compiler refused the last time; ``native`` does so anyway.
        warn: called with a line where a build that is there is not used.

    Returns:
        one line for the log: which path runs, and why.

    Raises:
        OpsUnavailable: ``native``, and they cannot be had for ``device``.
        ValueError: an unknown ``impl``.
    """
    set_mode(impl)
    if impl == "ref":
        return status_line()
    _load(cache, timeout, announce, again or impl == "native", warn)
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
    op: str, impl: Impl, x: torch.Tensor, obstacle: str | None = None, slower: bool = False
) -> bool:
    """Whether this call of ``op`` runs as a compiled op.

    Args:
        op: its name.
        impl: ``auto`` takes the best implementation available under the mode that is set, ``ref`` is plain
            PyTorch, ``native`` insists on the compiled op.
        x: the tensor that it works on.
        obstacle: what else keeps this call from the compiled op.
        slower: plain PyTorch is faster for this call; ``auto`` then takes it.

    Raises:
        ValueError: ``impl`` is none of the three.
        OpsUnavailable: the compiled op is insisted on, by ``impl`` or by the mode, and this call cannot have
            it.
    """
    chosen = check_impl(f"{op}: impl", impl)
    insisting = chosen == "native"
    if chosen == "auto":
        wanted = mode()
        if wanted == "ref" or (wanted is None and not _state.loaded):
            return False
        insisting = wanted == "native"
    if chosen == "ref":
        return False
    if not _state.tried:
        _load(None, build.TIMEOUT, lambda: None, insisting, lambda line: None)
    device = x.device.type
    if device not in _state.loaded:
        obstacle = _why_not(device)
    elif x.dtype not in DTYPES:
        obstacle = f"{x.dtype} is not compiled"
    if obstacle is not None and insisting:
        raise OpsUnavailable(
            f"{op}: no compiled op for this call on {device}: {obstacle}; use impl='ref', or --ops=auto"
        )
    return obstacle is None and (insisting or not slower)


def _why_not(device: str) -> str:
    if device not in ("cpu", "cuda"):
        return f"compiled ops are for CPUs and NVIDIA GPUs, not for '{device}'"
    return _state.obstacles.get(device, "they are not loaded")


def _load(
    cache: Path | None, timeout: float, announce: Callable[[], None], again: bool, warn: Callable[[str], None]
) -> None:
    """Fill in the state: what is loaded, and for the rest why not. Tries once in a process."""
    with _state.lock:
        if _state.tried:
            return
        obstacle = build.cuda_obstacle()
        if obstacle is None:
            obstacle = _try({"cpu", "cuda"}, cache, timeout, announce, again, warn)
        if obstacle is not None:
            _state.obstacles["cuda"] = obstacle
            cpu_obstacle = _try({"cpu"}, cache, timeout, announce, again, warn)
            if cpu_obstacle is not None:
                _state.obstacles["cpu"] = cpu_obstacle
        _state.tried = True


def _try(
    devices: set[str],
    cache: Path | None,
    timeout: float,
    announce: Callable[[], None],
    again: bool,
    warn: Callable[[str], None],
) -> str | None:
    """Build or load the ops for some devices; what went wrong, or None."""
    try:
        folder = build.builds_folder() if cache is None else cache
        path, seconds = build.library(
            build.find_toolchain("cuda" in devices), folder, timeout, announce, again=again, warn=warn
        )
        native.load(path)
    except build.BuildError as error:
        return str(error)
    except OSError as error:
        return f"the library cannot be loaded ({' '.join(str(error).split())}); remove the folder {path.parent} and start again"
    except Exception as error:  # noqa: BLE001 - loading runs the library, and a compiler may print anything; the line goes on
        return f"the library cannot be built or loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    _state.loaded |= devices
    _state.note = f"built in {seconds:.0f} s, kept in {path.parent}" if seconds else f"from {path.parent}"
    return None
