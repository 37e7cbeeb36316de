"""What saving a checkpoint costs: seconds to write it, against the interval between two of them.

Usage:

    python benchmarks/checkpoint.py                       # a paper256 run with GGDR, about 700 MB
    python benchmarks/checkpoint.py --cfg=paper512 --resolution=512 --folder=/scratch --json=checkpoint.json

Training waits while a state is written, so the quotient is the part of the time that it costs. Writing
includes the checksum and waiting for the disk (fsync).
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import json_option, write_json  # noqa: E402
from dnnlib.cli import PATH, Command, FiniteFloat, friendly_errors  # noqa: E402
from torch_utils.device import pick_device  # noqa: E402
from training.config.options import overrides  # noqa: E402
from training.config.presets import PRESETS  # noqa: E402
from training.config.resolve import resolve  # noqa: E402
from training.config.run_directory import state_path  # noqa: E402
from training.config.schema import DataConfig  # noqa: E402
from training.run.state import RunState  # noqa: E402
from training.run.state_file import read_state, write_state  # noqa: E402


@click.command(cls=Command)
@click.option(
    "--cfg",
    type=click.Choice(list(PRESETS)),
    default="paper256",
    show_default=True,
    help="preset, which decides the size",
)
@click.option("--resolution", type=int, default=256, show_default=True, help="of the images")
@click.option(
    "--interval",
    type=FiniteFloat(above=0),
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="as --checkpoint-minutes",
)
@click.option(
    "--folder",
    default=".",
    show_default=True,
    type=PATH,
    metavar="DIR",
    help="on the disk that the run directory would be on",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@json_option
@friendly_errors
def main(
    cfg: str, resolution: int, interval: float, folder: str, device: str, rounds: int, json_file: str | None
) -> None:
    """Write the state of a run a few times and print the median, with the fastest and the slowest."""
    state = worn_in(cfg, resolution, device)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = state_path(Path(scratch), 0)
        for _ in range(rounds):
            start, cpu = time.perf_counter(), time.process_time()
            write_state(path, state.state_dict())
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu)
        size = path.stat().st_size
        start = time.perf_counter()
        read_state(path)
        reading = time.perf_counter() - start
    result: dict[str, Any] = {
        "cfg": cfg,
        "resolution": resolution,
        "device": str(state.device),
        "megabytes": size / 1e6,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "median_cpu_seconds": statistics.median(cpu_seconds),
        "reading_seconds": reading,
        "interval_minutes": interval,
        "share": statistics.median(seconds) / (interval * 60),
    }
    print(
        f"{cfg} at {resolution}x{resolution} with GGDR on {state.device}: {size / 1e6:.0f} MB in "
        f"{os.path.abspath(folder)}"
    )
    times = f"{result['median_seconds']:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    print(f"writing {times}, {result['median_cpu_seconds']:.2f} s of it computing; reading {reading:.2f} s")
    print(f"every {interval:g} minutes: {result['share']:.2%} of the time")
    write_json(json_file, result)


def worn_in(cfg: str, resolution: int, device: str) -> RunState:
    """A state as in the middle of a run, with the moments of both optimisers, made without training."""
    data = DataConfig(
        path="none", resolution=resolution, num_channels=3, label_dim=0, num_images=1, use_labels=False,
        max_size=None, xflip=False, random_seed=0,
    )  # fmt: skip
    state = RunState.fresh(resolve(overrides(cfg=cfg, reg_type="ggdr"), data), pick_device(device))
    for module, optimizer in ((state.G, state.G_opt), (state.D, state.D_opt)):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    return state


if __name__ == "__main__":
    main()
