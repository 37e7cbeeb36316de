"""Loads many network pickles in a process of its own and says how each went. Used by test_hostile_pickles.py.

Run as ``python hostile.py truncate FILE STEP``, ``python hostile.py flip FILE COUNT`` or ``python hostile.py
load FILE...``: prints one JSON object. The process may take one gigabyte more than it has after importing
what loading needs, memory that is asked for and not touched included.
"""

import io
import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

GIGABYTE = 1 << 30


def mutations(mode: str, data: bytes, number: int) -> Iterator[bytes]:
    """Prefixes of ``data`` at every ``number``-th byte, or ``number`` copies with up to four bits flipped."""
    if mode == "truncate":
        for length in range(0, len(data), number):
            yield data[:length]
        return
    draw = random.Random(0)
    for _ in range(number):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 4))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        yield bytes(changed)


def used_memory() -> int:
    """Bytes of the process's own memory, touched or not: what RLIMIT_DATA counts."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    )
    return int(line.split()[1]) * 1024


def main(mode: str, *arguments: str) -> None:
    """See the module's docstring."""
    from dnnlib.errors import UserError
    from torch_utils.persistence import load_network_pkl
    from training.augment import AugmentPipe  # noqa: F401
    from training.networks import Generator  # noqa: F401

    if mode == "load":
        files = ((Path(path).name, Path(path).read_bytes()) for path in arguments)
    else:
        changed = mutations(mode, Path(arguments[0]).read_bytes(), int(arguments[1]))
        files = ((str(index), data) for index, data in enumerate(changed))
    resource.setrlimit(resource.RLIMIT_DATA, (used_memory() + GIGABYTE, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    errors: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name, data in files:
        start = time.monotonic()
        try:
            assert load_network_pkl(io.BytesIO(data))["G_ema"] is not None
        except UserError as error:
            errors[name] = str(error)
        seconds[name] = time.monotonic() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:9]
    print(
        json.dumps(
            {
                "loads": len(seconds),
                "errors": errors,
                "slowest": {name: seconds[name] for name in slowest},
                "peak": peak,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
