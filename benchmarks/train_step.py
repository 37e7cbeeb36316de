"""Speed and memory of a training step, against what this machine's convolutions can reach.

Usage:

    python benchmarks/train_step.py [--json FILE]

Each variant is trained in a process of its own; they take turns, phase by phase, so that all see the same
machine, and the fastest repeat of each phase counts. A step is each phase in proportion to how often it runs
(lazy regularisation).

The roofline is the rate of large 3×3 convolutions alone, forward, on the same threads. The fraction of it is
the convolutions' work that a step needs (two operations a multiplication and addition, counted from the
shapes of all layers' forward and backward convolutions; filters and matrix products do not count) divided by
its time.

Variants: ``none`` and ``ggdr`` in float32, ``bf16`` with GGDR, and ``plain``, which is ``ggdr`` with
--ops=ref and --host-memory=system. Peak memory is that of the whole process, interpreter and libraries
included.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import json_option, step_options, write_json  # noqa: E402
from benchmarks.roofline import ConvolutionWork, convolutions, rate  # noqa: E402
from dnnlib.cli import Command, friendly_errors  # noqa: E402
from torch_utils.device import has_bfloat16, prepare_device  # noqa: E402
from torch_utils.ops.dispatch import plain_ops  # noqa: E402
from training.config.options import overrides  # noqa: E402
from training.config.resolve import resolve  # noqa: E402
from training.config.schema import DataConfig, TrainConfig  # noqa: E402
from training.phases import Reals, build_phases  # noqa: E402
from training.run.state import RunState  # noqa: E402
from training.training_loop import run_phase  # noqa: E402

ROOFLINE_REPEATS = 4  # for one of a phase, as they are short
PLAIN = {"GGDR_OPS": "ref", "GGDR_HOST_MEMORY": "system"}


def convolution_work(config: TrainConfig) -> float:
    """Count the operations an image of a step's convolutions, on the ``meta`` device, which computes none."""
    state = RunState.build(config, torch.device("meta"))
    batch, total = config.schedule.batch_size, 0.0
    for phase in build_phases(state):
        phase.module.requires_grad_(requires_grad=True)
        with ConvolutionWork() as work, plain_ops():
            run_terms(state, phase.name, torch.device("meta"))
        phase.module.requires_grad_(requires_grad=False)
        total += work.operations / phase.interval / batch
    return total


def run_terms(state: RunState, phase: str, device: torch.device) -> None:
    """Forward and backward pass of one phase, without the optimiser."""
    from training.phases import microbatches

    real, labels = images(state.config, device)
    for batch in microbatches(state, phase, Reals(real, labels, None, no_labels())):
        state.objective.phases[phase](batch, 1, 0)


def images(config: TrainConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of noise, and empty labels."""
    n, size = config.schedule.batch_size, config.data.resolution
    noise = torch.rand([n, config.data.num_channels, size, size], device=device) * 2 - 1
    return noise, torch.zeros([n, 0], device=device)


def no_labels() -> Any:
    """In place of a data set: nothing asks it for labels."""
    return None


def answer_requests(config: dict[str, Any]) -> None:
    """Run one phase, or the roofline's convolutions, for each line read: what a variant's process does."""
    torch.set_num_threads(config["threads"])
    device, lines = prepare_device("cpu")
    calls: dict[str, Callable[[], object]]
    if config["options"] is None:
        calls = convolutions(config["batch"])
    else:
        state = RunState.build(described(**config["options"]), device)
        real, labels = images(state.config, device)
        calls = {}
        for phase in build_phases(state):
            calls[phase.name] = lambda phase=phase: run_phase(
                state, phase, Reals(real, labels, None, no_labels())
            )  # type: ignore[misc]
    print(json.dumps({"lines": lines, "calls": list(calls), "resident": memory("VmRSS")}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        calls[line.strip()]()
        print(json.dumps({"seconds": time.perf_counter() - start, "peak": memory("VmHWM")}), flush=True)


def memory(field: str) -> float:
    """MiB that this process holds (``VmRSS``) or held at most (``VmHWM``)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


def described(**options: Any) -> TrainConfig:
    """The configuration for images of ``resolution``; other options as on the command line."""
    data = DataConfig(
        path="noise", resolution=options.pop("resolution"), num_channels=3, label_dim=0, num_images=1,
        use_labels=False, max_size=None, xflip=False, random_seed=0,
    )  # fmt: skip
    return resolve(overrides(**options, metrics=(), device="cpu"), data)


class Variant:
    """A process that runs phases on demand, and what was measured of it."""

    def __init__(
        self, name: str, threads: int, batch: int, options: dict[str, Any] | None, environment: dict[str, str]
    ) -> None:
        self.name = name
        config = json.dumps({"threads": threads, "batch": batch, "options": options})
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
        )
        self.seconds: dict[str, float] = {}
        self.peak = 0.0
        hello = self._answer()
        self.lines, self.calls, self.resident = hello["lines"], hello["calls"], hello["resident"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self, call: str, *, counts: bool) -> None:
        """Run a phase once more; its time is kept if it ``counts`` and is the shortest so far."""
        assert self.process.stdin is not None
        self.process.stdin.write(call + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak = answer["peak"]
        if counts:
            self.seconds[call] = min(self.seconds.get(call, float("inf")), answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException(
                f"the process of {self.name} ended with status {self.process.wait()}; see its message above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(variants: list[Variant], repeats: int) -> None:
    """Every phase of every variant in turn, the first round not counted."""
    rounds = max(len(variant.calls) for variant in variants)
    with click.progressbar(length=(repeats + 1) * rounds, label="measuring", file=sys.stderr) as bar:
        for repeat in range(repeats + 1):
            for number in range(rounds):
                for variant in variants if repeat % 2 else variants[::-1]:
                    for _ in range(ROOFLINE_REPEATS if variant.name == "roofline" else 1):
                        if number < len(variant.calls):
                            variant.run(variant.calls[number], counts=repeat > 0)
                bar.update(1)


def step_seconds(variant: Variant, config: TrainConfig) -> float:
    """Seconds of a step: its phases in proportion to how often they run."""
    every = Counter(
        {"G_main": 1, "D_main": 1, "G_reg": config.optim.G_reg_interval, "D_reg": config.optim.D_reg_interval}
    )
    return sum(seconds / every[phase] for phase, seconds in variant.seconds.items())


@click.command(cls=Command)
@step_options
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
@json_option
@click.option("--serve", hidden=True, help="be a variant's process")
@friendly_errors
def main(repeats: int, threads: int, json_file: str | None, serve: str | None, **options: Any) -> None:
    """Measure a training step on the CPU and print a table."""
    if serve is not None:
        answer_requests(json.loads(serve))
        return
    shared = {**options, "cfg": "auto", "aug": "fixed", "batch_gpu": options["batch"]}
    ggdr_res = shared.pop("ggdr_res")
    guided = {**shared, "reg_type": "ggdr", "ggdr_res": ggdr_res}
    specs: list[tuple[str, dict[str, Any] | None, dict[str, str]]] = [
        ("roofline", None, {"GGDR_OPS": "ref"}),
        ("none", shared, {"GGDR_OPS": "native"}),
        ("ggdr", guided, {"GGDR_OPS": "native"}),
        ("plain", guided, PLAIN),
    ]
    if has_bfloat16(torch.device("cpu")):
        specs.insert(3, ("bf16", {**guided, "precision": "bf16"}, {"GGDR_OPS": "native"}))
    else:
        click.echo("The row bf16 is left out: this processor has no instructions for bfloat16", err=True)
    config = described(**guided)
    work = convolution_work(config)
    with ExitStack() as stack:
        variants = {
            name: stack.enter_context(Variant(name, threads, options["batch"], trained, env))
            for name, trained, env in specs
        }
        measure(list(variants.values()), repeats)
    result = evaluate(variants, config, work)
    result["settings"] = {**options, "threads": threads, "repeats": repeats, "torch": torch.__version__}
    print(report(result))
    write_json(json_file, result)


def evaluate(variants: dict[str, Variant], config: TrainConfig, work: float) -> dict[str, Any]:
    """The numbers of the table, and the ratios."""
    batch = config.schedule.batch_size
    roofline = variants.pop("roofline")
    reached = rate(batch, sum(roofline.seconds.values()))
    steps = {name: step_seconds(variant, config) for name, variant in variants.items()}
    ggdr, plain = variants["ggdr"], variants["plain"]
    result: dict[str, Any] = {
        "roofline_gflops": reached / 1e9,
        "convolution_gflop_per_image": work / 1e9,
        "variants": {
            name: {
                "images_per_second": batch / steps[name],
                "seconds_of_step": steps[name],
                "seconds": variant.seconds,
                "peak_mib": variant.peak,
                "resident_before_mib": variant.resident,
                "roofline": batch / steps[name] * work / reached,
                "paths": variant.lines,
            }
            for name, variant in variants.items()
        },
        "train_fp32_roofline": batch / steps["ggdr"] * work / reached,
        "ggdr_overhead": steps["ggdr"] / steps["none"] - 1,
        "peak_rss_ratio": ggdr.peak / plain.peak,
        "peak_above_start_ratio": (ggdr.peak - ggdr.resident) / (plain.peak - plain.resident),
    }
    if "bf16" in steps:
        result["train_bf16_over_fp32"] = steps["ggdr"] / steps["bf16"]
    return result


def report(result: dict[str, Any]) -> str:
    """The table for people."""
    phases = list(result["variants"]["ggdr"]["seconds"])
    heads = "".join(f"{phase + ' (s)':>12}" for phase in phases)
    lines = [
        f"convolutions {result['convolution_gflop_per_image']:.1f} GFLOP an image, "
        f"large ones alone {result['roofline_gflops']:.0f} GFLOP/s",
        f"{'':<8}{heads}{'step (s)':>12}{'images/s':>10}{'roofline':>10}{'peak (MiB)':>12}",
    ]
    for name, found in result["variants"].items():
        times = "".join(f"{found['seconds'][phase]:>12.3f}" for phase in phases)
        lines.append(
            f"{name:<8}{times}{found['seconds_of_step']:>12.3f}{found['images_per_second']:>10.3f}"
            f"{found['roofline']:>10.1%}{found['peak_mib']:>12.0f}"
        )
    keys = (
        "train_fp32_roofline",
        "train_bf16_over_fp32",
        "ggdr_overhead",
        "peak_rss_ratio",
        "peak_above_start_ratio",
    )
    return "\n".join(lines + [f"{key} {result[key]:.3f}" for key in keys if key in result])


if __name__ == "__main__":
    main()
