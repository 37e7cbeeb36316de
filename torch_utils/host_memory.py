"""Keeps freed memory in the process: on a CPU, returning large tensors to the system costs page faults."""

import ctypes
import os
import platform

VARIABLE = "GGDR_HOST_MEMORY"  # keep (the default) or system
M_TRIM_THRESHOLD = -1  # malloc.h
M_MMAP_MAX = -4


def keep_freed_memory() -> str:
    """Tell glibc neither to map large blocks one by one nor to return the top of the heap.

    The system zeroes each fresh mapping page by page on first use. A training step allocates the same sizes
    again and again, so keeping them is faster at the same peak. ``GGDR_HOST_MEMORY=system`` changes nothing.

    Returns:
        one line for the log: which allocator is in use.
    """
    if os.environ.get(VARIABLE, "keep") != "keep":
        return f"Host memory: system allocator as it is ({VARIABLE}={os.environ[VARIABLE]})"
    if platform.libc_ver()[0] != "glibc":
        return "Host memory: system allocator as it is (no glibc)"
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        return "Host memory: system allocator as it is (mallopt refused)"
    return "Host memory: freed blocks are kept for reuse (glibc mallopt)"
