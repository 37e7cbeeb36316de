"""What command lines call before any work starts: build the compiled ops once, say which path runs."""

import sys
from typing import get_args

from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.ops import build, dispatch

MODES = get_args(dispatch.Impl)  # the values of --ops


def prepare_native_ops(
    mode: dispatch.Impl | None = None,
    device: str | None = None,
    timeout: float = build.TIMEOUT,
    again: bool = False,
) -> str:
    """Build or load the compiled ops, rank 0 first, and set the path that the ops take from now on.

    Args:
        mode: what ``--ops`` says; None takes ``GGDR_OPS``, else ``auto``. ``auto`` falls back to plain
            PyTorch where they cannot be had, ``native`` insists on them, ``ref`` is plain PyTorch.
        device: device type that the work is done on, which ``native`` must serve; None takes CUDA where there
            is a GPU.
        timeout: seconds for a build, or for waiting for another process's build.
        again: try also what the compiler refused the last time; ``native`` does so anyway.

    Returns:
        one line for the log: which path runs, and why.

    Raises:
        UserError: ``native``, and there are no compiled ops for ``device``; or ``GGDR_OPS`` is not a mode.
    """

    def announce() -> None:
        print(
            "Building the compiled ops, once on this machine; half a minute or so ...",
            file=sys.stderr,
            flush=True,
        )

    def warn(line: str) -> None:
        if distributed.is_rank0():
            print(f"Warning: {line}", file=sys.stderr, flush=True)

    try:
        with distributed.main_first("building the compiled ops"):
            return dispatch.prepare(
                mode or dispatch.mode() or "auto", None, timeout, device, announce, again, warn
            )
    except (dispatch.OpsUnavailable, ValueError) as error:
        raise UserError(
            f"{error}" if isinstance(error, ValueError) else f"{error}; or use --ops=auto"
        ) from error
