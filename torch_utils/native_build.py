"""Prepares the compiled ops for a command line: builds or loads them once, and reports which path runs."""

import sys
from typing import get_args

from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.ops import dispatch
from torch_utils.ops.build import TIMEOUT, BuildOptions

MODES = get_args(dispatch.Impl)  # the values of --ops


def prepare_native_ops(
    mode: dispatch.Impl | None = None,
    device: str | None = None,
    *,
    timeout: float = TIMEOUT,
    retry_failed: bool = False,
) -> str:
    """Build or load the compiled ops, rank 0 first, and set the mode of the ops.

    Args:
        mode: the value of ``--ops``; None takes ``GGDR_OPS``, else ``auto``. ``auto`` falls back to plain
            PyTorch if there are no compiled ops, ``native`` requires them, ``ref`` is plain PyTorch.
        device: device type that ``native`` must serve; None takes CUDA if there is a GPU, else the CPU.
        timeout: seconds for a build, or for waiting for another process's build.
        retry_failed: compile even if the compiler rejected the same sources before; ``native`` always does.

    Returns:
        one line for the log: which path runs, and why.

    Raises:
        UserError: ``native``, and there are no compiled ops for ``device``; or ``GGDR_OPS`` is not a mode.
    """
    try:
        mode = mode or dispatch.mode() or "auto"
        options = BuildOptions(
            timeout=timeout, retry_failed=retry_failed or mode == "native", announce=_announce, warn=_warn
        )
        with distributed.rank0_first("building the compiled ops"):
            return dispatch.prepare(mode, device, options)
    except ValueError as error:
        raise UserError(str(error)) from error
    except dispatch.OpsUnavailable as error:
        raise UserError(f"{error}; or use --ops=auto") from error


def _announce() -> None:
    print(
        "Building the compiled ops, once on this machine; half a minute or so ...",
        file=sys.stderr,
        flush=True,
    )


def _warn(line: str) -> None:
    if distributed.is_rank0():
        print(f"Warning: {line}", file=sys.stderr, flush=True)
