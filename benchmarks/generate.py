"""Speed of generating images, against what this machine's convolutions can reach.

Usage:

    python benchmarks/generate.py [--json FILE]

Latents to images, in float32 with compiled ops, with plain PyTorch, and in bfloat16; all take turns in one
process, and the fastest repeat counts. The roofline is that of ``train_step.py``.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import json_option, network_options, write_json  # noqa: E402
from benchmarks.roofline import ConvolutionWork, convolutions, rate  # noqa: E402
from dnnlib.cli import Command, friendly_errors, host_memory_option  # noqa: E402
from torch_utils.device import announce_device, has_bfloat16  # noqa: E402
from torch_utils.ops.dispatch import plain_ops  # noqa: E402
from training.networks import Generator  # noqa: E402
from training.networks.layers import use_bfloat16  # noqa: E402


@click.command(cls=Command)
@network_options
@click.option("--repeats", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
@json_option
@host_memory_option
@friendly_errors
def main(batch: int, repeats: int, threads: int, json_file: str | None, **network: Any) -> None:
    """Measure generation on the CPU and print a table."""
    torch.set_num_threads(threads)
    os.environ["GGDR_OPS"] = "native"
    announce_device("cpu")

    float32, half = small_generator(**network), small_generator(**network)
    use_bfloat16(half)
    z = torch.randn([batch, float32.z_dim])

    def plain() -> None:
        with plain_ops():
            float32(z, None)

    calls: dict[str, Callable[[], object]] = {
        **convolutions(batch),
        "float32": lambda: float32(z, None),
        "float32, plain": plain,
    }
    large = list(calls)[:-2]
    if has_bfloat16(torch.device("cpu")):
        calls["bfloat16"] = lambda: half(z, None)
    with ConvolutionWork() as work, plain_ops():
        small_generator(**network).to("meta")(z.to("meta"), None)
    with torch.inference_mode():
        seconds = fastest(calls, repeats)
    result = evaluate(seconds, large, batch, work.operations / batch)
    settings = dict(**network, batch=batch, repeats=repeats, threads=threads)
    result["settings"] = {**settings, "torch": torch.__version__}
    print(
        f"convolutions {work.operations / batch / 1e9:.2f} GFLOP an image, large ones alone "
        f"{result['roofline_gflops']:.0f} GFLOP/s"
    )
    print(f"{'':<16}{'images/s':>10}{'roofline':>10}")
    for name, found in result["variants"].items():
        print(f"{name:<16}{found['images_per_second']:>10.2f}{found['roofline']:>10.1%}")
    write_json(json_file, result)


def small_generator(*, resolution: int, cbase: int, cmax: int, map_depth: int) -> Generator:
    """An untrained generator, the same every time."""
    torch.manual_seed(0)
    synthesis = {"channel_base": cbase, "channel_max": cmax, "num_fp16_res": 4, "conv_clamp": 256}
    G = Generator(512, 0, 512, resolution, 3, {"num_layers": map_depth}, synthesis)
    return G.eval().requires_grad_(requires_grad=False)


def fastest(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least seconds of each call, taking turns, after one that does not count."""
    best = dict.fromkeys(calls, float("inf"))
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat > 0:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def evaluate(seconds: dict[str, float], large: list[str], batch: int, work: float) -> dict[str, Any]:
    """Images a second and the fraction of the roofline of each variant; ``work`` is operations an image."""
    reached = rate(batch, sum(seconds[name] for name in large))
    variants = {
        name: {"images_per_second": batch / value, "roofline": batch / value * work / reached}
        for name, value in seconds.items()
        if name not in large
    }
    return {
        "roofline_gflops": reached / 1e9,
        "convolution_gflop_per_image": work / 1e9,
        "variants": variants,
        "generate_fp32_roofline": variants["float32"]["roofline"],
    }


if __name__ == "__main__":
    main()
