"""A program that launches itself in two processes, once a mode: ``python launched.py RESTARTS MODE...``."""

import os
import signal
import sys
import time

import click

from dnnlib import torchrun
from dnnlib.cli import friendly_errors
from dnnlib.errors import UserError
from dnnlib.interrupt import InterruptFlag, StoppedInOrder
from torch_utils import distributed, elastic

PROCESSES = 2


def work(mode: str) -> None:
    """Steps of 50 ms that end together; the mode says what happens in the fourth, before any restart."""
    print(f"starts, remembers {elastic.recall('step')}", flush=True)
    with InterruptFlag(announce=False) as flag:
        for step in range(200 if mode == "long" else 8):
            time.sleep(0.05)
            (number,) = distributed.maxima([flag.received or 0], f"step {step}")
            if step == 3 and torchrun.restarts() == 0:
                elastic.remember("step", str(step))
                distributed.maxima([0], "the end of step 3")
                misbehave(mode)
            print(f"step {step}", flush=True)
            if number:
                print(f"stops for {signal.Signals(number).name}", flush=True)
                if number == signal.SIGINT:
                    raise StoppedInOrder
                return
    print("ends", flush=True)


def misbehave(mode: str) -> None:
    rank = distributed.rank()
    if mode == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "broken" and rank == 1:
        raise ZeroDivisionError("a fault of the program")
    if mode == "wrong input":
        raise UserError("this input is wrong")


@click.command()
@click.argument("mode")
@friendly_errors
def worker(mode: str) -> None:
    try:
        with elastic.worker(cuda=False, timeout=20, prepare_timeout=20):
            work(mode)
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    restarts, *modes = sys.argv[1:]
    for mode in modes:
        print(f"mode {mode}", flush=True)
        start = time.monotonic()
        status = elastic.launch([__file__, mode], PROCESSES, max_restarts=int(restarts), patience=20)
        print(f"status {status} after {time.monotonic() - start:.1f} s", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    worker() if torchrun.is_worker() else main()
