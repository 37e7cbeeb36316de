"""Measure what GGDR costs: parameters and time of a training step without and with it.

This is table 4c of Lee et al. 2022 (GGDR). Variants (tables 4a and 4b) and segmentation (figure 2) have costs
too.

Usage:

    python experiments/cost.py --cfg=paper256 --resolution=256 --repeats=0
    python experiments/cost.py --repeats=0 --ggdr-kernel=3 --ggdr-act=lrelu
    python experiments/cost.py --repeats=0 --reg_type=seg --classes=150
    python experiments/cost.py --cfg=cifar --resolution=32 --cbase=512 --cmax=32 --batch=16
"""

import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import Command, FiniteFloat, IntOrList, friendly_errors, ops_option
from dnnlib.errors import UserError
from torch_utils.device import announce_device
from training.config.options import overrides
from training.config.presets import PRESETS
from training.config.resolutions import MIN_RESOLUTION, is_resolution
from training.config.resolve import resolve
from training.config.schema import DataConfig, TrainConfig
from training.data.dataset import ImageFolderDataset
from training.data.opening import inspect_data, open_dataset
from training.data.paired import MAX_CLASSES
from training.data.pictures import from_uint8, save_png
from training.phases import Phase, Reals, build_phases
from training.run.session import set_up_gpu
from training.run.state import RunState
from training.training_loop import run_phase

FACTS = (
    "The paper (table 4c: StyleGAN2, 256x256, eight V100): 4.87M -> 5.05M parameters (+3.7 %), "
    "5.60 s -> 6.05 s (+8.0 %).\n"
    "The reference code at --cfg=paper256, G and D together, target 64x64: 48.77 M -> 50.34 M parameters "
    "(+3.23 %)."
)


Clock = Callable[[], float]


@dataclass
class Candidate:
    """One of the two configurations and its times.

    Attributes:
        state: a fresh run.
        seconds: seconds of each repeat, by phase.
    """

    state: RunState
    seconds: dict[str, list[float]]

    @staticmethod
    def build(config: TrainConfig, device: torch.device) -> "Candidate":
        """A candidate with fresh networks and no times."""
        state = RunState.fresh(config, device)
        return Candidate(state, {phase.name: [] for phase in build_phases(state)})

    def parameters(self) -> dict[str, int]:
        """Numbers of trainable parameters of G, of D and of both."""
        g, d = count_parameters(self.state.G), count_parameters(self.state.D)
        return {"G": g, "D": d, "G and D": g + d}

    def fastest(self) -> dict[str, float]:
        """Seconds of each phase's fastest repeat, and of a step.

        Other work on the machine disturbs the fastest repeat least. A step has each phase as often as it
        runs (lazy regularisation: Karras et al. 2020, StyleGAN2, section 3.1).
        """
        phases = {
            phase.name: (min(self.seconds[phase.name]), phase.interval) for phase in build_phases(self.state)
        }
        return {
            **{name: value for name, (value, _) in phases.items()},
            "step": sum(value / every for value, every in phases.values()),
        }


def count_parameters(module: nn.Module) -> int:
    """Number of a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def stand_in_data(folder: Path, resolution: int, channels: int) -> DataConfig:
    """A data set of one grey image in ``folder``: parameters and time do not depend on the images."""
    folder.mkdir()
    save_png(torch.full([channels, resolution, resolution], 127, dtype=torch.uint8), folder / "grey.png")
    return inspect_data(str(folder), cond=False, subset=None, mirror=False, seed=0)[0]


def measure(
    candidates: list[Candidate], dataset: ImageFolderDataset, repeats: int, device: torch.device, clock: Clock
) -> None:
    """Time each phase ``repeats`` times after a warm-up.

    The candidates take turns, and the one that goes first alternates.
    """
    for repeat in range(repeats + 1):
        order = candidates if repeat % 2 == 0 else candidates[::-1]
        for number in range(len(build_phases(candidates[0].state))):
            for candidate in order:
                phase = build_phases(candidate.state)[number]
                seconds = timed(functools.partial(one_phase, candidate.state, phase, dataset), device, clock)
                if repeat > 0:
                    candidate.seconds[phase.name].append(seconds)


def one_phase(state: RunState, phase: Phase, dataset: ImageFolderDataset) -> None:
    """Run a phase of a training step on copies of the data set's first image."""
    image, label = dataset[0]
    n, resolution = state.config.schedule.batch_size, state.config.data.resolution
    annotations = torch.zeros([n, resolution, resolution], dtype=torch.uint8, device=state.device)
    real, labels = (
        torch.from_numpy(image).expand(n, -1, -1, -1),
        torch.from_numpy(np.broadcast_to(label, [n, len(label)]).copy()),
    )
    run_phase(
        state, phase, Reals(from_uint8(real, state.device), labels.to(state.device), annotations, dataset)
    )


def timed(function: Callable[[], None], device: torch.device, clock: Clock) -> float:
    """Seconds of a call by a clock, including its work on the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def table(without: Candidate, supervised: Candidate) -> str:
    """Parameters and times (where measured) of both candidates, with the difference in percent."""
    what = "with GGDR" if supervised.state.config.ggdr is not None else "with masks"
    lines = [f"{'':<14}{'without':>14}{what:>14}{'more':>10}"]
    for name, count in without.parameters().items():
        lines.append(row(f"{name} params", count / 1e6, supervised.parameters()[name] / 1e6, "M"))
    if all(without.seconds.values()):
        mine, theirs = without.fastest(), supervised.fastest()
        lines += [row(name, mine[name] * 1000, theirs[name] * 1000, "ms") for name in mine]
    return "\n".join(lines)


def row(name: str, without: float, supervised: float, unit: str) -> str:
    """One line of :func:`table`."""
    more = (supervised / without - 1) * 100
    return f"{name:<14}{without:>11.3f} {unit:<2}{supervised:>11.3f} {unit:<2}{more:>+9.2f} %"


def describe_decoder(config: TrainConfig) -> str:
    """The target and design of D's decoder, for people."""
    if config.ggdr is None:
        return f"{config.data.annotation_classes} classes"
    targets = " and ".join(f"{res}x{res}" for res in config.ggdr.resolutions)
    kernel = f"{config.ggdr.kernel_size}x{config.ggdr.kernel_size}"
    return f"target {targets}, {kernel} {config.ggdr.activation} decoder"


@click.command(cls=Command)
@click.option("--cfg", type=click.Choice(list(PRESETS)), default="paper256", show_default=True, help="Preset")
@click.option("--resolution", type=int, default=256, show_default=True, help="Of the images")
@click.option(
    "--channels", type=click.Choice(["1", "3"]), default="3", show_default=True, help="Of the images"
)
@click.option("--batch", type=int, help="Images a step  [default: by --cfg]")
@click.option("--cbase", type=int, help="As in train.py")
@click.option("--cmax", type=int, help="As in train.py")
@click.option(
    "--aug",
    type=click.Choice(["noaug", "ada", "fixed"]),
    default="ada",
    show_default=True,
    help="As in train.py; ada: at p = 0",
)
@click.option("--p", type=FiniteFloat(), metavar="FLOAT", help="Of --aug=fixed")
@click.option(
    "--reg_type",
    type=click.Choice(["ggdr", "seg"]),
    default="ggdr",
    show_default=True,
    help="What is compared with none",
)
@click.option("--ggdr_res", type=IntOrList(), help="As in train.py")
@click.option("--ggdr-kernel", type=int, help="As in train.py")
@click.option("--ggdr-act", type=click.Choice(["linear", "lrelu"]), help="As in train.py")
@click.option(
    "--classes", type=click.IntRange(2, MAX_CLASSES), default=150, show_default=True, help="Of --reg_type=seg"
)
@click.option(
    "--repeats",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Of every phase; 0 counts parameters only",
)
@click.option(
    "--cpu-time",
    is_flag=True,
    help="CPU seconds of this process, for a busy machine  [default: the wall clock]",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@ops_option
@friendly_errors
def main(
    resolution: int,
    channels: str,
    reg_type: Literal["ggdr", "seg"],
    ggdr_res: int | tuple[int, ...] | None,
    ggdr_kernel: int | None,
    ggdr_act: Literal["linear", "lrelu"] | None,
    classes: int,
    repeats: int,
    cpu_time: bool,
    device: Literal["auto", "cuda", "cpu"],
    **options: Any,
) -> None:
    """Print parameters and time of a training step without and with GGDR or segmentation.

    Times are those of each phase's fastest repeat; a step has each phase as often as it runs (path length
    every 4 steps, R1 every 16).
    """
    if not is_resolution(resolution):
        raise UserError(f"--resolution={resolution} must be a power of two, {MIN_RESOLUTION} or larger")
    where = announce_device(device)
    if cpu_time and where.type == "cuda":
        raise UserError("--cpu-time leaves out what a GPU does; measure by the wall clock there")
    with tempfile.TemporaryDirectory() as folder:
        data = stand_in_data(Path(folder, "images"), resolution, int(channels))
        plain = resolve(overrides(device=device, reg_type="none", **options), data)
        annotated = dataclasses.replace(data, annotation_classes=classes if reg_type == "seg" else 0)
        decoder: dict[str, Any] = dict(
            reg_type=reg_type, ggdr_res=ggdr_res, ggdr_kernel=ggdr_kernel, ggdr_act=ggdr_act
        )
        supervised = resolve(overrides(device=device, **decoder, **options), annotated)
        if where.type == "cuda":
            set_up_gpu(plain)
        candidates = [Candidate.build(config, where) for config in (plain, supervised)]
        if repeats:
            measure(
                candidates,
                open_dataset(data),
                repeats,
                where,
                time.process_time if cpu_time else time.perf_counter,
            )
    timing = (
        f", batch {plain.schedule.batch_size} on {where}, fastest of "
        f"{repeats}{' in CPU time' if cpu_time else ''}"
        if repeats
        else ""
    )
    print(f"--cfg={options['cfg']} at {resolution}x{resolution}, {describe_decoder(supervised)}{timing}")
    print(table(*candidates))
    print(FACTS)


if __name__ == "__main__":
    main()
