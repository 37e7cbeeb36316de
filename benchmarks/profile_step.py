"""Where the time of a training step goes, and how much memory its tensors need at once.

Usage:

    python benchmarks/profile_step.py [--precision bf16] [--ops ref] [--json FILE]

Shares of the operators' own time, phases in proportion to how often they run; and for each phase the largest
sum of tensors alive at the same time, above what was there before it. Memory is traced with all of a phase's
tensors, which is slow.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import json_option, step_options, write_json  # noqa: E402
from benchmarks.train_step import described, images, no_labels  # noqa: E402
from dnnlib.cli import Command, friendly_errors, host_memory_option, ops_option  # noqa: E402
from torch_utils.device import announce_device  # noqa: E402
from training.phases import Reals, build_phases  # noqa: E402
from training.run.state import RunState  # noqa: E402
from training.training_loop import run_phase  # noqa: E402

#: The first of these groups that has a part of an operator's name takes it.
GROUPS = {
    "upfirdn2d": ("upfirdn2d",),
    "bias_act": ("bias_act",),
    "convolutions": ("conv",),
    "Adam": ("adam",),
    "checks of gradients": ("norm", "nan_to_num"),
    "augmentation": ("grid_sampler", "bmm", "index"),
    "matrix products": ("::mm", "::addmm"),
    "copies": ("copy_", "clone"),
}


def group_of(operator: str) -> str:
    """The group that an operator's time counts for."""
    name = operator.lower()
    return next(
        (group for group, parts in GROUPS.items() if any(part in name for part in parts)),
        "element-wise and the rest",
    )


def live_peak(events: list[Any]) -> int:
    """The largest sum of bytes alive at once, of the profiler's events of memory in the order of time."""
    current = peak = 0
    for event in sorted(
        (event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()
    ):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


@click.command(cls=Command)
@step_options
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@json_option
@ops_option
@host_memory_option
@friendly_errors
def main(threads: int, json_file: str | None, **options: Any) -> None:
    """Profile a training step on the CPU and print two tables."""
    torch.set_num_threads(threads)
    device = announce_device("cpu")
    config = described(**options, cfg="auto", aug="fixed", batch_gpu=options["batch"], reg_type="ggdr")
    state = RunState.build(config, device)
    real, labels = images(config, device)
    shares: Counter[str] = Counter()
    memory = {}
    phases = build_phases(state)
    for phase in phases:  # the optimisers' moments, and everything that is made once
        run_phase(state, phase, Reals(real, labels, None, no_labels()))
    for phase in phases:
        with profile(activities=[ProfilerActivity.CPU]) as timed:
            run_phase(state, phase, Reals(real, labels, None, no_labels()))
        for event in timed.key_averages():
            shares[group_of(event.key)] += event.self_cpu_time_total / phase.interval
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as traced:
            run_phase(state, phase, Reals(real, labels, None, no_labels()))
        memory[phase.name] = live_peak(list(traced.profiler.kineto_results.events())) / 2**20
    total = sum(shares.values())
    result = {
        "shares": {name: value / total for name, value in shares.most_common()},
        "live_mib": memory,
        "settings": {**options, "threads": threads, "torch": torch.__version__},
    }
    for name, share in shares.most_common():
        print(f"{name:<28}{share / total:>8.1%}")
    for name, peak in memory.items():
        print(f"{f'tensors of {name} at once':<28}{peak:>8.0f} MiB")
    write_json(json_file, result)


if __name__ == "__main__":
    main()
