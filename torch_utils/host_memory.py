"""Keep freed memory in the process: on a CPU, handing large tensors back to the system costs page faults."""

import ctypes
import os
import platform

VARIABLE = "GGDR_HOST_MEMORY"  # keep (the default) or system
M_TRIM_THRESHOLD = -1  # malloc.h
M_MMAP_MAX = -4


def keep_freed_memory() -> str:
    """Tell glibc neither to map large blocks one by one nor to return the top of the heap.

    Each fresh mapping is zeroed page by page on first use; a training step allocates the same sizes over and
    over, so keeping them is faster and the peak is the same.

    ``GGDR_HOST_MEMORY=system`` in the environment leaves everything as it is.

    Returns:
        one line that says what is in force, for the log.
    """
    if os.environ.get(VARIABLE, "keep") != "keep":
        return f"Host memory: system allocator as it is ({VARIABLE}={os.environ[VARIABLE]})"
    if platform.libc_ver()[0] != "glibc":
        return "Host memory: system allocator as it is (no glibc)"
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        return "Host memory: system allocator as it is (mallopt refused)"
    return "Host memory: freed blocks are kept for reuse (glibc mallopt)"
