"""Speed of the ops: each op on each path, in bytes per second against a copy.

Usage:

    python benchmarks/ops.py [--device cuda] [--channels-last] [--json FILE]

Bytes are those that an op cannot do without: its input once and its output once; for a gradient also what the
forward pass kept. The copy is of a tensor that moves as many bytes. Times are the least of several runs, one
after the other in turn, so that all paths see the same machine.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.options import json_option, write_json
from dnnlib.cli import Command, friendly_errors
from torch_utils.device import pick_device
from torch_utils.host_memory import keep_freed_memory
from torch_utils.native_build import prepare_native_ops
from torch_utils.ops import bias_act, upfirdn2d
from torch_utils.ops.dispatch import Impl

SIZES = [(8, 64, 64, 64), (8, 128, 32, 32), (8, 512, 8, 8)]
FILTERS = {"4 taps": [1, 3, 3, 1], "12 taps": [1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1]}
PATHS: tuple[Impl, ...] = ("ref", "native")


class Case(NamedTuple):
    """``run(impl)`` computes once and moves ``size`` bytes."""

    name: str
    run: Callable[[Impl], object]
    size: int


def resampling_cases(x: torch.Tensor, taps: str) -> list[Case]:
    """upfirdn2d at the factors that StyleGAN2 uses, forward; its gradient is the same op."""
    f = upfirdn2d.setup_filter(FILTERS[taps], device=x.device)
    width = f.shape[-1]
    calls: dict[str, Callable[[Impl], torch.Tensor]] = {
        "up 2": lambda impl: upfirdn2d.upsample2d(x, f, impl=impl),
        "down 2": lambda impl: upfirdn2d.downsample2d(x, f, impl=impl),
        "filter": lambda impl: upfirdn2d.upfirdn2d(
            x, f, padding=[width // 2, (width - 1) // 2] * 2, impl=impl
        ),
    }
    return [
        Case(f"upfirdn2d {name}, {taps}", call, x.nbytes + call("ref").nbytes) for name, call in calls.items()
    ]


def activation_cases(x: torch.Tensor, act: str) -> list[Case]:
    """bias_act with gain and clamp: forward, and the gradients of input and bias."""
    b = torch.zeros(x.shape[1], device=x.device, dtype=x.dtype, requires_grad=True)
    leaf = x.detach().requires_grad_()
    results = {impl: bias_act.bias_act(leaf, b, act=act, clamp=256, impl=impl) for impl in PATHS}

    def forward(impl: Impl) -> torch.Tensor:
        with torch.no_grad():
            return bias_act.bias_act(x, b, act=act, clamp=256, impl=impl)

    def backward(impl: Impl) -> object:
        return torch.autograd.grad(results[impl], [leaf, b], x, retain_graph=True)

    return [
        Case(f"bias_act {act}", forward, 2 * x.nbytes),
        Case(f"bias_act {act} gradient", backward, 3 * x.nbytes),
    ]


def seconds(calls: list[Callable[[], object]], device: torch.device, rounds: int) -> list[float]:
    """The least time of each call, taking turns."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, object]:
    """One row: gigabytes a second of the copy and of each path, and the ratio of paths."""
    source = torch.zeros(case.size // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy, *paths = seconds(
        [lambda: target.copy_(source), *(lambda impl=impl: case.run(impl) for impl in PATHS)], device, rounds
    )
    rates = {impl: case.size / time_ / 1e9 for impl, time_ in zip(PATHS, paths, strict=True)}
    return {
        "copy_gb_s": case.size / copy / 1e9,
        **{f"{impl}_gb_s": rate for impl, rate in rates.items()},
        "native_over_copy": copy / paths[1],
        "native_over_ref": paths[0] / paths[1],
    }


@click.command(cls=Command)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True
)
@click.option("--channels-last", is_flag=True, help="Lay tensors out channels-last.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: PyTorch's]")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Runs of each, of which the fastest counts.",
)
@json_option
@friendly_errors
def main(
    *, device: str, dtype: str, channels_last: bool, threads: int | None, rounds: int, json_file: str | None
) -> None:
    """Measure the ops on each path, in bytes per second against a copy."""
    where = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    print(keep_freed_memory())  # as a training run does; else fresh pages take longer than the ops
    print(prepare_native_ops("native", where.type))
    print(
        f"{dtype}, {'channels-last' if channels_last else 'contiguous'}, {where}, {torch.get_num_threads()} "
        "CPU threads"
    )
    rows: list[dict[str, object]] = []
    print(
        "| op | size | copy GB/s | plain GB/s | compiled GB/s | of copy | over plain "
        "|\n|---|---|---:|---:|---:|---:|---:|"
    )
    for shape in SIZES:
        x = torch.randn(shape, device=where).to(getattr(torch, dtype))
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        cases = [case for taps in FILTERS for case in resampling_cases(x, taps)]
        cases += [case for act in ("lrelu", "linear", "tanh", "swish") for case in activation_cases(x, act)]
        for case in cases:
            row = {"op": case.name, "size": "x".join(map(str, shape)), **measure(case, where, rounds)}
            rows.append(row)
            values = [
                row[key]
                for key in ("copy_gb_s", "ref_gb_s", "native_gb_s", "native_over_copy", "native_over_ref")
            ]
            print(
                f"| {row['op']} | {row['size']} | " + " | ".join(f"{value:.2f}" for value in values) + " |",
                flush=True,
            )
    settings = {"device": str(where), "dtype": dtype, "channels_last": channels_last}
    write_json(json_file, {**settings, "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()
